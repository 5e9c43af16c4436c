"""Pareto dominance, crowding distance and hypervolume of score vectors.

All scores are maximized. A point dominates another if it is no worse in any objective and better in at least one.
Scores are arrays ``(points, objectives)``.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def dominates(scores: Array) -> Array:
    """Dominance of each point over each other, ``(points, points)``; equal points do not dominate each other."""
    better = np.zeros((len(scores), len(scores)), bool)
    worse = better.copy()
    for column in scores.T:
        better |= column[:, None] > column[None]
        worse |= column[:, None] < column[None]
    return better & ~worse


def dominated(scores: Array) -> Array:
    """Mask of the points that some other point dominates, ``(points,)``."""
    if scores.shape[1] == 2 and len(scores):
        return _dominated_in_two(scores)
    return np.asarray(dominates(scores).any(0))


def _dominated_in_two(scores: Array) -> Array:
    """`dominated` for two objectives, by sorting."""
    order = np.lexsort((-scores[:, 1], -scores[:, 0]))
    first, second = scores[order].T
    starts = np.searchsorted(-first, -first, side="left")  # the first point of each group of equal first scores
    highest_before = np.concatenate([[-np.inf], np.maximum.accumulate(second)])
    has_greater = starts > 0
    mask = np.zeros(len(scores), bool)
    mask[order] = (second < second[starts]) | (has_greater & (second <= highest_before[starts]))
    return mask


def nondomination_ranks(scores: Array) -> Array:
    """Front of each point: 0 for nondominated points, 1 for those only front 0 dominates, and so on."""
    dominance = dominates(scores)
    dominators, ranks = dominance.sum(0), np.full(len(scores), -1)
    while (ranks < 0).any():
        front = (ranks < 0) & (dominators == 0)
        ranks[front] = ranks.max() + 1
        dominators -= dominance[front].sum(0)
    return ranks


def crowding_distance(scores: Array) -> Array:
    """Distance between the neighbors of each point, summed over the objectives (NSGA-II, Deb et al., 2002).

    Args:
        scores: Scores of the points of one front.

    Returns:
        ``(points,)``: in each objective as a fraction of the front's range; infinite at its ends.
    """
    distances = np.zeros(len(scores))
    for column in scores.T:
        order = np.argsort(column, kind="stable")
        values = column[order] / (np.abs(column).max() or 1.0)  # differences stay finite at any scale
        extent = values[-1] - values[0]
        if extent > 0:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / extent
            distances[order[[0, -1]]] = np.inf
    return distances


def nondominated_sort(scores: Array) -> Array:
    """Indices of the points, front by front, within a front by decreasing crowding distance; ties keep their order."""
    if scores.shape[1] == 1:
        return np.argsort(-scores[:, 0], kind="stable")
    ranks = nondomination_ranks(scores)
    distances = np.zeros(len(scores))
    for rank in range(ranks.max() + 1 if len(ranks) else 0):
        front = ranks == rank
        distances[front] = crowding_distance(scores[front])
    return np.lexsort((-distances, ranks))


def box_decomposition(scores: Array, reference: Array) -> tuple[Array, Array]:
    """Partition the region that no point dominates or equals into disjoint boxes.

    Args:
        scores: The points.
        reference: Lower bound of each objective, ``(objectives,)``; points not above it are ignored.

    Returns:
        Lower and upper corners of the boxes, ``(boxes, objectives)`` each; some upper corners are infinite.
    """
    scores = scores[(scores > reference).all(1)]
    scores = scores[~dominated(scores)]
    if scores.shape[1] == 1:
        return np.maximum(scores.max(0, initial=-np.inf), reference)[None], np.full((1, 1), np.inf)
    # Slice along the last objective: between two of its levels, the points at the upper level and above count.
    levels = np.unique(scores[:, -1])[::-1]
    lows: list[Array] = []
    highs: list[Array] = []
    for low, high in zip([*levels, reference[-1]], [np.inf, *levels], strict=True):
        inner_lows, inner_highs = box_decomposition(scores[scores[:, -1] >= high, :-1], reference[:-1])
        lows.append(np.column_stack([inner_lows, np.full(len(inner_lows), low)]))
        highs.append(np.column_stack([inner_highs, np.full(len(inner_highs), high)]))
    return np.concatenate(lows), np.concatenate(highs)


def hypervolume_improvement(scores: Array, front: Array, reference: Array) -> Array:
    """Hypervolume that each point alone would add to a front, ``(points,)``, above a reference ``(objectives,)``."""
    lows, highs = box_decomposition(front, reference)
    sides = np.minimum(scores[:, None], highs[None]) - lows[None]
    return np.asarray(np.maximum(sides, 0.0).prod(2).sum(1))


def hypervolume(scores: Array, reference: Array) -> float:
    """Volume that the points dominate, above a reference ``(objectives,)``."""
    scores = scores[(scores > reference).all(1)]
    if not len(scores):
        return 0.0
    if scores.shape[1] == 1:
        return float(scores.max() - reference[0])
    scores = scores[np.argsort(-scores[:, -1], kind="stable")]
    levels = np.append(scores[1:, -1], reference[-1])
    heights = scores[:, -1] - levels
    if scores.shape[1] == 2:
        return float(heights @ (np.maximum.accumulate(scores[:, 0]) - reference[0]))
    return sum(
        float(height) * hypervolume(scores[: count + 1, :-1], reference[:-1])
        for count, height in enumerate(heights)
        if height > 0
    )
