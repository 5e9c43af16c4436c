"""The space `residual`: the networks' published counts in their several readings, and where norm and shortcut stand."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from readings import reading

import nas_agg
from nas_agg.canonical import canonical_hash
from nas_agg.costs import cost
from nas_agg.expansion import expand
from nas_agg.genotype import Genotype
from nas_agg.space import open_space

CIFAR, IMAGENET = open_space("residual"), open_space("residual-imagenet")

# Parameters, and billions of multiply-adds.
COUNTS = {
    "resnet-110": (1_727_962, 0.253),
    "preact-164": (1_703_258, 0.245),
    "preact-1001": (10_327_706, 1.488),
    "wrn-16-8": (10_961_370, 1.548),
    "wrn-28-10": (36_479_194, 5.243),
    "resnext-29-8x64d": (34_426_698, 5.387),
    "resnext-29-16x64d": (68_155_210, 10.689),
    "pyramidnet-110-a48": (1_772_706, 0.404),
    "pyramidnet-110-a84": (3_904_446, 0.772),
    "pyramidnet-110-a270": (28_485_477, 4.718),
    "pyramidnet-164-a270": (27_216_021, 4.570),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50-32x4d": (25_028_904, 4.230),
    "wrn-50-2": (68_883_240, 11.398),
    "res2net50-26w4s": (25_699_120, 4.255),
}
FOR_100_CLASSES = {
    "preact-164": 1_726_388,
    "wrn-16-8": 11_007_540,
    "wrn-28-10": 36_536_884,
    "resnext-29-8x64d": 34_518_948,
    "resnext-29-16x64d": 68_247_460,
}


network = partial(reading, "residual")


def norm_params(genotype: Genotype) -> int:
    return sum(op.params for op in expand(genotype).ops if op.word == "norm")


def test_the_points_are_the_papers_networks() -> None:
    assert {*CIFAR.points, *IMAGENET.points} == {*COUNTS}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    counted = cost(network(name))
    assert (counted.params, round(counted.macs / 1e9, 3)) == COUNTS[name]


@pytest.mark.parametrize("name", FOR_100_CLASSES)
def test_counts_for_100_classes(name: str) -> None:
    assert cost(CIFAR.point(name, classes=100)).params == FOR_100_CLASSES[name]


@pytest.mark.parametrize(
    ("name", "let", "params"),
    [
        ("resnet-110", {"fit": "projected"}, 1_730_522),
        ("resnet-110", {"fit": "normed"}, 1_730_714),
        ("res2net50-26w4s", {"inner": 1.5, "scales": 2}, 25_287_304),  # 48w2s
        ("res2net50-26w4s", {"inner": 1.75, "scales": 8}, 25_059_816),  # 14w8s
        ("resnext-29-8x64d", {"inner": 6, "cardinality": 6}, 25_994_570),  # 6x64d
    ],
)
def test_other_readings(name: str, let: dict[str, Any], params: int) -> None:
    assert cost(network(name, **let)).params == params


@pytest.mark.parametrize(
    ("name", "params"),
    [("preact-1001", 10_178_490), ("pyramidnet-164-a270", 27_050_177)],
)
def test_counts_that_leave_batch_norm_out(name: str, params: int) -> None:
    genotype = CIFAR.point(name)
    assert cost(genotype).params - norm_params(genotype) == params


@pytest.mark.parametrize(
    ("name", "params", "without_norms"),
    [("pyramidnet-110-a48", 1_739_730, 1_726_706), ("pyramidnet-110-a84", 3_855_054, 3_836_090)],
)
def test_pyramidnets_with_floored_widths(name: str, params: int, without_norms: int) -> None:
    floored = CIFAR.template.let["pyramidal"].replace("round", "floor")
    genotype = network(name, pyramidal=floored)
    assert (cost(genotype).params, cost(genotype).params - norm_params(genotype)) == (params, without_norms)


# ---- structure


def test_a_wide_resnet_is_what_its_text_says() -> None:
    """Where the width changes, body and projection read the same BN and ReLU, as in the authors' code."""
    body = [{"conv": 3, "stride": "s"}, "bn", "relu", {"conv": 3}, "join"]
    stage = [
        "bn",
        "relu",
        {"stride": "t", "unit": body, "shortcut": {"match": [{"conv": 1, "stride": "s"}]}},
        {"unit": ["bn", "relu", *body], "shortcut": {}},
    ]
    nodes = {"nodes": 3, "growth": "128*2**(l - 1)", "let": {"t": [1, 2, 2]}, "unit": stage}
    net = [{"conv": 3, "out": 16}, nodes, "bn", "relu", "gap", {"linear": 10}]
    written = Genotype.read({"input": [3, 32, 32], "classes": 10, "net": net})
    assert canonical_hash(expand(CIFAR.point("wrn-16-8"))) == canonical_hash(expand(written))


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"before": [], "after": ["norm"], "last": ["act"]}, "conv norm act conv norm add act"),
        ({"before": [], "after": [], "last": ["norm", "act"]}, "conv norm act conv add norm act"),
        ({"before": [], "after": ["norm", "act"], "last": []}, "conv norm act conv norm act add"),
        ({"before": ["act"], "after": ["norm"], "last": []}, "act conv norm act conv norm add"),
        ({"before": ["norm", "act"], "after": [], "last": []}, "norm act conv norm act conv add"),
        ({"before": ["norm"], "after": ["norm"], "last": []}, "norm conv norm act conv norm add"),
    ],
)
def test_every_order_of_norm_and_activation(lists: dict[str, list[str]], words: str) -> None:
    """Figure 4 (a) to (e) of "Identity Mappings in Deep Residual Networks", and a PyramidNet's."""
    graph = expand(CIFAR.genotype(CIFAR.points["wrn-16-8"].values | lists))
    second = [op.word for op, path in zip(graph.ops, graph.paths, strict=True) if path.startswith("stage1.1.")]
    assert " ".join(second) == words


def test_widths_grow_block_by_block_and_may_stand_still() -> None:
    values = CIFAR.points["pyramidnet-110-a48"].values | {"depth1": 2, "depth2": 1, "depth3": 3}
    for widths, expected in (
        ("pyramidal", [24, 32, 40, 48, 56, 64]),
        ("doubling", [16, 16, 32, 64, 64, 64]),
        ("level", [16] * 6),
    ):
        graph = expand(CIFAR.genotype(values | {"widths": widths}))
        adds = [shape[0] for op, shape in zip(graph.ops, graph.shapes, strict=True) if op.word == "add"]
        assert adds == expected


def test_option_a_takes_every_second_pixel_and_appends_zeros() -> None:
    torch.set_num_threads(1)
    values = CIFAR.points["resnet-110"].values | {"depth1": 1, "depth2": 1, "depth3": 1, "entry": [], "last": []}
    net = nas_agg.compile(CIFAR.genotype(values, input=(3, 9, 9)), seed=0).double().eval()
    seen: dict[str, torch.Tensor] = {}
    for name in ("conv", "stage1.0.unit.after.bn", "stage2.0.unit.after.bn", "stage3.0.unit.after.bn", "linear"):
        net.get_submodule(name).register_forward_hook(lambda _, x, y, name=name: seen.update({name: y, "in": x[0]}))
    image = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        net(image)
        out = seen["conv"] + seen["stage1.0.unit.after.bn"]
        for stage in (2, 3):
            halved = out[:, :, ::2, ::2]
            out = torch.cat([halved, torch.zeros_like(halved)], 1) + seen[f"stage{stage}.0.unit.after.bn"]
        torch.testing.assert_close(seen["in"], out.mean((2, 3)), rtol=1e-12, atol=1e-14)


def test_the_largest_networks_stay_within_the_language_s_limits() -> None:
    largest = CIFAR.points["preact-1001"].values | {
        "joined": "gated",
        "reach": {"window": 24},
        "after": ["norm", "act"],
    }
    assert len(expand(CIFAR.genotype(largest))) < 50_000
