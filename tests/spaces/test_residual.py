"""The space `residual`: the networks' published counts in their several readings, and where norm and shortcut stand."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from corpus.variants import variant
from torch.nn import functional as F

import nas_agg
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import open_space

CIFAR, IMAGENET = open_space("residual"), open_space("residual-imagenet")

# Parameters, and billions of multiply-adds.
COUNTS = {
    "resnet-110": (1_727_962, 0.253),
    "preact-164": (1_703_258, 0.245),
    "preact-1001": (10_327_706, 1.488),
    "wrn-16-8": (10_961_370, 1.548),
    "wrn-28-10": (36_479_194, 5.243),
    "wrn-28-10-dropout": (36_479_194, 5.243),
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
    "se-resnet50": (28_088_024, 4.092),
    "cbam-resnet50": (28_089_624, 4.096),
    "resnet-32": (464_154, 0.069),
    "resnet-44": (658_586, 0.097),
    "resnet-56": (853_018, 0.125),
    "resnet-1202": (19_421_274, 2.829),
    "resnet-110-stochastic-depth": (1_727_962, 0.253),
    "resnext-29-4x8d": (1_790_154, 0.268),
    "res2net-29-8w4s": (1_753_530, 0.263),
    "res2next-29-6c24w6s": (36_709_130, 5.974),
    "res2next-29-6c24w6s-se": (37_230_938, 5.975),
}
FOR_100_CLASSES = {
    "preact-164": 1_726_388,
    "wrn-16-8": 11_007_540,
    "wrn-28-10": 36_536_884,
    "resnext-29-8x64d": 34_518_948,
    "resnext-29-16x64d": 68_247_460,
}


network = partial(variant, "residual")


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
        ("res2next-29-6c24w6s", {"first": "averaged"}, 36_053_930),  # as Res2Net-50 has it
        ("res2next-29-6c24w6s", {"scales": 4, "inner": 9}, 24_268_682),  # 6c24w4s, printed 24.3M
        ("res2next-29-6c24w6s", {"scales": 4, "inner": 12.5, "cardinality": 8}, 33_812_986),  # 8c25w4s, printed 33.8M
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
    written = Genotype.from_dict({"input": [3, 32, 32], "classes": 10, "net": net})
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


# ---- functions


def checked(genotype: Genotype, function: Any) -> None:
    """The logits in training are those of a function of parameters by name and images, whatever the parameters are."""
    torch.set_num_threads(1)
    module = nas_agg.compile(genotype, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    images = torch.randn(3, *genotype.input, generator=generator, dtype=torch.float64)
    expected = function(module.state_dict(), images)
    torch.testing.assert_close(module.train()(images), expected, rtol=1e-9, atol=1e-9)


def conv(state: dict[str, torch.Tensor], at: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    weight = state[f"{at}.weight"]
    return F.conv2d(x, weight, state.get(f"{at}.bias"), stride, weight.shape[2] // 2, groups=groups)


def bn(state: dict[str, torch.Tensor], at: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, state[f"{at}.weight"], state[f"{at}.bias"], training=True)


def excited(state: dict[str, torch.Tensor], at: str, x: torch.Tensor) -> torch.Tensor:
    """Squeeze-and-Excitation Networks, equations 2 to 4."""
    hidden = F.relu(conv(state, f"{at}.squeeze", x.mean((2, 3), keepdim=True)))
    return x * torch.sigmoid(conv(state, f"{at}.excite", hidden))


def res2next(
    state: dict[str, torch.Tensor], x: torch.Tensor, scales: int, groups: int, convolved: bool
) -> torch.Tensor:
    """Res2Net, equation 1, with grouped convolutions and squeeze-and-excitation; two stages of two blocks."""
    x = F.relu(bn(state, "entry.bn", conv(state, "conv", x)))
    for stage in (1, 2):
        for block in (0, 1):
            at, stride = f"stage{stage}.{block}.unit", 2 if (stage, block) == (2, 0) else 1
            body = f"{at}.hierarchical"
            parts = F.relu(bn(state, f"{body}.bn", conv(state, f"{body}.conv1", x))).chunk(scales, 1)
            first = block == 0
            inner = f"{body}.aggregate2.0.unit.chained.0.unit.chain"
            if first:
                inner = f"{body}.aggregate1.0.unit." + ("convolved" if convolved else "averaged.0.unit.parts")
            made: list[torch.Tensor] = []
            for k, part in enumerate(parts[:-1]):
                own = f"{inner}.{k}.unit.conv"
                read = part + made[-1] if made and not first else part
                made.append(F.relu(bn(state, f"{own}.bn", conv(state, f"{own}.conv", read, stride, groups))))
            last = parts[-1]
            if first and convolved:
                own = f"{inner}.{scales - 1}.unit.conv"
                last = F.relu(bn(state, f"{own}.bn", conv(state, f"{own}.conv", last, stride, groups)))
            elif first:
                last = F.avg_pool2d(last, 3, stride, 1)
            y = bn(state, f"{at}.after.bn", conv(state, f"{body}.conv2", torch.cat([*made, last], 1)))
            match = f"{at[:-5]}.shortcut.match.0"
            identity = bn(state, f"{match}.bn", conv(state, f"{match}.conv", x, stride)) if first else x
            x = F.relu(excited(state, f"{at}.se", y) + identity)
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("first", ["averaged", "convolved"])
def test_res2next_with_squeeze_and_excitation_is_a_few_lines_of_torch(first: str) -> None:
    values = CIFAR.points["res2next-29-6c24w6s-se"].values | {
        "depth1": 2, "depth2": 2, "depth3": 1, "widen": 0.5, "inner": 8, "scales": 4, "cardinality": 2, "first": first
    }  # fmt: skip
    text = CIFAR.genotype(values, input=(3, 8, 8), classes=5).to_dict()
    del text["net"][6:8]  # the third stage and what leads to it
    checked(Genotype.from_dict(text), partial(res2next, scales=4, groups=2, convolved=first == "convolved"))


def test_se_resnet_50_is_torchvision_s_with_gates() -> None:
    """Every block of ResNet-50 has its gate behind the last BN, and nothing else is changed."""
    plain, gated = (expand(IMAGENET.point(name)) for name in ("resnet50", "se-resnet50"))
    words = [op.word for op in gated.ops]
    gates = [i for i, word in enumerate(words) if word == "mul"]
    assert len(gates) == 16
    readers = gated.readers
    for i in gates:
        gate, body = sorted(gated.inputs[i], key=lambda t: gated.shapes[t][1:])
        assert gated.ops[body].word == "norm" and [words[k] for k in readers[i]] == ["add"]
        assert gated.ops[gate].word == "act" and gated.shapes[gate][1:] == (1, 1)
    kept = [word for word, path in zip(words, gated.paths, strict=True) if ".se" not in path]
    assert kept == [op.word for op in plain.ops]


def test_stochastic_depth_rises_from_block_to_block() -> None:
    """Deep Networks with Stochastic Depth, equation 4: the l-th of L bodies survives at 1 - l/L * (1 - p_L)."""
    graph = expand(CIFAR.point("resnet-110-stochastic-depth"))
    rates = [op.rate for op in graph.ops if op.word == "drop-path"]  # type: ignore[attr-defined]
    assert rates == pytest.approx([0.5 * l / 54 for l in range(1, 55)])
