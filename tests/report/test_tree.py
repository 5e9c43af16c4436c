"""Trees of networks."""

from __future__ import annotations

import nas_agg
from nas_agg.report.tree import network_tree, tree_lines


def test_a_tree_says_wiring_shapes_and_costs():
    genotype = nas_agg.load(
        {
            "input": [3, 8, 8],
            "classes": 4,
            "let": {
                "block": {
                    "nodes": 2,
                    "growth": 6,
                    "reads": {"pattern": {"window": 2}, "operator": "concat"},
                    "unit": ["bn", {"conv": 3}],
                }
            },
            "net": [{"conv": 3, "out": 4}, "block", "gap", {"linear": "classes"}],
        }
    )
    tree = network_tree(genotype)
    lines = list(tree_lines(tree, 4))
    block = tree.parts["block"]
    assert "window:2 concat" in block.about
    assert block.wiring == (2, 3, 1)
    assert any("3 connections, gradient path 1" in line for line in lines)
    assert block.as_dict()["connections"] == 3
    assert block.shape == (12, 8, 8)
    assert block.params == (2 * 4 + 9 * 4 * 6) + (2 * 10 + 9 * 10 * 6)
    assert tree.params == nas_agg.cost(genotype).params
    assert tree.macs == nas_agg.cost(genotype).macs
    assert any("3x3 conv 10 -> 6" in line for line in lines)
    assert any("concat 6 + 6" in line for line in lines)
    assert len(list(tree_lines(tree, 1))) == 1 + len(tree.parts)


def test_a_tree_counts_shared_weights_once():
    output = {"pattern": "nodes", "operator": "concat", "each": [{"conv": 1, "out": 4}]}
    pools = {"units": [["gap"], ["gmp"]], "reads": {"pattern": "input"}, "output": output}
    genotype = nas_agg.load({"input": [3, 8, 8], "classes": 4, "net": [pools, {"linear": "classes"}]})
    tree, cost = network_tree(genotype), nas_agg.cost(genotype)
    assert tree.parts["aggregate"].params == 3 * 4 and tree.params == cost.params == 12 + 8 * 4 + 4
    assert tree.parts["aggregate"].macs == 2 * 3 * 4 and tree.macs == cost.macs
