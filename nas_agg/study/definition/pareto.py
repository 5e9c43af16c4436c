"""Several scores a network, of each of which more is better: who is not beaten, and how much a front gains.

A point beats another where it is nowhere less and somewhere more. Scores are arrays ``(points, objectives)``.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def beats(scores: Array) -> Array:
    """Which point beats which, ``(points, points)``. Equal points do not beat one another."""
    more = np.zeros((len(scores), len(scores)), bool)
    less = more.copy()
    for column in scores.T:
        more |= column[:, None] > column[None]
        less |= column[:, None] < column[None]
    return more & ~less


def beaten(scores: Array) -> Array:
    """Which points some other point beats, ``(points,)``."""
    return np.asarray(beats(scores).any(0))


def ranks(scores: Array) -> Array:
    """The front of each point: 0 where nothing beats it, 1 where only points of front 0 do, and so on."""
    table = beats(scores)
    by, found = table.sum(0), np.full(len(scores), -1)
    while (found < 0).any():
        front = (found < 0) & (by == 0)
        found[front] = found.max() + 1
        by -= table[front].sum(0)
    return found


def crowding(scores: Array) -> Array:
    """How far from one another the neighbours of each point are, summed over the objectives (Deb et al., 2002).

    Args:
        scores: Of the points of one front.

    Returns:
        ``(points,)``: in each objective as a share of the front's range; infinite at the ends.
    """
    found = np.zeros(len(scores))
    for column in scores.T:
        order = np.argsort(column, kind="stable")
        values = column[order] / (np.abs(column).max() or 1.0)  # of any size, differences are finite
        reach = values[-1] - values[0]
        if reach > 0:
            found[order[1:-1]] += (values[2:] - values[:-2]) / reach
            found[order[[0, -1]]] = np.inf
    return found


def best_first(scores: Array) -> Array:
    """The places of the points: front by front, within a front the less crowded first, the earlier of equals."""
    rank = ranks(scores)
    apart = np.zeros(len(scores))
    for front in range(rank.max() + 1 if len(rank) else 0):
        own = rank == front
        apart[own] = crowding(scores[own])
    return np.lexsort((-apart, rank))


def boxes(scores: Array, reference: Array) -> tuple[Array, Array]:
    """What no point beats or equals, cut into boxes that do not overlap.

    Args:
        scores: The points.
        reference: The lower end in each objective, ``(objectives,)``; points below count for nothing.

    Returns:
        The boxes' lower and upper corners, ``(boxes, objectives)`` each; some of the upper ones are infinite.
    """
    scores = scores[(scores > reference).all(1)]
    scores = scores[~beaten(scores)]
    if scores.shape[1] == 1:
        return np.maximum(scores.max(0, initial=-np.inf), reference)[None], np.full((1, 1), np.inf)
    # In layers of the last objective: between two of its levels, the points at the upper one and above count.
    levels = np.unique(scores[:, -1])[::-1]
    lows: list[Array] = []
    highs: list[Array] = []
    for low, high in zip([*levels, reference[-1]], [np.inf, *levels], strict=True):
        inner = boxes(scores[scores[:, -1] >= high, :-1], reference[:-1])
        for corners, inner_corners, end in ((lows, inner[0], low), (highs, inner[1], high)):
            corners.append(np.column_stack([inner_corners, np.full(len(inner_corners), end)]))
    return np.concatenate(lows), np.concatenate(highs)


def gains(scores: Array, front: Array, reference: Array) -> Array:
    """The volume above a reference ``(objectives,)`` that each point would add to that of a front, ``(points,)``."""
    lows, highs = boxes(front, reference)
    sides = np.minimum(scores[:, None], highs[None]) - lows[None]
    return np.asarray(np.maximum(sides, 0.0).prod(2).sum(1))


def hypervolume(scores: Array, reference: Array) -> float:
    """The volume that some point beats, above a reference ``(objectives,)``."""
    scores = scores[(scores > reference).all(1)]
    if not len(scores):
        return 0.0
    if scores.shape[1] == 1:
        return float(scores.max() - reference[0])
    scores = scores[np.argsort(-scores[:, -1], kind="stable")]
    ends = np.append(scores[1:, -1], reference[-1])
    heights = scores[:, -1] - ends
    if scores.shape[1] == 2:
        return float(heights @ (np.maximum.accumulate(scores[:, 0]) - reference[0]))
    return sum(
        float(height) * hypervolume(scores[: count + 1, :-1], reference[:-1])
        for count, height in enumerate(heights)
        if height > 0
    )
