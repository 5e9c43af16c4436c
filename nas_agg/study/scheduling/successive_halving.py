"""Successive halving and Hyperband: trainings pause at rungs, and the best of each rung are promoted.

Promotion is asynchronous: as soon as ``reduction_factor`` trials have reached a rung, one of them is promoted to the
next, without waiting for others (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020). With
several objectives, the next to be promoted is the network that adds most to the Pareto front of those promoted before.
Optuna's own pruners only stop trials for good, and do not support several objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.pareto import Array, hypervolume_improvement, nondomination_ranks
from nas_agg.study.definition.trial import RecordState, TrialRecord


class SuccessiveHalving:
    """The rungs at which trainings pause, and the order of promotions.

    Args:
        min_epochs: Epochs of the first rung.
        reduction_factor: Each rung has this many times the epochs of the one before; one of as many trials is promoted.
        max_epochs: Epochs of a full training.
        brackets: Whether trials are distributed to brackets that begin at successive rungs (Hyperband, Li et al., JMLR
            2018); otherwise all begin at the first rung.
        objectives: The objectives of the search.

    Attributes:
        epochs: The rungs below ``max_epochs``, in epochs.
    """

    def __init__(
        self,
        min_epochs: int,
        reduction_factor: int,
        max_epochs: int,
        brackets: bool = False,
        objectives: Objectives | None = None,
    ):
        self.reduction_factor, self.max_epochs = reduction_factor, max_epochs
        self._depends_on_training = np.array([metric.depends_on_training for metric in objectives or Objectives()])
        epochs = [min_epochs]
        while epochs[-1] * reduction_factor < max_epochs:
            epochs.append(epochs[-1] * reduction_factor)
        self.epochs = tuple(epoch for epoch in epochs if epoch < max_epochs)
        self._bracket_cycle = bracket_assignment(len(self.epochs), reduction_factor) if brackets else (0,)

    def rungs(self, number: int) -> tuple[int, ...]:
        """The rungs of the trial of this number, in epochs."""
        return self.epochs[self._bracket(number) :]

    def _bracket(self, number: int) -> int:
        return self._bracket_cycle[number % len(self._bracket_cycle)]

    def next_rung(self, trial: TrialRecord) -> int:
        """The epoch at which a training pauses next, or ends."""
        last = max(trial.rungs, default=0)
        return min([*(epoch for epoch in self.rungs(trial.number) if epoch > last), self.max_epochs])

    def next_promotion(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The paused trial to promote next, from the highest rung of a bracket that has one; None if there is none.

        Trials that an earlier part of the search closed at a rung count as neither waiting nor promoted.
        """
        for bracket in sorted(set(self._bracket_cycle)):
            members = [
                trial for trial in trials if trial.duplicate_of is None and self._bracket(trial.number) == bracket
            ]
            for epoch in reversed(self.epochs[bracket:]):
                reached = [trial for trial in members if epoch in trial.rungs]
                waiting = [
                    trial for trial in reached if trial.state == RecordState.PAUSED and max(trial.rungs) == epoch
                ]
                promoted = [
                    trial
                    for trial in reached
                    if trial.state not in (RecordState.PAUSED, RecordState.PRUNED) or max(trial.rungs) > epoch
                ]
                if waiting and len(promoted) < len(reached) // self.reduction_factor:
                    scores = [np.array([trial.rungs[epoch] for trial in group]) for group in (waiting, promoted)]
                    return waiting[self._best(scores[0], scores[1].reshape(-1, scores[0].shape[1]))]
        return None

    def _best(self, waiting: Array, promoted: Array) -> int:
        """The index of the best waiting trial.

        Trials are ordered by the hypervolume that each adds to the promoted ones, then by the first objective that
        depends on training, then by nondomination rank. The reference point is the median of objectives that depend on
        training, and lies below the minimum of the others: at a rung, a cheap network that has hardly learned anything
        is an end of the front, but not worth its epochs.

        Args:
            waiting: Scores of the waiting trials, of shape (trials, objectives).
            promoted: Scores of the promoted trials, likewise.
        """
        scores = np.concatenate([waiting, promoted])
        extent = np.ptp(scores, axis=0)
        scores = (scores - scores.min(0)) / np.where(extent > 0, extent, 1.0)  # large scores could overflow
        reference = np.where(self._depends_on_training, np.median(scores, 0), -0.05)
        improvement = hypervolume_improvement(scores[: len(waiting)], scores[len(waiting) :], reference)
        trained_score = scores[: len(waiting), self._depends_on_training.argmax()]
        return int(np.lexsort((nondomination_ranks(waiting), -trained_score, -improvement))[0])


def bracket_assignment(rungs: int, reduction_factor: int) -> tuple[int, ...]:
    """The bracket of each trial in turn, as a cycle that repeats; all brackets spend about the same number of epochs.

    Args:
        rungs: Number of rungs below the full training. Bracket b begins at rung b; the last one has no rungs.
        reduction_factor: See :class:`SuccessiveHalving`.
    """
    counts = [-(-(rungs + 1) * reduction_factor**above // (above + 1)) for above in range(rungs, -1, -1)]
    assignment: list[int] = []
    for position in range(sum(counts)):  # evenly mixed: the bracket furthest below its share is next
        excess = [assignment.count(b) - (position + 1) * count / sum(counts) for b, count in enumerate(counts)]
        assignment.append(int(np.argmin(excess)))
    return tuple(assignment)
