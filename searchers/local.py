"""Local search: hill climbing with restarts (White et al., UAI 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas_agg.search_space.encoding import Encoding, deduplicate, row_key
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.search_space.encoding import Rows
    from nas_agg.search_space.parameters import SearchVariables, Values

RANDOM_NETWORKS = 10  # that a climb starts from the best of
MAX_NEIGHBOURS = 5000  # of an incumbent


class LocalSearcher(PointSearcher):
    """Hill climbing over neighbours, which differ in one search variable, with random restarts.

    Each climb starts from the best of ten random networks. The first neighbour that is better than the incumbent
    becomes the next incumbent. Where none of them is better, ten random networks follow. The incumbent is derived from
    the trials alone: a network that is no neighbour of the climb is the first of ten random ones. Where there are
    thousands of neighbours, a random sample of them is tried.

    White, Nolen and Savani, "Exploring the Loss Landscape in Neural Architecture Search", UAI 2021, algorithm 1.
    """

    max_rejections = 200  # many neighbours may exceed a limit

    def __init__(self, space: SearchVariables, seed: int):
        super().__init__(space, seed)
        self.encoding = Encoding(space)

    def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Untried neighbours of the incumbent, in random order; none while random networks are due."""
        rows = self.encoding.encode_many([other.values for other in observations])
        incumbent = self._incumbent(observations, rows)
        if incumbent is not None:
            neighbours = self.encoding.neighbours(rows[incumbent], rng, MAX_NEIGHBOURS)
            untried = deduplicate(neighbours, {row_key(row) for row in rows})
            for place in rng.permutation(len(untried)):
                yield self.encoding.decode(untried[place])

    def _incumbent(self, observations: Sequence[Observation], rows: Rows) -> int | None:
        """The place of the incumbent; None while the random networks of a climb are not all drawn.

        Trials count in the order in which they began. A neighbour of an earlier incumbent, or of a random network that
        seemed the best while others were being trained, is no restart.
        """
        centres: list[int] = []  # networks whose neighbours may have been proposed
        remaining, incumbent, highest = RANDOM_NETWORKS, None, -math.inf
        for place, other in enumerate(observations):
            if not remaining and (rows[centres] != rows[place]).sum(1).min() > 1:
                remaining, incumbent, highest = RANDOM_NETWORKS, None, -math.inf
            if remaining:
                remaining -= 1
                centres.append(place)
            if other.value is not None and other.value > highest:
                incumbent, highest = place, other.value
                centres.append(place)
        return None if remaining else incumbent
