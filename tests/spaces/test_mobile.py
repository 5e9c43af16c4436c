"""The spaces `mobile` and `shuffle`: torchvision's networks to the bit, and the sizes that papers print."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from corpus.points import randomized

import nas_agg
from nas_agg.expansion.costs import cost


@pytest.mark.parametrize(
    ("point", "params", "macs"),
    [
        ("mobile/mobilenet-v2", 3_504_872, 300_774_272),
        ("mobile/mobilenet-v2-cifar", 2_236_682, 87_976_448),  # the Micro-Dense Nets print 2.2M
        ("shuffle/shufflenet-v2-1x", 2_278_604, 144_907_992),
        ("shuffle/shufflenet-v2-1.5x", 3_503_624, 295_759_392),
        ("shuffle/shufflenet-v2-1.5x-cifar", 2_488_874, 94_259_712),  # and 2.5M
    ],
)
def test_counts(point: str, params: int, macs: int) -> None:
    counted = cost(nas_agg.load(point))
    assert (counted.params, counted.macs) == (params, macs)


@pytest.mark.parametrize(
    ("point", "other"),
    [
        ("mobile/mobilenet-v2", torchvision.models.mobilenet_v2),
        ("shuffle/shufflenet-v2-1x", torchvision.models.shufflenet_v2_x1_0),
    ],
)
def test_outputs_are_torchvision_s(point: str, other: Any) -> None:
    """Both register their layers in the order in which they compute."""
    torch.set_num_threads(1)
    theirs = randomized(other(weights=None)).double().eval()
    ours = nas_agg.compile(nas_agg.load(point).with_task(input=(3, 64, 64)), seed=0).double().eval()
    values = list(theirs.state_dict().values())
    state = ours.state_dict()
    assert [value.shape for value in state.values()] == [value.shape for value in values]
    ours.load_state_dict(dict(zip(state, values, strict=True)))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)
