"""Local search: from a random network to a better neighbour, until there is none; then from another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nas_agg.study.points import PointSearcher, Seen

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.open_names import Values


class LocalSearcher(PointSearcher):
    """Neighbours differ in the value of one open name; the first that is better is the next centre.

    Where all neighbours were seen and none is better, a random network is. Which network is the centre follows from the
    trials alone: a better neighbour of the centre of its time, and what is no neighbour of it.
    """

    patience = 200  # many neighbours may be over a limit

    def proposals(self, seen: Sequence[Seen], rng: np.random.Generator) -> Iterator[Values]:
        """The neighbours of the centre that were not seen, in random order."""
        centre: Seen | None = None
        for other in seen:
            if other.value is None:
                continue
            if centre is None or distance(other, centre) > 1 or other.value > (centre.value or 0.0):
                centre = other
        if centre is not None:
            known = [other.values for other in seen]
            around = [values for values in self.space.neighbours(centre.values) if values not in known]
            for place in rng.permutation(len(around)):
                yield around[place]


def distance(one: Seen, other: Seen) -> int:
    """In how many open names two networks differ."""
    return sum(one.values[name] != other.values[name] for name in one.values)
