"""NSGA-II, the elitist non-dominated sorting genetic algorithm (Deb et al., 2002)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.study.definition.pareto import nondominated_sort
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import Values

POPULATION_SIZE = 20
CROSSOVER_PROBABILITY = 0.9


class NSGA2Searcher(PointSearcher):
    """NSGA-II: crossover and mutation of the non-dominated and least crowded networks.

    The population is the 20 best of all networks so far, by non-domination rank and then by crowding distance, so that
    it follows from the trials alone. Each parent is the better of two networks drawn from it. A child is a uniform
    crossover of two parents with probability 0.9, else a copy of one, and is mutated in one search variable. The first
    20 networks are random.

    Deb, Pratap, Agarwal and Meyarivan, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE
    Transactions on Evolutionary Computation 6(2), 2002; here in a steady-state form, without generations.
    """

    supports_multi_objective = True

    def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Children of the population."""
        scored = [other for other in observations if other.scores is not None]
        if len(scored) < POPULATION_SIZE:
            return
        order = nondominated_sort(np.array([other.scores for other in scored], float))[:POPULATION_SIZE]
        population = [scored[place].values for place in order]
        while True:
            a, b = (population[rng.integers(POPULATION_SIZE, size=2).min()] for _ in range(2))
            child = self.space.crossover(a, b, rng) if rng.random() < CROSSOVER_PROBABILITY else a
            yield self.space.mutate(child, rng)
