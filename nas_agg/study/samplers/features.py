"""What is known of a network before it is trained, as numbers for models of its score."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.search_space.encoding import Encoding, Rows, row_key
from nas_agg.search_space.space import Space
from nas_agg.study.tables.results_table import ResultsTable

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import SearchVariables

_WORDS = ("conv", "norm", "act", "add", "cat", "mul", "maxpool", "avgpool", "slice", "scale")


class CostFeatures(NamedTuple):
    """What a network costs, and its figures."""

    known: dict[str, float]
    costs: list[float]
    shape: list[float]


_NONE = CostFeatures(
    {}, [0.0, 0.0], [0.0] * (1 + len(_WORDS))
)  # of what is no network: it is refused when it is proposed


class FeatureExtractor:
    """Figures of a space's networks, in groups: costs, and shapes of graphs. Each is a logarithm.

    Args:
        space: The space; or a table, which has figures of its own; or open names that make no networks: no figures.
        input: The images' shape (channels, height, width); unsaid, the space's own.
        classes: The number of classes; unsaid, the space's own.
        activations: Whether the activations' bytes are worked out too.

    Attributes:
        cheap: Whether figures take next to no time.
    """

    def __init__(
        self,
        space: SearchVariables,
        input: tuple[int, int, int] | None = None,
        classes: int | None = None,
        activations: bool = False,
    ):
        self.space, self.encoding = space, Encoding(space)
        self.cheap = isinstance(space, ResultsTable) or not isinstance(space, Space)
        self._input, self._classes, self._activations = input, classes, activations
        self._counted: dict[bytes, CostFeatures] = {}
        self._hashes: dict[bytes, str] = {}

    def of(self, rows: Rows) -> list[np.ndarray]:
        """The figures of some points, ``(points, figures)`` of each group."""
        if isinstance(self.space, ResultsTable):
            return [group for group in self.space.figures(rows) if group.shape[1]]
        if not isinstance(self.space, Space):
            return []
        found = [self._count(row) for row in rows]
        costs = np.array([counted.costs for counted in found], float).reshape(len(rows), len(_NONE.costs))
        shapes = np.array([counted.shape for counted in found], float).reshape(len(rows), len(_NONE.shape))
        return [costs, shapes]

    def knows(self, name: str) -> bool:
        """Whether a cost is one that :meth:`costs` gives."""
        if isinstance(self.space, ResultsTable):
            first = next(iter(self.space.rows.values()))
            if name == "activation_bytes":
                return "activation_bytes" in first.extra_metrics
            return name in ("params", "macs") and bool(first.costs)
        return isinstance(self.space, Space) and (
            name in ("params", "macs") or (self._activations and name == "activation_bytes")
        )

    def unknown(self, rows: Rows) -> np.ndarray:
        """Which points a table has no row of; none of a space that has no table."""
        return ~self.space.has(rows) if isinstance(self.space, ResultsTable) else np.zeros(len(rows), bool)

    def costs(self, rows: Rows, name: str) -> np.ndarray:
        """``params``, ``macs`` or ``activation_bytes`` of some points; infinite where they make no network."""
        if isinstance(self.space, ResultsTable):
            found = [self.space.rows.get(row_key(row)) for row in rows]
            return np.array([np.inf if row is None else getattr(row, name) for row in found], float)
        return np.array([self._count(row).known.get(name, np.inf) for row in rows], float)

    def is_one_of(self, row: np.ndarray, others: Rows) -> bool:
        """Whether a point makes the network that another point makes; never true of what makes none."""
        alike = [other for other in others if self._alike(row, other)]
        return bool(alike) and self._hash(row) in map(self._hash, alike)

    def _alike(self, row: np.ndarray, other: np.ndarray) -> bool:
        return self.cheap or self._count(row) == self._count(other)

    def _hash(self, row: np.ndarray) -> str:
        """Equal for equal networks."""
        name = row_key(row)
        if name not in self._hashes:
            if isinstance(self.space, ResultsTable):
                found = self.space.rows.get(name)
                self._hashes[name] = name.hex() if found is None else found.hash
            elif isinstance(self.space, Space) and self._count(row) is not _NONE:
                self._hashes[name] = self._cost(row).hash
            else:
                self._hashes[name] = name.hex()
        return self._hashes[name]

    def _count(self, row: np.ndarray) -> CostFeatures:
        if row_key(row) not in self._counted:
            self._counted[row_key(row)] = self._counted_anew(row)
        return self._counted[row_key(row)]

    def _cost(self, row: np.ndarray) -> Cost:
        assert isinstance(self.space, Space)
        values = self.encoding.decode(row)
        return Cost(expand(self.space.genotype(values, input=self._input, classes=self._classes)))

    def _counted_anew(self, row: np.ndarray) -> CostFeatures:
        try:
            cost = self._cost(row)
        except InputError:
            return _NONE
        known: dict[str, float] = {"params": cost.params, "macs": cost.macs}
        if self._activations:
            known["activation_bytes"] = cost.activation_bytes
        words = [op.word for op in cost.graph.ops]
        counts = [cost.depth, *(words.count(word) for word in _WORDS)]
        return CostFeatures(known, list(np.log1p([cost.params, cost.macs])), list(np.log1p(counts)))
