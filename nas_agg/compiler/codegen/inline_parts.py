"""Parts of a unit that are written inline: short units, and aggregates whose nodes form a chain."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from itertools import groupby

from nas_agg.compiler.codegen.classes import env, is_chain
from nas_agg.compiler.codegen.layers import Item
from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import parse, show, substitute
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.compiler.codegen.syntax.rewrites import nameable
from nas_agg.compiler.codegen.unit_body import UnitBody
from nas_agg.expansion.trace import AggregateRun, StepRun, UnitRun
from nas_agg.language.resolved import Aggregate, ResolvedWord, Unit

MAX_CHAIN = 6  # nodes of a chain in the outermost unit that are written one by one


class InlineParts:
    """Writes parts of a unit inline.

    Args:
        unit: The unit.
        step: Writes a step of the unit: its label, its uses and the enclosing names.
    """

    def __init__(self, unit: UnitBody, step: Callable[[str, list[StepRun], Mapping[str, str]], None]):
        self.unit, self.step = unit, step

    def inline_unit(self, label: str, column: list[StepRun]) -> bool:
        """Write a unit of a few layers inline; returns whether that is possible."""
        state = self.unit.snapshot()
        text = self.sequence_text([run.run for run in column], self.unit.names)  # type: ignore[misc]
        once = len(column[0].step.steps) <= (6 if self.unit.root else 2) and len(
            self.unit.classes.by_run[id(column[0].run)].runs
        ) == len(column)
        if text is None or (len(f"self.{label} = {text}") > WIDTH - 8 and not once):
            self.unit.restore(state)
            return False
        self.unit.items.append(Item(f"self.{label}(X)", (label, text), 1))
        return True

    def sequence_text(self, runs: list[UnitRun], names: Mapping[str, str]) -> str | None:
        """The expression of a unit of a few layers; None if it is too long or not a sequence."""
        unit = runs[0].unit
        if not unit.steps or len(unit.steps) > (6 if self.unit.root else 3) or unit.takes_shortcut:
            return None
        items, input_width, outer_names = self.unit.items, self.unit.input_width, self.unit.names
        self.unit.items, self.unit.input_width, self.unit.names = [], self.unit.channels, dict(names)
        try:
            for k, (label, _) in enumerate(unit.steps):
                self.step(label, [run.steps[k] for run in runs], names)
            parts = [item.module for item in self.unit.items]
            if len(parts) == 1 and self.unit.items[0].pair and parts[0]:  # both values are returned unchanged
                parts = [(parts[0][0].lstrip("!"), parts[0][1])]
        finally:
            self.unit.items, self.unit.input_width, self.unit.names = items, input_width, outer_names
        if not parts or any(part is None or not part[1] or part[0].startswith("!") for part in parts):
            return None
        if self.unit.channels.startswith("self."):
            return None
        if any("self." in part[1] or not nameable(part[0]) for part in parts if part):
            return None
        return f"named({', '.join(f'{part[0]}={part[1]}' for part in parts if part)})"

    def has_only_layers(self, unit: Unit) -> bool:
        """Whether a unit consists of layers only."""
        return all(
            isinstance(step, ResolvedWord) or (isinstance(step, Unit) and self.has_only_layers(step))
            for _, step in unit.steps
        )

    def is_stateless_node(self, step: Aggregate, column: list[StepRun]) -> bool:
        """Whether an aggregate is a single node of layers without weights."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        return (
            all(run.n == 1 and is_chain(run) for run in runs)
            and self.has_only_layers(step.units[0])
            and not step.units[0].takes_shortcut
            and not any(map(self.unit.classes.stateful, column))
        )

    def inline_steps(self, label: str, runs: list[UnitRun], names: Mapping[str, str]) -> None:
        input_width, self.unit.input_width = self.unit.input_width, self.unit.channels
        for k, (inner, _) in enumerate(runs[0].unit.steps):
            self.step(self.unit.attribute(f"{label}_{inner}"), [run.steps[k] for run in runs], names)
        self.unit.input_width = input_width

    def inline_chain(self, label: str, column: list[StepRun]) -> bool:
        """Write an aggregate whose nodes form a chain as a list of its units; returns whether that is possible."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        n, unit = runs[0].n, self.unit
        code = unit.classes.by_run[id(runs[0])]
        if code.takes_pre_activation or (code.returns_pre_activation and n != 1):
            return False
        if not code.returns_pre_activation and self.inline_optional_node(label, column):
            return True
        if n == 0 or any(run.n != n or not is_chain(run) for run in runs):
            return False
        few = unit.root and (runs[0].aggregate.unit_per_node or (n <= MAX_CHAIN and len(code.runs) == 1))
        if n > 1 and not few:
            return False
        if n == 1 and self.inline_node(label, column):
            return True
        texts = self.node_calls([[run.nodes[k].unit for run in runs] for k in range(n)], column)
        if texts is None:
            return False
        self.units_item(label, column, f"chain({', '.join(fold_repeats(texts))})")
        if unit.root:
            unit.channels = str(unit.classes.channels(column[0].out))
        else:
            last = unit.classes.by_run[id(runs[0].nodes[-1].unit)]
            unit.channels = unit.calls.output_width(last, texts[-1], f"self.{label}[-1].unit.out")
        return True

    def node_calls(self, rows: list[list[UnitRun]], column: list[StepRun]) -> list[str] | None:
        """The calls of the units of nodes, inline if that distinguishes them; None if they cannot be expressed."""
        unit = self.unit
        texts: list[str] = []
        briefs: list[str | None] = []
        for units in rows:
            code = unit.calls.ensure_written(unit.classes.by_run[id(units[0])])
            if code.mode == "argument":
                return None
            channels = str(unit.classes.channels(units[0].x)) if unit.root else unit.channels
            try:
                texts.append(unit.calls.call(code, channels, units, column, unit))
                briefs.append(
                    self.network_unit_text(units, channels) if unit.root and not code.returns_pre_activation else None
                )
            except NotExpressible:
                return None
        short = [brief for brief in briefs if brief and len(brief) < WIDTH - 12]
        return short if len(set(short)) == len(rows) else texts

    def units_item(self, label: str, column: list[StepRun], text: str) -> None:
        """Append the item of a list of units, which returns a pre-activation if its aggregate does."""
        returns_two = self.unit.classes.by_run[id(column[0].run)].returns_pre_activation
        pair = ("raw" if column[0].label in self.unit.pre_activation_labels() else "_") if returns_two else ""
        self.unit.items.append(Item(f"self.{label}(X)", ("!" * bool(pair) + label, text), 1, pair=pair))

    def inline_node(self, label: str, column: list[StepRun]) -> bool:
        """Write an aggregate of one node with a few layers inline; returns whether that is possible."""
        state = self.unit.snapshot()
        try:
            units = [run.run.nodes[0].unit for run in column]  # type: ignore[union-attr]
            text = None if units[0].unit.takes_shortcut else self.sequence_text(units, self.unbound(column[0].step))
        except NotExpressible:
            text = None
        if text is None or len(f"self.{label} = chain({text})") > WIDTH - 8:
            self.unit.restore(state)
            return False
        self.units_item(label, column, f"chain({text})")
        return True

    def network_unit_text(self, units: list[UnitRun], channels: str) -> str | None:
        """The expression of a unit of a few layers in the network's outermost unit, for some input channels."""
        outer_channels, self.unit.channels = self.unit.channels, channels
        try:
            return self.sequence_text(units, {})
        finally:
            self.unit.channels = outer_channels

    def inline_optional_node(self, label: str, column: list[StepRun]) -> bool:
        """Write an aggregate that has one node or, at some uses, none; returns whether that is possible."""
        runs: list[AggregateRun] = [run.run for run in column]  # type: ignore[misc]
        counts = {run.n for run in runs}
        if counts != {0, 1} or not all(is_chain(run) for run in runs):
            return False
        if any(self.unit.classes.channels(run.x) != self.unit.classes.channels(run.out) for run in column):
            return False
        state, channels, outer_names = self.unit.snapshot(), self.unit.channels, self.unit.names
        try:
            units = [run.nodes[0].unit for run in runs if run.n]
            present = [run for run in column if run.run.n]  # type: ignore[union-attr]
            code = self.unit.calls.ensure_written(self.unit.classes.by_run[id(units[0])])
            if code.mode == "argument" or runs[0].aggregate.nodes is None:
                return False
            nodes = runs[0].aggregate.nodes.expression
            test = self.unit.express(nodes.tree(), [env(run.outer) for run in runs], self.unit.names)
            self.unit.names = self.unbound(column[0].step)
            text = self.sequence_text(units, self.unit.names)
            self.unit.channels = channels
            if text is None:
                text = self.unit.calls.call(code, channels, units, present, self.unit)
        except NotExpressible:
            self.unit.restore(state)
            return False
        finally:
            self.unit.names = outer_names
        node, empty = f"[{text}]", "[]"
        match parse(test):
            case ast.IfExp(test=result, body=ast.Constant(value=1), orelse=ast.Constant(value=0)):
                test = show(result)
            case ast.IfExp(test=result, body=ast.Constant(value=0), orelse=ast.Constant(value=1)):
                test, node, empty = show(result), empty, node
            case _:
                test = substitute("_n == 1", {"_n": test})
        self.unit.items.append(Item(f"self.{label}(X)", (label, f"chain(*{node} if {test} else {empty})"), 1))
        return True

    def unbound(self, step: Aggregate) -> dict[str, str]:
        """The names that an aggregate does not bind."""
        bound = {name for name, value in (("w", step.growth), ("g", step.cardinality), ("s", step.stride)) if value}
        bound |= {"l", "n"} | {name for name, _ in step.let}
        return {name: text for name, text in self.unit.names.items() if name not in bound}


def fold_repeats(texts: list[str]) -> list[str]:
    """Write runs of more than two equal calls as comprehensions."""
    result = []
    for text, group in groupby(texts):
        count = len(list(group))
        result += [f"*({text} for _ in range({count}))"] if count > 2 else [text] * count
    return result
