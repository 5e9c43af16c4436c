"""Layers that recipes treat separately: the ends of residual branches, and the weights of gathers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Act, Conv, Dropout, Linear, MaxPool, Norm, Pad, Scale, Shuffle

_NODE = re.compile(r".*\.\d+\.unit\.")  # up to the innermost node's unit
_KEEPS_ZERO = (
    "add",
    "mean",
    "cat",
    "gap",
    "gmp",
    "times",
)  # operations, beside the classes in `_ends`, whose output is zero if their input is


def branch_ends(graph: Graph) -> list[str]:
    """The last weighted layers of residual branches: initialising them at zero makes a branch zero.

    A branch is what a node computes before its `join`, where a shortcut is added; each of several parallel parts has an
    end. Where a shortcut is split among the nodes of an inner aggregate, each of these nodes has a branch. The end of a
    branch is a convolution, a linear layer, an affine norm or a `scale`; a branch without one, or in which a sigmoid or
    a slice follows it, is left out.

    Args:
        graph: The network's.

    Returns:
        The paths of these layers.
    """
    paths: dict[str, None] = {}
    for i, within in residual_sums(graph):
        for end in _ends(graph, graph.inputs[i][-1], within):
            paths[graph.paths[end]] = None
    return list(paths)


def residual_sums(graph: Graph) -> Iterator[tuple[int, str]]:
    """The sums of residual branches and shortcuts.

    Args:
        graph: The network's.

    Yields:
        The operation, whose last input is the branch, and the beginning of the paths of the branch's layers.
    """
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
            continue  # the sum of a node's inputs or of an aggregate's output
        yield i, within


def _ends(graph: Graph, tensor: int, within: str) -> Iterator[int]:
    """The last weighted layers ahead of a tensor within a unit."""
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
            todo.append(graph.inputs[at][0])  # the gated tensor, not the gate
        elif op.word == "product":  # a tensor times a smaller gate
            whole = [source for source in graph.inputs[at] if graph.shapes[source] == graph.shapes[at]]
            todo.extend(whole if len(whole) == 1 else ())


def aggregation_weights(graph: Graph) -> list[str]:
    """The weights by which gathers multiply their sources (``weight: true``), without those of `scale` layers.

    The last part of a gather weight's path is the number of its source; that of a layer is a word.

    Args:
        graph: The network's.

    Returns:
        Names of parameters.
    """
    scales = [path for op, path in zip(graph.ops, graph.paths, strict=True) if isinstance(op, Scale)]
    return [path for path in dict.fromkeys(scales) if path.rpartition(".")[2].isdigit()]
