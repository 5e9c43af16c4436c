"""Parts of a network that recipes treat apart: the ends of branches, and the weights of gathers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Act, Conv, Dropout, Linear, MaxPool, Norm, Pad, Scale, Shuffle

_NODE = re.compile(r".*\.\d+\.unit\.")  # up to the innermost node's unit
_KEEPS_ZERO = ("add", "mean", "cat", "gap", "gmp", "times")  # and those of the classes below: zeros in, zeros out


def branch_ends(graph: Graph) -> list[str]:
    """The last layers with weights of the branches that shortcuts join by a sum: with these at zero a branch is zero.

    A branch is what a node computes before its `join`; of parallel parts each has an end. Where a shortcut is dealt out
    to the nodes of an inner aggregate, each of these has a branch. A branch's end may be a convolution, a norm with a
    scale or a `scale`; where a sigmoid or a slice comes after it, or there is none, nothing is found.

    Args:
        graph: Of the network.

    Returns:
        Paths of the layers.
    """
    found: dict[str, None] = {}
    for i, op in enumerate(graph.ops):
        if op.word != "add":
            continue
        path = graph.paths[i]
        *around, last = path.split(".")
        if last == "shortcut":
            within = ".".join([*around, "unit", ""])
        elif last == "join" and (node := _NODE.match(path)):
            within = node.group()
        else:
            continue  # a sum that is read or put out
        for end in _ends(graph, graph.inputs[i][-1], within):
            found[graph.paths[end]] = None
    return list(found)


def _ends(graph: Graph, tensor: int, within: str) -> Iterator[int]:
    """The last layers with weights ahead of a tensor that lie within a unit."""
    todo = [tensor]
    while todo:
        at = todo.pop()
        op = graph.ops[at]
        if not graph.paths[at].startswith(within):
            continue
        if isinstance(op, (Conv, Linear, Scale)) or (isinstance(op, Norm) and op.affine):
            yield at
        elif isinstance(op, (Norm, MaxPool, Dropout, Pad, Shuffle)) or op.word in _KEEPS_ZERO:
            todo.extend(graph.inputs[at])
        elif (isinstance(op, Act) and "sigmoid" not in op.function) or op.word == "mul":
            todo.append(graph.inputs[at][0])  # of a gated tensor, not of the gate
        elif op.word == "product":  # of a tensor with a gate that is smaller
            whole = [source for source in graph.inputs[at] if graph.shapes[source] == graph.shapes[at]]
            todo.extend(whole if len(whole) == 1 else ())


def aggregation_weights(graph: Graph) -> list[str]:
    """The numbers by which gathers multiply their sources (``weight: true``), not those of `scale` layers.

    A gather's weight is named by the number of its source, a layer by its word.

    Args:
        graph: Of the network.

    Returns:
        Paths, each the name of a parameter.
    """
    scales = [path for op, path in zip(graph.ops, graph.paths, strict=True) if isinstance(op, Scale)]
    return [path for path in dict.fromkeys(scales) if path.rpartition(".")[2].isdigit()]
