"""The space `plain`: the sizes of Network in Network, All-CNN and a Highway network, and what their layers do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_agg.compiler import compile
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.search_space.space import open_space

SPACE = open_space("plain")


@pytest.mark.parametrize(
    ("point", "params", "macs"),
    [
        ("nin", 966_986, 222_486_528),
        ("all-cnn-c", 1_369_738, 270_798_336),
        ("highway-19", 2_274_186, 351_831_296),  # "Training Very Deep Networks" prints 2.3M
    ],
)
def test_counts(point: str, params: int, macs: int) -> None:
    counted = cost(SPACE.point(point))
    assert (counted.params, counted.macs) == (params, macs)


def test_all_cnn_has_neither_pool_nor_linear_layer_and_its_last_3x3_is_not_padded() -> None:
    graph = expand(SPACE.point("all-cnn-c"))
    convs = [(op.kernel, op.stride, shape[1]) for op, shape in zip(graph.ops, graph.shapes, strict=True)  # type: ignore[attr-defined]
             if op.word == "conv"]  # fmt: skip
    assert convs == [(3, 1, 32)] * 2 + [(3, 2, 16)] + [(3, 1, 16)] * 2 + [(3, 2, 8), (3, 1, 6), (1, 1, 6), (1, 1, 6)]
    assert not {"linear", "maxpool"} & {op.word for op in graph.ops}


def test_a_highway_layer_lets_through_what_it_does_not_change() -> None:
    """Highway Networks, equation 3; where the width changes there is a plain convolution."""
    torch.set_num_threads(1)
    values = SPACE.points["highway-19"].values | {
        "convs1": 3, "convs2": 2, "convs3": 1, "width1": 8, "width2": 8, "width3": 16
    }  # fmt: skip
    module = compile(SPACE.genotype(values, input=(3, 8, 8), classes=5), seed=0).double()
    state = module.state_dict()

    def conv(x: Tensor, at: str) -> Tensor:
        return F.conv2d(x, state[f"{at}.weight"], state[f"{at}.bias"], padding=1)

    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = images
    for stage, widths in enumerate(([8, 8, 12], [8, 8], [16]), 1):
        for l, width in enumerate(widths):
            at = f"chain{stage}.{l}.unit.through"
            if x.shape[1] == width:
                gate = torch.sigmoid(conv(x, f"{at}.aggregate1.0.unit.highway.1.unit.conv"))
                h = F.relu(conv(x, f"{at}.aggregate1.0.unit.highway.0.unit.conv"))
                x = h * gate + x * (1 - gate)
            else:
                x = F.relu(conv(x, f"{at}.aggregate2.0.unit.convolved.conv"))
        x = F.max_pool2d(x, 2) if stage < 3 else x
    expected = F.linear(x.mean((2, 3)), state["classifier.linear.weight"], state["classifier.linear.bias"])
    torch.testing.assert_close(module(images), expected, rtol=1e-9, atol=1e-9)
