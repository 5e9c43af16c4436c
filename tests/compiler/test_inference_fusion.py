"""Fused networks compute the same outputs as the original networks."""

from __future__ import annotations

import io
import random

import pytest
import torch
from corpus.formulas import graph_of
from corpus.points import POINT_CASES, at_smallest_input, randomized
from corpus.random_genotypes import random_genotype

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import Network, build, save_weights
from nas_agg.compiler.inference_fusion import FUSIONS, fuse
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype

DENSE = {"pattern": "dense", "operator": "concat"}
PREACT = ["bn", "relu", {"conv": 1, "out": 16}, "bn", "relu", {"conv": 3, "out": 8}]


def assert_equal(graph: Graph, each: bool = True) -> Network:
    """Equal logits in double precision behind every further pass, or behind all of them; gives the last."""
    network = randomized(build(graph, 0)).double().eval()
    images = torch.randn(2, *graph.shapes[0], generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        wanted = network(images)
    for passes in range(1 if each else len(FUSIONS), len(FUSIONS) + 1):
        fused = fuse(network, graph, list(FUSIONS)[:passes])
        torch.testing.assert_close(fused(images), wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))
    return fused


@pytest.mark.parametrize(("space", "point"), POINT_CASES)
def test_points(space, point):
    assert_equal(expand(at_smallest_input(space, point)))


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_random_genotypes(first):
    for seed in range(first, first + 25):
        assert_equal(expand(Genotype.from_dict(random_genotype(random.Random(seed)))))


@pytest.mark.parametrize("name", FUSIONS)
def test_each_pass_alone(name):
    graph = expand(nas_agg.load("densenet/121").with_task(input=(3, 32, 32)))
    network = randomized(build(graph, 0)).double().eval()
    images = torch.randn(2, 3, 32, 32).double()
    torch.testing.assert_close(fuse(network, graph, [name])(images), network(images), rtol=1e-10, atol=1e-10)


def words(network: Network) -> str:
    return network.source


def test_a_bottleneck_in_dense_blocks_has_no_norm_left():
    net = [{"conv": 3, "out": 8}, {"nodes": 3, "growth": 8, "unit": PREACT, "reads": DENSE, "output": DENSE},
           "bn", "relu", {"conv": 1, "out": 12}, {"avgpool": 2}, "gap", {"linear": 4}]  # fmt: skip
    graph = expand(nas_agg.load({"input": [3, 8, 8], "classes": 4, "net": net}))
    fused = assert_equal(graph)
    assert not [module for module in fused.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    source = fused.source
    assert "torch.cat" not in source
    assert source.count("kernels.buffer") == 1
    assert source.count("kernels.store") == 3
    assert source.index("avg_pool2d") < source.rindex("kernels.pointwise")  # pooled ahead of the transition's 1x1


def test_scales_below_zero_and_near_it_are_bounds_from_above():
    graph = graph_of("bn", "relu", {"conv": 1, "out": 4}, image=(6, 8, 8))
    network = randomized(build(graph, 0)).double().eval()
    for path, op in zip(graph.paths, graph.ops, strict=True):
        if op.word == "norm":
            network.get_submodule(path).weight.data.copy_(torch.tensor([-2.0, -1e-30, 0.0, 1e-30, 0.5, 3.0]))
            network.get_submodule(path).bias.data.copy_(torch.tensor([1.0, 2.0, -1.0, 0.0, -3.0, 0.5]))
    images = torch.randn(3, *graph.shapes[0]).double()
    fused = fuse(network, graph)
    assert "torch.maximum" in fused.source
    assert "torch.minimum" in fused.source
    torch.testing.assert_close(fused(images), network(images), rtol=1e-9, atol=1e-9)


def test_a_norm_ahead_of_a_border_of_zeros_stays():
    graph = graph_of("bn", {"conv": 3, "out": 4}, image=(6, 8, 8))
    assert [op.word for op in graph.ops].count("norm") == 1
    fused = assert_equal(graph)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules()) == 1


def test_activations_are_not_in_place_where_others_read_their_input():
    residual = {"nodes": 1, "growth": 8, "unit": ["relu", {"conv": 1}, "join"], "shortcut": {}}
    net = [{"conv": 3, "out": 8}, residual, "relu", "gap", {"linear": 4}]
    fused = assert_equal(expand(nas_agg.load({"input": [3, 8, 8], "classes": 4, "net": net})))
    assert fused.source.count("inplace=True") == 1


def test_compile_fuses_weights_that_are_given(tmp_path):
    genotype = nas_agg.load("densenet/121").with_task(input=(3, 32, 32), classes=5)
    network = randomized(nas_agg.compile(genotype, 0)).eval()
    save_weights(network, tmp_path / "w.safetensors")
    fused = nas_agg.compile(genotype, weights=tmp_path / "w.safetensors", fuse=True)
    images = torch.randn(17, 3, 32, 32)
    wanted = network(images).detach()
    for count in (1, 17):
        result = fused(images[:count])
        assert not result.requires_grad
        torch.testing.assert_close(result, wanted[:count], rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert torch.equal(again(images), fused(images))
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(fused, (images[:4],), dynamic_shapes=batch).module()
    torch.testing.assert_close(exported(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    compiled = torch.compile(fused, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images[:4]), wanted[:4], rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_half_precision_and_scales_of_zero():
    """Channels that training turned off, and such as are nearly so, are no reason for what is no number."""
    net = [{"conv": 3, "out": 8}, {"nodes": 3, "growth": 8, "unit": PREACT, "reads": DENSE, "output": DENSE},
           "bn", "relu", {"conv": 1, "out": 12}, "gap", {"linear": 4}]  # fmt: skip
    graph = expand(nas_agg.load({"input": [3, 8, 8], "classes": 4, "net": net}))
    for tiny in (0.0, 1e-6):
        network = randomized(build(graph, 0)).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data[::3] = 0.0
                module.weight.data[1::3] *= tiny
        images = torch.randn(3, 3, 8, 8)
        wanted = network(images).detach()
        torch.testing.assert_close(fuse(network.double(), graph)(images.double()).float(), wanted, rtol=1e-4, atol=1e-4)
        half = fuse(network.double(), graph).half()(images.half()).float()
        torch.testing.assert_close(half, wanted, rtol=1e-2, atol=1e-2)


def test_a_fused_network_has_no_training_mode():
    graph = graph_of("bn", {"conv": 3, "out": 4}, image=(6, 8, 8))
    network = randomized(build(graph, 0)).eval()
    fused, images = fuse(network, graph), torch.randn(2, 6, 8, 8)
    first = fused(images)
    assert torch.equal(fused.train()(images), first)
    assert torch.equal(fused.eval()(images), first)


def test_names_of_parts_and_networks_without_any():
    let = {"bn_floor": [{"conv": 1, "out": 4}]}
    net = ["bn", "relu", "bn_floor", "relu", "gap", {"linear": 4}]
    assert_equal(expand(nas_agg.load({"input": [3, 8, 8], "classes": 4, "let": let, "net": net})))
    bare = nas_agg.compile({"input": [3, 8, 8], "classes": 3, "net": ["gap"]}, fuse=True)
    assert bare(torch.ones(2, 3, 8, 8)).shape == (2, 3)
    pools = [{"avgpool": 1, "stride": 2}] * 1100
    deep = expand(nas_agg.load({"input": [3, 8, 8], "classes": 3, "net": ["bn", *pools, {"conv": 1, "out": 3}]}))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fuse(build(deep, 0), deep).modules())


def test_contradicting_options_are_refused():
    with pytest.raises(InputError, match="fused network is for inference"):
        nas_agg.compile("residual/resnet-110", fuse=True, memory="lean")
    with pytest.raises(InputError, match="a backbone cannot be fused"):
        nas_agg.compile("residual/resnet50", fuse=True, features=True)
    graph = graph_of("relu")
    with pytest.raises(InputError, match="unknown pass 'nope'"):
        nas_agg.compile("residual/resnet50", features=True, passes=["nope"])
    with pytest.raises(InputError, match="passes: expected a list of names, not 3"):
        nas_agg.compile("residual/resnet50", passes=3)
    with pytest.raises(InputError, match="unknown pass 'norm'"):
        fuse(build(graph, 0), graph, ["norm"])
