"""Regularised evolution: mutate a good one of the young (Real et al., "Regularized Evolution", AAAI 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.search_space.parameters import Values

POPULATION, TOURNAMENT = 20, 5


class EvolutionSearcher(PointSearcher):
    """The best of 5 of the latest 20 networks is mutated in one open name; the first 20 are random.

    Old networks leave whatever they scored, so that no lucky one is copied for ever.
    """

    def proposals(self, seen: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Mutants of winners of tournaments."""
        population = [other for other in seen if other.value is not None][-POPULATION:]
        while len(population) == POPULATION:
            chosen = rng.choice(POPULATION, TOURNAMENT, replace=False)
            winner = max((population[place] for place in chosen), key=lambda other: other.value or 0.0)
            yield self.space.mutate(winner.values, rng)
