"""Local search: from a random network to a better neighbour, until there is none; then from another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas_agg.search_space.encoding import Encoding, deduplicate, row_key
from nas_agg.study.samplers.point_searcher import Observation, PointSearcher

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.search_space.parameters import Values
    from nas_agg.search_space.space import Space

MOST = 5000  # neighbours of a centre


class LocalSearcher(PointSearcher):
    """Neighbours differ in the value of one open name; the first that is better is the next centre.

    Where all neighbours were seen and none is better, a random network is. Which network is the centre follows from the
    trials alone: it is better than the centre of its time, or no neighbour of any that was one. Of thousands of
    neighbours a part is tried.
    """

    max_rejections = 200  # many neighbours may be over a limit

    def __init__(self, space: Space, seed: int):
        super().__init__(space, seed)
        self.encoding = Encoding(space)

    def proposals(self, seen: Sequence[Observation], rng: np.random.Generator) -> Iterator[Values]:
        """The neighbours of the centre that were not seen, in random order."""
        rows = self.encoding.encode_many([other.values for other in seen])
        centres: list[int] = []
        value = 0.0
        for place, other in enumerate(seen):
            if other.value is None:
                continue
            # A trial that was begun around an earlier centre is no new beginning.
            if not centres or other.value > value or (rows[centres] != rows[place]).sum(1).min() > 1:
                centres.append(place)
                value = other.value
        if centres:
            around = deduplicate(self.encoding.neighbours(rows[centres[-1]], rng, MOST), {row_key(row) for row in rows})
            for place in rng.permutation(len(around)):
                yield self.encoding.decode(around[place])
