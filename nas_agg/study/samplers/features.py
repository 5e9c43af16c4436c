"""Features of untrained networks, for models of their scores: costs, and what their graphs say.

`benchmarks/feature_selection.py` selected `GRAPH_FEATURES` from all statistics of paths and numbers of operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.expansion.block_figures import COUNTED, BlockCost
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.paths import STATISTICS
from nas_agg.search_space.encoding import Encoding, Rows, row_key
from nas_agg.search_space.point_costs import PointCounter
from nas_agg.search_space.space import Space
from nas_agg.study.tables.results_table import ResultsTable

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import SearchVariables


#: Names of all features of a graph: statistics of its paths, and logarithms of numbers of operations.
ALL_GRAPH_FEATURES = (*STATISTICS, *(f"number: {name}" for name in COUNTED))

#: Those that models of scores use.
GRAPH_FEATURES = (
    "log paths",
    *(
        f"{kind} {weight}"
        for weight in ("layers", "pointwise convolutions", "norms", "log2 of widths")
        for kind in ("mean", "least", "greatest")
    ),
)
_COLUMNS = [ALL_GRAPH_FEATURES.index(name) for name in GRAPH_FEATURES]


def all_graph_features(cost: BlockCost) -> np.ndarray:
    """All features of a graph, as named by `ALL_GRAPH_FEATURES`."""
    return np.concatenate([cost.paths, np.log1p(cost.operations)])


class NetworkFeatures(NamedTuple):
    """Costs and features of one network.

    Attributes:
        costs: Costs by their names.
        cost_features: ``log(1 + x)`` of params and MACs.
        graph_features: What the graph says, as named by `GRAPH_FEATURES`.
        signature: Numbers that are equal for equal networks.
    """

    costs: dict[str, float]
    cost_features: np.ndarray
    graph_features: np.ndarray
    signature: tuple[int, ...]


# Of points that make no valid network; they are rejected when they are proposed.
_INVALID = NetworkFeatures({}, np.zeros(2), np.zeros(len(GRAPH_FEATURES)), ())


class FeatureExtractor:
    """Computes features of the networks of a space, in groups: costs, and what their graphs say.

    Args:
        space: The search space. A table of results has the costs and features of its columns, if there are any; search
            variables that make no networks have none.
        input: Shape of the images (channels, height, width); None: the space's own.
        classes: The number of classes; None: the space's own.
        activations: Compute the bytes of activations as well.

    Attributes:
        encoding: The encoding of the space.
        is_cheap: Whether features take next to no time to compute.
        predictions: Predicts scores of points from earlier runs, as a further group of features; takes the points, and
            whether it may use features that take time.
    """

    predictions: Callable[[Rows, bool], np.ndarray] | None = None

    def __init__(
        self,
        space: SearchVariables,
        input: tuple[int, int, int] | None = None,
        classes: int | None = None,
        activations: bool = False,
    ):
        self.space, self.encoding = space, Encoding(space)
        self.is_cheap = isinstance(space, ResultsTable) or not isinstance(space, Space)
        self._input, self._classes, self._activations = input, classes, activations
        self._networks: dict[bytes, NetworkFeatures] = {}
        self._hashes: dict[bytes, str] = {}

    def features(self, rows: Rows, exact: bool = True) -> list[np.ndarray]:
        """The features of points, for each group ``(points, features)``: predictions of earlier runs come first.

        Args:
            rows: The points.
            exact: Compute all groups; otherwise those only that take next to no time.
        """
        exact = exact or self.is_cheap
        predictions = [self.predictions(rows, exact)] if self.predictions is not None else []
        return [*predictions, *(self.network_features(rows) if exact else [])]

    def network_features(self, rows: Rows) -> list[np.ndarray]:
        """The features of points that need no trained network, for each group ``(points, features)``."""
        groups: list[np.ndarray] = []
        if isinstance(self.space, ResultsTable):
            groups = [self.space.cost_features(rows), self.space.row_features(rows)]
        elif isinstance(self.space, Space):
            groups = [np.stack([self._of_row(row).cost_features for row in rows])] if len(rows) else [np.zeros((0, 2))]
        if isinstance(self.space, Space):
            graphs = [self._of_row(row).graph_features for row in rows]
            groups.append(np.stack(graphs) if graphs else np.zeros((0, len(GRAPH_FEATURES))))
        return [group for group in groups if group.shape[1]]

    def has_cost(self, name: str) -> bool:
        """Whether `cost` gives the cost of this name."""
        if isinstance(self.space, ResultsTable):
            first = next(iter(self.space.rows.values()))
            if name == "activation_bytes":
                return "activation_bytes" in first.extra_metrics
            return name in ("params", "macs") and bool(first.costs)
        return isinstance(self.space, Space) and (
            name in ("params", "macs") or (self._activations and name == "activation_bytes")
        )

    def cost(self, rows: Rows, name: str) -> np.ndarray:
        """``params``, ``macs`` or ``activation_bytes`` of points; infinite where they make no valid network."""
        if isinstance(self.space, ResultsTable):
            networks = [self.space.rows.get(row_key(row)) for row in rows]
            return np.array([np.inf if network is None else getattr(network, name) for network in networks], float)
        return np.array([self._of_row(row).costs.get(name, np.inf) for row in rows], float)

    def missing(self, rows: Rows) -> np.ndarray:
        """Which points a table has no row of, ``(points,)``; none of a space without a table."""
        return ~self.space.contains(rows) if isinstance(self.space, ResultsTable) else np.zeros(len(rows), bool)

    def is_duplicate(self, row: np.ndarray, others: Rows) -> bool:
        """Whether another point makes the same network; False for points that make no valid network."""
        similar = [other for other in others if self._has_equal_features(row, other)]
        return bool(similar) and self._hash(row) in map(self._hash, similar)

    def _has_equal_features(self, row: np.ndarray, other: np.ndarray) -> bool:
        return self.is_cheap or self._of_row(row).signature == self._of_row(other).signature

    def _hash(self, row: np.ndarray) -> str:
        """The canonical hash of a network, equal for equal networks."""
        key = row_key(row)
        if key not in self._hashes:
            if isinstance(self.space, ResultsTable):
                network = self.space.rows.get(key)
                self._hashes[key] = key.hex() if network is None else network.hash
            elif isinstance(self.space, Space) and self._of_row(row) is not _INVALID:
                self._hashes[key] = self.space.trial_hash(self._cost(row).hash, self.encoding.decode(row))
            else:
                self._hashes[key] = key.hex()
        return self._hashes[key]

    def _of_row(self, row: np.ndarray) -> NetworkFeatures:
        key = row_key(row)
        if key not in self._networks:
            self._networks[key] = self._compute(row)
        return self._networks[key]

    @cached_property
    def _counter(self) -> PointCounter:
        assert isinstance(self.space, Space)
        return PointCounter(self.space.networks, self._input, self._classes)

    def _cost(self, row: np.ndarray) -> Cost:
        assert isinstance(self.space, Space)
        values = self.encoding.decode(row)
        return Cost(expand(self.space.genotype(values, input=self._input, classes=self._classes)))

    def _compute(self, row: np.ndarray) -> NetworkFeatures:
        if isinstance(self.space, ResultsTable) and row_key(row) not in self.space.rows:
            return _INVALID
        try:
            cost = self._counter.cost(row.tolist())
        except InputError:
            return _INVALID
        costs: dict[str, float] = {"params": cost.params, "macs": cost.macs}
        if self._activations:
            costs["activation_bytes"] = cost.activation_bytes
        signature = (cost.params, cost.macs, cost.depth, *cost.operations.tolist())
        return NetworkFeatures(costs, np.log1p([cost.params, cost.macs]), all_graph_features(cost)[_COLUMNS], signature)
