"""Connections between layers and gradient paths, derived from the graph.

A *layer* is a node of an aggregate that contains a convolution, a linear layer or a pool of its own; a node that
contains only aggregates is not a layer, but its inner nodes are. A layer *reads* another if no further layer is between
them: through a concat, a sum, a norm, an activation or a projection. A residual stage is thus what Zhu et al. (2018,
"Sparsely Aggregated Convolutional Networks") describe: each layer reads a sum of all layers before it. A *stage* is a
run of layers of one map size; its input is one more feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nas_agg.graph.graph import Graph

_NODE = re.compile(r"\.(\d+)\.unit(?=\.|$)")
#: A gather in a path. Its projections and gates are not layers. A step may be named ``output``, too.
GATHER = re.compile(r"\.\d+\.(reads|shortcut)(?=\.|$)|\.output(?=\.(each|match|gates|norms|weights)(\.|$)|$)")
MAX_CONNECTIONS = 3_000_000  # for which gradient paths are computed
_LAYERS = ("conv", "linear", "maxpool", "avgpool")


class Connectivity(NamedTuple):
    """Connections among layers.

    Attributes:
        layers: Number of layers.
        connections: Pairs of a layer and a feature that it reads directly.
        gradient_path: Longest of the shortest paths from a layer back to an earlier feature that it depends on, in
            layers: 1 if every layer reads every earlier feature. None if there are more than ``MAX_CONNECTIONS``
            connections.
    """

    layers: int
    connections: int
    gradient_path: int | None


def stage_connectivity(graph: Graph) -> list[Connectivity]:
    """Return the connectivity of each stage of a network, in order."""
    nodes = [_enclosing_nodes(path) for path in graph.paths]
    layer_nodes = {nodes[i][-1] for i in _layer_ops(graph) if nodes[i] and not GATHER.search(graph.paths[i])}
    layers: dict[str, list[int]] = {}  # the operations of each layer
    stage_starts: set[str] = set()  # layers that follow a layer outside aggregates: a stem, a transition
    after_transition = False
    for i, enclosing in enumerate(nodes):
        layer = next((node for node in enclosing if node in layer_nodes), None)
        if layer is None:
            is_layer = graph.ops[i].word in _LAYERS and not GATHER.search(graph.paths[i])
            after_transition |= not enclosing and is_layer
            continue
        if layer not in layers and after_transition:
            stage_starts.add(layer)
            after_transition = False
        layers.setdefault(layer, []).append(i)
    stage_connectivity: list[list[str]] = []
    size: tuple[int, ...] = ()
    for layer, ops in layers.items():
        if layer in stage_starts or graph.shapes[ops[-1]][1:] != size or not stage_connectivity:
            stage_connectivity.append([])
        size = graph.shapes[ops[-1]][1:]
        stage_connectivity[-1].append(layer)
    return [
        _connectivity(graph, {i: n for n, layer in enumerate(stage, start=1) for i in layers[layer]})
        for stage in stage_connectivity
    ]


def aggregate_connectivity(graph: Graph) -> dict[str, Connectivity]:
    """Return the connectivity of the nodes of each aggregate that has layers, by the aggregate's path."""
    layers_of: dict[str, dict[int, int]] = {}
    for i in _layer_ops(graph):
        path = graph.paths[i]
        for node in _NODE.finditer(path):
            layers_of.setdefault(path[: node.start()], {})[i] = int(node[1]) + 1
    return {path: _connectivity(graph, layers) for path, layers in layers_of.items() if not GATHER.search(path)}


def _layer_ops(graph: Graph) -> Iterator[int]:
    return (i for i, op in enumerate(graph.ops) if op.word in _LAYERS)


def _enclosing_nodes(path: str) -> list[str]:
    """Return the paths of the nodes around an operation, outermost first; a gather is outside the node it serves."""
    gather = GATHER.search(path)
    end = len(path) if gather is None else gather.start()
    return [path[: node.end()] for node in _NODE.finditer(path, 0, end)]


def _connectivity(graph: Graph, layers: Mapping[int, int]) -> Connectivity:
    """Return the connectivity of numbered layers.

    Args:
        graph: The graph.
        layers: Number of the layer, from 1, of each operation of a layer. What precedes all of them is feature 0.
    """
    first, last = min(layers), max(layers)
    reaching: list[int] = []  # for each operation the features that reach it without passing a further layer, as bits
    reads: dict[int, int] = {}
    for i in range(first, last + 1):
        bits = 0
        for source in graph.inputs[i]:
            bits |= reaching[source - first] if source >= first else 1
        layer = layers.get(i)
        if layer is not None and graph.ops[i].word in _LAYERS:
            reads[layer] = reads.get(layer, 0) | bits & ~(1 << layer)
            bits = 1 << layer
        reaching.append(bits)
    return Connectivity(len(reads), sum(bits.bit_count() for bits in reads.values()), _longest_gradient_path(reads))


def _longest_gradient_path(reads: Mapping[int, int]) -> int | None:
    """Return the longest of the shortest paths from a layer back to a feature that it depends on.

    Args:
        reads: For each layer the features that it reads, as bits.
    """
    if sum(bits.bit_count() for layer, bits in reads.items() if bits != (1 << layer) - 1) > MAX_CONNECTIONS:
        return None
    sources = {layer: list(_set_bits(bits)) for layer, bits in reads.items() if bits != (1 << layer) - 1}
    if not sources:
        return min(1, len(reads))  # every layer reads all earlier features
    import numpy as np

    unreachable, longest = np.iinfo(np.int32).max // 2, 1
    last_reader = {source: layer for layer in sorted(sources) for source in sources[layer]}
    distances: dict[int, np.ndarray] = {}  # from a layer back to each feature; deleted after its last reader
    for layer in sorted(reads):
        row = np.full(layer, unreachable if layer in sources else 0, np.int32)
        for source in sources.get(layer, ()):
            if source in distances:
                np.minimum(row[:source], distances[source], out=row[:source])
                if last_reader[source] == layer:
                    del distances[source]
        row += 1
        row[sources.get(layer, ())] = 1
        longest = max(longest, int(row.max(where=row < unreachable, initial=0)))
        if layer in last_reader:
            distances[layer] = row
    return longest


def _set_bits(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
