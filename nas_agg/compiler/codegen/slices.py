"""Units that begin with a slice of what a node reads: the slice is written where the node is called."""

from __future__ import annotations

import ast
import re
from typing import Any

from nas_agg.compiler.codegen.classes import Class, Classes, is_chain
from nas_agg.compiler.codegen.numbers import Simplified
from nas_agg.expansion.trace import StepRun, UnitRun
from nas_agg.language.layers import SliceLayer
from nas_agg.language.resolved import Aggregate, Sequence


def slicing(classes: Classes) -> None:
    """Marks the units that begin so at all their uses, each a branch or a node that is written by itself."""
    listed = {
        id(node.unit)
        for made in classes.found.values()
        if isinstance(made.part, Aggregate) and made.part.each and not any(map(is_chain, made.runs))
        for run in made.runs
        for node in run.nodes
    }
    for made in classes.found.values():
        if isinstance(made.part, Sequence) and not (made.gives or made.takes):
            here = all(id(run) in listed and leading(run) is not None for run in made.runs)
            made.sliced = here and all(run.joined is None or not _whole(run) for run in made.runs)


def _whole(run: UnitRun) -> bool:
    """Whether a unit joins its own input, of which a slice alone would be there."""
    assert run.joined is not None
    return [tensor for _, tensor in run.joined.sources] == [run.x]


def leading(run: UnitRun) -> StepRun | None:
    """The slice that a unit begins with."""
    first = run.steps[0] if run.steps else None
    if first is not None and isinstance(first.run, UnitRun) and len(first.run.steps) == 1:
        first = first.run.steps[0]
    kind = getattr(first.step, "kind", None) if first else None
    return first if kind is SliceLayer else None


def sliced(made: Class, units: list[UnitRun], x: str, width: str) -> tuple[str, str]:
    """The slice of what a node reads, and its channels.

    Args:
        made: The unit's class.
        units: At each use.
        x: The tensor that the node reads.
        width: Its channels, in the constructor.
    """
    steps: list[StepRun] = [leading(unit) for unit in units]  # type: ignore[misc]
    fields = {**dict(steps[0].step.fixed), **dict(steps[0].step.numbers)}
    uses = [{"_in" if name == "in" else name: value for name, value in step.local.items()} for step in steps]
    trees = {name: _tree(fields[name]) for name in ("from", "slice")}

    def say(name: str, whole: str) -> str:
        return Simplified(trees[name], uses, {"_in": whole, "c": whole}).text

    begin, size = say("from", "c"), say("slice", "c")
    last = all(v["from"] + v["slice"] == s.local["c"] for s, v in ((s, s.step.values(s.local)) for s in steps))
    times = (
        1
        if begin == size
        else int(begin.split(" * ")[0])
        if re.fullmatch(rf"\d+ \* \({re.escape(size)}\)", begin)
        else 0
    )
    end = "" if last else size if begin == "0" else f"{times + 1} * ({size})" if times else f"{begin} + {size}"
    begin = "" if begin == "0" else begin
    plain = not re.search(r"\W", begin + end)
    span = f"{begin}:{end}" if plain else f"{begin} : {end}".strip()
    return f"{x}[:, {span}]", say("slice", width)


def _tree(field: Any) -> ast.expr:
    return field.expression.tree() if hasattr(field, "expression") else ast.Constant(field)
