"""The spaces of the family `sparsenet`: the paper's networks to the integer, what a layer reads, every sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nas_agg
from nas_agg.costs import Cost, cost
from nas_agg.expansion import expand
from nas_agg.genotype import Genotype
from nas_agg.space import Space, open_space

SPACES = [open_space(name) for name in ("sparsenet", "sparsenet-imagenet")]

# A point; parameters for 100 classes, for 10, and with the narrower stem of the released code (k, 100 classes); MACs in
# G for 100 classes. Where one is unknown, None.
CIFAR: dict[str, tuple[int | None, int | None, int, float]] = {
    "40-k24": (757_252, 748_522, 735_676, 0.3121),
    "100-k24": (None, None, 2_490_364, 1.0501),
    "100-k36": (5_645_908, 5_626_378, 5_574_520, 2.3617),
    "100-k16-32-64": (7_218_148, None, 7_203_700, 1.0461),
    "100-k32-64-128": (28_725_604, 28_656_394, 28_669_060, 4.1825),
    "bc-100-k24": (1_461_124, 1_450_234, 1_448_716, 0.6410),
    "bc-100-k36": (None, None, 3_236_176, 1.4413),
    "bc-100-k16-32-64": (4_376_852, None, 4_359_716, 0.6496),
    "bc-100-k32-64-128": (17_339_780, 17_282_090, 17_318_116, 2.5509),
}
# Millions of parameters as printed. The two rows of {32, 64, 128} print 27.72 and 16.72, which no reading gives.
PRINTED = {
    "40-k24": 0.76,
    "100-k24": 2.52,
    "100-k36": 5.65,
    "100-k16-32-64": 7.22,
    "bc-100-k24": 1.46,
    "bc-100-k36": 3.26,
    "bc-100-k16-32-64": 4.38,
}
# A point, its stem and head; parameters in millions as printed or to the integer, MACs in G.
IMAGENET: list[tuple[str, int, int, float, float | None]] = [
    ("121-k32", 32, 3, 4_513_576, 1.7235),
    ("169-k32", 32, 3, 6.23, 1.8625),
    ("201-k32", 32, 3, 7_221_896, 2.0551),
    ("121-k32", 32, 1, 3_233_576, None),
    ("201-k32", 32, 1, 5_685_896, None),
    ("121-k32", 64, 1, 3_250_824, None),
    ("201-k32", 64, 1, 5_703_144, None),
    ("121-k32", 64, 3, 4.53, None),
    ("169-k32", 64, 3, 6.25, None),
    ("201-k32", 64, 3, 7.24, None),
]


def network(point: str, classes: int | None = None, **values: Any) -> Genotype:
    space = next(space for space in SPACES if point in space.points)
    return space.genotype(space.points[point].values | values, classes=classes)


def counted(point: str, classes: int | None = None, **values: Any) -> Cost:
    return cost(network(point, classes, **values))


def distances(so_far: int, base: int = 2) -> list[int]:
    """The distances that are read when there are so many features, nearest first."""
    return [base**power for power in range(so_far.bit_length()) if base**power <= so_far]


# ---- counts


def test_the_points_are_the_paper_s_networks() -> None:
    assert [name for space in SPACES for name in space.points] == [*CIFAR, "121-k32", "169-k32", "201-k32"]


@pytest.mark.parametrize("point", CIFAR)
def test_the_counts_on_small_images(point: str) -> None:
    for_100, for_10, released, macs = CIFAR[point]
    found = cost(nas_agg.load(f"sparsenet/{point}"))
    assert found.params == (for_100 or found.params) and round(found.macs / 1e9, 4) == macs
    assert counted(point, 10).params == (for_10 or counted(point, 10).params)
    assert counted(point, stem="k").params == released
    assert round(found.params / 1e6, 2) == PRINTED.get(point, round(found.params / 1e6, 2))


def test_bc_with_k_16_32_64_had_another_stem() -> None:
    narrow = counted("bc-100-k16-32-64", stem=32)
    assert (narrow.params, round(narrow.macs / 1e9, 4)) == (4_365_428, 0.6382)
    assert counted("bc-100-k16-32-64", 10, stem=32).params == 4_336_538
    assert round(counted("100-k16-32-64", stem=64).params / 1e6, 2) == 7.25


def test_only_100_classes_give_the_printed_counts() -> None:
    assert round(counted("40-k24", 10).params / 1e6, 2) == 0.75
    assert round(counted("100-k24", 10).params / 1e6, 2) != 2.52


@pytest.mark.parametrize(("point", "stem", "head", "params", "macs"), IMAGENET)
def test_the_counts_on_large_images(point: str, stem: int, head: int, params: float, macs: float | None) -> None:
    found = counted(point, stem=stem, head=head)
    assert (found.params if params > 1e6 else round(found.params / 1e6, 2)) == params
    assert macs is None or round(found.macs / 1e9, 4) == macs


def test_the_classifier_on_a_map_reads_nine_pixels_a_channel() -> None:
    for point, width in (("121-k32", 160), ("169-k32", 192), ("201-k32", 192)):
        wide, narrow = counted(point), counted(point, head=1)
        assert wide.params - narrow.params == wide.macs - narrow.macs == 8 * width * 1000


# ---- what a layer reads


@pytest.mark.parametrize(("point", "n", "feature"), [("40-k24", 12, "conv"), ("bc-100-k24", 16, "conv2")])
@pytest.mark.parametrize("base", [2, 3, 4])
def test_layers_read_features_at_powers_of_the_base(point: str, n: int, feature: str, base: int) -> None:
    graph = expand(network(point, wires={"exponential": base}))
    at = {path: i for i, path in enumerate(graph.paths)}
    enters = [at["conv"]] + [graph.readers[at[f"down{block}.conv"]][0] for block in (1, 2)]
    leaves = [at["down1.bn"], at["down2.bn"], at["bn"]]
    norm = feature.replace("conv2", "bn1").replace("conv", "bn")

    def reads(tensor: int) -> tuple[int, ...]:
        (source,) = graph.inputs[tensor]
        return graph.inputs[source] if graph.ops[source].word == "cat" else (source,)

    for block in range(3):
        tensors = [enters[block]]
        for l in range(n):
            wanted = [tensors[-distance] for distance in distances(len(tensors), base)]
            assert reads(at[f"block{block + 1}.{l}.unit.{norm}"]) == tuple(reversed(wanted))
            tensors.append(at[f"block{block + 1}.{l}.unit.{feature}"])
        wanted = [tensors[-distance] for distance in distances(len(tensors), base)]
        assert reads(leaves[block]) == tuple(reversed(wanted))


def reference(x: torch.Tensor, state: dict[str, torch.Tensor], n: int, bottleneck: bool, training: bool) -> Any:
    """SparseNet in plain torch, of a compiled network's weights; its concats have the oldest feature first."""

    def bn_relu(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, *affine = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean.clone(), variance.clone(), *affine, training=training).relu()

    def gather(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensors[-distance] for distance in reversed(distances(len(tensors)))], 1)

    x = F.conv2d(x, state["conv.weight"], padding=1)
    last = "2" if bottleneck else ""
    for block in (1, 2, 3):
        tensors = [x]
        for l in range(n):
            y, unit = gather(tensors), f"block{block}.{l}.unit"
            if bottleneck:
                y = F.conv2d(bn_relu(y, f"{unit}.bn1"), state[f"{unit}.conv1.weight"])
            tensors.append(F.conv2d(bn_relu(y, f"{unit}.bn{last}"), state[f"{unit}.conv{last}.weight"], padding=1))
        x = gather(tensors)
        if block < 3:
            x = F.avg_pool2d(F.conv2d(bn_relu(x, f"down{block}.bn"), state[f"down{block}.conv.weight"]), 2)
    return F.linear(bn_relu(x, "bn").mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer", ["plain", "bottleneck4"])
def test_the_compiled_network_computes_what_a_plain_sparsenet_does(layer: str, training: bool) -> None:
    values = {"layers": 8, "k": 4, "rise": 2, "layer": layer, "compression": 0.5}
    genotype = network("40-k24", 5, **values).with_task(input=(3, 8, 8))
    module = nas_agg.compile(genotype, seed=0).double().train(training)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point():  # norms with more to them than 1 and 0
                tensor.copy_(torch.rand(tensor.shape, generator=draw, dtype=torch.float64) + 0.5 * ("var" in name))
    x = torch.randn(4, 3, 8, 8, generator=draw, dtype=torch.float64)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    expected = reference(x, state, 8, layer != "plain", training)
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


# ---- the space


def sides(space: Space) -> list[int]:
    return [side for side in (8, 28, 32, 63, 224) if side >= (space.min_input or 0)]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_every_sample_and_its_children_are_networks(space: Space) -> None:
    rng = np.random.default_rng(0)
    for side in sides(space):
        for _ in range(20):
            a, b = space.sample(rng), space.sample(rng)
            for values in (a, space.mutate(a, rng), space.crossover(a, b, rng)):
                graph = expand(space.genotype(values, input=(1, side, side), classes=7))
                assert graph.shapes[graph.output] == (7, 1, 1)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_enough_samples_are_within_a_search_s_limit_and_they_run(space: Space) -> None:
    rng, side = np.random.default_rng(1), space.min_input or 8
    limit = space.search_on((1, side, side)).max_macs
    drawn = [space.genotype(space.sample(rng), input=(1, side, side)) for _ in range(100)]
    small = [genotype for genotype in drawn if cost(genotype).macs <= (limit or 0)]
    assert len(small) >= 12
    for genotype in small[:2]:
        module = nas_agg.compile(genotype, seed=0)
        assert module(torch.zeros(2, 1, side, side)).shape == (2, genotype.classes)
        assert sum(p.numel() for p in module.parameters()) == cost(genotype).params
