"""The space `fractal`: FractalNet's size, and its joins against the recursion of the paper."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_agg.compiler import compile
from nas_agg.expansion.costs import cost
from nas_agg.search_space.space import open_space

SPACE = open_space("fractal")


def test_counts() -> None:
    """Convolutions of a block of c to w channels: three read it, four are within; each with BN."""
    widths = (3, 64, 128, 256, 512, 512)
    params = sum(9 * (3 * c * w + 4 * w * w) + 7 * 2 * w for c, w in pairwise(widths))
    counted = cost(SPACE.point("fractalnet-20"))
    assert (counted.params, counted.macs, counted.depth) == (33_724_618, 845_222_912, 21)
    assert counted.params == params + 512 * 10 + 10


class Fractal:
    """f_C+1(z) = [f_C(f_C(z)), conv(z)], equation 1 of FractalNet; joins that meet take the mean of all their tensors.

    Convolutions are taken from a list in the order in which they are written: the shallow column first.
    """

    def __init__(self, state: dict[str, Tensor]):
        paths = [name.removesuffix(".weight") for name, value in state.items() if value.dim() == 4]
        self.state, self.paths = state, iter(paths)

    def conv(self, z: Tensor) -> Tensor:
        path = next(self.paths)
        y = F.conv2d(z, self.state[f"{path}.weight"], padding=1)
        norm = path.removesuffix("conv") + "bn"
        return F.relu(F.batch_norm(y, None, None, self.state[f"{norm}.weight"], self.state[f"{norm}.bias"], True))

    def columns(self, z: Tensor, columns: int) -> list[Tensor]:
        """What the columns end with; not yet joined."""
        if columns == 1:
            return [self.conv(z)]
        shallow = self.conv(z)
        half = torch.stack(self.columns(z, columns - 1)).mean(0)
        return [shallow, *self.columns(half, columns - 1)]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("early", [0, 1])
def test_outputs_are_those_of_the_recursion(columns: int, early: int) -> None:
    torch.set_num_threads(1)
    values = SPACE.points["fractalnet-20"].values | {"columns": f"fractal{columns}", "width": 4, "blocks": 2}
    genotype = SPACE.genotype(values | {"early": early}, input=(3, 8, 8), classes=5)
    module = compile(genotype, seed=0).double().train()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    found, fractal = module(x), Fractal(state)
    for _ in range(2):
        ends = torch.stack(fractal.columns(x, columns))
        x = torch.stack([F.max_pool2d(end, 2) for end in ends]).mean(0) if early else F.max_pool2d(ends.mean(0), 2)
    assert next(fractal.paths, None) is None
    expected = F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
