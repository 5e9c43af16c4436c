"""NSGA-II: breed the networks that are unbeaten and least crowded (Deb et al., IEEE Trans. Evol. Comp. 6, 2002)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.study.definition.pareto import nondominated_sort
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import Values

POPULATION = 20
CROSSED = 0.9  # the share of children that have two parents


class NSGA2Searcher(PointSearcher):
    """Children of two parents, each the better of two of the population, are mutated in one open name.

    The population are the 20 best networks of all that were seen, front by front, within a front the less crowded
    first; so it follows from the trials alone. The first 20 networks are random.
    """

    supports_multi_objective = True

    def proposals(self, seen: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Children of the population."""
        scored = [other for other in seen if other.scores is not None]
        if len(scored) < POPULATION:
            return
        order = nondominated_sort(np.array([other.scores for other in scored], float))[:POPULATION]
        population = [scored[place].values for place in order]
        while True:
            a, b = (population[rng.integers(POPULATION, size=2).min()] for _ in range(2))
            child = self.space.crossover(a, b, rng) if rng.random() < CROSSED else a
            yield self.space.mutate(child, rng)
