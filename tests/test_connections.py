"""Connections and gradient paths: the closed forms of chains, and any wiring against a walk through it."""

from __future__ import annotations

from typing import Any

import networkx
import pytest
from formulas import graph_of
from hypothesis import given
from hypothesis import strategies as st

import nas_agg
from nas_agg.connections import Wiring, wirings

LENGTHS = range(2, 65)


def chain(nodes: int, pattern: Any, operator: str = "concat", **fields: Any) -> Wiring:
    reads = {"pattern": pattern, "operator": operator}
    unit = ["bn", "relu", {"conv": 3}]
    graph = graph_of({"nodes": nodes, "growth": 4, "reads": reads, "unit": unit, **fields}, "gap", {"linear": 2})
    (wiring,) = wirings(graph).values()
    return wiring


def digits(number: int, base: int) -> int:
    """The sum of a number's digits: the fewest powers of the base that add up to it."""
    return number and number % base + digits(number // base, base)


@pytest.mark.parametrize("nodes", LENGTHS)
def test_plain_and_dense_chains(nodes):
    assert chain(nodes, "previous") == (nodes, nodes, nodes)
    assert chain(nodes, "dense") == (nodes, nodes * (nodes + 1) // 2, 1)


@pytest.mark.parametrize("nodes", LENGTHS)
def test_windowed_chains(nodes):
    for window in (1, 2, 3, 7):
        connections = sum(min(layer, window) for layer in range(1, nodes + 1))
        assert chain(nodes, {"window": window}) == (nodes, connections, -(-nodes // window))


@pytest.mark.parametrize("base", [2, 3, 4])
def test_exponential_chains(base):
    for nodes in LENGTHS:
        connections = sum(sum(base**k <= layer for k in range(8)) for layer in range(1, nodes + 1))
        path = max(digits(offset, base) for offset in range(1, nodes + 1))
        found = chain(nodes, {"exponential": base})
        assert found == (nodes, connections, path)
        # The slides' bound, (c - 1) log_c N, where N offsets are N + 1 numbers of as many digits.
        assert path <= (base - 1) * sum(base**k <= nodes for k in range(8))


def test_offsets_of_the_slides():
    assert chain(23, {"exponential": 2}).gradient_path == 4
    assert chain(14, {"exponential": 2}).gradient_path == 3


@pytest.mark.parametrize("nodes", [2, 5, 12])
def test_a_residual_chain_is_a_dense_sum(nodes):
    residual = {"unit": [{"conv": 3}, "bn", "join", "relu"], "shortcut": {"operator": "sum"}}
    assert chain(nodes, "previous", **residual) == chain(nodes, "dense", "sum")


@given(st.integers(2, 9).flatmap(lambda n: st.tuples(*[st.sets(st.integers(0, l), min_size=1) for l in range(n)])))
def test_any_wiring_against_a_walk(rows):
    """Rows of what each node reads, by chance; what leaves is all of them, so that every node lives."""
    walk = networkx.DiGraph((l, source) for l, row in enumerate(rows, start=1) for source in row)
    lengths = [steps for _, ways in networkx.shortest_path_length(walk) for steps in ways.values()]
    output = {"pattern": "nodes", "operator": "concat"}
    found = chain(len(rows), {"edges": [sorted(row) for row in rows]}, output=output)
    assert found == (len(rows), walk.number_of_edges(), max(lengths))


def test_nodes_without_layers_are_no_layers():
    units = {"units": [[{"conv": 3}], ["relu"], [{"conv": 3}]], "reads": {"pattern": "dense", "operator": "concat"}}
    graph = graph_of({"growth": 4, **units}, "gap", {"linear": 2})
    # The second layer reads the input and the first one, both also through the activation between them.
    assert wirings(graph) == {"aggregate": Wiring(2, 3, 1)}


def test_aggregates_inside_others_are_given_on_wish():
    graph = nas_agg.cost("microdense/30a64").graph
    assert wirings(graph) == {"aggregate": Wiring(30, 465, 1)}
    inner = wirings(graph, inner=True)
    assert len(inner) == 31
    assert inner["aggregate.7.unit.micro"] == Wiring(3, 6, 1)


def test_equal_networks_have_equal_figures():
    dense = {"nodes": 6, "growth": 4, "unit": ["bn", "relu", {"conv": 3}, "join"]}
    joined = graph_of({**dense, "shortcut": {"operator": "concat"}}, "gap", {"linear": 2})
    assert wirings(joined) == {"aggregate": chain(6, "dense")}
