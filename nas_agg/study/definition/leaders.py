"""The best of the trials so far, kept up to date trial by trial, so that no trial costs more the more there are."""

from __future__ import annotations

from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.result import Rank, rank_by_first_objective
from nas_agg.study.definition.trial import RecordState, TrialRecord


class Leaders:
    """The number of evaluated networks, and the best of them.

    Args:
        objectives: The objectives of the search.

    Attributes:
        evaluated: The number of networks that count towards the budget.
        front_size: With several objectives, the size of the Pareto front.
    """

    def __init__(self, objectives: Objectives | None = None):
        self._is_multi_objective = (objectives or Objectives()).is_multi_objective
        self._ranks: dict[int, Rank] = {}
        self._trials: dict[int, TrialRecord] = {}
        self._best: int | None = None
        self._front: list[tuple[float, ...]] = []
        self.evaluated = 0

    @property
    def best(self) -> TrialRecord | None:
        """With one objective, the best trial; the first of `nas_agg.study.definition.result.ranked`."""
        return None if self._best is None else self._trials[self._best]

    @property
    def front_size(self) -> int:
        """With several objectives, the number of networks in the Pareto front."""
        return len(self._front)

    def update(self, trial: TrialRecord, previous: TrialRecord | None = None) -> None:
        """Count a trial.

        Args:
            trial: Its record.
            previous: The record that this one replaces.
        """
        self.evaluated += trial.consumes_budget - (previous is not None and previous.consumes_budget)
        if trial.scores is None or not trial.consumes_budget:
            if self._ranks.pop(trial.number, None) is not None:
                self._best = min(self._ranks, key=self._ranks.__getitem__, default=None)
            return
        if self._is_multi_objective:
            if trial.state == RecordState.COMPLETE and (previous is None or previous.state != RecordState.COMPLETE):
                self._add_to_front(trial.scores)
            return
        rank = self._ranks[trial.number] = rank_by_first_objective(trial)
        self._trials[trial.number] = trial
        if self._best == trial.number:  # a promoted trial may have become worse
            self._best = min(self._ranks, key=self._ranks.__getitem__)
        elif self._best is None or rank < self._ranks[self._best]:
            self._best = trial.number

    def _add_to_front(self, scores: tuple[float, ...]) -> None:
        if any(_dominates(other, scores) for other in self._front):
            return
        self._front = [other for other in self._front if not _dominates(scores, other)] + [scores]


def _dominates(scores: tuple[float, ...], others: tuple[float, ...]) -> bool:
    return scores != others and all(a >= b for a, b in zip(scores, others, strict=True))
