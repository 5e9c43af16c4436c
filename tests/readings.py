"""Points of spaces: all, on small images, with other text for names of their `let`; networks with uneven weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nas_agg
from nas_agg.genotype import Genotype
from nas_agg.space import list_spaces, open_space


def reading(family: str, point: str, classes: int | None = None, /, **let: Any) -> Genotype:
    """The genotype of ``FAMILY/POINT`` with some names of its ``let``, open ones or others, given anew."""
    written = nas_agg.load(f"{family}/{point}").with_task(classes=classes).text()
    return Genotype.read({**written, "let": written["let"] | let})


#: Every point of every space, as (space, point), and the first of each space.
POINTS = [(name, point) for name in list_spaces() for point in open_space(name).points]
ONE_A_SPACE = [(name, next(iter(open_space(name).points))) for name in list_spaces()]
#: Cases of a test: the first point of each space, and the others where it runs slow tests.
POINT_CASES = [pytest.param(*case, marks=[] if case in ONE_A_SPACE else pytest.mark.slow) for case in POINTS]


def smallest(space: str, point: str) -> Genotype:
    """A point on the smallest images that its space takes."""
    opened = open_space(space)
    side = opened.min_input or 8
    return opened.point(point, input=(opened.point(point).input[0], side, side))


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """A network whose parameters and statistics are none of the values that modules start with."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dtype.is_floating_point:
            if value.dim() == 4:
                value.mul_(0.4)  # so that a thousand layers do not overflow
            value.add_(0.03 * torch.randn(value.shape, generator=generator))
    return network
