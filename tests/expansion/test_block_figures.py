"""Counting by nested blocks: every figure equals that of the graph, for the whole language."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from corpus import NETWORKS
from corpus.random_genotypes import random_genotype

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion import block_expansion
from nas_agg.expansion.block_expansion import count_network
from nas_agg.expansion.block_figures import COUNTED, BlockCost, count_operations
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.paths import path_statistics
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolver import Resolver


def counted(genotype: Genotype) -> BlockCost:
    return count_network(Resolver(genotype).network(), genotype.input, genotype.classes)


def check(genotype: Genotype) -> None:
    blocks, graph = counted(genotype), expand(genotype)
    cost = Cost(graph)
    for name in ("params", "macs", "depth", "activation_bytes"):
        assert getattr(blocks, name) == getattr(cost, name), name
    operations = count_operations(graph.ops, graph.inputs, graph.shapes, graph.shapes[0][1])
    assert dict(zip(COUNTED, blocks.operations, strict=True)) == dict(zip(COUNTED, operations, strict=True))
    np.testing.assert_allclose(blocks.paths, path_statistics(graph), rtol=1e-9, atol=1e-9)


SEEDS = [range(100), *(pytest.param(range(n, n + 100), marks=pytest.mark.slow) for n in range(100, 10_000, 100))]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_figures_of_random_genotypes_are_those_of_the_graph(seeds: range) -> None:
    for seed in seeds:
        genotype = Genotype.from_dict(random_genotype(random.Random(seed)))
        check(genotype)
        check(genotype)  # from what was remembered


def test_figures_of_the_corpus_are_those_of_the_graph() -> None:
    for network in NETWORKS:
        check(Genotype.from_dict(network["genotype"]))


def genotype(*net: Any, **fields: Any) -> Genotype:
    return Genotype.from_dict({"input": [4, 8, 8], "classes": 3, **fields, "net": [*net, "gap", {"linear": 3}]})


PARTS: dict[str, tuple[Any, ...]] = {
    # The first half of a concat is read; what computes the other half is not part of the network.
    "a part of a concat": (
        {"nodes": 2, "growth": 6, "unit": [{"conv": 3}], "output": {"pattern": "nodes", "operator": "concat"}},
        {"slice": 6},
    ),
    "a node that nothing reads": (
        {"nodes": 3, "growth": 4, "unit": [{"conv": 1}], "reads": {"pattern": {"edges": [[0], [0], [1], [3]]}}},
    ),
    "a norm that two gathers share": (
        {"nodes": 3, "unit": [{"conv": 3, "out": 4}, "join"], "shortcut": {"pattern": "dense", "operator": "weighted"},
         "output": {"pattern": "dense", "operator": "weighted"}},
    ),
    "a norm of what enters, read outside as well": (
        {"nodes": 2, "unit": [{"nodes": 2, "reads": {"pattern": "dense", "operator": "weighted"},
                               "unit": [{"conv": 1, "out": 4}]}],
         "reads": {"pattern": "dense", "operator": "weighted"}},
    ),
    "a norm that a later gather finds through the end of a part": (
        {"nodes": 2, "output": {"pattern": {"edges": [[1, 2]]}, "norm": "in", "raw": True},
         "unit": [{"conv": 3, "out": 4},
                  {"nodes": 1, "unit": ["join"], "shortcut": {}, "output": {"pattern": "input", "norm": "in"}}]},
    ),
    "weights shared by sources": (
        {"nodes": 2, "unit": [{"conv": 1, "out": 4}],
         "output": {"pattern": "dense", "each": [{"conv": 3, "out": 5}, "bn"]}},
    ),
    "pre-activations": (
        {"nodes": 3, "unit": [{"conv": 3, "out": 4}, "bn", "relu", "join"],
         "shortcut": {"pattern": "dense", "raw": True}},
    ),
    "a shortcut among inner nodes": (
        {"nodes": 2, "unit": [{"nodes": 2, "growth": 2, "unit": [{"conv": 3}, "join", "bn"],
                               "output": {"pattern": "nodes", "operator": "concat"}}],
         "shortcut": {"pattern": "dense"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_later_operations_look_into(part: str) -> None:
    check(genotype(*PARTS[part]))


def test_invalid_networks_are_rejected() -> None:
    for net in ([{"conv": 3, "out": 6, "groups": 3}], [{"conv": 11, "out": 4, "padding": 0}], [{"slice": 9}]):
        with pytest.raises(GenotypeError):
            counted(genotype(*net))
    with pytest.raises(GenotypeError, match="must end in 3x1x1"):
        counted(Genotype.from_dict({"input": [4, 8, 8], "classes": 3, "net": ["relu"]}))


def test_equal_parts_are_counted_once() -> None:
    block_expansion.clear_caches()
    unit = [{"conv": 3, "out": 4}, "bn", "relu"]
    few, many = ({"nodes": n, "unit": unit} for n in (2, 60))
    counted(genotype(few))
    remembered = len(block_expansion._segments)
    counted(genotype(many))
    assert len(block_expansion._segments) == remembered + 2  # the aggregate of 60 nodes, and one of the nodes
