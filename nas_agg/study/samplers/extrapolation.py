"""What networks that paused at a rung may be expected to have at the end, so that searchers compare like with like.

A score after three epochs says nothing beside one after forty. So the scores of networks that wait, or were left, at a
rung are carried to the next one by the line that fits those best that have been at both, and from there on to the end.
The line rises by at most as much as the score: who was ahead is not expected to be further ahead later.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import TrialState

from nas_agg.study.definition.trial import OWN, scores_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nas_agg.study.definition.objectives import Objectives

Scores = tuple[float, ...]

FEWEST = 3  # networks at both ends of a line; of fewer, their middle gain is taken


class LearningCurveExtrapolator:
    """The expected last scores of a study's trials.

    Args:
        trials: All of them.
        objectives: What the search aims at.
    """

    def __init__(self, trials: Sequence[FrozenTrial], objectives: Objectives):
        self._objectives = objectives
        self._reached = {trial.number: found for trial in trials if (found := self._rungs(trial))}
        reached = self._reached.values()
        epochs = sorted({epoch for found in reached for epoch in found})
        self._next = dict(itertools.pairwise(epochs))
        self._carry = {
            epoch: _line([(found[epoch], found[after]) for found in reached if epoch in found and after in found])
            for epoch, after in self._next.items()
        }

    def _rungs(self, trial: FrozenTrial) -> dict[float, Scores]:
        """The scores at each rung, and those at the end, by epoch; none if the trial has been at no rung."""
        rungs = trial.user_attrs.get(OWN + "rungs", {})
        found = {float(epoch): self._objectives.scores(values) for epoch, values in rungs.items()}
        if found and trial.state == TrialState.COMPLETE:
            found[math.inf] = self._objectives.scores(trial.values)
        return found

    def of(self, trial: FrozenTrial) -> Scores | None:
        """A trial's scores, or those it may be expected to have at the end; None where it has none that hold."""
        scores = scores_of(trial, self._objectives)
        reached = self._reached.get(trial.number)
        if scores is None or reached is None:
            return scores
        epoch, carried = max(reached), np.array(scores)
        while epoch in self._next:
            carried, epoch = self._carry[epoch](carried), self._next[epoch]
        return tuple(carried.tolist())


def _line(pairs: Sequence[tuple[Scores, Scores]]) -> Callable[[np.ndarray], np.ndarray]:
    """From scores at one rung to those at the next, each objective by itself."""
    if not pairs:
        return lambda scores: scores
    before, after = (np.array(side) for side in zip(*pairs, strict=True))
    if len(pairs) < FEWEST:
        gain = np.median(after - before, 0)
        return lambda scores: scores + gain
    start, end = before.mean(0), after.mean(0)
    spread = ((before - start) ** 2).sum(0)
    rise = ((before - start) * (after - end)).sum(0) / np.where(spread > 0, spread, 1.0)
    slope = np.where(spread > 0, np.clip(rise, 0.0, 1.0), 1.0)
    return lambda scores: end + slope * (scores - start)
