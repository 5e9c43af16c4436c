"""The space `microdense`: Figure 4's variants, the readings of the paper, and groups of equal width."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from corpus.variants import variant
from torch.nn import functional as F

from nas_agg.compiler import compile
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Conv
from nas_agg.search_space.space import open_space

SPACE = open_space("microdense")
FIGURE_4 = {
    "fig4-n0": 725_134, "fig4-n1": 727_162, "fig4-n2": 724_842, "fig4-n3": 724_727, "fig4-n4": 731_311,
    "fig4-n5": 733_320, "fig4-n6": 717_026, "fig4-fixed": 727_531,
}  # fmt: skip

# Other readings, as other text for names of `let`.
TABLE_1: dict[str, Any] = {}
BEFORE = {"compress": "halve_before"}  # the 4x4 convolution stands before the block
AFTER = {"compress": "halve_after"}  # or after the compression
NO_C0 = {"leaves": "nodes"}
OF_C_OUT = {"u": "max(1, floor(ratio*w))"}
EQ_10 = {"rising": "(l + 1)*in", "adaptive": "l + 1"}  # literally: c_l = (l + 1)*c_0


network = partial(variant, "microdense")


@pytest.mark.parametrize("name", FIGURE_4)
def test_figure_4_has_the_ratio_that_comes_nearest(name: str) -> None:
    values, params = SPACE.points[name].values, cost(SPACE.point(name)).params
    assert params == FIGURE_4[name]
    assert (values["blocks"], values["alpha"], values["layers"]) == (10, 64, int(name[-1]) if name[-1].isdigit() else 3)
    miss = [
        abs(cost(network(name, ratio=round(values["ratio"] + k / 1000, 3))).params - 725_000) for k in (-5, -1, 0, 1, 5)
    ]
    assert min(miss) == miss[2]


def test_tables_1_and_2_to_the_letter() -> None:
    """No BN ahead of the pooling, whose scale and shift are 2*80 and 2*131 parameters."""
    assert cost(SPACE.point("30a64-letter")).params == 724_727 - 2 * 80 == 724_567
    assert cost(SPACE.point("60a115-letter")).params == 4_031_046 - 2 * 131 == 4_030_784


@pytest.mark.parametrize(
    ("ratio", "small", "large"),
    [(0.125, 0.346, 1.674), (0.1875, 0.642, 3.151), (0.21, 0.774, 3.787), (0.22, 0.831, 4.075), (0.25, 1.041, 5.091)],
)
def test_other_ratios(ratio: float, small: float, large: float) -> None:
    counted = [round(cost(network(name, ratio=ratio)).params / 1e6, 3) for name in ("30a64", "60a115")]
    assert counted == [small, large]


def test_each_of_the_two_networks_with_the_other_s_ratio() -> None:
    assert cost(network("30a64", ratio=0.2175)).params == 818_424
    assert cost(network("60a115", ratio=0.2)).params == 3_520_077
    gmacs = [round(cost(network(name)).macs / 1e9, 3) for name in ("30a64", "60a115")]
    assert gmacs == [0.140, 0.703]


def test_other_readings_of_table_6() -> None:
    counted = cost(network("table6", alpha=203, ratio=0.2175))
    assert (round(counted.params / 1e6, 3), round(counted.macs / 1e9, 3)) == (1.785, 0.261)


@pytest.mark.parametrize(
    ("reading", "small", "large"),
    [
        (TABLE_1, (0.1892, 0.2077), (0.2160, 0.2191)),
        (BEFORE, (0.1847, 0.2028), (0.2143, 0.2173)),
        (AFTER, (0.1918, 0.2083), (0.2163, 0.2195)),
        (NO_C0, (0.2000, 0.2173), (0.2269, 0.2300)),
        (OF_C_OUT, (0.1819, 0.1999), (0.2113, 0.2142)),
        (EQ_10, (0.0650, 0.0689), (0.0687, 0.0697)),
        (EQ_10 | AFTER, (0.0667, 0.0697), (0.0690, 0.0697)),
        (EQ_10 | NO_C0, (0.0667, 0.0704), (0.0698, 0.0705)),
    ],
)
def test_the_ratios_with_which_a_reading_prints_0_7_and_4_0(
    reading: dict[str, Any], small: tuple[float, float], large: tuple[float, float]
) -> None:
    for name, (least, most), printed in (("30a64", small, "0.7"), ("60a115", large, "4.0")):
        ratios = [round(ratio, 4) for ratio in (least - 1e-4, least, most, most + 1e-4)]
        agrees = [f"{cost(network(name, **reading, ratio=r)).params / 1e6:.1f}" == printed for r in ratios]
        assert agrees == [False, True, True, False]


def test_equation_10_to_the_letter() -> None:
    counted = [cost(network(name, **EQ_10, **NO_C0, ratio=0.07)).params for name in ("30a64", "60a115")]
    assert counted == [745_782, 4_017_906]


def grouped(graph: Graph) -> dict[str, list[Conv]]:
    """The 3x3 convolutions of the dense layers, by block."""
    found: dict[str, list[Conv]] = {}
    for op, path in zip(graph.ops, graph.paths, strict=True):
        if isinstance(op, Conv) and ".micro." in path and op.kernel == 3:
            found.setdefault(path.partition(".unit.")[0], []).append(op)
    return found


@pytest.mark.parametrize("name", [name for name in SPACE.points if name != "fig4-n0"])
def test_all_groups_of_a_block_are_equally_wide(name: str) -> None:
    values, graph = SPACE.points[name].values, expand(SPACE.point(name))
    blocks, n = grouped(graph), values["layers"]
    assert len(blocks) == 3 * values["blocks"]
    entering = 16
    for k, convs in enumerate(blocks.values(), 1):
        u = entering * round(values["ratio"] * 10_000) // 10_000
        assert {conv.channels // conv.groups for conv in convs} == {u}
        groups = [3] * n if values["growth"] == "fixed" else list(range(2, n + 2))
        assert [conv.groups for conv in convs] == groups
        assert all(conv.channels == conv.out == conv.groups * u for conv in convs)
        entering = math.floor(16 + k * values["alpha"] / len(blocks))


def reference(state: dict[str, torch.Tensor], point: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Micro-Dense Net as the paper's Table 1 and Eq. 14 say it; grouped convolutions group by group."""

    def conv(x: torch.Tensor, at: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{at}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=(weight.shape[2] - 1) // 2)

    def bn(x: torch.Tensor, at: str) -> torch.Tensor:
        return F.batch_norm(x, None, None, state[f"{at}.weight"], state[f"{at}.bias"], training=True)

    x = bn(conv(x, "conv"), "bn1" if point["last"] else "bn")
    for k in range(3 * point["blocks"]):
        at = f"aggregate.{k}.unit"
        stride = 2 if k in (point["blocks"], 2 * point["blocks"]) else 1
        u = math.floor(x.shape[1] * point["ratio"])
        dense = [F.relu(bn(conv(x, f"{at}.compress.conv", stride), f"{at}.compress.bn"))]
        for l in range(1, point["layers"] + 1):
            inner = f"{at}.micro.{l - 1}.unit"
            y = F.relu(bn(conv(torch.cat(dense, 1), f"{inner}.conv1"), f"{inner}.bn1"))
            weights = state[f"{inner}.conv2.weight"].split(u)
            assert len(weights) == y.shape[1] // u == (3 if point["growth"] == "fixed" else l + 1)
            y = torch.cat([F.conv2d(part, w, padding=1) for part, w in zip(y.split(u, 1), weights, strict=True)], 1)
            dense.append(F.relu(bn(y, f"{inner}.bn2")))
        made = bn(conv(torch.cat(dense, 1), f"{at}.conv"), f"{at}.bn")
        made = F.relu(made) if point["ends"] == "relu" else made
        identity = F.avg_pool2d(x, stride) if stride > 1 else x
        x = made + torch.cat([identity, torch.zeros_like(made[:, identity.shape[1] :])], 1)
    x = bn(x, "bn2") if point["last"] else x
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("name", ["fig4-n0", "30a64", "30a64-letter", "fig4-n5", "fig4-fixed"])
def test_outputs_are_those_of_a_few_lines_of_torch(name: str) -> None:
    torch.set_num_threads(1)
    values = SPACE.points[name].values | {"blocks": 2}
    module = compile(SPACE.genotype(values, input=(3, 8, 8), classes=5), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    expected = reference(module.state_dict(), dict(values), images)
    torch.testing.assert_close(module.train()(images), expected, rtol=1e-9, atol=1e-9)
