"""Successive halving and Hyperband: trainings pause at rungs, and the best of each rung go on from where they paused.

Optuna's own pruners only ever stop a trial, once and for all, and refuse several objectives. Here a network that paused
goes on as soon as it is among the best of those that came as far (Li et al., "A System for Massively Parallel
Hyperparameter Tuning", MLSys 2020, algorithm 2), by non-dominated sorting where there are several objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.study.pareto import best_first

if TYPE_CHECKING:
    from nas_agg.study.trial import TrialRecord


class Rungs:
    """When trainings pause, and who goes on.

    Args:
        first: Epochs to the first rung.
        reduction: One in so many goes on from each rung, and trains so many times as long.
        last: Epochs of a whole training.
        brackets: Whether trials are dealt out to brackets that begin at later and later rungs (Hyperband, Li et al.,
            JMLR 2018); else all begin at the first.
    """

    def __init__(self, first: int, reduction: int, last: int, brackets: bool = False):
        self.reduction, self.last = reduction, last
        epochs = [first]
        while epochs[-1] * reduction < last:
            epochs.append(epochs[-1] * reduction)
        self.epochs = tuple(epoch for epoch in epochs if epoch < last)
        self._deal = _dealt(len(self.epochs), reduction) if brackets else (0,)

    def of(self, number: int) -> tuple[int, ...]:
        """The rungs of a trial, in epochs."""
        return self.epochs[self._bracket(number) :]

    def _bracket(self, number: int) -> int:
        return self._deal[number % len(self._deal)]

    def until(self, trial: TrialRecord) -> int:
        """The epoch at which a training pauses next, or ends."""
        ahead = [epoch for epoch in self.of(trial.number) if epoch > max(trial.rungs, default=0)]
        return min([*ahead, self.last])

    def promoted(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The paused trial that is to go on: of the highest rung, the best; None: none of them deserves it yet."""
        for bracket in sorted(set(self._deal)):
            own = [trial for trial in trials if self._bracket(trial.number) == bracket]
            for epoch in reversed(self.epochs[bracket:]):
                there = [trial for trial in own if epoch in trial.rungs]
                if len(there) < self.reduction or not any(trial.state == "paused" for trial in there):
                    continue
                order = best_first(np.array([trial.rungs[epoch] for trial in there]))
                for place in order[: len(there) // self.reduction]:
                    if there[place].state == "paused" and max(there[place].rungs) == epoch:
                        return there[place]
        return None


def _dealt(rungs: int, reduction: int) -> tuple[int, ...]:
    """The bracket of each trial in turn; the last bracket trains in full. Each has about the same epochs to spend."""
    counts = [-(-(rungs + 1) * reduction**left // (left + 1)) for left in range(rungs, -1, -1)]
    deal: list[int] = []
    for place in range(sum(counts)):  # evenly mixed: whoever is furthest behind its share is next
        shares = [deal.count(bracket) - (place + 1) * count / sum(counts) for bracket, count in enumerate(counts)]
        deal.append(int(np.argmin(shares)))
    return tuple(deal)
