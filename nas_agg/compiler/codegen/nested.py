"""Parts of a unit that are written in place: short units, and aggregates whose nodes form a chain."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from itertools import groupby

from nas_agg.compiler.codegen.classes import env, is_chain
from nas_agg.compiler.codegen.joins import UnitBody
from nas_agg.compiler.codegen.layers import Item
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import parse, show, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.compiler.codegen.syntax.rewrites import nameable
from nas_agg.expansion.trace import AggregateRun, StepRun, UnitRun
from nas_agg.language.resolved import Aggregate, ResolvedWord, Unit

FEW = 6  # nodes of an aggregate of the network that are written one by one where they follow one another


class Nested:
    """Writes these.

    Args:
        unit: The unit around.
        step: Writes a step of it: its label, its uses, the names around.
    """

    def __init__(self, unit: UnitBody, step: Callable[[str, list[StepRun], Mapping[str, str]], None]):
        self.unit, self.step = unit, step

    def short(self, label: str, column: list[StepRun]) -> bool:
        """A unit of a few layers, written where it stands."""
        state = self.unit.state()
        text = self.brief([run.run for run in column], self.unit.names)  # type: ignore[misc]
        once = len(column[0].step.steps) <= (6 if self.unit.root else 2) and len(
            self.unit.classes.of[id(column[0].run)].runs
        ) == len(column)
        if text is None or (len(f"self.{label} = {text}") > WIDTH - 8 and not once):
            self.unit.restore(state)
            return False
        self.unit.items.append(Item(f"self.{label}(X)", (label, text), 1))
        return True

    def brief(self, runs: list[UnitRun], names: Mapping[str, str]) -> str | None:
        """The text of a unit of a few layers as a value, or None."""
        unit = runs[0].unit
        if not unit.steps or len(unit.steps) > (6 if self.unit.root else 3) or unit.takes_shortcut:
            return None
        items, around, known = self.unit.items, self.unit.entering, self.unit.names
        self.unit.items, self.unit.entering, self.unit.names = [], self.unit.channels, dict(names)
        try:
            for k, (own, _) in enumerate(unit.steps):
                self.step(own, [run.steps[k] for run in runs], names)
            parts = [item.module for item in self.unit.items]
            if len(parts) == 1 and self.unit.items[0].pair and parts[0]:  # two values come out as they are
                parts = [(parts[0][0].lstrip("!"), parts[0][1])]
        finally:
            self.unit.items, self.unit.entering, self.unit.names = items, around, known
        if not parts or any(part is None or not part[1] or part[0].startswith("!") for part in parts):
            return None
        if self.unit.channels.startswith("self."):
            return None
        if any("self." in part[1] or not nameable(part[0]) for part in parts if part):
            return None
        return f"named({', '.join(f'{part[0]}={part[1]}' for part in parts if part)})"

    def simple(self, unit: Unit) -> bool:
        """True if a unit has only layers."""
        return all(
            isinstance(step, ResolvedWord) or (isinstance(step, Unit) and self.simple(step)) for _, step in unit.steps
        )

    def single(self, step: Aggregate, column: list[StepRun]) -> bool:
        """True if an aggregate is a single node of layers without weights."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        return (
            all(run.n == 1 and is_chain(run) for run in runs)
            and self.simple(step.units[0])
            and not step.units[0].takes_shortcut
            and not any(map(self.unit.classes.stateful, column))
        )

    def inline(self, label: str, runs: list[UnitRun], names: Mapping[str, str]) -> None:
        around, self.unit.entering = self.unit.entering, self.unit.channels
        for k, (own, _) in enumerate(runs[0].unit.steps):
            self.step(self.unit.attribute(f"{label}_{own}"), [run.steps[k] for run in runs], names)
        self.unit.entering = around

    def listed(self, label: str, column: list[StepRun]) -> bool:
        """An aggregate whose nodes follow one another, as a list of its units."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        n, unit = runs[0].n, self.unit
        around = unit.classes.of[id(runs[0])]
        if around.takes_pre_activation or (around.returns_pre_activation and n != 1):
            return False
        if not around.returns_pre_activation and self.conditional(label, column):
            return True
        if n == 0 or any(run.n != n or not is_chain(run) for run in runs):
            return False
        few = unit.root and (runs[0].aggregate.unit_per_node or (n <= FEW and len(around.runs) == 1))
        if n > 1 and not few:
            return False
        if n == 1 and self.brief_node(label, column):
            return True
        texts = self.nodes([[run.nodes[k].unit for run in runs] for k in range(n)], column)
        if texts is None:
            return False
        self.units_item(label, column, f"chain({', '.join(repeated(texts))})")
        if unit.root:
            unit.channels = str(unit.classes.channels(column[0].out))
        else:
            last = unit.classes.of[id(runs[0].nodes[-1].unit)]
            unit.channels = unit.calls.out(last, texts[-1], f"self.{label}[-1].unit.out")
        return True

    def nodes(self, rows: list[list[UnitRun]], column: list[StepRun]) -> list[str] | None:
        """The calls of nodes' units one by one, all of a few layers where these differ; None if there are none."""
        unit = self.unit
        texts: list[str] = []
        briefs: list[str | None] = []
        for units in rows:
            code = unit.calls.written(unit.classes.of[id(units[0])])
            if code.mode == "given":
                return None
            channels = str(unit.classes.channels(units[0].x)) if unit.root else unit.channels
            try:
                texts.append(unit.calls.call(code, channels, units, column, unit))
                briefs.append(
                    self.brief_call(units, channels) if unit.root and not code.returns_pre_activation else None
                )
            except NotExpressible:
                return None
        short = [brief for brief in briefs if brief and len(brief) < WIDTH - 12]
        return short if len(set(short)) == len(rows) else texts

    def units_item(self, label: str, column: list[StepRun], text: str) -> None:
        """The item of a list of units, which gives a pre-activation where its aggregate does."""
        gives = self.unit.classes.of[id(column[0].run)].returns_pre_activation
        pair = ("raw" if column[0].label in self.unit.kept() else "_") if gives else ""
        self.unit.items.append(Item(f"self.{label}(X)", ("!" * bool(pair) + label, text), 1, pair=pair))

    def brief_node(self, label: str, column: list[StepRun]) -> bool:
        """An aggregate of one node with a few layers."""
        state = self.unit.state()
        try:
            units = [run.run.nodes[0].unit for run in column]  # type: ignore[union-attr]
            text = None if units[0].unit.takes_shortcut else self.brief(units, self.unbound(column[0].step))
        except NotExpressible:
            text = None
        if text is None or len(f"self.{label} = chain({text})") > WIDTH - 8:
            self.unit.restore(state)
            return False
        self.units_item(label, column, f"chain({text})")
        return True

    def brief_call(self, units: list[UnitRun], channels: str) -> str | None:
        """The text of a network's unit of a few layers, from given channels on."""
        around, self.unit.channels = self.unit.channels, channels
        try:
            return self.brief(units, {})
        finally:
            self.unit.channels = around

    def conditional(self, label: str, column: list[StepRun]) -> bool:
        """An aggregate of one node that is not there at some uses, and keeps the width."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        counts = {run.n for run in runs}
        if counts != {0, 1} or not all(is_chain(run) for run in runs):
            return False
        if any(self.unit.classes.channels(run.x) != self.unit.classes.channels(run.out) for run in column):
            return False
        state, channels, known = self.unit.state(), self.unit.channels, self.unit.names
        try:
            units = [run.nodes[0].unit for run in runs if run.n]
            there = [run for run in column if run.run.n]  # type: ignore[union-attr]
            code = self.unit.calls.written(self.unit.classes.of[id(units[0])])
            if code.mode == "given" or runs[0].aggregate.nodes is None:
                return False
            nodes = runs[0].aggregate.nodes.expression
            test = self.unit.express(nodes.tree(), [env(run.outer) for run in runs], self.unit.names)
            self.unit.names = self.unbound(column[0].step)
            text = self.brief(units, self.unit.names)
            self.unit.channels = channels
            if text is None:
                text = self.unit.calls.call(code, channels, units, there, self.unit)
        except NotExpressible:
            self.unit.restore(state)
            return False
        finally:
            self.unit.names = known
        there_, empty = f"[{text}]", "[]"
        match parse(test):
            case ast.IfExp(test=result, body=ast.Constant(value=1), orelse=ast.Constant(value=0)):
                test = show(result)
            case ast.IfExp(test=result, body=ast.Constant(value=0), orelse=ast.Constant(value=1)):
                test, there_, empty = show(result), empty, there_
            case _:
                test = substitute("_n == 1", {"_n": test})
        self.unit.items.append(Item(f"self.{label}(X)", (label, f"chain(*{there_} if {test} else {empty})"), 1))
        return True

    def unbound(self, step: Aggregate) -> dict[str, str]:
        """The names that an aggregate leaves as they are."""
        bound = {name for name, value in (("w", step.growth), ("g", step.cardinality), ("s", step.stride)) if value}
        bound |= {"l", "n"} | {name for name, _ in step.let}
        return {name: text for name, text in self.unit.names.items() if name not in bound}


def repeated(texts: list[str]) -> list[str]:
    """Calls, of which those that follow one another alike are written once."""
    result = []
    for text, group in groupby(texts):
        times = len(list(group))
        result += [f"*({text} for _ in range({times}))"] if times > 2 else [text] * times
    return result
