"""What a search found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.pareto import dominated, nondomination_ranks
from nas_agg.study.definition.trial import RecordState, TrialRecord

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Attributes:
        best: The best network; of several objectives the one of the Pareto front that is best in the first.
        values: The values of the space's open names that make it.
        value: What it has for the (first) objective: validation accuracy (0 to 1), that weighed by latency if there is
            a target, or what ``evaluate`` gave.
        trials: Every trial, by number.
        reason: Why the search ended.
        path: The run folder, if there is one.
        test: ``metrics.json`` of the final network, if one was trained.
    """

    best: Genotype
    values: dict[str, Any]
    value: float
    trials: tuple[TrialRecord, ...]
    reason: str
    path: Path | None = None
    test: dict[str, Any] | None = None
    objectives: Objectives = field(default_factory=Objectives)

    @property
    def top(self) -> list[TrialRecord]:
        """The five best trials; of several objectives the Pareto front."""
        return self.front if self.objectives.is_multi_objective else ranked(self.trials)[:5]

    @property
    def front(self) -> list[TrialRecord]:
        """The trials that no other is better than in all objectives, the best in the first objective first."""
        return front(self.trials)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``--format json``."""
        return {
            "path": None if self.path is None else str(self.path),
            "reason": self.reason,
            "objectives": list(self.objectives.names),
            "value": self.value,
            "values": self.values,
            "test": self.test,
            "trials": [asdict(trial) | {"value": trial.value} for trial in self.trials],
            "top": [trial.number for trial in self.top],
        }


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Networks with a result within the limits, best first.

    Of one objective: by value, then fewer parameters, then number. Of several: the Pareto front, then the front of
    those that are left, and so on. Networks whose training was stopped early stand behind those trained in full.
    """
    found = _in_order(trial for trial in trials if trial.consumes_budget and trial.scores is not None)
    if not found or len(found[0].scores or ()) == 1:
        return found
    fronts = nondomination_ranks(np.array([trial.scores for trial in found]))
    order = sorted(range(len(found)), key=lambda place: (found[place].state != RecordState.COMPLETE, fronts[place]))
    return [found[place] for place in order]


def front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The networks trained in full that no other is better than, the best in the first objective first."""
    found = _in_order(trial for trial in trials if trial.state == RecordState.COMPLETE and trial.scores is not None)
    if not found:
        return []
    worse = dominated(np.array([trial.scores for trial in found]))
    return [trial for trial, other in zip(found, worse, strict=True) if not other]


def _in_order(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    return sorted(trials, key=lambda t: (t.state != RecordState.COMPLETE, -(t.scores or (0.0,))[0], t.params, t.number))
