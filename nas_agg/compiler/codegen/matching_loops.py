"""Loops over the nodes of an aggregate whose features differ in shape, so that sources go through `match`."""

from __future__ import annotations

import ast
from typing import Any

from nas_agg.compiler.codegen.classes import EmittedClass
from nas_agg.compiler.codegen.gather_facts import Loop, Role, listed, modules
from nas_agg.compiler.codegen.layers import unit_call
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.syntax.ir import names, parse, statements, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, same
from nas_agg.compiler.codegen.syntax.rewrites import reads
from nas_agg.expansion.trace import UnitRun
from nas_agg.language.operators import Concat, Gated, Mixed


class MatchingLoop(Loop):
    """Writes the constructor and the forward as loops in which a source is matched once per target shape.

    A list holds the latest matched form of each source: in the constructor its shape, in the forward its value.
    """

    def __init__(self, text: Schedules):
        super().__init__(text)
        self.shared = self.runs[0].aggregate.output is None  # the output is what a further node would read
        if any((run.aggregate.output is None) != self.shared or run.split for run in self.runs):
            raise NotExpressible
        if self.code.returns_pre_activation or self.code.takes_pre_activation:
            raise NotExpressible
        outs = [[run.output] for run in self.runs if run.output]
        reads = [[node.reads for node in run.nodes] for run in self.runs]
        if self.shared:
            reads = [row + out for row, out in zip(reads, outs, strict=True)]
        self.reads = Role("reads", self.runs, reads)
        joins = [[n.shortcut for n in run.nodes if n.shortcut and n.shortcut.sources] for run in self.runs]
        self.shortcut = Role("shortcut", self.runs, joins)
        self.output = self.reads if self.shared else Role("output", self.runs, outs)
        self.scaled = any(not same([self.classes.traced.shape(t)[1:] for t in run.features]) for run in self.runs)
        self.returning: set[str] = set()  # roles with sources that return to their own shape
        self.lists: dict[str, str] = {}  # by role, the name of the list of its sources

    def write(self) -> None:
        """Write the class.

        Raises:
            NotExpressible: The aggregate cannot be written as such a loop.
        """
        if any(feature not in self.classes.live for run in self.runs for feature in run.features):
            raise NotExpressible
        nodes = [run.nodes for run in self.runs]
        units = [node.unit for row in nodes for node in row]
        unit = self.text.calls.ensure_written(self.classes.by_run[id(units[0])])
        if unit.takes_shortcut_width or unit.returns_pre_activation or unit.takes_pre_activation:
            raise NotExpressible
        self.shortcut_is_list = unit.shortcut_is_list
        self.joins = unit.mode == "argument"
        if self.joins and sum(map(len, self.shortcut.rows)) < len(units):
            raise NotExpressible  # a node without a shortcut
        roles = [self.reads, *[self.shortcut] * self.joins, *[self.output] * (not self.shared)]
        for role in roles:
            self.check(role)
            if role.gather and role.kind == "pattern" and (role.matched or role.gather.norm != "none"):
                self.lists[role.name] = "fits" if not self.lists else f"{role.name}_fits"
        self.construct(unit, units)
        self.run(unit)

    # ------------------------------------------------------------------ checks

    def check(self, role: Role) -> None:
        """Check that the graph matches sources exactly where the emitted code does."""
        gather = role.gather
        if gather is None or role.kind != "pattern":
            return
        if gather.norm == "bn" or role.raw or (role.matched and gather.operator_type in (Concat, Mixed)):
            raise NotExpressible
        main = role is not self.shortcut
        if (role.matched or role.prepared) and main and any(one.main is None for one in role.all):
            raise NotExpressible
        for run, row in zip(self.runs, role.rows, strict=True) if role.matched else ():
            channels, scales = [self.classes.channels(t) for t in run.features], [1]
            for node in run.nodes:
                scales.append(scales[-1] * node.scope.get("s", 1) if self.scaled else 1)
            own = list(zip(channels, scales, strict=True))
            latest = list(own)
            for one in row:
                target = own[one.position - main]
                new = [k for k, _ in one.sources if latest[k] != target]
                if list(one.matches) != [k for k in new if own[k] != target]:
                    raise NotExpressible
                if len(one.matches) < len(new):
                    self.returning.add(role.name)
                for k in new:
                    latest[k] = target
                for k, match in one.matches.items():
                    if (match.scope["w"], match.scope["s"]) != (target[0], target[1] // own[k][1]):
                        raise NotExpressible

    # ------------------------------------------------------------------ the constructor

    def construct(self, unit: EmittedClass, units: list[UnitRun]) -> None:
        nodes = [run.nodes for run in self.runs]
        input_width = self.gathered_width(self.reads)
        _, call = self.text.unit_call(units, input_width, nodes, None)
        width = self.text.calls.output_width(unit, call, "unit.out")
        step = self.text.text_of("s", nodes, None) if self.scaled else "1"
        body, parts = [], {"unit": call}
        if not width.isidentifier():
            body = [f"unit = {call}", f"c = {width}"]
            parts["unit"], width = "unit", "c"
        if self.scaled:
            body.append(f"scale = scales[-1] * {step}" if step != "1" else "scale = scales[-1]")
        for role in [self.reads, *[self.shortcut] * self.joins]:
            lines, text = self.parts(role, width if role is self.shortcut else "widths[-1]", f"range({self.counter})")
            body += lines
            if text:
                parts[role.name] = text
        self.width = width
        body.append(f"self.append({modules(parts)})")
        records = {"widths": ("in_", width), "scales": ("1", "scale")} if self.scaled else {"widths": ("in_", width)}
        shape = ("(in_, 1)", f"({width}, scale)") if self.scaled else ("in_", width)
        records |= {self.lists[role.name]: shape for role in self.listed_roles if role.matched}
        body += [f"{name}.append({new})" for name, (_, new) in records.items()]
        self.init += [f"{name} = [{first}]" for name, (first, _) in records.items()]
        body = self.text.loop + body
        counted = self.counter in reads(statements(body))
        self.init.append(f"for {self.counter} in range(1, nodes + 1):" if counted else "for _ in range(nodes):")
        self.init += [f"    {line}" for line in body]
        lines, text = self.parts(self.output, "widths[-1]", "range(len(widths))")
        self.init += [*lines[:-1], lines[-1].replace("output = ", "self.output = ")] if lines else []
        self.has_output_modules = bool(lines)

    @property
    def listed_roles(self) -> list[Role]:
        """The roles whose sources have a list that grows with the nodes."""
        return [role for role in (self.reads, self.shortcut) if role.name in self.lists]

    def parts(self, role: Role, width: str, numbers: str) -> tuple[list[str], str]:
        """The lines that create the modules of a position, and the name of these modules."""
        if role.gather is None or role.kind != "pattern" or not (role.matched or role.prepared):
            return [], ""
        leaves = numbers != f"range({self.counter})"
        name = "output" if leaves else role.name
        scale = "scale" if role is self.shortcut else "scales[-1]"
        chosen = self.selected(role, numbers, newest=role is self.shortcut)
        chosen = chosen.replace(f"len({numbers})", numbers.removeprefix("range")[1:-1])
        parts, lines = {}, []
        if role.matched:
            lines.append(f"sources = {chosen}")
            shape = f"({width}, {scale})" if self.scaled else width
            call = self.match_call(role, width, scale)
            if role.name in self.returning:
                own = "(widths[source], scales[source])" if self.scaled else "widths[source]"
                call += f" if {own} != {shape} else nn.Identity()"
            fits = self.lists[role.name]
            if role.name == "output":
                fits = "list(zip(widths, scales))" if self.scaled else "list(widths)"
            text = f"{{str(source): {call} for source in unfit(sources, {fits}, {shape})}}"
            lines.append(f"match = {text}")
            parts["match"] = "nn.ModuleDict(match)"
            chosen = f"[{width}] * len(sources)"
        else:
            chosen = self.selected(role, "widths", newest=role is self.shortcut)
        if role.gather.weight:
            parts["weights"] = self.weights(role, chosen)
        if role.gather.operator_type is Gated:
            parts["gates"] = f"gates({chosen})"
        if not parts:
            return [], ""
        return [*lines, f"{name} = {modules(parts)}"], name

    def match_call(self, role: Role, width: str, scale: str) -> str:
        """The call that creates the `match` unit of a source."""
        runs = [run for one in role.all for run in one.matches.values()]
        code = self.classes.by_run[id(runs[0])]
        if (
            any(self.classes.by_run[id(run)] is not code for run in runs)
            or code.returns_pre_activation
            or code.takes_pre_activation
        ):
            raise NotExpressible
        self.text.calls.ensure_written(code)

        def express(name: str) -> str:
            if name == "w":
                return width
            values: list[Any] = [run.scope.get(name) for run in runs]
            if same(values) and values[0] is not None:
                return str(values[0])
            if name == "s" and self.scaled:
                return f"{scale} // scales[source]"
            return self.text.text_of(name, [run.nodes for run in self.runs], None)

        return self.text.calls.arguments(code, "widths[source]", express)

    # ------------------------------------------------------------------ the forward

    def run(self, unit: EmittedClass) -> None:
        lists = {"features": "x"} | {
            self.lists[role.name]: substitute(self.norm(role), {"X": "x"}) for role in self.listed_roles
        }
        lines = [f"{', '.join(lists)} = {', '.join(f'[{text}]' for text in lists.values())}"]
        body = []
        for role in [self.reads, *[self.shortcut] * self.joins]:
            body += self.refit(role, f"node.{role.name}")
        x = "features[-1]" if self.reads.kind == "newest" else self.gathered(self.reads, "node.reads")
        if self.joins:
            body.append(f"shortcut = {self.gathered(self.shortcut, 'node.shortcut')}")
        body.append(f"x = {unit_call(unit, 'node.unit', x, 'shortcut' if self.joins else '')}")
        body += [f"{name}.append({text})" for name, text in lists.items()]
        lines += ["for node in list(self)[:-1]:" if self.has_output_modules else "for node in self:"]
        lines += [f"    {line}" for line in body]
        if "output" in self.lists:
            norm = self.norm(self.output)
            fits = "list(features)" if norm == "X" else f"[{substitute(norm, {'X': 'x'})} for x in features]"
            lines.append(f"{self.lists['output']} = {fits}")
        lines += self.refit(self.output, "self.output")
        lines.append(f"return {self.gathered(self.output, 'self.output')}")
        code = self.code
        last = "in_" if self.output.kind == "input" else self.gathered_width(self.output)
        code.out = self.text.output_width(self.width) if last == "widths[-1]" else None
        code.width = code.out or last
        code.init, code.forward = statements(self.init), statements(lines)
        code.forward_parameters = "x, shortcut" if code.mode == "argument" else "x"

    def norm(self, role: Role) -> str:
        """The norm of a source, valid for all features, since those that are not read are normalized here as well."""
        text = super().norm(role)
        widths = [self.classes.channels(feature) for run in self.runs for feature in run.features]
        match parse(text):
            case ast.Call(args=[_, ast.Constant(value=int(groups))]) if any(width % groups for width in widths):
                return "torch.group_norm(X, math.gcd(32, X.shape[1]))"
        return text

    def refit(self, role: Role, place: str) -> list[str]:
        """The lines that match the sources of a position."""
        if not role.matched:
            return []
        norm, name = self.norm(role), self.lists[role.name]
        lines = [f"for k, match in {place}.match.items():"]
        text = "match(features[int(k)])"
        if names(norm).count("X") > 1:
            lines.append(f"    y = {text}")
            text = "y"
        return [*lines, f"    {name}[int(k)] = {substitute(norm, {'X': text})}"]

    def gathered(self, role: Role, place: str) -> str:
        if role.kind != "pattern" or (role.name not in self.lists and not role.prepared):
            return self.source(role)
        assert role.gather is not None
        main, name = role is not self.shortcut, self.lists.get(role.name, "features")
        tensors = self.selected(role, name, newest=not (main and role.prepared))
        if role.gather.weight:
            tensors = f"map(torch.mul, {tensors}, {place}.weights)"
        if role.gather.operator_type is Gated:
            tensors = f"gated({listed(tensors)}, {place}.gates)"
        if main and role.prepared:
            tensors = f"[*{tensors}, features[-1]]"
        return self.joined(role, tensors)
