"""Points of a search space as rows of integers: column j is the index of the value of search variable j."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.search_space.domains import Choice

if TYPE_CHECKING:
    from nas_agg.search_space.domains import Domain
    from nas_agg.search_space.parameters import SearchVariables, Values

Rows = np.ndarray  # integers, (points, variables)

MAX_NEIGHBOURS = 300  # of one point; a sample of them is drawn where there are more
BUCKETS = 256  # of a wide integer range; models do not distinguish values of one bucket


class Encoding:
    """Integer encoding of the points of a search space.

    Args:
        space: The search space.

    Attributes:
        sizes: The number of values of each variable, ``(variables,)``.
        distance_tables: For each variable the distances between its bucketized values, ``(values, values)``, in 0 to 1:
            the difference of ranks in an ordered domain, 0 or 1 in any other.
    """

    def __init__(self, space: SearchVariables):
        self.space = space
        self.domains = [space.domains[name] for name in space.names]
        self.sizes = np.array([domain.size for domain in self.domains])
        self.distance_tables = [_distance_table(domain) for domain in self.domains]
        self._index_caches: list[dict[Any, int]] = [{} for _ in self.domains]
        self._wide_ranges = [j for j, domain in enumerate(self.domains) if domain.size > BUCKETS and _is_range(domain)]
        self._mutable = np.flatnonzero(self.sizes > 1)

    def encode(self, values: Values) -> np.ndarray:
        """Encode a point as a row, ``(variables,)``."""
        return np.array([self._index(j, values[name]) for j, name in enumerate(self.space.names)])

    def encode_many(self, points: Sequence[Values]) -> Rows:
        """Encode points as rows, ``(points, variables)``."""
        return np.array([self.encode(values) for values in points], int).reshape(-1, len(self.sizes))

    def _index(self, j: int, value: Any) -> int:
        """The index of a value; indices of numbers and strings are cached, which saves most of the time."""
        if not isinstance(value, (int, str)):
            return self.domains[j].index(value)
        cache = self._index_caches[j]
        key = type(value), value  # True and 1 differ
        if key not in cache:
            cache[key] = self.domains[j].index(value)
        return cache[key]

    def decode(self, row: np.ndarray) -> dict[str, Any]:
        """The point that a row encodes."""
        return {n: d.at(int(index)) for n, d, index in zip(self.space.names, self.domains, row, strict=True)}

    def bucketize(self, rows: Rows) -> Rows:
        """The rows as models take them: an index into a wide integer range becomes the number of its bucket."""
        codes = rows.copy()
        for j in self._wide_ranges:
            codes[:, j] = rows[:, j] * (BUCKETS - 1) // (self.sizes[j] - 1)
        return codes

    def sample(self, count: int, rng: np.random.Generator) -> Rows:
        """Draw rows uniformly from the space, ``(count, variables)``."""
        return rng.integers(self.sizes, size=(count, len(self.sizes)))

    def mutate(self, parents: Rows, changes: int, rng: np.random.Generator) -> Rows:
        """One mutant per parent, in which ``changes`` variables differ (all mutable ones, if they are fewer)."""
        changes = min(changes, len(self._mutable))
        rows = parents.copy()
        chosen = self._mutable[np.argsort(rng.random((len(rows), len(self._mutable))), axis=1)[:, :changes]]
        row_indices = np.arange(len(rows))[:, None]
        sizes = self.sizes[chosen]
        rows[row_indices, chosen] = (rows[row_indices, chosen] + 1 + rng.integers(np.maximum(sizes - 1, 1))) % sizes
        return rows

    def neighbours(self, row: np.ndarray, rng: np.random.Generator, max_count: int = MAX_NEIGHBOURS) -> Rows:
        """The points that differ from a point in one variable, or a random sample of at most ``max_count`` of them."""
        ends = np.cumsum(self.sizes[self._mutable] - 1)
        total = int(ends[-1]) if len(ends) else 0
        chosen = np.arange(total) if total <= max_count else np.unique(rng.integers(total, size=max_count))
        places = np.searchsorted(ends, chosen, side="right")
        variables = self._mutable[places]
        shifts = ends[places] - chosen if total else chosen
        rows = np.repeat(row[None], len(variables), 0)
        rows[np.arange(len(variables)), variables] = (row[variables] + shifts) % self.sizes[variables]
        return rows


def deduplicate(rows: Rows, known: set[bytes]) -> Rows:
    """The rows whose keys are not in ``known``, without duplicates, in order; their keys are added to ``known``."""
    new = []
    for place, row in enumerate(np.ascontiguousarray(rows, np.int64)):
        key = row.tobytes()
        if key not in known:
            known.add(key)
            new.append(place)
    return rows[new]


def row_key(row: np.ndarray) -> bytes:
    """A hashable key of a row; equal for equal rows."""
    return np.ascontiguousarray(row, np.int64).tobytes()


def _is_range(domain: Domain) -> bool:
    return not isinstance(domain, Choice)


def _distance_table(domain: Domain) -> np.ndarray:
    size = domain.size
    if isinstance(domain, Choice) and not domain.ordered:
        return 1.0 - np.eye(size)
    if _is_range(domain):
        size = min(size, BUCKETS)
        ranks = np.arange(size) / max(1, size - 1)
    else:
        ranks = np.array([domain.encode(domain.at(index))[0] for index in range(size)])
    return np.abs(ranks[:, None] - ranks[None])
