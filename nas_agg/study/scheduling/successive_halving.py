"""Successive halving and Hyperband: trainings pause at rungs, and the best of each rung go on from where they paused.

Optuna's own pruners only ever stop a trial, once and for all, and refuse several objectives. Here one in so many of
those that came to a rung goes on, as soon as there are as many, and nobody waits for others (after Li et al., "A System
for Massively Parallel Hyperparameter Tuning", MLSys 2020). Of several objectives the next to go on is the network that
adds most to the front of those that went on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.pareto import Array, hypervolume_improvement, nondomination_ranks
from nas_agg.study.definition.trial import RecordState, TrialRecord


class SuccessiveHalving:
    """When trainings pause, and who goes on.

    Args:
        first: Epochs to the first rung.
        reduction: One in so many goes on from each rung, and trains so many times as long.
        last: Epochs of a whole training.
        brackets: Whether trials are dealt out to brackets that begin at later and later rungs (Hyperband, Li et al.,
            JMLR 2018); else all begin at the first.
        objectives: What the trials' scores are of.
    """

    def __init__(
        self, first: int, reduction: int, last: int, brackets: bool = False, objectives: Objectives | None = None
    ):
        self.reduction, self.last = reduction, last
        self._learnt = np.array([metric.depends_on_training for metric in objectives or Objectives()])
        epochs = [first]
        while epochs[-1] * reduction < last:
            epochs.append(epochs[-1] * reduction)
        self.epochs = tuple(epoch for epoch in epochs if epoch < last)
        self._deal = bracket_assignment(len(self.epochs), reduction) if brackets else (0,)

    def of(self, number: int) -> tuple[int, ...]:
        """The rungs of a trial, in epochs."""
        return self.epochs[self._bracket(number) :]

    def _bracket(self, number: int) -> int:
        return self._deal[number % len(self._deal)]

    def next_rung(self, trial: TrialRecord) -> int:
        """The epoch at which a training pauses next, or ends."""
        ahead = [epoch for epoch in self.of(trial.number) if epoch > max(trial.rungs, default=0)]
        return min([*ahead, self.last])

    def next_promotion(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The paused trial that is to go on, of the highest rung of a bracket that has one; None: nobody is.

        Those that an earlier part of the search left at a rung are over; they neither wait nor went on.
        """
        for bracket in sorted(set(self._deal)):
            own = [trial for trial in trials if trial.duplicate_of is None and self._bracket(trial.number) == bracket]
            for epoch in reversed(self.epochs[bracket:]):
                there = [trial for trial in own if epoch in trial.rungs]
                waiting = [trial for trial in there if trial.state == RecordState.PAUSED and max(trial.rungs) == epoch]
                gone = [
                    trial
                    for trial in there
                    if trial.state not in (RecordState.PAUSED, RecordState.PRUNED) or max(trial.rungs) > epoch
                ]
                if waiting and len(gone) < len(there) // self.reduction:
                    scores = [np.array([trial.rungs[epoch] for trial in part]) for part in (waiting, gone)]
                    return waiting[self._best(scores[0], scores[1].reshape(-1, scores[0].shape[1]))]
        return None

    def _best(self, waiting: Array, gone: Array) -> int:
        """The place of the best of those that wait: by the volume it adds to what went on, else by what it learnt.

        Volume counts above the median of what training tells, and above the least of what it does not change: at a
        rung, a network that is cheap and knows next to nothing is the end of a front, but not worth its epochs.
        """
        scores = np.concatenate([waiting, gone])
        reach = np.ptp(scores, axis=0)
        scores = (scores - scores.min(0)) / np.where(reach > 0, reach, 1.0)  # of any size, volumes are finite
        reference = np.where(self._learnt, np.median(scores, 0), -0.05)
        added = hypervolume_improvement(scores[: len(waiting)], scores[len(waiting) :], reference)
        learnt = scores[: len(waiting), self._learnt.argmax()]
        return int(np.lexsort((nondomination_ranks(waiting), -learnt, -added))[0])


def bracket_assignment(rungs: int, reduction: int) -> tuple[int, ...]:
    """The bracket of each trial in turn; the last bracket trains in full. Each has about the same epochs to spend."""
    counts = [-(-(rungs + 1) * reduction**left // (left + 1)) for left in range(rungs, -1, -1)]
    deal: list[int] = []
    for place in range(sum(counts)):  # evenly mixed: whoever is furthest behind its share is next
        shares = [deal.count(bracket) - (place + 1) * count / sum(counts) for bracket, count in enumerate(counts)]
        deal.append(int(np.argmin(shares)))
    return tuple(deal)
