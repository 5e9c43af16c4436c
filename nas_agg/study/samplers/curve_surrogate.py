"""The surrogate of a score where the searcher decides which paused trainings continue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas_agg.search_space.encoding import Rows
from nas_agg.study.samplers.curve_process import CurvePositions, CurveProcess
from nas_agg.study.samplers.gaussian_process import SumKernel
from nas_agg.study.samplers.surrogate import (
    EncodedTrials,
    SurrogateCache,
    TargetTransform,
    standardize_features,
)

Array = np.ndarray

MAX_FITTED_SCORES = 200  # that hyperparameters are fitted to; the time of a fit grows with the cube


class CurveSurrogate:
    """A Gaussian process model of one score over networks and epochs, see `nas_agg.study.samplers.curve_process`.

    Scores at rungs enter as extrapolations to the end of training, which puts them on one scale. Failed networks have
    the worst target of all, and those that are being trained for the first time the mean that is predicted without
    them.

    Args:
        cache: Encoding and features of the search's networks.
        trials: The trials so far, with their learning curves.
        objective: The place of the score among the objectives.
        transform: From scores to targets.

    Attributes:
        target: The target of each row of the trials, ``(networks,)``: of one whose training is not complete the
            predicted mean.
        pending_mean: The predicted target of each pending network, ``(pending,)``.
        best: The highest target of a complete training, or of all if none is complete.
    """

    def __init__(self, cache: SurrogateCache, trials: EncodedTrials, objective: int, transform: TargetTransform):
        assert trials.curves is not None
        self._cache, self._rows = cache, trials.rows
        self._observed_features = cache.extractor.features(trials.rows)
        network, remaining = trials.curves.network, trials.curves.remaining
        target = transform(trials.curves.scores[:, objective])
        chosen = np.unique(np.linspace(0, len(target) - 1, min(len(target), MAX_FITTED_SCORES)).astype(int))
        fitted = self._condition(trials.rows, network[chosen], remaining[chosen], target[chosen])
        rows = np.concatenate([trials.rows, trials.failed, trials.pending])
        added = np.arange(len(trials.rows), len(trials.rows) + len(trials.failed))
        network, remaining = np.append(network, added), np.append(remaining, np.zeros(len(added)))
        target = np.append(target, np.full(len(added), target.min()))
        self._process = self._condition(rows, network, remaining, target, fitted.theta)
        self.pending_mean = np.zeros(0)
        if len(trials.pending):
            self.pending_mean, _ = self.predict(trials.pending, cache.extractor.features(trials.pending))
            added = np.arange(len(rows) - len(trials.pending), len(rows))
            network, remaining = np.append(network, added), np.append(remaining, np.zeros(len(added)))
            target = np.append(target, self.pending_mean)
            self._process = self._condition(rows, network, remaining, target, fitted.theta)
        self.target, _ = self.predict_observed(np.arange(len(trials.rows)))
        complete = trials.curves.remaining == 0
        self.target[trials.curves.network[complete]] = target[: len(complete)][complete]
        finished = self.target[trials.curves.is_complete]
        self.best = float((finished if len(finished) else self.target).max())

    def _condition(
        self, rows: Rows, network: Array, remaining: Array, target: Array, theta: Array | None = None
    ) -> CurveProcess:
        kernel = SumKernel(self._cache.encoding.distance_tables, [group.shape[1] for group in self._observed_features])
        features = standardize_features(self._cache.extractor.features(rows), self._observed_features)
        codes = self._cache.encoding.bucketize(rows)
        return CurveProcess(kernel, codes, features, CurvePositions(network, remaining), target, theta)

    def predict(self, rows: Rows, features: Sequence[Array]) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the targets of untrained points, ``(points,)`` each.

        Args:
            rows: The points.
            features: Their features, by group; only the first groups where others have not been computed.
        """
        codes = self._cache.encoding.bucketize(rows)
        return self._process.predict(codes, standardize_features(features, self._observed_features))

    def predict_observed(self, networks: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the targets of networks with scores, ``(networks,)`` each.

        Args:
            networks: Their indices among the rows of the trials.
        """
        codes = self._cache.encoding.bucketize(self._rows[networks])
        features = [group[networks] for group in self._observed_features]
        features = standardize_features(features, self._observed_features)
        return self._process.predict(codes, features, networks)
