"""What reads and shortcuts own: weights, gates, norms, and what makes a feature fit."""

from __future__ import annotations

from nas_agg.compiler.codegen.classes import Class
from nas_agg.compiler.codegen.gather_facts import Role
from nas_agg.compiler.codegen.numbers import NotExpressible, same
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.selections import Selections
from nas_agg.expansion.trace import NodeRun, UnitRun
from nas_agg.language.operators import Gated


class Owned(Selections):
    """Writes these, for a loop over nodes."""

    text: Schedules
    shortcut: Role

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
        if role.gather.how is Gated:
            parts["gates"] = f"gates({self.widths(role)})"
        if not parts:
            return {}, []
        written = ", ".join(f'"{name}": {text}' for name, text in parts.items())
        return {"shortcut": f"nn.ModuleDict({{{written}}})"}, []

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
        if role.gather.how is Gated:
            parts["gates"] = f"gates({chosen})"
        if not parts:
            return {}
        written = ", ".join(f'"{name}": {text}' for name, text in parts.items())
        return {"reads": f"nn.ModuleDict({{{written}}})"}
