"""How nodes gather: the bodies of an aggregate's constructor and forward."""

from __future__ import annotations

import ast

from nas_agg.compiler.codegen.classes import Class, signature
from nas_agg.compiler.codegen.gather_facts import Loop, Role, modules
from nas_agg.compiler.codegen.layers import unit_call
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import rewrite, show, statements, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.compiler.codegen.syntax.rewrites import SEQUENTIAL, reads, text
from nas_agg.compiler.codegen.unrolled import taken
from nas_agg.expansion.trace import NodeRun, UnitRun
from nas_agg.language.operators import Gated


class PatternLoop(Loop):
    """Writes the two bodies."""

    def __init__(self, text: Schedules):
        super().__init__(text)
        self.reads = Role("reads", self.runs, [[node.reads for node in run.nodes] for run in self.runs])
        joined = [[n.shortcut for n in run.nodes if n.shortcut and n.shortcut.sources] for run in self.runs]
        self.shortcut = Role("shortcut", self.runs, joined)
        self.output = Role("output", self.runs, [[run.output] for run in self.runs if run.output])
        self.width = ""
        self.forward: list[str] = []
        if self.shortcut.raw and (self.shortcut.prepared or not self.chained(self.shortcut)):
            self.shortcut.apart = True
        matched = self.reads.matched and self.output.kind == "pattern"
        if (self.shortcut.matched and not self.chained(self.shortcut)) or self.output.matched or matched:
            raise NotExpressible

    # ------------------------------------------------------------------ loops

    def write(self) -> None:
        """All nodes alike."""
        if any(feature not in self.classes.live for run in self.runs for feature in run.features):
            raise NotExpressible
        nodes = [run.nodes for run in self.runs]
        units = [node.unit for row in nodes for node in row]
        wide = self.reads.kind != "newest" or (self.output.kind == "pattern")
        given = self.classes.of[id(units[0])]
        self.text.calls.written(given)
        joins = given.mode == "given" and not self.runs[0].dealt
        self.several = given.several
        if self.shortcut.apart and (not joins or given.state):
            raise NotExpressible
        if joins:
            wide = wide or not self.chained(self.shortcut)
        entering = self.entering(self.reads) if wide or self.reads.kind != "newest" else "c"
        if given.state:
            entering += f", {self.state(wide)}"
        if self.level:
            entering = "in_"
        made, call = self.text.unit_call(units, entering, nodes, None)
        self.construct(made, call, wide, joins, nodes)
        if self.output.prepared and self.output.kind == "pattern":
            self.own_output()
        self.run(made, wide, joins)
        self.finish(wide)

    def state(self, wide: bool) -> str:
        """The channels of a node's shortcut."""
        if self.shortcut.matched:
            return "state"
        if self.chained(self.shortcut):
            return "widths[-1]" if wide else "c"
        return self.entering(self.shortcut)

    def construct(self, made: Class, call: str, wide: bool, joins: bool, nodes: list[list[NodeRun]]) -> None:
        body, parts = list(self.text.loop), {"unit": call}
        width = self.text.calls.out(made, call, "unit.out")
        after: list[str] = []
        if joins:
            extra, after = self.shortcut_parts(made, nodes, width)
            parts |= extra
        if self.reads.kind == "pattern":
            parts |= self.reads_parts()
        body += self.text.loop[len(body) :]
        if made.state and self.shortcut.matched:
            self.stated(call, width.replace("unit.out", "node.unit.out"), body, after)
            return
        if width == "unit.out" and len(parts) == 1 and not after:
            width = "self[-1].unit.out"
        elif width == "unit.out" or len(parts) > 1:
            body.append(f"unit = {call}")
            parts["unit"] = "unit"
        if not wide and made.out == "in_":
            width = ""
            parts["unit"] = parts["unit"].replace("(c", "(in_", 1)
        if after:
            body += [f"node = {modules(parts)}", *after, "self.append(node)"]
        else:
            body.append(f"self.append({modules(parts)})")
        if width:
            body.append(f"widths.append({width})" if wide else f"c = {width}")
            self.init.append("widths = [in_]" if wide else "c = in_")
        self.width = width
        counter = self.counter if self.counter_used("\n".join(body)) else "_"
        span = "range(1, nodes + 1)" if counter != "_" else "range(nodes)"
        self.init.append(f"for {counter} in {span}:")
        self.init += [f"    {line}" for line in body]

    def stated(self, call: str, width: str, body: list[str], match: list[str]) -> None:
        """Nodes whose units need to know how wide the shortcut comes to them."""
        inner = "    " if len(match) > 1 else ""
        body += [
            "node = nn.ModuleDict()",
            "state = c",
            *match,
            f"{inner}state = node.shortcut.match[0].out",
            f'node["unit"] = {call}',
            "self.append(node)",
            f"c = {width}",
        ]
        self.init += ["c = in_", f"for {self.counter} in range(1, nodes + 1):", *[f"    {line}" for line in body]]

    def counter_used(self, text: str) -> bool:
        return self.counter in reads(statements([text]))

    def finish(self, wide: bool) -> None:
        made = self.made
        if self.output.kind == "input":
            out = "in_"
        elif self.output.kind == "newest":
            out = "widths[-1]" if wide else "c" if "c = in_" in self.init else "in_"
        else:
            out = self.entering(self.output)
        made.out = self.text.leaving(out if out == "in_" else self.width)
        made.width = made.out or out
        made.init, made.forward = statements(self.init), statements(self.forward)
        made.forward_parameters = "x" + (", shortcut" if made.mode == "given" else "") + ", raw" * made.takes
        if text(made.forward) == text(SEQUENTIAL):
            made.base, made.forward = "nn.Sequential", []
            made.init = rewrite(made.init, _named)

    # ------------------------------------------------------------------ forward

    def own_output(self) -> None:
        """The output's own weights, which stand behind the nodes."""
        role = self.output
        assert role.gather is not None
        assert self.reads.gather is not None
        same_as_reads = signature(role.gather) == signature(self.reads.gather) and role.gather.pattern.word != "edges"
        if not same_as_reads or (role.gather.norm != "none" and not self.late()) or self.shortcut.prepared:
            raise NotExpressible
        parts = self.reads_parts()
        if not parts:
            return
        self.init.append(f"self.output = {parts['reads']}")

    def run(self, made: Class, wide: bool, joins: bool) -> None:
        lines: list[str] = []
        listed = [role for role in (self.reads, self.shortcut) if role.gather
                  and (role.apart or (role.gather.norm != "none" and role.kind == "pattern"))
                  and (role is not self.shortcut or joins)]  # fmt: skip
        if len(listed) > 1:
            raise NotExpressible
        own = joins and not self.chained(self.shortcut) and self.shortcut not in listed
        single = self.reads.kind == "newest" and self.output.kind == "newest" and not own
        body: list[str] = []
        late, numbered = bool(listed) and listed[0] is self.reads and self.late(), False
        if listed:
            lines.append("sources = []")
            body, numbered = self.another_source(listed[0], late, single)
        if not single:
            lines.append("features = [x]")
        x = "x" if single or self.reads.kind == "input" else self.source(self.reads)
        shortcut = ""
        over = "for node in self:"
        if self.runs[0].dealt:
            self.check_dealt()
            over = "for node, part in zip(self, shortcut.chunk(len(self), 1)):"
            shortcut = "part"
            if made.mode != "given":
                raise NotExpressible
        elif joins:
            shortcut = self.shortcut_text(made, single)
        call = unit_call(made, "node.unit", x, shortcut)
        if (made.ahead or made.behind) and (" if " in shortcut or len(call) > WIDTH - 40):
            body.append(f"shortcut = {shortcut}")
            call = unit_call(made, "node.unit", x, "shortcut")
        if single:
            body.append(f"x = {call}")
        else:
            if late:
                body += [f"x = {call}", f"sources.append({substitute(self.norm(listed[0]), {'X': 'features[-1]'})})"]
                call = "x"
            body.append(f"features.append({call})")
        if numbered:
            over = f"for {self.counter}, node in enumerate(self):"
        elif any(line.startswith("self.output = ") for line in self.init):
            over = "for node in list(self)[:-1]:"
        if self.text.calls.classes.of[id(self.runs[0].nodes[0].unit if self.runs[0].nodes else self.first())].gives:
            lines, body = self.paired(lines, body, call, single)
        lines += [over, *[f"    {line}" for line in body]]
        lines.append(f"return {self.leaving(single)}{self.leaving_raw(single)}")
        if lines[:-1] == ["features = [x]", "for node in self:", "    features.append(node.unit(x))"]:
            text, branches = lines[-1].partition("features[1:]"), "[node.unit(x) for node in self]"
            if text[1] and "features" not in text[0] + text[2]:
                lines = [text[0] + branches + text[2]]
        self.forward = lines

    def another_source(self, role: Role, late: bool, single: bool) -> tuple[list[str], bool]:
        """The lines that put the newest feature into a list of sources; and whether they need the node's number."""
        assert role.gather is not None
        if role.apart and not single:
            raise NotExpressible
        newest = "raw" if role.raw and role.apart else "x" if single else "features[-1]"
        if role.gather.norm == "bn":
            return [f"sources.append(node.shortcut.norms[str({self.counter})]({newest}))"], True
        return [] if late else [f"sources.append({substitute(self.norm(role), {'X': newest})})"], False

    def first(self) -> UnitRun:
        return next(node.unit for run in self.runs for node in run.nodes)

    def paired(self, lines: list[str], body: list[str], call: str, single: bool) -> tuple[list[str], list[str]]:
        """The loop over units that give raw forms too."""
        if single:
            raw = "raw" if self.shortcut.raw or self.made.gives else "_"
            return lines, [line if line != f"x = {call}" else f"x, {raw} = {call}" for line in body]
        if f"features.append({call})" not in body or self.shortcut.raw:
            raise NotExpressible
        at = body.index(f"features.append({call})")
        if not self.made.gives:
            return lines, [*body[:at], f"y, _ = {call}", "features.append(y)", *body[at + 1 :]]
        lines = [line for line in lines if line != "features = [x]"]
        start = f"features, raws = [x], [{'raw' if self.made.takes else 'x'}]"
        more = [f"y, raw = {call}", "features.append(y)", "raws.append(raw)"]
        return [*lines, start], [*body[:at], *more, *body[at + 1 :]]

    def leaving_raw(self, single: bool) -> str:
        if not self.made.gives:
            return ""
        return ", raw" if single else f", {self.source(self.output, 'raws')}"

    def leaving(self, single: bool) -> str:
        if self.output.kind == "input":
            return "x" if not single else self._refuse()
        return "x" if single else self.source(self.output)

    def _refuse(self) -> str:
        raise NotExpressible

    def shortcut_text(self, made: Class, single: bool) -> str:
        role = self.shortcut
        if any(not (node.shortcut and node.shortcut.sources) for run in self.runs for node in run.nodes):
            raise NotExpressible
        if role.word == "mean" and not self.several:
            counts = {len(one.sources) for one in role.all}
            if len(counts) > 1:
                raise NotExpressible
        if role.matched and not role.apart:
            if not single:
                raise NotExpressible
            always = all(node.shortcut and node.shortcut.matches for run in self.runs for node in run.nodes)
            return "node.shortcut(x)" if always else 'node.shortcut(x) if "shortcut" in node else x'
        if role.raw and not role.apart:
            return "raw" if single else self._refuse()
        if self.chained(role) and not role.prepared:
            return "x" if single else "features[-1]"
        return self.source(role)

    def check_dealt(self) -> None:
        """Each node takes as many channels."""
        for run in self.runs:
            found = [taken(node.unit, self.classes) for node in run.nodes]
            if not same(found) or not found or None in found:
                raise NotExpressible

    # ------------------------------------------------------------------ what reads and shortcuts own

    def chained(self, role: Role) -> bool:
        """Whether a role takes the newest feature alone."""
        return all(one.asked == [one.position - 1] for one in role.all) and not role.prepared

    def shortcut_parts(self, made: Class, nodes: list[list[NodeRun]], out: str) -> tuple[dict[str, str], list[str]]:
        """Modules of a node's shortcut, and lines behind the node's making."""
        role = self.shortcut
        if not role.matched and not role.prepared:
            return {}, []
        assert role.gather is not None
        if role.matched:
            return {}, self.match_lines(made, nodes, out)
        parts = {}
        if role.gather.norm == "bn":
            self.check_norms(nodes)
            self.text.counted = True
            norm = f"nn.BatchNorm2d({'in_' if self.level else 'widths[-1]'}, affine=False)"
            parts["norms"] = f"nn.ModuleDict({{str({self.counter} - 1): {norm}}})"
        if role.gather.weight:
            parts["weights"] = self.weights(role, self.widths(role))
        if role.gather.operator_type is Gated:
            parts["gates"] = f"gates({self.widths(role)})"
        if not parts:
            return {}, []
        return {"shortcut": modules(parts)}, []

    @property
    def level(self) -> bool:
        """Whether a node reads the one before alone, its shortcut reads all, and they are all as wide as the input."""
        dense = self.shortcut.gather is not None and self.shortcut.gather.pattern.word == "dense"
        same_width = all(same([self.classes.channels(feature) for feature in run.features]) for run in self.runs)
        return dense and same_width and self.reads.kind == self.output.kind == "newest" and not self.shortcut.matched

    def widths(self, role: Role) -> str:
        """The channels of what a shortcut takes."""
        if self.level:
            self.text.counted = True
            return f"[in_] * {self.counter}"
        return self.selected(role, "widths")

    def check_norms(self, nodes: list[list[NodeRun]]) -> None:
        """A norm with statistics belongs to the feature's first reader, the node behind it."""
        tape = self.classes.traced.tape
        for row in nodes:
            for node in row:
                one = node.shortcut
                newest = dict(one.sources).get(node.l - 1) if one else None
                if newest is None or tape.paths[tape.norms[newest, 0]] != f"{one.path}.norms.{node.l - 1}":  # type: ignore[union-attr]
                    raise NotExpressible

    def match_lines(self, made: Class, nodes: list[list[NodeRun]], out: str) -> list[str]:
        role = self.shortcut
        if not self.chained(role):
            raise NotExpressible
        rows = [node for row in nodes for node in row]
        found = [node.shortcut for node in rows]
        if any(one is None or not one.sources for one in found):
            raise NotExpressible
        runs: list[UnitRun] = [run for one in found if one for run in one.matches.values()]
        fits = [bool(one.matches) for one in found if one]
        stride = [node.scope["s"] == 1 for node in rows]
        width = [self.classes.channels(node.unit.x) == self.classes.channels(node.unit.out) for node in rows]
        if self.reads.kind != "newest":
            raise NotExpressible
        wanted = [run.scope["w"] for run in runs]
        fitting = [n for n, fit in zip(rows, fits, strict=True) if fit]
        summed = wanted == [self.classes.channels(node.unit.out) for node in fitting] and not made.state
        tests = []
        self.text.counted = True
        if not all(fits):
            if fits == [node.l == 1 for node in rows] and not summed:
                tests = [f"{self.counter} == 1"]
            elif fits == [not w for w in width] and summed:
                tests = [f"c != {out}"]
            elif fits == [not s for s in stride]:
                tests = [f"{self.text.text_of('s', nodes, None)} > 1"]
            elif fits == [not (s and w) for s, w in zip(stride, width, strict=True)] and summed:
                tests = [f"{self.text.text_of('s', nodes, None)} > 1", f"c != {out}"]
            else:
                raise NotExpressible
        matched = [[node for node in row if node.shortcut and node.shortcut.matches] for row in nodes]
        made_match = self.classes.of[id(runs[0])]
        if any(self.classes.of[id(run)] is not made_match for run in runs):
            raise NotExpressible
        self.text.calls.written(made_match)
        if made.state:
            made_match.asked.add("node.shortcut.match[0].out")
        ratios = [run.scope["s"] for run in runs]
        strides = [node.scope["s"] for row in matched for node in row]

        def said(name: str) -> str:
            if name == "w" and summed:
                return out
            if name == "s":
                if same(ratios):
                    return str(ratios[0])
                if ratios == strides:
                    return self.text.text_of("s", nodes, None)
                raise NotExpressible
            values = [run.scope.get(name) for run in runs]
            if same(values) and values[0] is not None and name != "w":
                return str(values[0])
            if values == [node.scope.get(name) for row in matched for node in row]:
                return self.text.text_of(name, nodes, None)
            raise NotExpressible

        call = self.text.calls.arguments(made_match, "c", said)
        line = f'node["shortcut"] = named(match=named(**{{str({self.counter} - 1): {call}}}))'
        if not tests:
            return [line]
        return [f"if {' or '.join(tests)}:", f"    {line}"]

    def reads_parts(self) -> dict[str, str]:
        role = self.reads
        if role.matched:
            raise NotExpressible
        if not role.prepared:
            return {}
        assert role.gather is not None
        if role.gather.norm == "bn" or not all(one.main is not None for one in role.all):
            raise NotExpressible
        parts = {}
        chosen = self.selected(role, "widths", newest=False)
        if role.gather.weight:
            parts["weights"] = self.weights(role, chosen)
        if role.gather.operator_type is Gated:
            parts["gates"] = f"gates({chosen})"
        if not parts:
            return {}
        return {"reads": modules(parts)}


def _named(node: ast.AST) -> ast.AST | None:
    """A node that has but its unit, as a sequence of it."""
    if isinstance(node, ast.Call) and show(node.func) == "nn.ModuleDict" and isinstance(node.args[0], ast.Dict):
        return ast.Call(ast.Name("named"), [], [ast.keyword("unit", node.args[0].values[0])])
    return None
