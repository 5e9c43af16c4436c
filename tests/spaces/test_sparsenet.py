"""The spaces of the family `sparsenet`: the paper's networks to the integer, and what a layer reads."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from corpus.variants import variant

import nas_agg
from nas_agg.expansion.costs import Cost, cost
from nas_agg.expansion.expansion import expand
from nas_agg.search_space.space import open_space

SPACES = [open_space(name) for name in ("sparsenet", "sparsenet-imagenet")]

# A point; parameters for 100 classes, for 10, and with the narrower stem of the released code (k, 100 classes); MACs in
# G for 100 classes.
CIFAR = {
    "40-k24": (757_252, 748_522, 735_676, 0.3121),
    "100-k24": (2_522_404, 2_509_354, 2_490_364, 1.0501),
    "100-k36": (5_645_908, 5_626_378, 5_574_520, 2.3617),
    "100-k16-32-64": (7_218_148, 7_183_498, 7_203_700, 1.0461),
    "100-k32-64-128": (28_725_604, 28_656_394, 28_669_060, 4.1825),
    "bc-100-k24": (1_461_124, 1_450_234, 1_448_716, 0.6410),
    "bc-100-k36": (3_263_428, 3_247_138, 3_236_176, 1.4413),
    "bc-100-k16-32-64": (4_376_852, 4_347_962, 4_359_716, 0.6496),
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
# A point, its stem and head; parameters, MACs in G.
IMAGENET = [
    ("121-k32", 32, 3, 4_513_576, 1.7235),
    ("169-k32", 32, 3, 6_228_616, 1.8625),
    ("201-k32", 32, 3, 7_221_896, 2.0551),
    ("121-k32", 32, 1, 3_233_576, 1.7222),
    ("201-k32", 32, 1, 5_685_896, 2.0536),
    ("121-k32", 64, 1, 3_250_824, 1.8197),
    ("201-k32", 64, 1, 5_703_144, 2.1511),
    ("121-k32", 64, 3, 4_530_824, 1.8210),
    ("169-k32", 64, 3, 6_245_864, 1.9600),
    ("201-k32", 64, 3, 7_239_144, 2.1527),
]

network = partial(variant, "sparsenet")


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
    found = counted(point)
    assert (found.params, round(found.macs / 1e9, 4)) == (for_100, macs)
    assert (counted(point, 10).params, counted(point, stem="k").params) == (for_10, released)


@pytest.mark.parametrize("point", PRINTED)
def test_the_counts_as_printed(point: str) -> None:
    assert round(CIFAR[point][0] / 1e6, 2) == PRINTED[point]


def test_bc_with_k_16_32_64_had_another_stem() -> None:
    narrow = counted("bc-100-k16-32-64", stem=32)
    assert (narrow.params, round(narrow.macs / 1e9, 4)) == (4_365_428, 0.6382)
    assert counted("bc-100-k16-32-64", 10, stem=32).params == 4_336_538
    assert counted("100-k16-32-64", stem=64).params == 7_247_044


def test_ten_classes_would_print_other_counts() -> None:
    assert [round(CIFAR[point][1] / 1e6, 2) for point in ("40-k24", "100-k24")] == [0.75, 2.51]


@pytest.mark.parametrize(("point", "stem", "head", "params", "macs"), IMAGENET)
def test_the_counts_on_large_images(point: str, stem: int, head: int, params: int, macs: float) -> None:
    found = counted(point, stem=stem, head=head)
    assert (found.params, round(found.macs / 1e9, 4)) == (params, macs)


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
