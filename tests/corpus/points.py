"""Points of the spaces at small inputs, and randomized weights."""

from __future__ import annotations

import pytest
import torch

from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import list_spaces, open_space

#: Every point of every space, as (space, point), and the first of each space.
POINTS = [(name, point) for name in list_spaces() for point in open_space(name).points]
FIRST_POINTS = [(name, next(iter(open_space(name).points))) for name in list_spaces()]
#: Points that train in a second or so, in place of a space's first point; spaces without one are left to slow tests.
LIGHT_POINTS = {
    "dsnet": "dsnet26-0.25x",
    "microdense": "fig4-n0",
    "residual": "resnext-29-4x8d",
    "seqconv": "table5-row3",
    **dict.fromkeys(("fractal", "mixed", "mixed-dpn", "mixed-imagenet", "residual-imagenet", "seqconv-imagenet")),
}
_QUICK = [(space, LIGHT_POINTS.get(space, point)) for space, point in FIRST_POINTS]
#: Cases of a test that trains: a light point of each space, and all others where slow tests run.
POINT_CASES = [pytest.param(*case, marks=[] if case in _QUICK else pytest.mark.slow) for case in POINTS]


def at_smallest_input(space: str, point: str) -> Genotype:
    """Return a point with the smallest input that its space supports, at least 8x8."""
    opened = open_space(space)
    side = opened.min_input or 8
    return opened.point(point, input=(opened.point(point).input[0], side, side))


def _operations(space: str, point: str) -> int:
    return len(expand(at_smallest_input(space, point)))


def one_per_family() -> list[tuple[str, str]]:
    """Return the point with fewest operations of each family's first space."""
    first = {open_space(name).family: name for name in reversed(list_spaces())}
    return [
        (s, min(open_space(s).points, key=lambda p: len(expand(at_smallest_input(s, p)))))
        for s in sorted(first.values())
    ]


def randomized(network: torch.nn.Module) -> torch.nn.Module:
    """Perturb every parameter and running statistic of a network, so that each of them affects its output."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dtype.is_floating_point:
            if value.dim() == 4:
                value.mul_(0.4)  # so that a thousand layers do not overflow
            value.add_(0.03 * torch.randn(value.shape, generator=generator))
    return network
