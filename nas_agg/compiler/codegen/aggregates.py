"""Aggregates as classes: the plainest of a loop over nodes, a few nodes one by one, and a loop with more in it."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import Class
from nas_agg.compiler.codegen.loops import PatternLoop
from nas_agg.compiler.codegen.matching_loops import FittingLoop
from nas_agg.compiler.codegen.numbers import NotExpressible, same
from nas_agg.compiler.codegen.schedules import Schedules
from nas_agg.compiler.codegen.unrolled import Unrolled
from nas_agg.expansion.trace import AggregateRun

LISTED = 8  # nodes that are written one by one where no loop says them
_ORDER = {"nodes": 0, "growth": 1, "w": 1, "cardinality": 2, "g": 2, "stride": 3, "s": 3}


def write_aggregate(calls: Calls, made: Class) -> None:
    """Write the class of an aggregate.

    Raises:
        NotExpressible: If it has no text.
    """
    runs: list[AggregateRun] = made.runs
    counts, each = [run.n for run in runs], made.part.each
    if not any(counts) or (each and not same(counts)) or any(run.dealt != runs[0].dealt for run in runs):
        raise NotExpressible
    made.base, made.mode = "nn.ModuleList", "given" if runs[0].dealt else "none"
    rolled = (not each and max(counts) > 1) or not same(counts)
    ways: list[Any] = [PatternLoop, FittingLoop] if rolled else []
    ways += [Unrolled] * (same(counts) and (each or counts[0] <= LISTED)) + [FittingLoop] * (not rolled and not each)
    failed = NotExpressible()
    for way in ways:
        made.fields, made.defaults = {}, {}
        schedules = Schedules(calls, made, way is not Unrolled)
        try:
            if schedules.rolled:
                schedules.count_argument()
            way(schedules).write()
        except NotExpressible as error:
            failed = error
            continue
        made.args = sorted([*made.fields, *schedules.used], key=lambda a: (a in made.defaults, _ORDER.get(a, 9), a))
        return
    raise failed
