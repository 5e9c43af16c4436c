"""Learned weights by source: how strongly each layer of a network uses each feature that it reads.

The numbers behind Figure 5 of "Densely Connected Convolutional Networks" (Huang et al., 2017) and Figure 5 of
"Sequentially Aggregated Convolutional Networks" (SeqConv), derived from the graph: each channel is traced back through
concats, slices, norms, activations and pools to the operation that produced it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from nas_agg.graph.connectivity import GATHER
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import (
    Act,
    Cat,
    Conv,
    Dropout,
    Gap,
    Linear,
    MaxPool,
    Mul,
    Norm,
    Pad,
    Scale,
    Shuffle,
    Slice,
)

if TYPE_CHECKING:
    from torch import Tensor

_NODE = re.compile(r"\.(\d+)\.(?:unit|reads|shortcut)(?=\.|$)")
_OUTPUT = re.compile(r"\.output$")  # not a unit called `output`, whose path continues
_SCALE = re.compile(r"(?P<aggregate>.*)\.(?:(?P<node>\d+)\.(?:reads|shortcut)|output)\.weights\.\d+$")
#: Operations that map channel k of their first input to channel k.
_PASSING = (Act, Dropout, Gap, MaxPool, Mul, Norm, Scale)
_NOTHING = -1  # origin of channels of zeros

Kind = Literal["filters", "scales"]


class SourceWeights(NamedTuple):
    """The weights of one aggregate, by source and reader.

    Attributes:
        aggregate: Path of the aggregate.
        kind: ``filters`` for convolutions and linear layers that read a concat; ``scales`` for the learned weights of a
            weighted gather, one per channel.
        sources: Labels of the rows: ``in``, the input of the aggregate (``in 1``, ``in 2``, ... if it is a concat of
            several features), then the numbers of nodes.
        readers: Labels of the columns: the numbers of nodes, then the layers that read the aggregate's output.
        values: Mean absolute weight between source (row) and reader (column); NaN where the source is not read.
    """

    aggregate: str
    kind: Kind
    sources: tuple[str, ...]
    readers: tuple[str, ...]
    values: np.ndarray


def source_weights(graph: Graph, state: Mapping[str, Tensor]) -> list[SourceWeights]:
    """Weights of every aggregate in which a reader has two or more sources, in the network's order.

    For concats these are filter weights, averaged over all weights between a source and a reader (their L1 norm divided
    by their number). If a reader has several layers (branches), each weight counts once. Gates of
    squeeze-and-excitation and projections of shortcuts are not readers. For weighted gathers these are the learned
    scales; the main path, which is added unweighted, has none.

    Args:
        graph: The network's graph, as returned by `nas_agg.expansion.expansion.expand`.
        state: The network's state dict.

    Returns:
        One table per aggregate and kind; none if all layers read a single feature or unweighted sums.
    """
    origins = _origins(graph)
    tables: dict[tuple[str, Kind], _Table] = {}
    for i, kind, aggregate, reader in _readers(graph, origins):
        weights = state[graph.paths[i] if kind == "scales" else f"{graph.paths[i]}.weight"]
        table = tables.setdefault((aggregate, kind), _Table(graph, origins, aggregate))
        table.add(reader, graph.inputs[i][0], *_per_channel(graph, i, weights.detach().abs().float()))
    return [table.weights(kind) for (_, kind), table in tables.items() if table.compares]


def _origins(graph: Graph) -> list[np.ndarray]:
    """For each channel of each tensor, the operation that produced it."""
    origins: list[np.ndarray] = []
    for i, op in enumerate(graph.ops):
        inputs = [origins[source] for source in graph.inputs[i]]
        if isinstance(op, Cat):
            origin = np.concatenate(inputs)
        elif isinstance(op, Slice):
            origin = inputs[0][op.first : op.first + op.channels]
        elif isinstance(op, Pad):
            origin = np.concatenate([inputs[0], np.full(op.extra, _NOTHING)])
        elif isinstance(op, Shuffle):
            origin = inputs[0].reshape(op.groups, -1).T.ravel()
        else:
            origin = inputs[0] if isinstance(op, _PASSING) else np.full(graph.shapes[i][0], i)
        origins.append(origin)
    return origins


def _readers(graph: Graph, origins: list[np.ndarray]) -> Iterator[tuple[int, Kind, str, int | str]]:
    """The weighted operations: each with its kind, its aggregate, and the reader that it belongs to there.

    A reader is the number of a node, or the path of a layer that reads the aggregate's output.
    """
    gates = _gates(graph)
    for i, (op, path) in enumerate(zip(graph.ops, graph.paths, strict=True)):
        if isinstance(op, Scale) and (scale := _SCALE.match(path)):
            yield i, "scales", scale["aggregate"], int(scale["node"]) + 1 if scale["node"] else "output"
        elif isinstance(op, Conv | Linear) and not gates[i] and not GATHER.search(path):
            for aggregate, reader in _places(graph, graph.inputs[i][0], path, origins):
                yield i, "filters", aggregate, reader


def _places(graph: Graph, tensor: int, path: str, origins: list[np.ndarray]) -> list[tuple[str, int | str]]:
    """The aggregates in which a layer reads a tensor, each with the reader that the layer belongs to.

    A concat is read in the aggregate that formed it, by one of its nodes or by a layer after or around it, unless that
    layer belongs to a node of the next aggregate.
    """
    nodes = {path[: node.start()]: int(node[1]) + 1 for node in _NODE.finditer(path)}
    innermost = next(reversed(nodes), "")
    cat = _concat(graph, tensor)
    if cat is None:
        (producer,) = set(origins[tensor][:1].tolist())
        source = graph.paths[producer]
        return [(place, l) for place, l in nodes.items() if not source.startswith(f"{place}.{l - 1}.")]
    aggregate = _aggregate(graph.paths[cat])
    if aggregate in nodes:
        return [(aggregate, nodes[aggregate])]
    if aggregate and (not nodes or aggregate.startswith(f"{innermost}.{nodes[innermost] - 1}.")):
        return [(aggregate, path)]
    return [(innermost, nodes[innermost])] if nodes else []


def _gates(graph: Graph) -> list[bool]:
    """For each operation, whether it serves only to compute gates, by which other tensors are multiplied."""
    gates = [False] * len(graph)
    for i in range(len(graph) - 1, -1, -1):
        readers = graph.readers[i]
        gates[i] = bool(readers) and all(
            gates[reader] or (isinstance(graph.ops[reader], Mul) and graph.inputs[reader][0] != i) for reader in readers
        )
    return gates


def _concat(graph: Graph, tensor: int) -> int | None:
    """The nearest concat whose channels a tensor contains; None if there is none."""
    while not isinstance(graph.ops[tensor], Cat):
        if not isinstance(graph.ops[tensor], (*_PASSING, Slice, Pad, Shuffle)):
            return None
        tensor = graph.inputs[tensor][0]
    return tensor


def _node(path: str) -> str | None:
    """The innermost node that contains a path: ``stage2.3``."""
    nodes = list(_NODE.finditer(path))
    return path[: nodes[-1].end(1)] if nodes else None


def _aggregate(path: str) -> str | None:
    """The innermost aggregate that contains a path."""
    ends = [match.start() for match in (*_NODE.finditer(path), *_OUTPUT.finditer(path))]
    return path[: max(ends)] if ends else None


def _per_channel(graph: Graph, i: int, weights: Tensor) -> tuple[np.ndarray, int]:
    """For each input channel the sum of its weights, and their number."""
    op = graph.ops[i]
    if isinstance(op, Conv):
        split = weights.reshape(op.groups, op.out // op.groups, op.channels // op.groups, -1)
        return split.sum((1, 3)).flatten().cpu().numpy(), op.out // op.groups * op.kernel**2
    if isinstance(op, Linear):
        split = weights.reshape(op.out, graph.shapes[graph.inputs[i][0]][0], -1)
        return split.sum((0, 2)).cpu().numpy(), op.out * split.shape[2]
    return weights.flatten().cpu().numpy(), 1


@dataclass
class _Table:
    """Sums and numbers of weights between the sources and readers of one aggregate.

    Keys of rows and columns are numbers of nodes, or paths of operations outside the aggregate.
    """

    graph: Graph
    origins: list[np.ndarray]
    aggregate: str
    cells: dict[tuple[int | str, int | str], tuple[float, int]] = field(default_factory=dict)
    first: dict[int | str, int] = field(default_factory=dict)  # the first operation of each source

    def add(self, reader: int | str, tensor: int, sums: np.ndarray, count: int) -> None:
        """Add a layer's weights of a tensor: per channel the sum of ``count`` weights."""
        producers, place, channels = np.unique(self.origins[tensor], return_inverse=True, return_counts=True)
        totals = np.bincount(place, sums)
        for producer, more, width in zip(producers.tolist(), totals.tolist(), channels.tolist(), strict=True):
            if producer != _NOTHING and (source := self._source(producer)) != reader:
                self.first.setdefault(source, producer)
                total, number = self.cells.get((source, reader), (0.0, 0))
                self.cells[source, reader] = total + more, number + count * width

    def _source(self, producer: int) -> int | str:
        """The row of an operation's output."""
        path, place = self.graph.paths[producer], re.escape(self.aggregate)
        if match := re.match(rf"{place}\.(?:\d+\.(?:reads|shortcut)|output)\.match\.(\d+)(?=\.)", path):
            projected = set(self.origins[self.graph.inputs[producer][0]].tolist())
            if match[1] != "0":
                return int(match[1])
            return self._source(projected.pop()) if len(projected) == 1 else path
        if node := re.match(rf"{place}\.(\d+)\.", path):
            return int(node[1]) + 1
        return _node(path) or path

    @property
    def compares(self) -> bool:
        """Whether a reader has two or more sources."""
        readers = [reader for _, reader in self.cells]
        return len(readers) > len(set(readers))

    def weights(self, kind: Kind) -> SourceWeights:
        """The table of means."""
        readers = list(dict.fromkeys(reader for _, reader in self.cells))
        outer = sorted((key for key in self.first if isinstance(key, str)), key=self.first.__getitem__)
        rows = [*outer, *sorted(key for key in self.first if isinstance(key, int))]
        columns: list[int | str] = sorted(key for key in readers if isinstance(key, int))
        columns += [key for key in readers if isinstance(key, str)]
        values = np.full((len(rows), len(columns)), np.nan)
        for (source, reader), (total, number) in self.cells.items():
            values[rows.index(source), columns.index(reader)] = total / number
        entering = ["in"] if len(outer) == 1 else [f"in {k}" for k in range(1, len(outer) + 1)]
        labels = (*entering, *map(str, rows[len(outer) :]))
        return SourceWeights(self.aggregate, kind, labels, tuple(self._label(reader) for reader in columns), values)

    def _label(self, reader: int | str) -> str:
        """A reader's number, or its path without the prefix shared with the aggregate."""
        parts = str(reader).split(".")
        pairs = zip(parts, self.aggregate.split("."), strict=False)
        return ".".join(parts[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :])
