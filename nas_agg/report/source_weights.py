"""Learned weights by source: how much each layer of a network uses each feature that it reads.

The pictures of source against reading layer in "Densely Connected Convolutional Networks" (Huang et al., 2017) and in
"Sequentially Aggregated Convolutional Networks" (SeqConv), in both Figure 5, as numbers. They are read off the graph: a
channel is followed back through concats, slices, norms, activations and pools to the operation that produced it.
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
_OUTPUT = re.compile(r"\.output$")  # a unit may be called `output` too, but then its layers follow
_SCALE = re.compile(r"(?P<aggregate>.*)\.(?:(?P<node>\d+)\.(?:reads|shortcut)|output)\.weights\.\d+$")
#: What gives channel k of its first input as channel k.
_PASSING = (Act, Dropout, Gap, MaxPool, Mul, Norm, Scale)
_NOTHING = -1  # the origin of a channel of zeros

Kind = Literal["filters", "scales"]


class SourceWeights(NamedTuple):
    """The weights of one aggregate, by source and reader.

    Attributes:
        aggregate: Its path in the genotype.
        kind: ``filters``: convolutions and linear layers that read a concat; ``scales``: a weighted gather's learned
            numbers per channel.
        sources: Labels of the rows: the numbers of nodes; ahead of them ``in``, what enters the aggregate, or
            ``in 1``, ``in 2``, ... where it is a concat of several features.
        readers: Labels of the columns: the numbers of nodes; behind them the layers that read what leaves.
        values: The mean absolute weight between a source (row) and a reader (column); NaN where it does not read it.
    """

    aggregate: str
    kind: Kind
    sources: tuple[str, ...]
    readers: tuple[str, ...]
    values: np.ndarray


def source_weights(graph: Graph, state: Mapping[str, Tensor]) -> list[SourceWeights]:
    """The weights of every aggregate in which some reader has two sources or more, in the network's order.

    Of concats these are weights of filters, averaged over all weights between a source and a reader: the L1 norm over
    their number. Where a reader has several layers (branches), each weight counts once. Gates of squeeze-and-excitation
    and projections of shortcuts are no readers. Of weighted gathers these are the learned scales; the main path, which
    a gather adds as it is, has none.

    Args:
        graph: Of the network, as `nas_agg.expansion.expansion.expand` gives it.
        state: The network's weights by name.

    Returns:
        Nothing for a network whose layers read one feature each, or sums without weights.
    """
    origins = _origins(graph)
    tables: dict[tuple[str, Kind], _Table] = {}
    for i, kind, aggregate, reader in _readers(graph, origins):
        weights = state[graph.paths[i] if kind == "scales" else f"{graph.paths[i]}.weight"]
        table = tables.setdefault((aggregate, kind), _Table(graph, origins, aggregate))
        table.add(reader, graph.inputs[i][0], *_per_channel(graph, i, weights.detach().abs().float()))
    return [table.weights(kind) for (_, kind), table in tables.items() if table.compares]


def _origins(graph: Graph) -> list[np.ndarray]:
    """For each channel of each tensor the operation that produced it."""
    found: list[np.ndarray] = []
    for i, op in enumerate(graph.ops):
        inputs = [found[source] for source in graph.inputs[i]]
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
        found.append(origin)
    return found


def _readers(graph: Graph, origins: list[np.ndarray]) -> Iterator[tuple[int, Kind, str, int | str]]:
    """The operations that weigh what they read: each with the aggregate it is counted to, and its place there.

    The place is the number of a node, or the path of a layer that reads what leaves the aggregate.
    """
    gates = _gates(graph)
    for i, (op, path) in enumerate(zip(graph.ops, graph.paths, strict=True)):
        if isinstance(op, Scale) and (scale := _SCALE.match(path)):
            yield i, "scales", scale["aggregate"], int(scale["node"]) + 1 if scale["node"] else "output"
        elif isinstance(op, Conv | Linear) and not gates[i] and not GATHER.search(path):
            for aggregate, reader in _places(graph, graph.inputs[i][0], path, origins):
                yield i, "filters", aggregate, reader


def _places(graph: Graph, tensor: int, path: str, origins: list[np.ndarray]) -> list[tuple[str, int | str]]:
    """The aggregates in which a layer at a path reads a tensor, with the reader that it is there.

    A concat is read in the aggregate that made it: by one of its nodes, or by what stands behind or around it; but by
    a node of the next aggregate where there is one.
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
    """Whether an operation serves only to make gates, by which others are multiplied."""
    found = [False] * len(graph)
    for i in range(len(graph) - 1, -1, -1):
        readers = graph.readers[i]
        found[i] = bool(readers) and all(
            found[reader] or (isinstance(graph.ops[reader], Mul) and graph.inputs[reader][0] != i) for reader in readers
        )
    return found


def _concat(graph: Graph, tensor: int) -> int | None:
    """The nearest concat whose channels a tensor holds, if there is one."""
    while not isinstance(graph.ops[tensor], Cat):
        if not isinstance(graph.ops[tensor], (*_PASSING, Slice, Pad, Shuffle)):
            return None
        tensor = graph.inputs[tensor][0]
    return tensor


def _node(path: str) -> str | None:
    """The innermost node that a path lies in: ``stage2.3``."""
    nodes = list(_NODE.finditer(path))
    return path[: nodes[-1].end(1)] if nodes else None


def _aggregate(path: str) -> str | None:
    """The innermost aggregate that a path lies in."""
    ends = [match.start() for match in (*_NODE.finditer(path), *_OUTPUT.finditer(path))]
    return path[: max(ends)] if ends else None


def _per_channel(graph: Graph, i: int, weights: Tensor) -> tuple[np.ndarray, int]:
    """For each input channel the sum of the weights that it meets, and their number."""
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
    """Sums and numbers of weights between the sources and the readers of one aggregate.

    Rows and columns have keys: the number of a node, or the path of what stands outside of the aggregate.
    """

    graph: Graph
    origins: list[np.ndarray]
    aggregate: str
    cells: dict[tuple[int | str, int | str], tuple[float, int]] = field(default_factory=dict)
    first: dict[int | str, int] = field(default_factory=dict)  # the first operation of each source

    def add(self, reader: int | str, tensor: int, sums: np.ndarray, count: int) -> None:
        """Adds the weights of a layer that reads a tensor: of each channel the sum of ``count`` weights."""
        producers, place, channels = np.unique(self.origins[tensor], return_inverse=True, return_counts=True)
        totals = np.bincount(place, sums)
        for producer, more, width in zip(producers.tolist(), totals.tolist(), channels.tolist(), strict=True):
            if producer != _NOTHING and (source := self._source(producer)) != reader:
                self.first.setdefault(source, producer)
                total, number = self.cells.get((source, reader), (0.0, 0))
                self.cells[source, reader] = total + more, number + count * width

    def _source(self, producer: int) -> int | str:
        """The row of what an operation produces."""
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
        """Whether some reader has two sources."""
        readers = [reader for _, reader in self.cells]
        return len(readers) > len(set(readers))

    def weights(self, kind: Kind) -> SourceWeights:
        """What was added up, as means."""
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
        """A reader's number, or its path without what it has in common with the aggregate's."""
        parts = str(reader).split(".")
        pairs = zip(parts, self.aggregate.split("."), strict=False)
        return ".".join(parts[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :])
