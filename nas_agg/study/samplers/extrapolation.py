"""Extrapolation of learning curves, so that searchers compare networks at equal numbers of epochs.

Scores after few epochs cannot be compared with scores after many. The scores of a network that paused or was stopped at
a rung are therefore extrapolated rung by rung to the end of training: from each rung to the next by a line that is
fitted by least squares to the networks that reached both. Slopes are restricted to 0 to 1, so that leads do not grow.
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

MIN_FITTED = 3  # networks that reached both rungs; the median gain of fewer is added instead of a line


class LearningCurveExtrapolator:
    """Predicts the final scores of a study's trials.

    Args:
        trials: All trials of the study.
        objectives: The objectives of the search.
    """

    def __init__(self, trials: Sequence[FrozenTrial], objectives: Objectives):
        self._objectives = objectives
        self._curves = {trial.number: curve for trial in trials if (curve := self._curve(trial))}
        curves = self._curves.values()
        epochs = sorted({epoch for curve in curves for epoch in curve})
        self._next = dict(itertools.pairwise(epochs))
        self._steps = {
            epoch: _fit_step([(curve[epoch], curve[after]) for curve in curves if epoch in curve and after in curve])
            for epoch, after in self._next.items()
        }

    def _curve(self, trial: FrozenTrial) -> dict[float, Scores]:
        """Scores by epoch at each rung and, of a complete trial, at infinity; empty if the trial reached no rung."""
        rungs = trial.user_attrs.get(OWN + "rungs", {})
        curve = {float(epoch): self._objectives.scores(values) for epoch, values in rungs.items()}
        if curve and trial.state == TrialState.COMPLETE:
            curve[math.inf] = self._objectives.scores(trial.values)
        return curve

    def predict(self, trial: FrozenTrial) -> Scores | None:
        """The scores of a trial at the end of training, measured or predicted; None if it has no valid result."""
        scores = scores_of(trial, self._objectives)
        curve = self._curves.get(trial.number)
        if scores is None or curve is None:
            return scores
        return self._extrapolate(max(curve), scores)

    def curve(self, trial: FrozenTrial) -> dict[float, Scores]:
        """The scores of a trial at each rung and, if it is complete, at infinity, all extrapolated to the end."""
        curve = self._curves.get(trial.number, {})
        return {epoch: self._extrapolate(epoch, scores) for epoch, scores in curve.items()}

    def _extrapolate(self, epoch: float, scores: Scores) -> Scores:
        predicted = np.array(scores)
        while epoch in self._next:
            predicted, epoch = self._steps[epoch](predicted), self._next[epoch]
        return tuple(predicted.tolist())


def _fit_step(pairs: Sequence[tuple[Scores, Scores]]) -> Callable[[np.ndarray], np.ndarray]:
    """Fit the function from scores at one rung to scores at the next, each objective separately.

    Args:
        pairs: The scores at both rungs of each network that reached both.
    """
    if not pairs:
        return lambda scores: scores
    before, after = (np.array(side) for side in zip(*pairs, strict=True))
    if len(pairs) < MIN_FITTED:
        gain = np.median(after - before, 0)
        return lambda scores: scores + gain
    start, end = before.mean(0), after.mean(0)
    variance = ((before - start) ** 2).sum(0)
    slope = ((before - start) * (after - end)).sum(0) / np.where(variance > 0, variance, 1.0)
    slope = np.where(variance > 0, np.clip(slope, 0.0, 1.0), 1.0)
    return lambda scores: end + slope * (scores - start)
