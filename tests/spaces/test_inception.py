"""The space `inception`: GoogLeNet's size, and its modules against a few lines of PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas_agg.compiler import compile
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.search_space.space import open_space

SPACE = open_space("inception")
# Table 1 of "Going Deeper with Convolutions": #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
MODULES = [
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
]  # fmt: skip


def test_counts() -> None:
    """As in the authors' Caffe model, which has biases and no BN, without the further classifiers."""
    params, c = 7 * 7 * 3 * 64 + 64 + 64 * 64 + 64 + 9 * 64 * 192 + 192, 192
    for one, reduce3, three, reduce5, five, pooled in MODULES:
        params += c * (one + reduce3 + reduce5 + pooled) + 9 * reduce3 * three + 25 * reduce5 * five
        params += one + reduce3 + three + reduce5 + five + pooled
        c = one + three + five + pooled
    counted = cost(SPACE.point("googlenet"))
    assert (counted.params, counted.macs) == (params + c * 1000 + 1000, 1_582_671_872)
    assert counted.params == 6_998_552


def test_the_outputs_of_a_narrow_googlenet_are_those_of_a_few_lines_of_torch() -> None:
    torch.set_num_threads(1)
    values = SPACE.points["googlenet"].values | {"width": 0.125, "drop": 0}
    module = compile(SPACE.genotype(values, input=(3, 64, 64), classes=5), seed=0).double()
    state = module.state_dict()

    def conv(x: Tensor, at: str, stride: int = 1) -> Tensor:
        weight = state[f"{at}.weight"]
        return F.relu(F.conv2d(x, weight, state[f"{at}.bias"], stride, weight.shape[2] // 2))

    def inception(x: Tensor, at: str) -> Tensor:
        return torch.cat([
            conv(x, f"{at}.0.unit.conv1.conv"),
            conv(conv(x, f"{at}.1.unit.reduce3.conv"), f"{at}.1.unit.conv3.conv"),
            conv(conv(x, f"{at}.2.unit.reduce5.conv"), f"{at}.2.unit.conv5.conv"),
            conv(F.max_pool2d(x, 3, 1, 1), f"{at}.3.unit.conv1p.conv"),
        ], 1)  # fmt: skip

    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = F.max_pool2d(conv(images, "stem.unit1.conv", 2), 3, 2, 1)
    x = F.max_pool2d(conv(conv(x, "stem.unit2.conv"), "stem.unit3.conv"), 3, 2, 1)
    for k in range(9):
        x = F.max_pool2d(x, 3, 2, 1) if k in (2, 7) else x
        x = inception(x, f"cell{k + 1}")
    expected = F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(module(images), expected, rtol=1e-9, atol=1e-9)


def test_a_shortcut_may_go_around_each_module() -> None:
    values = SPACE.points["googlenet"].values
    for cell, word in (("residual", "add"), ("weighted_residual", "scale")):
        graph = expand(SPACE.genotype(values | {"cell": cell}))
        assert sum(op.word == word for op in graph.ops) == 9
