"""Who reads whom: connections and gradient paths, read off the graph.

A *layer* is a node of an aggregate that holds a convolution, a linear layer or a pool of its own; a node that holds
nothing but aggregates is looked into. One layer *reads* another where no further layer stands between: through a
concat, a sum, a norm, an activation or a projection. A residual stage is so what Zhu et al. (2018, "Sparsely Aggregated
Convolutional Networks") see in it: each layer reads a sum of all layers before it. A *stage* is a run of layers of one
map size; what enters it is one more feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nas_agg.graph.graph import Graph

_NODE = re.compile(r"\.(\d+)\.unit(?=\.|$)")
#: Where a gather stands in a path. Its projections and gates are no layers. A step may be called `output` too.
GATHER = re.compile(r"\.\d+\.(reads|shortcut)(?=\.|$)|\.output(?=\.(each|match|gates|norms|weights)(\.|$)|$)")
MOST = 3_000_000  # connections that gradient paths are worked out for
_LAYERS = ("conv", "linear", "maxpool", "avgpool")


class Wiring(NamedTuple):
    """What layers make of their connections.

    Attributes:
        layers: How many there are.
        connections: Pairs of a layer and a feature that it reads directly.
        gradient_path: The most steps that a gradient takes from a layer back to an earlier feature, each time on the
            shortest way: 1 where every layer reads every earlier feature. None where there are too many connections
            to tell.
    """

    layers: int
    connections: int
    gradient_path: int | None


def stages(graph: Graph) -> list[Wiring]:
    """The wiring of each stage of a network, in their order."""
    nodes = [_nodes(path) for path in graph.paths]
    own = {nodes[i][-1] for i in _layer_ops(graph) if nodes[i] and not GATHER.search(graph.paths[i])}
    layers: dict[str, list[int]] = {}  # the operations of each layer
    after: set[str] = set()  # the layers that a layer of no aggregate stands ahead of: a stem, a transition
    apart = False
    for i, places in enumerate(nodes):
        layer = next((place for place in places if place in own), None)
        if layer is None:
            apart |= not places and graph.ops[i].word in _LAYERS and not GATHER.search(graph.paths[i])
            continue
        if layer not in layers and apart:
            after.add(layer)
            apart = False
        layers.setdefault(layer, []).append(i)
    runs: list[list[str]] = []
    size: tuple[int, ...] = ()
    for layer, ops in layers.items():
        if layer in after or graph.shapes[ops[-1]][1:] != size or not runs:
            runs.append([])
        size = graph.shapes[ops[-1]][1:]
        runs[-1].append(layer)
    return [_wiring(graph, {i: n for n, layer in enumerate(run, start=1) for i in layers[layer]}) for run in runs]


def aggregates(graph: Graph) -> dict[str, Wiring]:
    """The wiring of the nodes of each aggregate that has layers, by its path."""
    found: dict[str, dict[int, int]] = {}
    for i in _layer_ops(graph):
        path = graph.paths[i]
        for node in _NODE.finditer(path):
            found.setdefault(path[: node.start()], {})[i] = int(node[1]) + 1
    return {place: _wiring(graph, layers) for place, layers in found.items() if not GATHER.search(place)}


def _layer_ops(graph: Graph) -> Iterator[int]:
    return (i for i, op in enumerate(graph.ops) if op.word in _LAYERS)


def _nodes(path: str) -> list[str]:
    """The nodes that an operation stands in, outermost first; what a node gathers stands in the nodes around it."""
    gather = GATHER.search(path)
    ends = len(path) if gather is None else gather.start()
    return [path[: node.end()] for node in _NODE.finditer(path, 0, ends)]


def _wiring(graph: Graph, layers: Mapping[int, int]) -> Wiring:
    """The wiring of numbered layers, given by their operations; what lies before the first of these is feature 0."""
    first, last = min(layers), max(layers)
    seen: list[int] = []  # for each operation the features that reach it without passing a further layer, as bits
    reads: dict[int, int] = {}
    for i in range(first, last + 1):
        bits = 0
        for source in graph.inputs[i]:
            bits |= seen[source - first] if source >= first else 1
        layer = layers.get(i)
        if layer is not None and graph.ops[i].word in _LAYERS:
            reads[layer] = reads.get(layer, 0) | bits & ~(1 << layer)
            bits = 1 << layer
        seen.append(bits)
    return Wiring(len(reads), sum(bits.bit_count() for bits in reads.values()), _longest(reads))


def _longest(reads: Mapping[int, int]) -> int | None:
    """The longest of the shortest ways from a layer back to a feature that it depends on."""
    if sum(bits.bit_count() for layer, bits in reads.items() if bits != (1 << layer) - 1) > MOST:
        return None
    sources = {layer: list(_places(bits)) for layer, bits in reads.items() if bits != (1 << layer) - 1}
    if not sources:
        return min(1, len(reads))  # each reads all that is before it
    import numpy as np

    far, longest = np.iinfo(np.int32).max // 2, 1
    last = {source: layer for layer in sorted(sources) for source in sources[layer]}
    steps: dict[int, np.ndarray] = {}  # from a layer back to each feature; kept until its last reader
    for layer in sorted(reads):
        row = np.full(layer, far if layer in sources else 0, np.int32)
        for source in sources.get(layer, ()):
            if source in steps:
                np.minimum(row[:source], steps[source], out=row[:source])
                if last[source] == layer:
                    del steps[source]
        row += 1
        row[sources.get(layer, ())] = 1
        longest = max(longest, int(row.max(where=row < far, initial=0)))
        if layer in last:
            steps[layer] = row
    return longest


def _places(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
