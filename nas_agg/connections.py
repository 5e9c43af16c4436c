"""How an aggregate's layers are connected: read off the graph, so that equal networks have equal figures.

A *layer* is what a node's unit computes with weights or windows (convolutions, linear layers, pools); feature 0, what
enters the aggregate, counts beside the layers. One layer *reads* another directly where no further layer stands
between: through a concat, a sum, a norm or an activation. A residual stage is so what Zhu et al. (2018, "Sparsely
Aggregated Convolutional Networks") see in it: each layer reads a sum of all layers before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from nas_agg.graph import Graph

_NODE = re.compile(r"\.(\d+)\.unit(?=\.|$)")
_LAYERS = ("conv", "linear", "maxpool", "avgpool")


class Wiring(NamedTuple):
    """What the layers of one aggregate make of their connections.

    Attributes:
        layers: The nodes that hold a layer.
        connections: Pairs of a layer and a feature that it reads directly.
        gradient_path: The most steps that a gradient takes from a layer back to an earlier feature, each time on the
            shortest way: 1 where every layer reads every earlier feature.
    """

    layers: int
    connections: int
    gradient_path: int


def wirings(graph: Graph, inner: bool = False) -> dict[str, Wiring]:
    """The wiring of the aggregates of a network, by their paths.

    Args:
        graph: The network.
        inner: Whether aggregates inside the nodes of others are given too.
    """
    spans: dict[str, tuple[int, int]] = {}
    for i, path in enumerate(graph.paths):
        for number, node in enumerate(_NODE.finditer(path)):
            if number and not inner:
                break
            place = path[: node.start()]
            spans[place] = (spans.get(place, (i, i))[0], i)
    return {place: _wiring(graph, place, *span) for place, span in spans.items()}


def _wiring(graph: Graph, place: str, first: int, last: int) -> Wiring:
    """The wiring of one aggregate, whose operations lie from the first to the last; what lies before is feature 0."""
    while graph.paths[first - 1].startswith(f"{place}."):
        first -= 1  # what the first node reads is gathered before its unit
    seen: list[int] = []  # for each operation the features that reach it without passing a further layer, as bits
    reads: dict[int, int] = {}
    for i in range(first, last + 1):
        bits = 0
        for source in graph.inputs[i]:
            bits |= seen[source - first] if source >= first else 1
        node = _NODE.match(graph.paths[i], len(place))
        if node and graph.ops[i].word in _LAYERS:
            layer = int(node[1]) + 1
            reads[layer] = reads.get(layer, 0) | bits & ~(1 << layer)
            bits = 1 << layer
        seen.append(bits)
    return Wiring(len(reads), sum(bits.bit_count() for bits in reads.values()), _longest(tuple(reads.items())))


@lru_cache(maxsize=1024)
def _longest(connections: tuple[tuple[int, int], ...]) -> int:
    """The longest of the shortest ways from a layer back to a feature that it depends on."""
    reads = dict(connections)
    all_: dict[int, int] = {}
    for layer, bits in sorted(reads.items()):
        all_[layer] = bits
        for source in _places(bits):
            all_[layer] |= all_.get(source, 0)
    reached, steps = dict(reads), min(1, len(reads))
    sources: dict[int, list[int]] = {}
    while open_ := [layer for layer in sorted(reached, reverse=True) if reached[layer] != all_[layer]]:
        for layer in open_:  # the latest first: those before it are still as they were a step ago
            for source in sources.setdefault(layer, list(_places(reads[layer]))):
                reached[layer] |= reached.get(source, 0)
        steps += 1
    return steps


def _places(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
