"""Regularized evolution (Real et al., AAAI 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.search_space.parameters import Values

POPULATION_SIZE, TOURNAMENT_SIZE = 20, 5
CROSSOVER_PROBABILITY = 0.5


class EvolutionSearcher(PointSearcher):
    """Regularized (aging) evolution: mutates the winner of a tournament among the latest networks.

    The population is the latest 20 networks, so that a network leaves it by age and not by score. A tournament draws 5
    of them; one search variable of the best is mutated. The first 20 networks are random.

    Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019,
    algorithm 1.
    """

    def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Mutants of tournament winners."""
        population = [other for other in observations if other.value is not None][-POPULATION_SIZE:]
        while len(population) == POPULATION_SIZE:
            yield self.space.mutate(self.parent(population, rng), rng)

    def parent(self, population: Sequence[Observation], rng: np.random.Generator) -> Values:
        """The point that is mutated: the winner of a tournament."""
        tournament = rng.choice(POPULATION_SIZE, TOURNAMENT_SIZE, replace=False)
        return max((population[place] for place in tournament), key=lambda other: other.value or 0.0).values


class CrossoverEvolutionSearcher(EvolutionSearcher):
    """Regularized evolution with crossover.

    With probability 0.5 a uniform crossover of two tournament winners is mutated, else one winner.
    """

    def parent(self, population: Sequence[Observation], rng: np.random.Generator) -> Values:
        """The point that is mutated: the winner of a tournament, or a crossover of two."""
        winner = super().parent(population, rng)
        if rng.random() >= CROSSOVER_PROBABILITY:
            return winner
        return self.space.crossover(winner, super().parent(population, rng), rng)
