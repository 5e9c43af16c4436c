"""Passes leave a network's function as it is, and find what they are for."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from corpus.points import POINT_CASES, at_smallest_input, randomized
from corpus.random_genotypes import random_genotype

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import build
from nas_agg.expansion.expansion import expand
from nas_agg.expansion.passes import PASSES, UnsimplifiedTape, apply_passes, expand_unsimplified
from nas_agg.graph.canonical import canonical_hash
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Act, Add, AvgPool, Cat, Conv, Dropout, Gap, Pad, Slice
from nas_agg.language.genotype import Genotype


def assert_equal(graph: Graph, other: Graph) -> None:
    """Equal outputs, gradients and statistics in double precision, of the weights that both have."""
    found, state = [], randomized(build(graph, 0)).state_dict()
    for of in (graph, other):
        network = build(of, 0)
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        network.double().train()
        torch.manual_seed(2)
        logits = network(torch.randn(2, *of.shapes[0]).double())
        logits.square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        kept = {name: network.state_dict()[name] for name in build(other).state_dict()}
        found.append({"logits": logits} | {f"gradient of {name}": g for name, g in gradients.items()} | kept)
    one, two = found
    assert one.keys() == two.keys()
    for name, value in one.items():
        largest = max(1.0, float(value.detach().abs().max()))
        torch.testing.assert_close(two[name], value, rtol=1e-10, atol=1e-10 * largest, msg=name)


@pytest.mark.parametrize(("space", "point"), POINT_CASES)
def test_each_pass_on_points(space, point):
    genotype = at_smallest_input(space, point)
    written = expand_unsimplified(genotype)
    plain = apply_passes(written, ["dead"])  # a dropout that nobody reads draws from the same random numbers
    assert_equal(plain, apply_passes(written))
    for name in PASSES:
        if len(alone := apply_passes(plain, [name, "dead"])) != len(plain):
            assert_equal(plain, alone)
    assert canonical_hash(apply_passes(written)) == canonical_hash(expand(genotype))


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_each_pass_on_random_genotypes(first):
    changed = set()
    for seed in range(first, first + 20):
        genotype = Genotype.from_dict(random_genotype(random.Random(seed)))
        written = expand_unsimplified(genotype)
        plain = apply_passes(written, ["dead"])
        assert_equal(plain, apply_passes(written))
        for name in PASSES:
            alone = apply_passes(plain, [name, "dead"])
            if len(alone) != len(plain):
                changed.add(name)
                assert_equal(plain, alone)
    assert changed


def graph_of(write: Callable[[UnsimplifiedTape, int], int]) -> Graph:
    """What is written behind a convolution of 8 channels, then averaged."""
    tape = UnsimplifiedTape((3, 8, 8))
    x = tape.add(Conv(3, 8, 3, 1, 1, 1, False), 0, at="conv")
    return tape.graph(tape.add(Gap(1), write(tape, x)))


def words(graph: Graph) -> list[str]:
    return [op.word for op in graph.ops[2:-1]]


def test_concats_of_concats_are_one():
    graph = graph_of(lambda tape, x: tape.add(Cat(), x, tape.add(Cat(), x, tape.add(Cat(), x, x)), x))
    assert words(apply_passes(graph, ["flat", "dead"])) == ["cat"]
    assert len(apply_passes(graph, ["flat", "dead"]).inputs[2]) == 5
    assert_equal(graph, apply_passes(graph, ["flat"]))


def test_slices_are_resolved():
    def write(tape: UnsimplifiedTape, x: int) -> int:
        both = tape.add(Cat(), x, tape.add(Act("relu"), x))
        middle = tape.add(Slice(2, 12), both)
        ends = [tape.add(Slice(first, 2), middle) for first in (0, 2, 4)]  # channels 2 to 7 of x
        return tape.add(Cat(), *ends)

    graph = graph_of(write)
    after = apply_passes(graph, ["slices", "dead"])
    assert after.ops[2:-1] == [Slice(2, 6)]
    assert_equal(graph, after)


def test_equal_work_is_done_once_but_not_dropout_nor_weights():
    def write(tape: UnsimplifiedTape, x: int) -> int:
        pools = [tape.add(AvgPool(2, 2, 0), x) for _ in range(2)]
        relus = [tape.add(Act("relu"), pool) for pool in pools]
        drops = [tape.add(Dropout(0.5, False), relu) for relu in relus]
        convs = [tape.add(Conv(8, 4, 1, 1, 0, 1, False), drop, at=f"a{i}") for i, drop in enumerate(drops)]
        return tape.add(Add(), *convs)

    graph = graph_of(write)
    after = apply_passes(graph, ["shared"])
    assert words(after) == ["avgpool", "act", "dropout", "dropout", "conv", "conv", "add"]
    assert_equal(graph, after)


def test_a_run_of_an_earlier_concat_is_a_view():
    def write(tape: UnsimplifiedTape, x: int) -> int:
        relu, pad = tape.add(Act("relu"), x), tape.add(Pad(2), x)
        wide = tape.add(Cat(), x, relu, pad)
        narrow, again = tape.add(Cat(), relu, pad), tape.add(Cat(), x, relu, pad)
        apart = tape.add(Cat(), x, pad)
        return tape.add(Cat(), wide, narrow, apart, again)

    graph = graph_of(write)
    after = apply_passes(graph, ["views"])
    assert words(after) == ["act", "pad", "cat", "slice", "cat", "cat"]
    assert after.ops[5] == Slice(8, 18)
    assert_equal(graph, after)


def test_what_nobody_reads_is_dropped():
    graph = graph_of(lambda tape, x: (tape.add(Act("relu"), x), tape.add(Act("gelu"), x))[1])
    assert words(apply_passes(graph, ["dead"])) == ["act"]
    assert_equal(graph, apply_passes(graph))


def test_an_unknown_pass_is_refused():
    with pytest.raises(InputError, match=r"unknown pass 'flatt'; did you mean 'flat'\?; available: flat, slices"):
        apply_passes(graph_of(lambda tape, x: x), ["flatt"])


def test_compile_takes_passes():
    gated = {"pattern": "dense", "operator": "gated"}
    genotype = nas_agg.load(
        {"input": [3, 8, 8], "classes": 4, "net": [{"conv": 3, "out": 8},
         {"nodes": 3, "growth": 8, "reads": gated, "unit": ["bn", {"conv": 3}]}, "gap", {"linear": 4}]}
    )  # fmt: skip
    all_on, off = nas_agg.compile(genotype, 0), nas_agg.compile(genotype, 0, passes=())
    assert all_on.source.count("adaptive_avg_pool2d") < off.source.count("adaptive_avg_pool2d")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(all_on.eval()(images), off.eval()(images))
