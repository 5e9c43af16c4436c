"""Transfer of weights between equal networks that are written differently."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from corpus.random_genotypes import random_genotype
from corpus.rewrites import equivalent_genotype, equivalent_graph, near_duplicate, relabeled, with_permuted_concats

from nas_agg.common.errors import InputError
from nas_agg.compiler.network import Network
from nas_agg.compiler.weight_permutation import transfer_weights
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype

NETWORKS = 200  # drawn at random, each with three near ones


def graph_of(*net: Any) -> Graph:
    text = {"input": [3, 8, 8], "classes": 5, "net": [{"conv": 3, "out": 8}, *net, {"linear": "classes"}]}
    return expand(Genotype.from_dict(text))


def random_state(graph: Graph, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A state in which everything counts: no number is 0 or 1, no two channels are alike."""
    network = Network(graph).double()
    state = {}
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            spread = value[0].numel() ** -0.5 if value.ndim > 1 and value.numel() > len(value) else 1.0
            value = drawn.abs() + 0.5 if name.endswith("running_var") else spread * drawn
        state[name] = value
    return state


def outputs(graph: Graph, state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    network = Network(graph).double().eval()
    network.load_state_dict(state)
    with torch.no_grad():
        return network(images)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, of the largest number; some networks give nothing but rounding errors around 0."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-3))


def assert_same_function(source: Graph, target: Graph, generator: torch.Generator) -> None:
    state = random_state(source, generator)
    images = torch.randn(2, *source.shapes[0], generator=generator, dtype=torch.float64)
    wanted = outputs(source, state, images)
    assert torch.isfinite(wanted).all()
    assert difference(wanted, outputs(target, transfer_weights(state, source, target), images)) < 1e-9


def reversed_concats(graph: Graph) -> Graph:
    inputs = [row[::-1] if op.word == "cat" else row for op, row in zip(graph.ops, graph.inputs, strict=True)]
    return relabeled(random.Random(0), Graph(graph.ops, inputs, graph.shapes, graph.paths, graph.output))


CONCATS = {
    "norms": ["bn", "relu", "ln", "in", {"conv": 3, "out": 6}],
    "depthwise": [{"conv": 3, "out": "c", "groups": "c", "bias": True}, "bn", {"conv": 1, "out": 6}],
    "classifier on a map": ["bn", {"maxpool": 2}],
    "classifier on 1x1": ["scale", "gap"],
    "se": [{"se": 4}, "bn", {"conv": 1, "out": 6}],
    "se without squeeze": ["bn", {"se": 0, "gate": "hardsigmoid"}, "scale", {"conv": 1, "out": 6}],
    "concat of concat": [
        "bn",
        {"unit": ["relu", {"conv": 1, "out": 5}, "join"], "shortcut": {"operator": "concat"}},
        {"unit": ["ln", {"se": 2}, {"conv": 3, "out": 5}, "join"], "shortcut": {"operator": "concat"}},
    ],
}


@pytest.mark.parametrize("behind", CONCATS.values(), ids=CONCATS.keys())
def test_a_concat_in_another_order_takes_its_channels_along(behind):
    branches = [[{"conv": 3, "out": 4}], [{"conv": 3, "out": 7}, "bn"], [{"conv": 1, "out": 4}, "relu"]]
    leaving = {"pattern": "nodes", "operator": "concat"}
    graph = graph_of({"units": branches, "reads": {"pattern": "input"}, "output": leaving}, *behind)
    other = reversed_concats(graph)
    generator = torch.Generator().manual_seed(0)
    assert_same_function(graph, other, generator)
    assert_same_function(other, graph, generator)


def test_a_transferred_state_dict_is_complete_and_has_the_targets_names():
    graph = graph_of("bn", {"gn": 4}, "scale", "in", {"dropout": 0.5}, {"conv": 1, "out": 3, "bias": True})
    other = relabeled(random.Random(1), graph)
    state = random_state(graph, torch.Generator().manual_seed(0))
    carried = transfer_weights(state, graph, other)
    assert set(carried) == set(Network(other).state_dict())
    back = transfer_weights(carried, other, graph)
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_unequal_networks_and_states_are_refused_in_one_line():
    graph, other = graph_of({"conv": 3, "out": 4}), graph_of({"conv": 1, "out": 4})
    state = random_state(graph, torch.Generator().manual_seed(0))
    with pytest.raises(
        InputError, match=r"^weights can be transferred between equal networks only; the hashes are \w{32} and \w{32}$"
    ):
        transfer_weights(state, graph, other)
    with pytest.raises(InputError, match=r"^the weights contain 'extra\.weight', which is not in the network$"):
        transfer_weights({**state, "extra.weight": torch.zeros(1)}, graph, graph)
    with pytest.raises(InputError, match=r"^the weights lack those of 'linear', a linear of the network$"):
        transfer_weights({name: value for name, value in state.items() if "linear" not in name}, graph, graph)


def drawn_networks(rng: random.Random, number: int):
    """Random networks, each followed by another writing of it, one with concats reordered, and a network near it."""
    for _ in range(number):
        genotype = random_genotype(rng)
        graph = expand(Genotype.from_dict(genotype))
        yield graph
        yield equivalent_graph(rng, expand(Genotype.from_dict(equivalent_genotype(rng, genotype))))
        yield with_permuted_concats(rng, graph)
        yield near_duplicate(rng, graph)


def test_networks_of_one_hash_compute_the_same():
    rng, generator = random.Random(5), torch.Generator().manual_seed(5)
    first: dict[str, Graph] = {}
    compared = 0
    for graph in drawn_networks(rng, NETWORKS):
        known = first.setdefault(canonical_hash(graph), graph)
        if known is graph:
            continue
        a, b = Cost(known), Cost(graph)
        assert (a.params, a.macs) == (b.params, b.macs)
        assert_same_function(known, graph, generator)
        compared += 1
    assert compared > NETWORKS and len(first) > NETWORKS
