"""What is known of a network before it is trained, as numbers for models of its score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nas_agg.costs import Cost
from nas_agg.errors import InputError
from nas_agg.expansion import expand
from nas_agg.study.genes import Genes, Rows, key
from nas_agg.study.table import Table

if TYPE_CHECKING:
    from nas_agg.space import Space

_WORDS = ("conv", "norm", "act", "add", "cat", "mul", "maxpool", "avgpool", "slice", "scale")


class Figures:
    """Figures of a space's networks, in groups: costs, and shapes of graphs. Each is a logarithm.

    Args:
        space: The space, whose networks are counted on its own images; or a table, which has figures of its own.

    Attributes:
        cheap: Whether figures take next to no time.
    """

    def __init__(self, space: Space | Table):
        self.space, self.genes = space, Genes(space)
        self.cheap = isinstance(space, Table)
        self._known: dict[bytes, tuple[list[float], list[float]]] = {}

    def of(self, rows: Rows) -> list[np.ndarray]:
        """The figures of some points, ``(points, figures)`` of each group."""
        if isinstance(self.space, Table):
            return self.space.figures(rows)
        found = [self._figures(row) for row in rows]
        return [np.array(group, float) for group in zip(*found, strict=True)]

    def _figures(self, row: np.ndarray) -> tuple[list[float], list[float]]:
        name = key(row)
        if name not in self._known:
            self._known[name] = self._counted(row)
        return self._known[name]

    def _counted(self, row: np.ndarray) -> tuple[list[float], list[float]]:
        assert not isinstance(self.space, Table)
        try:
            cost = Cost(expand(self.space.genotype(self.genes.values(row))))
        except InputError:  # no network: it is refused when it is proposed
            return [0.0, 0.0], [0.0] * (1 + len(_WORDS))
        words = [op.word for op in cost.graph.ops]
        counts = [cost.depth, *(words.count(word) for word in _WORDS)]
        return [np.log1p(cost.params), np.log1p(cost.macs)], [np.log1p(count) for count in counts]
