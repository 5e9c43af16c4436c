"""Costs of points without their graphs: those of the graph in every space, and shared between points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.point_costs import PointCounter
from nas_agg.search_space.space import Space, list_spaces, open_space


def check(space: Space, counter: PointCounter, rows: np.ndarray) -> None:
    encoding = Encoding(space)
    for row in rows:
        values = encoding.decode(row)
        try:
            expected = Cost(expand(space.genotype(values, counter.input, counter.classes)))
        except GenotypeError:
            with pytest.raises(GenotypeError):
                counter.cost(row.tolist())
            continue
        cost = counter.cost(row.tolist())
        assert (cost.params, cost.macs, cost.depth) == (expected.params, expected.macs, expected.depth), values
        assert cost.activation_bytes == expected.activation_bytes, values


@pytest.mark.parametrize("name", list_spaces())
@pytest.mark.parametrize("count", [3, pytest.param(250, marks=pytest.mark.slow)])
def test_costs_of_points_and_mutants_are_those_of_the_graph(name: str, count: int) -> None:
    space, rng = open_space(name), np.random.default_rng(count)
    side = space.min_input or 8
    encoding, counter = Encoding(space), PointCounter(space, (3, side, side), 7)
    rows = encoding.sample(count, rng)
    check(space, counter, np.concatenate([rows, encoding.mutate(rows, 1, rng)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_spaces())
def test_costs_of_named_points_are_those_of_the_graph(name: str) -> None:
    space = open_space(name)
    for point in space.points.values():
        counter = PointCounter(space, point.input, point.classes)
        check(space, counter, Encoding(space).encode(space.validate(point.values))[None])


SPACES: dict[str, dict[str, Any]] = {
    # A search variable that an aggregate binds again, by its own `let`.
    "bound again": {
        "open": {"k": [2, 4], "m": [1, 2]},
        "net": [{"nodes": "m", "growth": "k", "let": {"k": 6}, "unit": [{"conv": 1}]}, "gap", {"linear": "classes"}],
    },
    # Names, texts and numbers, one of them out of bounds where it is not used.
    "all kinds": {
        "open": {
            "body": ["a", "b", []],
            "rate": [0.25, 1.5],
            "kernel": [1, 0, 3],
            "count": [0, 2],
            "joined": ["sum", {"mixed": 2}],
        },
        "let": {"a": [{"conv": "kernel", "out": "floor(4*rate)"}], "b": ["bn", "relu"]},
        "net": [
            {"conv": 1, "out": 6},
            {"nodes": "count", "unit": ["body", "join"], "shortcut": {"operator": "joined", "match": [{"conv": 1}]}},
            "gap",
            {"linear": "classes"},
        ],
    },
}


@pytest.mark.parametrize("name", SPACES)
def test_every_point_of_a_space_of_ones_own(name: str) -> None:
    text = {"input": [4, 8, 8], "classes": 3, **SPACES[name]}
    space = Space(text, name)
    encoding = Encoding(space)
    rows = np.stack(np.meshgrid(*map(np.arange, encoding.sizes), indexing="ij"), -1).reshape(-1, len(encoding.sizes))
    check(space, PointCounter(space), rows)
    check(space, PointCounter(space), rows[::-1])


def test_values_are_counted_as_rows_are() -> None:
    space = open_space("densenet")
    values = space.points["40-k12"].values
    cost = PointCounter(space).cost_of(dict(values))
    assert cost.params == Cost(expand(space.point("40-k12"))).params
