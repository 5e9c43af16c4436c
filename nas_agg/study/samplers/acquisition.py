"""Acquisition functions: expected improvement of one score, and of the hypervolume of a Pareto front."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_ndtr, ndtri

from nas_agg.search_space.encoding import Rows
from nas_agg.study.definition.pareto import box_decomposition
from nas_agg.study.samplers.curve_surrogate import CurveSurrogate
from nas_agg.study.samplers.surrogate import (
    EncodedTrials,
    KnownCost,
    Surrogate,
    SurrogateCache,
    TargetTransform,
    log_gap_transform,
    semi_rank_transform,
)

if TYPE_CHECKING:
    from nas_agg.study.definition.objectives import Objectives

Array = np.ndarray

RERANK_STEP = 40  # candidates whose features are computed at a time, where that takes time
MAX_RERANKED = 200  # candidates, where most exceed a limit
FANTASIES = 16  # samples of the results of networks that are being trained
QUANTILES = ndtri((np.arange(16) + 0.5) / 16)  # of the standard normal distribution, for expectations


def make_surrogate(
    cache: SurrogateCache, trials: EncodedTrials, objective: int, transform: TargetTransform, fantasies: int = 0
) -> Surrogate | CurveSurrogate:
    """The surrogate of an objective, by its place: over networks, or over networks and epochs."""
    if trials.curves is not None:
        return CurveSurrogate(cache, trials, objective, transform)
    name = f"score {objective}"
    return Surrogate(cache, name, trials, trials.scores[:, objective], transform, fantasies=fantasies)


class AcquisitionFunction(ABC):
    """The expected value of training a candidate, given the trials so far.

    The base class weights the improvement with the probability that a candidate is within the limits, as constrained
    expected improvement does (Gardner et al., "Bayesian Optimization with Inequality Constraints", ICML 2014).

    Args:
        cache: The hyperparameters of the search's surrogates.
        trials: The trials so far.
        limits: The limits of costs by their names; 0 is no limit.
        costs: Further costs that the acquisition function needs.
    """

    def __init__(
        self, cache: SurrogateCache, trials: EncodedTrials, limits: Mapping[str, int], costs: Collection[str] = ()
    ):
        self.cache, self.extractor = cache, cache.extractor
        self._limits = {cost: limit for cost, limit in limits.items() if limit and self.extractor.has_cost(cost)}
        self.costs = {cost: KnownCost(cache, cost, trials) for cost in {**self._limits, **dict.fromkeys(costs)}}

    @abstractmethod
    def log_improvement(self, rows: Rows, exact: bool) -> Array:
        """The logarithm of the expected improvement of candidates, regardless of limits, ``(candidates,)``."""

    @abstractmethod
    def log_improvement_of_paused(self, networks: Array) -> Array:
        """The logarithm of the expected improvement by completing the training of networks, ``(networks,)``.

        Args:
            networks: Their indices among the trials, whose learning curves are known.
        """

    def evaluate(self, rows: Rows, exact: bool = False) -> Array:
        """The logarithm of expected improvement times probability of feasibility, ``(candidates,)``.

        Minus infinity for candidates that exceed a limit for certain, or that a table has no row of.

        Args:
            rows: The candidates.
            exact: Compute their features even where that takes time; otherwise costs are predicted.
        """
        values = self.log_improvement(rows, exact)
        for cost, limit in self._limits.items():
            mean, deviation = self.costs[cost].predict(rows, exact)
            slack = np.log1p(limit) + 1e-12 - mean
            log_feasibility = log_ndtr(slack / np.maximum(deviation, 1e-12))
            values += np.where(deviation > 0, log_feasibility, np.where(slack >= 0, 0.0, -np.inf))
        return np.where(self.extractor.missing(rows), -np.inf, values)

    def rerank(self, rows: Rows) -> Rows:
        """Sort the first candidates by exact values, which replace the values that they were ranked by.

        Args:
            rows: Candidates, the most promising first.

        Returns:
            The candidates without those of the first that exceed a limit.
        """
        if self.extractor.is_cheap:
            return rows
        for end in range(RERANK_STEP, MAX_RERANKED + 1, RERANK_STEP):
            values = self.evaluate(rows[:end], exact=True)
            if (values > -np.inf).sum() >= RERANK_STEP / 2:
                break
        order = np.argsort(-values, kind="stable")
        return np.concatenate([rows[order[values[order] > -np.inf]], rows[end:]])

    def features(self, rows: Rows, exact: bool) -> list[Array]:
        """The features of candidates by group; the first groups only where others would take time and are not exact."""
        return self.extractor.features(rows, exact)


class ExpectedImprovement(AcquisitionFunction):
    r"""Expected improvement of a single score.

    .. math:: EI(x) = E[\max(y - y_{best}, 0)], \quad y \sim N(\mu(x), \sigma^2(x))

    computed as its logarithm (Jones, Schonlau and Welch, "Efficient Global Optimization of Expensive Black-Box
    Functions", 1998, equation 15; Ament et al., "Unexpected Improvements to Expected Improvement", NeurIPS 2023).
    Targets are transformed by `log_gap_transform`. While networks are being trained, it is the mean over `FANTASIES`
    joint samples of their results, each of which counts as observed.

    Args:
        cache: The hyperparameters of the search's surrogates.
        trials: The trials so far.
        limits: The limits of costs by their names; 0 is no limit.
    """

    def __init__(self, cache: SurrogateCache, trials: EncodedTrials, limits: Mapping[str, int]):
        super().__init__(cache, trials, limits)
        self._surrogate = make_surrogate(cache, trials, 0, log_gap_transform, FANTASIES)

    def log_improvement(self, rows: Rows, exact: bool) -> Array:
        """The logarithm of the expected improvement of candidates, ``(candidates,)``."""
        mean, deviation = self._surrogate.predict(rows, self.features(rows, exact))
        best = self._surrogate.best
        if mean.ndim == 1:
            return log_expected_improvement(mean, deviation, best)
        assert isinstance(self._surrogate, Surrogate)
        bests = np.maximum(best, self._surrogate.fantasies.max(0))
        values = log_expected_improvement(mean, deviation[:, None], bests)
        return np.logaddexp.reduce(values, axis=1) - np.log(FANTASIES)

    def log_improvement_of_paused(self, networks: Array) -> Array:
        """The logarithm of the expected improvement by completing the training of networks, ``(networks,)``."""
        assert isinstance(self._surrogate, CurveSurrogate)
        return log_expected_improvement(*self._surrogate.predict_observed(networks), self._surrogate.best)


class ExpectedHypervolumeImprovement(AcquisitionFunction):
    r"""Expected improvement of the hypervolume that the Pareto front dominates.

    .. math:: EHVI(x) = \sum_k \prod_m E[\max(y_m - l_{km}, 0) - \max(y_m - u_{km}, 0)],
        \quad y_m \sim N(\mu_m(x), \sigma_m^2(x))

    where k runs over the boxes :math:`[l_k, u_k]` that the non-dominated region is decomposed into, and m over the
    objectives (Yang et al., "Efficient Computation of Expected Hypervolume Improvement Using Box Decomposition
    Algorithms", 2019). Objectives that can be computed before training enter by the logarithm of the cost, without
    uncertainty where they are exact; one Gaussian process models each of the others, with targets transformed by
    `semi_rank_transform`. The reference point is the first quartile of a trained objective, and slightly below the
    worst of a cost, whether it is known or measured: the most accurate networks are often the most expensive ones.

    Args:
        cache: The hyperparameters of the search's surrogates.
        trials: The trials so far.
        limits: The limits of costs by their names; 0 is no limit.
        objectives: The objectives of the search.
    """

    def __init__(self, cache: SurrogateCache, trials: EncodedTrials, limits: Mapping[str, int], objectives: Objectives):
        names = [objective.attribute if objective.known_a_priori else "" for objective in objectives]
        self._cost_names = [name if cache.extractor.has_cost(name) else "" for name in names]
        super().__init__(cache, trials, limits, [name for name in self._cost_names if name])
        self._surrogates: list[Surrogate | CurveSurrogate | None] = []
        front, reference = [], []
        # A paused network is in no front: what completing its training adds is the question.
        trained = (
            slice(None) if trials.curves is None or not trials.curves.is_complete.any() else trials.curves.is_complete
        )
        for place, cost in enumerate(self._cost_names):
            if cost:
                self._surrogates.append(None)
                scores, pending = -self.costs[cost].observed, -self.costs[cost].compute(trials.pending)
                reference.append(_below_worst(scores))
            else:
                surrogate = make_surrogate(cache, trials, place, semi_rank_transform)
                self._surrogates.append(surrogate)
                scores, pending = surrogate.target, surrogate.pending_mean
                is_measured = objectives[place].source == "measurement"
                reference.append(_below_worst(scores) if is_measured else np.quantile(scores, 0.25))
            front.append(np.concatenate([scores[trained], pending]))
        self._lower, self._upper = box_decomposition(np.stack(front, 1), np.array(reference))

    def log_improvement(self, rows: Rows, exact: bool) -> Array:
        """The logarithm of the expected hypervolume improvement of candidates, ``(candidates,)``.

        Candidates without expected improvement rank after all others, by the sum of their upper confidence bounds.
        """
        features, moments = self.features(rows, exact), []
        for place, surrogate in enumerate(self._surrogates):
            if surrogate is None:
                mean, deviation = self.costs[self._cost_names[place]].predict(rows, exact)
                moments.append((-mean, deviation))
            else:
                moments.append(surrogate.predict(rows, features))
        return self._log_improvement(moments)

    def log_improvement_of_paused(self, networks: Array) -> Array:
        """The logarithm of the expected improvement by completing the training of networks, ``(networks,)``."""
        moments = []
        for place, surrogate in enumerate(self._surrogates):
            if surrogate is None:
                observed = self.costs[self._cost_names[place]].observed[networks]
                moments.append((-observed, np.zeros(len(networks))))
            else:
                assert isinstance(surrogate, CurveSurrogate)
                moments.append(surrogate.predict_observed(networks))
        return self._log_improvement(moments)

    def _log_improvement(self, moments: Sequence[tuple[Array, Array]]) -> Array:
        """Of points by the mean and the standard deviation of each objective, ``(points,)``."""
        count = len(moments[0][0])
        volumes, bounds = np.ones((count, len(self._lower))), np.zeros(count)
        for place, (mean, deviation) in enumerate(moments):
            volumes *= expected_exceedance(mean, deviation, self._lower[:, place]) - expected_exceedance(
                mean, deviation, self._upper[:, place]
            )
            bounds += mean + deviation
        improvement = volumes.sum(1)
        return np.where(improvement > 1e-300, np.log(np.maximum(improvement, 1e-300)), bounds - 1e6)


def _below_worst(scores: Array) -> float:
    return float(scores.min() - 0.05 * np.ptp(scores))


def log_expected_improvement(mean: Array, deviation: Array, best: float | Array) -> Array:
    """The logarithm of the expected improvement over ``best``, accurate in the tail as well."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement = density + z * np.exp(log_ndtr(z))
    tail = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(np.maximum(-z, 1.0))  # phi(z) / z**2
    return np.log(deviation) + np.where(z > -5, np.log(np.maximum(improvement, 1e-300)), tail)


def expected_exceedance(mean: Array, deviation: Array, levels: Array) -> Array:
    """``E[max(y - level, 0)]`` of normal variables y, ``(variables, levels)``; 0 for infinite levels.

    The expectation is a mean over 16 quantiles, so that events less likely than 1 in 32 count for nothing. Searches
    find better fronts than with the exact integral.
    """
    distinct_levels, places = np.unique(levels, return_inverse=True)
    exceedance = np.zeros((len(mean), len(distinct_levels)))
    for quantile in QUANTILES:
        exceedance += np.maximum((mean + deviation * quantile)[:, None] - distinct_levels[None], 0.0)
    return exceedance[:, places] / len(QUANTILES)
