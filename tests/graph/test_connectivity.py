"""Connections and gradient paths: the closed forms of chains, and any wiring against a walk through it."""

from __future__ import annotations

from typing import Any

import networkx
import pytest
from corpus.formulas import graph_of
from hypothesis import given
from hypothesis import strategies as st

import nas_agg
from nas_agg.expansion.costs import Cost
from nas_agg.graph.connectivity import Connectivity, aggregate_connectivity, stage_connectivity

LENGTHS = range(2, 65)


def chain(nodes: int, pattern: Any, operator: str = "concat", **fields: Any) -> Connectivity:
    reads = {"pattern": pattern, "operator": operator}
    unit = ["bn", "relu", {"conv": 3}]
    graph = graph_of({"nodes": nodes, "growth": 4, "reads": reads, "unit": unit, **fields}, "gap", {"linear": 2})
    (wiring,) = stage_connectivity(graph)
    assert aggregate_connectivity(graph) == {"aggregate": wiring}
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
    assert stage_connectivity(graph) == [Connectivity(2, 3, 1)]


def test_a_stage_is_a_run_of_layers_of_one_map_size():
    block = {"nodes": 6, "growth": 4, "stride": "2 if l == 3 or l == 5 else 1", "unit": [{"conv": 3, "stride": "s"}]}
    assert stage_connectivity(graph_of(block, "gap", {"linear": 2})) == 3 * [Connectivity(2, 2, 2)]
    # A layer between two aggregates, a transition, also begins another stage.
    block = {"nodes": 3, "unit": [{"conv": 3}], "growth": 4}
    assert stage_connectivity(graph_of(block, {"conv": 1, "out": 4}, block, "gap", {"linear": 2})) == 2 * [
        Connectivity(3, 3, 3)
    ]
    assert stage_connectivity(graph_of(block, "bn", block, "gap", {"linear": 2})) == [Connectivity(6, 6, 6)]


def test_aggregates_are_given_each_for_itself():
    graph = nas_agg.cost("microdense/30a64").graph
    assert stage_connectivity(graph) == 3 * [Connectivity(10, 55, 1)]
    found = aggregate_connectivity(graph)
    assert len(found) == 31
    assert found["aggregate"] == Connectivity(30, 465, 1)
    assert found["aggregate.7.unit.micro"] == Connectivity(3, 6, 1)


def test_a_chain_of_blocks_has_the_same_figures_in_any_writing():
    unit = ["bn", "relu", {"conv": 3}, "join"]
    six = {"nodes": 6, "growth": 4, "unit": unit, "shortcut": {"operator": "sum"}}
    three = six | {"nodes": 3}
    end = ["gap", {"linear": 2}]
    dense = {"nodes": 6, "growth": 4, "reads": {"pattern": "dense", "operator": "sum"}, "unit": unit[:3]}
    for net in (
        [six],
        [dense],
        [three, three],
        [{"unit": [six]}],
        [{"unit": [three, three]}],
        [{"nodes": 2, "unit": [three]}],
    ):
        assert stage_connectivity(graph_of(*net, *end)) == [Connectivity(6, 21, 1)], net
    concat = six | {"shortcut": {"operator": "concat"}}
    assert stage_connectivity(graph_of(concat, *end)) == [chain(6, "dense")]


def test_dsnet_without_its_words_is_the_resnet_it_is_compared_with():
    resnet = nas_agg.load("residual/resnet50")
    text = nas_agg.load("dsnet/dsnet50").to_dict()
    plain = {"wires": "previous", "norm": "none", "weight": False, "within": "transform"}
    same = nas_agg.load(text | {"let": text["let"] | plain})
    wanted = [Connectivity(n, n * (n + 1) // 2, 1) for n in (3, 4, 6, 3)]
    assert nas_agg.cost(same).hash == nas_agg.cost(resnet).hash
    assert nas_agg.cost(same).stages == nas_agg.cost(resnet).stages == wanted
    assert nas_agg.cost("dsnet/dsnet50").stages == wanted


def test_projections_are_no_layers():
    match = [{"nodes": 2, "unit": [{"conv": 1}]}]
    block = {"nodes": 2, "growth": 8, "unit": [{"conv": 3}, "join"], "shortcut": {"operator": "sum", "match": match}}
    graph = graph_of(block, "gap", {"linear": 2})
    assert stage_connectivity(graph) == [Connectivity(2, 3, 1)]
    assert set(aggregate_connectivity(graph)) == {"aggregate"}


def test_a_step_called_output_is_a_step():
    block = {"nodes": 3, "growth": 8, "unit": ["output"]}
    graph = graph_of({"conv": 3, "out": 8}, block, "gap", {"linear": 2}, let={"output": [{"conv": 3}]})
    assert stage_connectivity(graph) == [Connectivity(3, 3, 3)]


def test_too_many_connections_have_no_figure():
    residual = {"nodes": 2600, "growth": 16, "unit": [{"conv": 1}, "join"], "shortcut": {"match": "skip"}}
    graph = graph_of({"conv": 1, "out": 8}, residual, "gap", {"linear": 2}, image=(1, 1, 1))
    assert stage_connectivity(graph)[0].gradient_path is None
    assert Cost(graph).gradient_path is None


def test_a_unit_that_features_share_is_no_layer():
    each = {"pattern": "dense", "operator": "sum", "each": [{"conv": 3, "out": "c"}]}
    assert chain(5, "dense", "sum", output=each) == chain(5, "dense", "sum")
    graph = graph_of({"nodes": 3, "growth": 4, "reads": each, "unit": [{"conv": 3}]}, "gap", {"linear": 2})
    assert stage_connectivity(graph) == [Connectivity(3, 6, 1)]
