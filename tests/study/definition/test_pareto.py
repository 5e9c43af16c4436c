"""Fronts, crowding and volumes against their definitions, and against Optuna's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from nas_agg.study.definition.pareto import (
    box_decomposition,
    crowding_distance,
    dominated,
    hypervolume,
    nondominated_sort,
    nondomination_ranks,
)


@st.composite
def points(draw, most: int = 12):
    """Few values, so that ties and equal points come often."""
    objectives = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.integers(0, 5), min_size=objectives, max_size=objectives), max_size=most))
    return np.array(rows, float).reshape(-1, objectives)


@given(points())
def test_fronts_by_the_definition(scores):
    def dominates(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))

    assert list(dominated(scores)) == [any(dominates(other, one) for other in scores) for one in scores]
    found = nondomination_ranks(scores)
    for one, rank in zip(scores, found, strict=True):
        above = [r for other, r in zip(scores, found, strict=True) if dominates(other, one)]
        assert rank == (max(above) + 1 if above else 0)
    if len(scores):
        assert list(found) == list(_fast_non_domination_rank(-scores))


@given(points())
def test_volumes_by_counting_cells(scores):
    reference = np.ones(scores.shape[1])
    cells = np.stack(np.meshgrid(*[np.arange(1, 6) + 0.5] * scores.shape[1]), -1).reshape(-1, scores.shape[1])
    wanted = sum(any((cell < one).all() for one in scores) for cell in cells)
    assert hypervolume(scores, reference) == wanted


@settings(max_examples=30)
@given(st.integers(2, 4), st.integers(1, 25), st.integers(0, 10**6))
def test_volumes_are_optunas(objectives, count, seed):
    scores = np.random.default_rng(seed).normal(size=(count, objectives))
    wanted = compute_hypervolume(np.minimum(-scores, 0.3), np.full(objectives, 0.3))
    assert hypervolume(scores, np.full(objectives, -0.3)) == pytest.approx(wanted)


@given(points(), st.lists(st.integers(0, 6), min_size=4, max_size=4))
def test_boxes_give_what_a_further_point_gains(scores, further):
    objectives = scores.shape[1]
    reference, point = np.ones(objectives), np.array(further[:objectives], float) + 0.5
    lows, highs = box_decomposition(scores, reference)
    gained = np.prod(np.maximum(np.minimum(point, highs) - lows, 0), axis=1).sum()
    whole = hypervolume(np.concatenate([scores, point[None]]), reference)
    assert gained == pytest.approx(whole - hypervolume(scores, reference))
    for low, high in zip(lows, highs, strict=True):
        overlap = (np.minimum(highs, high) > np.maximum(lows, low)).all(1)
        assert overlap.sum() == 1  # itself


def test_crowding_of_a_front():
    scores = np.array([[0.0, 10.0], [1.0, 8.0], [2.0, 4.0], [10.0, 0.0]])
    assert list(crowding_distance(scores)) == pytest.approx([np.inf, 0.2 + 0.6, 0.9 + 0.8, np.inf])
    assert list(crowding_distance(np.ones((3, 2)))) == [0, 0, 0]


@given(points())
def test_the_best_first(scores):
    order = nondominated_sort(scores)
    assert sorted(order) == list(range(len(scores)))
    rank = nondomination_ranks(scores)[order]
    assert (np.diff(rank) >= 0).all()
    if scores.shape[1] == 1:
        assert (np.diff(scores[order, 0]) <= 0).all()
