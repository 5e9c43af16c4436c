"""Local search: hill climbing with restarts (White et al., UAI 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas_agg.search_space.encoding import Encoding, deduplicate, row_key
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.search_space.parameters import SearchVariables, Values

MAX_NEIGHBOURS = 5000  # of an incumbent


class LocalSearcher(PointSearcher):
    """Hill climbing over neighbours, which differ in one search variable, with random restarts.

    The first neighbour that is better than the incumbent becomes the next incumbent. Where none of them is better, the
    search restarts from a random network. The incumbent follows from the trials alone: a network becomes the incumbent
    if it is better than the one before, or not a neighbour of any earlier incumbent (a restart). Where there are
    thousands of neighbours, a random sample of them is tried.

    White, Nolen and Savani, "Exploring the Loss Landscape in Neural Architecture Search", UAI 2021.
    """

    max_rejections = 200  # many neighbours may exceed a limit

    def __init__(self, space: SearchVariables, seed: int):
        super().__init__(space, seed)
        self.encoding = Encoding(space)

    def proposals(self, observations: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """Untried neighbours of the incumbent, in random order."""
        rows = self.encoding.encode_many([other.values for other in observations])
        incumbents: list[int] = []
        value = 0.0
        for place, other in enumerate(observations):
            if other.value is None:
                continue
            # A neighbour of an earlier incumbent, proposed before the latest one was known, is no restart.
            if not incumbents or other.value > value or (rows[incumbents] != rows[place]).sum(1).min() > 1:
                incumbents.append(place)
                value = other.value
        if incumbents:
            neighbours = self.encoding.neighbours(rows[incumbents[-1]], rng, MAX_NEIGHBOURS)
            untried = deduplicate(neighbours, {row_key(row) for row in rows})
            for place in rng.permutation(len(untried)):
                yield self.encoding.decode(untried[place])
