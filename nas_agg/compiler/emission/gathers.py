"""How nodes gather: the bodies of an aggregate's constructor and forward."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nas_agg.compiler.emission.classes import Class
from nas_agg.compiler.emission.listing import taken
from nas_agg.compiler.emission.numbers import Unsaid, same
from nas_agg.compiler.emission.roles import Role
from nas_agg.compiler.emission.selections import Selections
from nas_agg.compiler.emission.trace import NodeRun, UnitRun
from nas_agg.operators import Gated

if TYPE_CHECKING:
    from nas_agg.compiler.emission.aggregates import AggregateText


class GatherText(Selections):
    """Writes the two bodies."""

    def __init__(self, text: AggregateText):
        self.text, self.made, self.classes = text, text.made, text.classes
        self.runs = text.runs
        self.reads = Role("reads", self.runs, [[node.reads for node in run.nodes] for run in self.runs])
        joined = [[n.shortcut for n in run.nodes if n.shortcut and n.shortcut.sources] for run in self.runs]
        self.shortcut = Role("shortcut", self.runs, joined)
        self.output = Role("output", self.runs, [[run.output] for run in self.runs if run.output])
        self.counter = self.classes.counter
        self.init: list[str] = []
        self.forward: list[str] = []
        if self.output.matched or (self.reads.matched and self.output.kind == "pattern"):
            self.matched_output()

    def matched_output(self) -> None:
        raise Unsaid

    # ------------------------------------------------------------------ loops

    def loop(self) -> None:
        """All nodes alike."""
        if any(feature not in self.classes.live for run in self.runs for feature in run.features):
            raise Unsaid
        nodes = [run.nodes for run in self.runs]
        units = [node.unit for row in nodes for node in row]
        wide = self.reads.kind != "newest" or (self.output.kind == "pattern")
        given = self.classes.of[id(units[0])]
        self.text.writer.written(given)
        joins = given.mode == "given" and not self.runs[0].dealt
        if joins:
            wide = wide or not self.chained(self.shortcut)
        entering = self.entering(self.reads) if wide or self.reads.kind != "newest" else "c"
        if given.state:
            entering += f", {self.state(wide)}"
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

    def chained(self, role: Role) -> bool:
        """Whether a role takes the newest feature alone."""
        return all(one.asked == [one.position - 1] for one in role.all) and not role.prepared

    def construct(self, made: Class, call: str, wide: bool, joins: bool, nodes: list[list[NodeRun]]) -> None:
        made.out_used = True
        body = list(self.text.loop)
        parts = {"unit": call}
        after: list[str] = []
        named = False
        if joins:
            extra, lines = self.shortcut_parts(made, nodes)
            if extra or lines:
                named = True
                parts |= extra
                after = lines
        if self.reads.kind == "pattern":
            extra, lines = self.reads_parts(nodes)
            parts |= extra
            before = lines
        else:
            before = []
        body += before
        if made.state and self.shortcut.matched:
            self.stated(call, body, after)
            return
        inside = f"widths.append({'unit' if named else 'self[-1].unit'}.out)" if wide else (
            f"c = {'unit' if named else 'self[-1].unit'}.out"
        )  # fmt: skip
        if not wide and made.out == "in_":
            inside = ""
            parts["unit"] = call.replace("(c", "(in_", 1)
        if named:
            body.append(f"unit = {parts.pop('unit')}")
            parts = {"unit": "unit", **parts}
        written = ", ".join(f'"{name}": {text}' for name, text in parts.items())
        if after:
            body += [f"node = nn.ModuleDict({{{written}}})", *after, "self.append(node)"]
        else:
            body.append(f"self.append(nn.ModuleDict({{{written}}}))")
        if inside:
            body.append(inside)
        body = [*self.text.loop[len(self.text.loop) :], *body]
        text = "\n".join(body)
        counter = self.counter if self.counter_used(text) else "_"
        if wide:
            self.init.append("widths = [in_]")
        elif inside:
            self.init.append("c = in_")
        span = "range(1, nodes + 1)" if counter != "_" else "range(nodes)"
        self.init.append(f"for {counter} in {span}:")
        self.init += [f"    {line}" for line in body]

    def stated(self, call: str, body: list[str], match: list[str]) -> None:
        """Nodes whose units need to know how wide the shortcut comes to them."""
        inner = "    " if len(match) > 1 else ""
        body += [
            "node = nn.ModuleDict()",
            "state = c",
            *match,
            f"{inner}state = node.shortcut.out",
            f'node["unit"] = {call}',
            "self.append(node)",
            "c = node.unit.out",
        ]
        self.init += ["c = in_", f"for {self.counter} in range(1, nodes + 1):", *[f"    {line}" for line in body]]

    def counter_used(self, text: str) -> bool:
        return bool(re.search(rf"(?<![\w.]){self.counter}(?!\w)", text))

    def finish(self, wide: bool) -> None:
        made = self.made
        if self.output.kind == "input":
            made.out = "in_"
            line = "self.out = in_"
        elif self.output.kind == "newest":
            last = "widths[-1]" if wide else ("c" if any(line == "c = in_" for line in self.init) else "in_")
            made.out = "in_" if last == "in_" else None
            line = f"self.out = {last}"
        else:
            made.out = None
            line = f"self.out = {self.entering(self.output)}"
        made.out_line = line
        made.lines = self.init
        given = (", shortcut" if made.mode == "given" else "") + (", raw" if made.takes else "")
        head = f"def forward(self, x{given}):"
        made.forward = [head, *[f"    {line}" for line in self.forward]]
        if self.forward == ["for node in self:", "    x = node.unit(x)", "return x"]:
            made.base, made.forward = "nn.Sequential", []
            made.lines = [
                re.sub(r'nn\.ModuleDict\(\{"unit": (.*)\}\)\)$', r"named(unit=\1))", line) for line in self.init
            ]

    # ------------------------------------------------------------------ what reads and shortcuts own

    def shortcut_parts(self, made: Class, nodes: list[list[NodeRun]]) -> tuple[dict[str, str], list[str]]:
        """Modules of a node's shortcut, and lines behind the node's making."""
        role = self.shortcut
        if not role.matched and not role.prepared:
            return {}, []
        assert role.gather is not None
        if role.matched:
            return {}, self.match_lines(made, nodes)
        parts = {}
        if role.gather.norm == "bn":
            self.check_norms(nodes)
            self.text.counted = True
            parts["norms"] = f"nn.ModuleDict({{str({self.counter} - 1): nn.BatchNorm2d(widths[-1], affine=False)}})"
        if role.gather.weight:
            parts["weights"] = f"weights({self.selected(role, 'widths')})"
        if role.gather.how is Gated:
            parts["gates"] = f"gates({self.selected(role, 'widths')})"
        if not parts:
            return {}, []
        written = ", ".join(f'"{name}": {text}' for name, text in parts.items())
        return {"shortcut": f"nn.ModuleDict({{{written}}})"}, []

    def check_norms(self, nodes: list[list[NodeRun]]) -> None:
        """A norm with statistics belongs to the feature's first reader, the node behind it."""
        tape = self.classes.traced.tape
        for row in nodes:
            for node in row:
                one = node.shortcut
                newest = dict(one.sources).get(node.l - 1) if one else None
                if newest is None or tape.paths[tape.norms[newest, 0]] != f"{one.path}.norms.{node.l - 1}":  # type: ignore[union-attr]
                    raise Unsaid

    def match_lines(self, made: Class, nodes: list[list[NodeRun]]) -> list[str]:
        role = self.shortcut
        if not self.chained(role):
            raise Unsaid
        rows = [node for row in nodes for node in row]
        found = [node.shortcut for node in rows]
        if any(one is None or not one.sources for one in found):
            raise Unsaid
        runs: list[UnitRun] = [run for one in found if one for run in one.matches.values()]
        fits = [bool(one.matches) for one in found if one]
        stride = [node.scope["s"] == 1 for node in rows]
        width = [self.classes.channels(node.unit.x) == self.classes.channels(node.unit.out) for node in rows]
        if self.reads.kind != "newest":
            raise Unsaid
        wanted = [run.scope["w"] for run in runs]
        fitting = [n for n, fit in zip(rows, fits, strict=True) if fit]
        summed = wanted == [self.classes.channels(node.unit.out) for node in fitting] and not made.state
        tests = []
        self.text.counted = True
        if not all(fits):
            if fits == [node.l == 1 for node in rows] and not summed:
                tests = [f"{self.counter} == 1"]
            elif fits == [not w for w in width] and summed:
                tests = ["c != unit.out"]
            elif fits == [not s for s in stride]:
                tests = [f"{self.text.text_of('s', nodes, None)} > 1"]
            elif fits == [not (s and w) for s, w in zip(stride, width, strict=True)] and summed:
                tests = [f"{self.text.text_of('s', nodes, None)} > 1", "c != unit.out"]
            else:
                raise Unsaid
        matched = [[node for node in row if node.shortcut and node.shortcut.matches] for row in nodes]
        made_match = self.classes.of[id(runs[0])]
        if any(self.classes.of[id(run)] is not made_match for run in runs):
            raise Unsaid
        self.text.writer.written(made_match)
        made_match.out_used = made_match.out_used or made.state
        ratios = [run.scope["s"] for run in runs]
        strides = [node.scope["s"] for row in matched for node in row]

        def said(name: str) -> str:
            if name == "w" and summed:
                return "unit.out"
            if name == "s":
                if same(ratios):
                    return str(ratios[0])
                if ratios == strides:
                    return self.text.text_of("s", nodes, None)
                raise Unsaid
            values = [run.scope.get(name) for run in runs]
            if same(values) and values[0] is not None and name != "w":
                return str(values[0])
            if values == [node.scope.get(name) for row in matched for node in row]:
                return self.text.text_of(name, nodes, None)
            raise Unsaid

        call = self.text.writer.arguments(made_match, "c", said)
        line = f'node["shortcut"] = Match({self.counter} - 1, {call})'
        if not tests:
            return [line]
        return [f"if {' or '.join(tests)}:", f"    {line}"]

    def reads_parts(self, nodes: list[list[NodeRun]]) -> tuple[dict[str, str], list[str]]:
        role = self.reads
        if role.matched:
            raise Unsaid
        if not role.prepared:
            return {}, []
        assert role.gather is not None
        if role.gather.norm == "bn" or not all(one.main is not None for one in role.all):
            raise Unsaid
        parts = {}
        chosen = self.selected(role, "widths", newest=False)
        if role.gather.weight:
            parts["weights"] = f"weights({chosen})"
        if role.gather.how is Gated:
            parts["gates"] = f"gates({chosen})"
        if not parts:
            return {}, []
        written = ", ".join(f'"{name}": {text}' for name, text in parts.items())
        return {"reads": f"nn.ModuleDict({{{written}}})"}, []

    # ------------------------------------------------------------------ forward

    def own_output(self) -> None:
        """The output's own weights, which stand behind the nodes."""
        role = self.output
        assert role.gather is not None
        same_as_reads = role.gather is self.reads.gather and role.gather.pattern.word != "edges"
        if not same_as_reads or (role.gather.norm != "none" and not self.late()) or self.shortcut.prepared:
            raise Unsaid
        parts, _ = self.reads_parts([])
        if not parts:
            return
        self.init.append(f"self.output = {parts['reads']}")

    def run(self, made: Class, wide: bool, joins: bool) -> None:
        lines: list[str] = []
        normed = [role for role in (self.reads, self.shortcut) if role.gather and role.gather.norm != "none"
                  and role.kind == "pattern" and (role is not self.shortcut or joins)]  # fmt: skip
        if len(normed) > 1:
            raise Unsaid
        own = joins and not self.chained(self.shortcut) and self.shortcut.gather.norm == "none"  # type: ignore[union-attr]
        single = self.reads.kind == "newest" and self.output.kind == "newest" and not own
        body: list[str] = []
        late, numbered = bool(normed) and normed[0] is self.reads and self.late(), False
        if normed:
            lines.append("sources = []")
            newest = "x" if single else "features[-1]"
            if normed[0].gather.norm == "bn":  # type: ignore[union-attr]
                numbered = True
                body.append(f"sources.append(node.shortcut.norms[str({self.counter})]({newest}))")
            elif not late:
                body.append(f"sources.append({self.norm(normed[0]).replace('{x}', newest)})")
        if not single:
            lines.append("features = [x]")
        x = "x" if single or self.reads.kind == "input" else self.source(self.reads)
        given = ""
        over = "for node in self:"
        if self.runs[0].dealt:
            self.check_dealt()
            over = "for node, part in zip(self, shortcut.chunk(len(self), 1)):"
            given = ", part"
            if made.mode != "given":
                raise Unsaid
        elif joins:
            given = f", {self.shortcut_text(made, single)}"
        call = f"node.unit({x}{given})"
        if single:
            body.append(f"x = {call}")
        else:
            if late:
                body += [f"x = {call}", f"sources.append({self.norm(normed[0]).replace('{x}', 'features[-1]')})"]
                call = "x"
            body.append(f"features.append({call})")
        if numbered:
            over = f"for {self.counter}, node in enumerate(self):"
        elif any(line.startswith("self.output = ") for line in self.init):
            over = "for node in list(self)[:-1]:"
        if self.text.writer.classes.of[id(self.runs[0].nodes[0].unit if self.runs[0].nodes else self.first())].gives:
            lines, body = self.paired(lines, body, call, single)
        lines += [over, *[f"    {line}" for line in body]]
        lines.append(f"return {self.leaving(single)}{self.leaving_raw(single)}")
        self.forward = lines

    def first(self) -> UnitRun:
        return next(node.unit for run in self.runs for node in run.nodes)

    def paired(self, lines: list[str], body: list[str], call: str, single: bool) -> tuple[list[str], list[str]]:
        """The loop over units that give raw forms too."""
        if single:
            raw = "raw" if self.shortcut.raw or self.made.gives else "_"
            return lines, [line if line != f"x = {call}" else f"x, {raw} = {call}" for line in body]
        if f"features.append({call})" not in body or self.shortcut.raw:
            raise Unsaid
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
        raise Unsaid

    def shortcut_text(self, made: Class, single: bool) -> str:
        role = self.shortcut
        if any(not (node.shortcut and node.shortcut.sources) for run in self.runs for node in run.nodes):
            raise Unsaid
        if role.word == "mean":
            counts = {len(one.sources) for one in role.all}
            if len(counts) > 1:
                raise Unsaid
        if role.matched:
            if not single:
                raise Unsaid
            always = all(node.shortcut and node.shortcut.matches for run in self.runs for node in run.nodes)
            return "node.shortcut(x)" if always else 'node.shortcut(x) if "shortcut" in node else x'
        if role.raw:
            return "raw" if single else self._refuse()
        if self.chained(role) and not role.prepared:
            return "x" if single else "features[-1]"
        return self.source(role)

    def check_dealt(self) -> None:
        """Each node takes as many channels."""
        for run in self.runs:
            found = [taken(node.unit, self.classes) for node in run.nodes]
            if not same(found) or not found or None in found:
                raise Unsaid
