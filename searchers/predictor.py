"""Bayesian optimization with Gaussian processes over search variables and features of networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.search_space.encoding import Rows, deduplicate, row_key
from nas_agg.study.definition.pareto import dominated
from nas_agg.study.samplers.acquisition import (
    AcquisitionFunction,
    ExpectedHypervolumeImprovement,
    ExpectedImprovement,
)
from nas_agg.study.samplers.features import FeatureExtractor
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher
from nas_agg.study.samplers.surrogate import EncodedCurves, EncodedTrials, SurrogateCache

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import Values

STARTUP_TRIALS, MULTI_OBJECTIVE_STARTUP_TRIALS = 12, 10  # random networks
MIN_SCORED = 5  # networks with scores, of the first ones
MAX_CLIMBING_ROUNDS = 5


class PredictorSearcher(PointSearcher):
    """Bayesian optimization of networks by their search variables, costs and shapes; the default searcher.

    Gaussian processes model the scores. The acquisition function is the expected improvement or, for several
    objectives, the expected hypervolume improvement, times the probability that a candidate is within the limits.
    Candidates are neighbours and mutants of the best networks and random points; hill climbing over neighbours improves
    the most promising ones. Networks that are being trained enter with samples of their scores (for several objectives
    with their predicted scores), failed and rejected ones with the worst. The first 12 networks (10 for several
    objectives) are random, or the best of earlier runs, whose predictions are features of the networks.

    Similar to BANANAS (White et al., "BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture
    Search", AAAI 2021), with Gaussian processes as surrogates.
    """

    supports_multi_objective = True
    supports_freeze_thaw = True

    @cached_property
    def cache(self) -> SurrogateCache:
        """The hyperparameters of its surrogates, and the features of networks."""
        activations = "activations" in self.objectives.names or bool(self.limits.get("activation_bytes"))
        extractor = FeatureExtractor(self.space, self.input, self.classes, activations)
        if self.earlier is not None:
            extractor.predictions = partial(self.earlier.posterior_means, extractor)
        return SurrogateCache(extractor)

    @cached_property
    def _encoded(self) -> dict[int, tuple[Values, np.ndarray]]:
        """Points and their rows, by the points' identities."""
        return {}

    def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Candidates in order of decreasing acquisition value."""
        trials = self._encode(observations)
        startup_trials = MULTI_OBJECTIVE_STARTUP_TRIALS if self.objectives.is_multi_objective else STARTUP_TRIALS
        if len(trials.rows) + len(trials.pending) < startup_trials or len(trials.rows) < MIN_SCORED:
            return
        proposed = np.concatenate([trials.rows, trials.failed, trials.pending])
        known = {row_key(row) for row in proposed}
        candidates = deduplicate(self._candidates(trials, rng), known)
        if not len(candidates) and trials.curves is None:
            return
        fitted = trials.subsample()
        function = self._acquisition_function(fitted)
        ranked = self._climb(candidates, function, known, rng) if len(candidates) else candidates
        points = (row for row in ranked if not self.cache.extractor.is_duplicate(row, proposed))
        for row in points if fitted.curves is None else self._with_paused(points, function, fitted):
            yield self.cache.encoding.decode(row)

    def _with_paused(
        self, new: Iterator[np.ndarray], function: AcquisitionFunction, trials: EncodedTrials
    ) -> Iterator[np.ndarray]:
        """The paused networks that are worth more per epoch than the first new one, the new ones, and the other paused.

        The value is the expected improvement by the result of a full training, per epoch that is left of it.
        """
        assert trials.curves is not None
        first = next(new, None)
        value = -np.inf
        if first is not None:
            value = float(function.evaluate(first[None], exact=True)[0]) - np.log(self.full_epochs)
        paused = np.flatnonzero(np.isfinite(trials.curves.epochs_left))
        values = function.log_improvement_of_paused(paused) - np.log(trials.curves.epochs_left[paused])
        order = np.argsort(-values, kind="stable")
        for place in order[values[order] > value]:
            yield trials.rows[paused[place]]
        if first is not None:
            yield first
        yield from new
        for place in order[values[order] <= value]:
            yield trials.rows[paused[place]]

    def _encode(self, observations: Sequence[Observation]) -> EncodedTrials:
        rows = np.array([self._row(other.values) for other in observations], int)
        rows = rows.reshape(-1, len(self.space.names))
        scored = np.array([other.scores is not None for other in observations], bool)
        running = np.array([other.running for other in observations], bool) & ~scored
        scores = np.array([other.scores for other in observations if other.scores is not None], float)
        curves = self._encode_curves([other for other in observations if other.scores is not None])
        return EncodedTrials(rows[scored], scores, rows[~scored & ~running], rows[running], curves=curves)

    def _encode_curves(self, scored: Sequence[Observation]) -> EncodedCurves | None:
        if not self.full_epochs:
            return None
        network, epochs, epochs_left = list[int](), list[float](), list[float]()
        scores = list[tuple[float, ...]]()
        for place, other in enumerate(scored):
            assert other.scores is not None
            curve = other.curve or {math.inf: other.scores}
            network += [place] * len(curve)
            epochs += [min(epoch, self.full_epochs) for epoch in curve]
            scores += curve.values()
            epochs_left.append(self.full_epochs - max(curve) if other.is_paused else math.inf)
        remaining = np.log(self.full_epochs / np.array(epochs, float))
        return EncodedCurves(np.array(network, int), remaining, np.array(scores, float), np.array(epochs_left, float))

    def _row(self, values: Values) -> np.ndarray:
        """The encoded point; equal objects are encoded once, which only saves time."""
        if id(values) not in self._encoded:
            self._encoded[id(values)] = values, self.cache.encoding.encode(values)
        return self._encoded[id(values)][1]

    def _acquisition_function(self, trials: EncodedTrials) -> AcquisitionFunction:
        if self.objectives.is_multi_objective:
            return ExpectedHypervolumeImprovement(self.cache, trials, self.limits, self.objectives)
        return ExpectedImprovement(self.cache, trials, self.limits)

    def _candidates(self, trials: EncodedTrials, rng: np.random.Generator) -> Rows:
        encoding = self.cache.encoding
        if self.objectives.is_multi_objective:
            parents = rng.permutation(trials.rows[~dominated(trials.scores)])
            centres = parents[:6]
        else:
            parents = trials.rows[np.argsort(-trials.scores[:, 0], kind="stable")[:10]]
            centres = parents[:5]
        candidates = [encoding.neighbours(row, rng) for row in centres]
        for changes in (1, 2, 3):
            candidates.append(encoding.mutate(parents[rng.integers(len(parents), size=400)], changes, rng))
        return np.concatenate([*candidates, encoding.sample(600, rng)])

    def _climb(
        self, candidates: Rows, function: AcquisitionFunction, known: set[bytes], rng: np.random.Generator
    ) -> Rows:
        """Candidates and the neighbours of the best of them, in order of decreasing acquisition value."""
        values = function.evaluate(candidates)
        for _ in range(MAX_CLIMBING_ROUNDS):
            highest = values.max()
            top = candidates[np.argsort(-values, kind="stable")[:5]]
            neighbours = deduplicate(np.concatenate([self.cache.encoding.neighbours(row, rng) for row in top]), known)
            if not len(neighbours):
                break
            candidates = np.concatenate([candidates, neighbours])
            values = np.concatenate([values, function.evaluate(neighbours)])
            if values.max() <= highest:
                break
        order = np.argsort(-values, kind="stable")
        return function.rerank(candidates[order[values[order] > -np.inf]])
