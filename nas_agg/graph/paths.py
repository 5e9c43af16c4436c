"""Statistics of the paths from the image to the logits of a network.

Of a path, `WEIGHTS` are sums over its operations: how many layers it has, how many convolutions of each kind, etc. Of
all paths, the logarithm of their number and the mean, the least and the greatest of each sum follow by dynamic
programming, in one pass over the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2

import numpy as np

from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Conv, Linear, Primitive, Shape

Array = np.ndarray

LEVELS = 4  # of map sizes: that of the image, half of it, a quarter, and all smaller ones

#: What is summed along a path. Layers are convolutions and linear layers; widths and groups are those of convolutions.
WEIGHTS = (
    "layers",
    "pointwise convolutions",
    "larger convolutions",
    "pools",
    "norms",
    "activations",
    "log2 of widths",
    "log2 of groups",
    *[f"layers on map level {level}" for level in range(LEVELS)],
)
_KINDS = {"maxpool": 3, "avgpool": 3, "norm": 4, "act": 5}
COUNT = len(WEIGHTS)

#: Statistics of a set of paths: the logarithm of their number, then mean, least and greatest of each sum.
STATISTICS = ("log paths", *[f"{kind} {weight}" for kind in ("mean", "least", "greatest") for weight in WEIGHTS])
EMPTY_PATH = np.zeros(len(STATISTICS))


def map_level(shape: Shape, height: int) -> int:
    """Return the level of a map: how often the image's height was halved, 3 for three times or more."""
    return min(LEVELS - 1, max(0, round(log2(height / shape[1]))))


@lru_cache(maxsize=100_000)
def operation_statistics(op: Primitive, level: int) -> Array:
    """Return the statistics of a path of one operation.

    Args:
        op: The operation.
        level: The level of its output's map.
    """
    weights = np.zeros(COUNT)
    if isinstance(op, (Conv, Linear)):
        weights[0] = weights[8 + level] = 1
    if isinstance(op, Conv):
        weights[1 if op.kernel == 1 else 2] = 1
        weights[6], weights[7] = log2(op.out), log2(op.groups)
    elif op.word in _KINDS:
        weights[_KINDS[op.word]] = 1
    return np.concatenate([[0.0], weights, weights, weights])


def merge(paths: Sequence[Array]) -> Array:
    """Return the statistics of the union of sets of paths."""
    if len(paths) == 1:
        return paths[0]
    rows = np.stack(paths)
    logs = rows[:, 0]
    greatest = logs.max()
    shares = np.exp(logs - greatest)
    total = shares.sum()
    merged = np.empty(rows.shape[1])
    merged[0] = greatest + np.log(total)
    merged[1 : 1 + COUNT] = shares @ rows[:, 1 : 1 + COUNT] / total
    merged[1 + COUNT : 1 + 2 * COUNT] = rows[:, 1 + COUNT : 1 + 2 * COUNT].min(0)
    merged[1 + 2 * COUNT :] = rows[:, 1 + 2 * COUNT :].max(0)
    return merged


def path_statistics(graph: Graph) -> Array:
    """Return the statistics of all paths from the image to the logits, as named by `STATISTICS`."""
    height = graph.shapes[0][1]
    paths: list[Array] = [EMPTY_PATH]
    for op, inputs, shape in zip(graph.ops[1:], graph.inputs[1:], graph.shapes[1:], strict=True):
        paths.append(merge([paths[i] for i in inputs]) + operation_statistics(op, map_level(shape, height)))
    return paths[graph.output]
