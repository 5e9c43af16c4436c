"""Loops over the nodes of an aggregate, whose gathers select from a list of features."""

from __future__ import annotations

import ast

from nas_agg.compiler.codegen.classes import EmittedClass, signature
from nas_agg.compiler.codegen.gather_facts import Loop, Role, modules
from nas_agg.compiler.codegen.layers import unit_call
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import rewrite, show, statements, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.compiler.codegen.syntax.rewrites import SEQUENTIAL, fold_branches, reads, text
from nas_agg.compiler.codegen.unrolled import split_width
from nas_agg.expansion.trace import NodeRun, UnitRun
from nas_agg.language.operators import Gated


class PatternLoop(Loop):
    """Writes the constructor and the forward of an aggregate as loops over its nodes."""

    def __init__(self, text: Schedules):
        super().__init__(text)
        self.reads = Role("reads", self.runs, [[node.reads for node in run.nodes] for run in self.runs])
        joined = [[n.shortcut for n in run.nodes if n.shortcut and n.shortcut.sources] for run in self.runs]
        self.shortcut = Role("shortcut", self.runs, joined)
        self.output = Role("output", self.runs, [[run.output] for run in self.runs if run.output])
        self.width = ""
        self.forward: list[str] = []
        if self.shortcut.raw and (self.shortcut.prepared or not self.chained(self.shortcut)):
            self.shortcut.has_own_list = True
        matched = self.reads.matched and self.output.kind == "pattern"
        if (self.shortcut.matched and not self.chained(self.shortcut)) or self.output.matched or matched:
            raise NotExpressible

    # ------------------------------------------------------------------ loops

    def write(self) -> None:
        """Write the class.

        Raises:
            NotExpressible: The aggregate cannot be written as such a loop.
        """
        if any(feature not in self.classes.live for run in self.runs for feature in run.features):
            raise NotExpressible
        nodes = [run.nodes for run in self.runs]
        units = [node.unit for row in nodes for node in row]
        wide = self.reads.kind != "newest" or (self.output.kind == "pattern")
        unit = self.classes.by_run[id(units[0])]
        self.text.calls.ensure_written(unit)
        joins = unit.mode == "argument" and not self.runs[0].split
        self.shortcut_is_list = unit.shortcut_is_list
        if self.shortcut.has_own_list and (not joins or unit.takes_shortcut_width):
            raise NotExpressible
        if joins:
            wide = wide or not self.chained(self.shortcut)
        input_width = self.gathered_width(self.reads) if wide or self.reads.kind != "newest" else "c"
        if unit.takes_shortcut_width:
            input_width += f", {self.state(wide)}"
        if self.is_constant_width:
            input_width = "in_"
        code, call = self.text.unit_call(units, input_width, nodes, None)
        self.construct(code, call, wide, joins, nodes)
        if self.output.prepared and self.output.kind == "pattern":
            self.construct_output()
        self.run(code, joins)
        self.finish(wide)

    def state(self, wide: bool) -> str:
        """The channels of a node's shortcut."""
        if self.shortcut.matched:
            return "state"
        if self.chained(self.shortcut):
            return "widths[-1]" if wide else "c"
        return self.gathered_width(self.shortcut)

    def construct(self, code: EmittedClass, call: str, wide: bool, joins: bool, nodes: list[list[NodeRun]]) -> None:
        body, parts = list(self.text.loop), {"unit": call}
        width = self.text.calls.output_width(code, call, "unit.out")
        after: list[str] = []
        if joins:
            extra, after = self.shortcut_parts(code, nodes, width)
            parts |= extra
        if self.reads.kind == "pattern":
            parts |= self.reads_parts()
        body += self.text.loop[len(body) :]
        if code.takes_shortcut_width and self.shortcut.matched:
            self.construct_with_shortcut_width(call, width.replace("unit.out", "node.unit.out"), body, after)
            return
        if width == "unit.out" and len(parts) == 1 and not after:
            width = "self[-1].unit.out"
        elif width == "unit.out" or len(parts) > 1:
            body.append(f"unit = {call}")
            parts["unit"] = "unit"
        if not wide and code.out == "in_":
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

    def construct_with_shortcut_width(self, call: str, width: str, body: list[str], match: list[str]) -> None:
        """Write nodes whose units take the width of their shortcut."""
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
        code = self.code
        if self.output.kind == "input":
            out = "in_"
        elif self.output.kind == "newest":
            out = "widths[-1]" if wide else "c" if "c = in_" in self.init else "in_"
        else:
            out = self.gathered_width(self.output)
        code.out = self.text.output_width(out if out == "in_" else self.width)
        code.width = code.out or out
        code.init, code.forward = statements(self.init), statements(self.forward)
        code.forward_parameters = (
            "x" + (", shortcut" if code.mode == "argument" else "") + ", raw" * code.takes_pre_activation
        )
        if text(code.forward) == text(SEQUENTIAL):
            code.base, code.forward = "nn.Sequential", []
            code.init = rewrite(code.init, _named)
        code.forward = fold_branches(code.forward) if code.forward else []

    # ------------------------------------------------------------------ forward

    def construct_output(self) -> None:
        """Write the weights of the output's gather, which follow the nodes."""
        role = self.output
        assert role.gather is not None
        assert self.reads.gather is not None
        same_as_reads = signature(role.gather) == signature(self.reads.gather) and role.gather.pattern.word != "edges"
        if not same_as_reads or (role.gather.norm != "none" and not self.norm_is_deferred()) or self.shortcut.prepared:
            raise NotExpressible
        parts = self.reads_parts()
        if not parts:
            return
        self.init.append(f"self.output = {parts['reads']}")

    def run(self, code: EmittedClass, joins: bool) -> None:
        """Write the forward: lists of features and sources, the loop, the output."""
        listed = self.listed_role(joins)
        list_shortcut = joins and not self.chained(self.shortcut) and self.shortcut is not listed
        single = self.reads.kind == "newest" and self.output.kind == "newest" and not list_shortcut
        deferred, numbered = listed is self.reads and self.norm_is_deferred(), False
        lines: list[str] = ["sources = []"] if listed else []
        body: list[str] = []
        if listed:
            body, numbered = self.append_source(listed, deferred, single)
        if not single and self.code.returns_pre_activation:
            lines.append(f"features, raws = [x], [{'raw' if self.code.takes_pre_activation else 'x'}]")
        elif not single:
            lines.append("features = [x]")
        x = "x" if single or self.reads.kind == "input" else self.source(self.reads)
        shortcut = self.shortcut_text(code, single, joins)
        call = unit_call(code, "node.unit", x, shortcut)
        if (code.leading_join or code.trailing_join) and (" if " in shortcut or len(call) > WIDTH - 40):
            body.append(f"shortcut = {shortcut}")
            call = unit_call(code, "node.unit", x, "shortcut")
        body += self.results(code, call, single, deferred)
        lines += [self.head(numbered), *[f"    {line}" for line in body]]
        self.forward = [*lines, f"return {self.output_text(single)}{self.raw_output_text(single)}"]

    def listed_role(self, joins: bool) -> Role | None:
        """The role whose sources have a list of their own, of pre-activations or normalized features."""
        roles = [self.reads, *[self.shortcut] * joins]
        result = [
            role
            for role in roles
            if role.gather and (role.has_own_list or (role.gather.norm != "none" and role.kind == "pattern"))
        ]
        if len(result) > 1:
            raise NotExpressible
        return result[0] if result else None

    def head(self, numbered: bool) -> str:
        """The header of the loop."""
        if numbered:
            return f"for {self.counter}, node in enumerate(self):"
        if any(line.startswith("self.output = ") for line in self.init):
            return "for node in list(self)[:-1]:"
        if self.runs[0].split:
            return "for node, part in zip(self, shortcut.chunk(len(self), 1)):"
        return "for node in self:"

    def results(self, code: EmittedClass, call: str, single: bool, deferred: bool) -> list[str]:
        """The lines that keep the output of a unit, and its pre-activation if it returns one."""
        if single:
            raw = ", raw" if self.shortcut.raw or self.code.returns_pre_activation else ", _"
            return [f"x{raw if code.returns_pre_activation else ''} = {call}"]
        if not code.returns_pre_activation:
            if not deferred:
                return [f"features.append({call})"]
            norm = substitute(self.norm(self.reads), {"X": "features[-1]"})
            return [f"x = {call}", f"sources.append({norm})", "features.append(x)"]
        if deferred or self.shortcut.raw:
            raise NotExpressible
        return [
            f"y, {'raw' if self.code.returns_pre_activation else '_'} = {call}",
            "features.append(y)",
            *["raws.append(raw)"] * self.code.returns_pre_activation,
        ]

    def append_source(self, role: Role, deferred: bool, single: bool) -> tuple[list[str], bool]:
        """The lines that append the newest feature to the list of sources, and whether they use the node's number."""
        assert role.gather is not None
        if role.has_own_list and not single:
            raise NotExpressible
        newest = "raw" if role.raw and role.has_own_list else "x" if single else "features[-1]"
        if role.gather.norm == "bn":
            return [f"sources.append(node.shortcut.norms[str({self.counter})]({newest}))"], True
        return [] if deferred else [f"sources.append({substitute(self.norm(role), {'X': newest})})"], False

    def raw_output_text(self, single: bool) -> str:
        if not self.code.returns_pre_activation:
            return ""
        return ", raw" if single else f", {self.source(self.output, 'raws')}"

    def output_text(self, single: bool) -> str:
        if self.output.kind == "input":
            return "x" if not single else self._refuse()
        return "x" if single else self.source(self.output)

    def _refuse(self) -> str:
        raise NotExpressible

    def shortcut_text(self, code: EmittedClass, single: bool, joins: bool) -> str:
        """The expression of a node's shortcut."""
        role = self.shortcut
        if self.runs[0].split:
            self.check_split()
            if code.mode != "argument":
                raise NotExpressible
            return "part"
        if not joins:
            return ""
        if any(not (node.shortcut and node.shortcut.sources) for run in self.runs for node in run.nodes):
            raise NotExpressible
        if role.word == "mean" and not self.shortcut_is_list:
            counts = {len(one.sources) for one in role.all}
            if len(counts) > 1:
                raise NotExpressible
        if role.matched and not role.has_own_list:
            if not single:
                raise NotExpressible
            always = all(node.shortcut and node.shortcut.matches for run in self.runs for node in run.nodes)
            return "node.shortcut(x)" if always else 'node.shortcut(x) if "shortcut" in node else x'
        if role.raw and not role.has_own_list:
            return "raw" if single else self._refuse()
        if self.chained(role) and not role.prepared:
            return "x" if single else "features[-1]"
        return self.source(role)

    def check_split(self) -> None:
        """Check that all nodes take equal numbers of channels of a split shortcut."""
        for run in self.runs:
            result = [split_width(node.unit, self.classes) for node in run.nodes]
            if not same(result) or not result or None in result:
                raise NotExpressible

    # ------------------------------------------------------------------ modules of reads and shortcuts

    def chained(self, role: Role) -> bool:
        """Whether a role takes the newest feature only."""
        return all(one.selected == [one.position - 1] for one in role.all) and not role.prepared

    def shortcut_parts(
        self, code: EmittedClass, nodes: list[list[NodeRun]], out: str
    ) -> tuple[dict[str, str], list[str]]:
        """The modules of a node's shortcut, and the lines that follow the creation of the node."""
        role = self.shortcut
        if not role.matched and not role.prepared:
            return {}, []
        assert role.gather is not None
        if role.matched:
            return {}, self.match_lines(code, nodes, out)
        parts = {}
        if role.gather.norm == "bn":
            self.check_norms(nodes)
            self.text.uses_counter = True
            norm = f"nn.BatchNorm2d({'in_' if self.is_constant_width else 'widths[-1]'}, affine=False)"
            parts["norms"] = f"nn.ModuleDict({{str({self.counter} - 1): {norm}}})"
        if role.gather.weight:
            parts["weights"] = self.weights(role, self.widths(role))
        if role.gather.operator_type is Gated:
            parts["gates"] = f"gates({self.widths(role)})"
        if not parts:
            return {}, []
        return {"shortcut": modules(parts)}, []

    @property
    def is_constant_width(self) -> bool:
        """Whether nodes read the previous one, shortcuts read all, and all are as wide as the input."""
        dense = self.shortcut.gather is not None and self.shortcut.gather.pattern.word == "dense"
        same_width = all(same([self.classes.channels(feature) for feature in run.features]) for run in self.runs)
        return dense and same_width and self.reads.kind == self.output.kind == "newest" and not self.shortcut.matched

    def widths(self, role: Role) -> str:
        """The expression of the widths of a role's sources."""
        if self.is_constant_width:
            self.text.uses_counter = True
            return f"[in_] * {self.counter}"
        return self.selected(role, "widths")

    def check_norms(self, nodes: list[list[NodeRun]]) -> None:
        """Check that each norm with statistics belongs to the first reader of its feature, the next node."""
        tape = self.classes.traced.tape
        for row in nodes:
            for node in row:
                one = node.shortcut
                newest = dict(one.sources).get(node.l - 1) if one else None
                if newest is None or tape.paths[tape.norms[newest, 0]] != f"{one.path}.norms.{node.l - 1}":  # type: ignore[union-attr]
                    raise NotExpressible

    def match_lines(self, code: EmittedClass, nodes: list[list[NodeRun]], out: str) -> list[str]:
        """The lines that create the `match` of the newest feature to a node's output, where it does not fit."""
        rows = [node for row in nodes for node in row]
        if not self.chained(self.shortcut) or self.reads.kind != "newest":
            raise NotExpressible
        if not all(node.shortcut and node.shortcut.sources for node in rows):
            raise NotExpressible
        matched = [[node for node in row if node.shortcut and node.shortcut.matches] for row in nodes]
        fitting = [node for row in matched for node in row]
        runs: list[UnitRun] = [run for node in fitting if node.shortcut for run in node.shortcut.matches.values()]
        match_widths = [run.scope["w"] for run in runs]
        summed = (
            match_widths == [self.classes.channels(node.unit.out) for node in fitting] and not code.takes_shortcut_width
        )
        self.text.uses_counter = True
        tests = self.match_tests(rows, nodes, out, summed) if len(fitting) < len(rows) else []
        match = self.text.calls.written_class_of(runs)
        if code.takes_shortcut_width:
            match.width_expressions.add("node.shortcut.match[0].out")

        def express(name: str) -> str:
            if name == "w" and summed:
                return out
            values = [run.scope.get(name) for run in runs]
            if name != "w" and values[0] is not None and same(values):
                return str(values[0])
            if values == [node.scope.get(name) for node in fitting]:
                return self.text.text_of(name, nodes if name == "s" else matched, None)
            raise NotExpressible

        call = self.text.calls.arguments(match, "c", express)
        line = f'node["shortcut"] = named(match=named(**{{str({self.counter} - 1): {call}}}))'
        return [f"if {' or '.join(tests)}:", f"    {line}"] if tests else [line]

    def match_tests(self, rows: list[NodeRun], nodes: list[list[NodeRun]], out: str, summed: bool) -> list[str]:
        """The conditions, joined by `or`, under which a node's shortcut goes through `match`."""
        fits = [bool(node.shortcut and node.shortcut.matches) for node in rows]
        first = [node.l == 1 for node in rows]
        strided = [node.scope["s"] != 1 for node in rows]
        widened = [self.classes.channels(node.unit.x) != self.classes.channels(node.unit.out) for node in rows]
        either = [a or b for a, b in zip(strided, widened, strict=True)]
        rules = (  # nodes with matches; whether these are as wide as the units' outputs; conditions
            (first, (False,), [f"{self.counter} == 1"]),
            (widened, (True,), [f"c != {out}"]),
            (strided, (True, False), ["s > 1"]),
            (either, (True,), ["s > 1", f"c != {out}"]),
        )
        tests = next((tests for column, widths, tests in rules if column == fits and summed in widths), None)
        if tests is None:
            raise NotExpressible
        if "s > 1" in tests:
            tests = [f"{self.text.text_of('s', nodes, None)} > 1", *tests[1:]]
        return tests

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
    """Rewrite a node that consists only of its unit as a sequence."""
    if isinstance(node, ast.Call) and show(node.func) == "nn.ModuleDict" and isinstance(node.args[0], ast.Dict):
        return ast.Call(ast.Name("named"), [], [ast.keyword("unit", node.args[0].values[0])])
    return None
