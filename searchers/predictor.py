"""The searcher of first choice: it learns scores from the open names and figures of networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.search_space.encoding import Rows, deduplicate, row_key
from nas_agg.study.definition.pareto import dominated
from nas_agg.study.samplers.features import FeatureExtractor
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher
from nas_agg.study.samplers.surrogate import (
    AcquisitionFunction,
    ExpectedHypervolumeImprovement,
    ExpectedImprovement,
    SurrogateCache,
    Trials,
)

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import Values

STARTS, STARTS_OF_SEVERAL = 12, 10  # random networks, for one objective and for several
ROUNDS = 5  # of climbing


class PredictorSearcher(PointSearcher):
    """Gaussian processes predict scores from open names, costs and shapes; the first networks are random.

    Targets are bent so that differences among the best count most. Candidates are neighbours and mutants of the best
    networks and random ones; those that are expected to gain most are climbed from, neighbour by neighbour. What they
    gain is the improvement of one score or, of several, the volume that the front of networks beats. Networks that are
    being trained count as if they had scored what is predicted, so that workers spread out; what failed or was refused
    counts as the worst.
    """

    supports_multi_objective = True

    @cached_property
    def fits(self) -> SurrogateCache:
        """Its processes, and the figures of networks that they learn from."""
        activations = "activations" in self.objectives.names or bool(self.limits.get("activation_bytes"))
        return SurrogateCache(FeatureExtractor(self.space, self.input, self.classes, activations))

    def proposals(self, seen: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Candidates, the highest expected gain first."""
        trials = self._trials(seen)
        if len(trials.rows) < (STARTS_OF_SEVERAL if self.objectives.is_multi_objective else STARTS):
            return
        known = {row_key(row) for rows in (trials.rows, trials.failed, trials.pending) for row in rows}
        candidates = deduplicate(self._candidates(trials, rng), known)
        if len(candidates):
            tried = np.concatenate([trials.rows, trials.failed, trials.pending])
            for row in self._climbed(candidates, self._expectation(trials.fewer()), known, rng):
                if not self.fits.figures.is_one_of(row, tried):
                    yield self.fits.encoding.decode(row)

    def _trials(self, seen: Sequence[Observation]) -> Trials:
        rows = self.fits.encoding.encode_many([other.values for other in seen])
        scored = np.array([other.scores is not None for other in seen], bool)
        running = np.array([other.running for other in seen], bool) & ~scored
        scores = np.array([other.scores for other in seen if other.scores is not None], float)
        return Trials(rows[scored], scores, rows[~scored & ~running], rows[running])

    def _expectation(self, trials: Trials) -> AcquisitionFunction:
        if self.objectives.is_multi_objective:
            return ExpectedHypervolumeImprovement(self.fits, trials, self.limits, self.objectives)
        return ExpectedImprovement(self.fits, trials, self.limits)

    def _candidates(self, trials: Trials, rng: np.random.Generator) -> Rows:
        encoding = self.fits.encoding
        if self.objectives.is_multi_objective:
            parents = rng.permutation(trials.rows[~dominated(trials.scores)])
            centres = parents[:6]
        else:
            parents = trials.rows[np.argsort(-trials.scores[:, 0], kind="stable")[:10]]
            centres = parents[:5]
        found = [encoding.neighbours(row, rng) for row in centres]
        for changes in (1, 2, 3):
            found.append(encoding.mutate(parents[rng.integers(len(parents), size=400)], changes, rng))
        return np.concatenate([*found, encoding.sample(600, rng)])

    def _climbed(
        self, candidates: Rows, model: AcquisitionFunction, known: set[bytes], rng: np.random.Generator
    ) -> Rows:
        """Candidates and neighbours of the best of them, the highest gain first."""
        gains = model.gains(candidates)
        for _ in range(ROUNDS):
            highest = gains.max()
            top = candidates[np.argsort(-gains, kind="stable")[:5]]
            more = deduplicate(np.concatenate([self.fits.encoding.neighbours(row, rng) for row in top]), known)
            if not len(more):
                break
            candidates, gains = np.concatenate([candidates, more]), np.concatenate([gains, model.gains(more)])
            if gains.max() <= highest:
                break
        order = np.argsort(-gains, kind="stable")
        return model.reconsidered(candidates[order[gains[order] > -np.inf]])
