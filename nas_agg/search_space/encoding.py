"""Points of a space as rows of small integers: gene j is the index of the value of open name j."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.search_space.domains import Choice

if TYPE_CHECKING:
    from nas_agg.search_space.domains import Domain
    from nas_agg.search_space.parameters import SearchVariables, Values

Rows = np.ndarray  # (points, genes), whole numbers

MOST_NEIGHBOURS = 300  # of one point, drawn where there are more
STEPS = 256  # of an ordered gene, beyond which a model does not tell values apart


class Encoding:
    """The genes of a space.

    Args:
        space: The space.

    Attributes:
        sizes: How many values each gene has.
        tables: For each gene how far its codes are from one another, 0 to 1: in an ordered domain by ranks, in another
            0 or 1.
    """

    def __init__(self, space: SearchVariables):
        self.space = space
        self.domains = [space.domains[name] for name in space.names]
        self.sizes = np.array([domain.size for domain in self.domains])
        self.distance_tables = [_distances(domain) for domain in self.domains]
        self._places: list[dict[Any, int]] = [{} for _ in self.domains]
        self._wide = [j for j, domain in enumerate(self.domains) if domain.size > STEPS and _is_range(domain)]
        self._free = np.flatnonzero(self.sizes > 1)

    def encode(self, values: Values) -> np.ndarray:
        """The genes of a point."""
        return np.array([self._place(j, values[name]) for j, name in enumerate(self.space.names)])

    def encode_many(self, points: Sequence[Values]) -> Rows:
        """The genes of some points."""
        return np.array([self.encode(values) for values in points], int).reshape(-1, len(self.sizes))

    def _place(self, j: int, value: Any) -> int:
        """The index of a value; those of numbers and texts are kept, which saves most of the time."""
        if not isinstance(value, (int, str)):
            return self.domains[j].index(value)
        known = self._places[j]
        name = type(value), value  # True is no 1
        if name not in known:
            known[name] = self.domains[j].index(value)
        return known[name]

    def decode(self, row: np.ndarray) -> dict[str, Any]:
        """The point of some genes."""
        return {n: d.at(int(g)) for n, d, g in zip(self.space.names, self.domains, row, strict=True)}

    def bucketize(self, rows: Rows) -> Rows:
        """The rows as models take them: of a wide range the steps that values fall into."""
        coded = rows.copy()
        for j in self._wide:
            coded[:, j] = rows[:, j] * (STEPS - 1) // (self.sizes[j] - 1)
        return coded

    def sample(self, count: int, rng: np.random.Generator) -> Rows:
        """Points of the whole space."""
        return rng.integers(self.sizes, size=(count, len(self.sizes)))

    def mutate(self, parents: Rows, changes: int, rng: np.random.Generator) -> Rows:
        """One mutant of each parent, with as many genes changed, or all that can be, if they are fewer."""
        changes = min(changes, len(self._free))
        rows = parents.copy()
        chosen = self._free[np.argsort(rng.random((len(rows), len(self._free))), axis=1)[:, :changes]]
        places = np.arange(len(rows))[:, None]
        sizes = self.sizes[chosen]
        rows[places, chosen] = (rows[places, chosen] + 1 + rng.integers(np.maximum(sizes - 1, 1))) % sizes
        return rows

    def neighbours(self, row: np.ndarray, rng: np.random.Generator, most: int = MOST_NEIGHBOURS) -> Rows:
        """The points that differ in one gene; as many of them as are wanted where there are more."""
        ends = np.cumsum(self.sizes[self._free] - 1)
        total = int(ends[-1]) if len(ends) else 0
        chosen = np.arange(total) if total <= most else np.unique(rng.integers(total, size=most))
        places = np.searchsorted(ends, chosen, side="right")
        genes = self._free[places]
        shifts = ends[places] - chosen if total else chosen
        rows = np.repeat(row[None], len(genes), 0)
        rows[np.arange(len(genes)), genes] = (row[genes] + shifts) % self.sizes[genes]
        return rows


def deduplicate(rows: Rows, known: set[bytes]) -> Rows:
    """The rows that are not known, each once, in their order; they are known from now on."""
    kept = []
    for place, row in enumerate(np.ascontiguousarray(rows, np.int64)):
        key = row.tobytes()
        if key not in known:
            known.add(key)
            kept.append(place)
    return rows[kept]


def row_key(row: np.ndarray) -> bytes:
    """What tells a row from others."""
    return np.ascontiguousarray(row, np.int64).tobytes()


def _is_range(domain: Domain) -> bool:
    return not isinstance(domain, Choice)


def _distances(domain: Domain) -> np.ndarray:
    size = domain.size
    if isinstance(domain, Choice) and not domain.ordered:
        return 1.0 - np.eye(size)
    if _is_range(domain):
        size = min(size, STEPS)
        ranks = np.arange(size) / max(1, size - 1)
    else:
        ranks = np.array([domain.encode(domain.at(index))[0] for index in range(size)])
    return np.abs(ranks[:, None] - ranks[None])
