"""The result of a search, and the ranking of its trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.common.display import Displayed
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.pareto import dominated, nondomination_ranks
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.definition.trial_rows import trials_frame

if TYPE_CHECKING:
    import pandas

    from nas_agg.language.genotype import Genotype


Rank = tuple[bool, float, int, int]


@dataclass(frozen=True, repr=False)
class SearchResult(Displayed):
    """The result of a search.

    Attributes:
        best: The best network; with several objectives, the network of the Pareto front that is best in the first.
        values: Its values of the search variables.
        value: Its value of the first objective: by default validation accuracy (0 to 1), a reward of accuracy and
            latency if there is a latency target, or what ``evaluate`` returned.
        trials: All trials, by number.
        reason: Why the search ended.
        path: The run folder, if there is one.
        test: ``metrics.json`` of the final network, if one was trained.
        objectives: The objectives.
    """

    best: Genotype
    values: dict[str, Any]
    value: float
    trials: tuple[TrialRecord, ...]
    reason: str
    path: Path | None = None
    test: dict[str, Any] | None = None
    objectives: Objectives = field(default_factory=Objectives)

    def __repr__(self) -> str:
        where = f", path='{self.path}'" if self.path else ""
        return f"SearchResult(value={self.value:.6g}, {len(self.trials)} trials, {self.reason}{where})"

    @property
    def top(self) -> list[TrialRecord]:
        """The five best trials; with several objectives, the Pareto front."""
        return self.front if self.objectives.is_multi_objective else ranked(self.trials)[:5]

    @property
    def front(self) -> list[TrialRecord]:
        """The Pareto front, by the first objective."""
        return pareto_front(self.trials)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for ``--format json``."""
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

    def to_dataframe(self) -> pandas.DataFrame:
        """All trials as a pandas DataFrame: state, metrics, seconds, hash and values of the search variables.

        Raises:
            InputError: pandas is not installed.
        """
        return trials_frame(self.trials, self.objectives)


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials with a result within the limits, best first.

    With one objective: by value, then fewer parameters, then number. With several: by nondomination rank, then as with
    one. Trials that were pruned or paused come after those trained in full.
    """
    ordered = _by_first_objective(trial for trial in trials if trial.consumes_budget and trial.scores is not None)
    if not ordered or len(ordered[0].scores or ()) == 1:
        return ordered
    ranks = nondomination_ranks(np.array([trial.scores for trial in ordered]))
    order = sorted(range(len(ordered)), key=lambda i: (ordered[i].state != RecordState.COMPLETE, ranks[i]))
    return [ordered[i] for i in order]


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The nondominated ones of the trials that were trained in full, by the first objective."""
    complete = (trial for trial in trials if trial.state == RecordState.COMPLETE and trial.scores is not None)
    ordered = _by_first_objective(complete)
    if not ordered:
        return []
    mask = dominated(np.array([trial.scores for trial in ordered]))
    return [trial for trial, is_dominated in zip(ordered, mask, strict=True) if not is_dominated]


def _by_first_objective(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    return sorted(trials, key=rank_by_first_objective)


def rank_by_first_objective(trial: TrialRecord) -> Rank:
    """The place of a trial with scores among others, the best first."""
    return trial.state != RecordState.COMPLETE, -(trial.scores or (0.0,))[0], trial.params, trial.number
