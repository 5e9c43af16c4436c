"""Noise of parts of a batch: that of the whole batch, bit for bit, from a generator that advances as far."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_agg.compiler import compile
from nas_agg.language.genotype import Genotype
from nas_agg.training.steps.batches import Batch
from nas_agg.training.steps.noise import NoiseOfPart, has_noise

NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: functional.dropout(x, 0.3, True),
    "dropout of vectors": lambda x: functional.dropout(x.flatten(1), 0.2, True),
    "dropout of channels": lambda x: functional.dropout2d(x, 0.3, True),
    "stochastic depth": lambda x: functional.dropout3d(x[None], 0.3, True)[0],
    "a module": nn.Dropout(0.3),
    "a mask of elements": lambda x: torch.empty_like(x, dtype=torch.bool).bernoulli_(0.7),
    "a mask of images": lambda x: x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.7),
    "nothing in evaluation": lambda x: functional.dropout(x, 0.3, False),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("noise", NOISES)
def test_parts_have_the_noise_of_the_batch(noise: str, layout: torch.memory_format) -> None:
    draw = NOISES[noise]
    x = torch.randn(7, 6, 5, 5).contiguous(memory_format=layout)
    torch.manual_seed(0)
    whole, state = draw(x), torch.get_rng_state()
    for part in (slice(0, 4), slice(4, 7)):
        torch.manual_seed(0)
        with NoiseOfPart(Batch(x[part], torch.zeros(7), None, part)):
            assert torch.equal(draw(x[part]), whole[part])
        assert torch.equal(torch.get_rng_state(), state)


def test_networks_with_noise_are_recognised() -> None:
    net = [{"conv": 3, "out": 4}, "relu", "gap", {"linear": "classes"}]
    genotype = Genotype.from_dict({"input": [1, 8, 8], "classes": 10, "net": net})
    assert not has_noise(compile(genotype, 0)) and has_noise(compile(genotype, 0, dropout=0.1))
    assert has_noise(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
