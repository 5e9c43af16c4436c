"""The share of a space that the limits of a search leave, by arithmetic on a sample of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Tape
from nas_agg.graph.primitives import Shape
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.study.definition.metrics import METRICS

NETWORKS = 400  # of a sample, at most
OPERATIONS = 40_000  # and of all its networks together, a fraction of a second


@dataclass(frozen=True)
class FeasibleShare:
    """How many of some networks are within the limits.

    Attributes:
        networks: Random networks, drawn evenly.
        within: Those within the limits.
        points: The space's named points.
        points_within: Those within the limits.
    """

    networks: int
    within: int
    points: int
    points_within: int

    def line(self, limits: str) -> str:
        """A line for people.

        Args:
            limits: The limits as they read, such as ``1,000,000 MACs``.
        """
        if self.within:
            share = f"about {_rounded(100 * self.within / self.networks)} %"
        else:
            share = f"at most {math.ceil(min(100, 300 / self.networks))} %"  # the 95 % bound of no hit
        line = f"limits: {share} of the space ({self.within} of {self.networks} random networks) is within {limits}"
        if not self.points:
            return line
        some = {0: "none", self.points: "each"}.get(self.points_within, str(self.points_within))
        verb = "is" if some in ("none", "each", "1") else "are"
        named = f"its {self.points} named points" if self.points > 1 else "its named point"
        if self.points == 1:
            return f"{line}; {named} is{'' if self.points_within else ' not'}"
        return f"{line}; {some} of {named} {verb}"


class _Bounded(Tape):
    """A tape that ends when a network is far over a limit.

    Twice the limit, since also operations that lead nowhere are counted, which the network will not have.
    """

    def __init__(self, image: Shape, limits: Mapping[str, int]):
        super().__init__(image)
        self.params = self.macs = self.counted = 0
        self.most = {name: 2 * limit for name, limit in limits.items() if limit and name in ("params", "macs")}

    def check_size(self, more: int) -> None:
        super().check_size(more)
        for op, shape in zip(self.ops[self.counted :], self.shapes[self.counted :], strict=True):
            self.params += op.params
            self.macs += op.macs(shape)
        self.counted = len(self.ops)
        if any(getattr(self, name) > most for name, most in self.most.items()):
            raise _Over


class _Over(Exception):
    """A network is over a limit."""


def check_limits(genotype: Genotype, limits: Mapping[str, int]) -> tuple[bool, int]:
    """Whether a network is within limits on figures of its cost, of which 0 is none, and how many operations that took.

    Raises:
        GenotypeError: It is no network.
    """
    tape = _Bounded(genotype.input, limits)
    try:
        cost = Cost(expand(genotype, lambda image: tape))
    except _Over:
        return False, tape.counted
    return all(getattr(cost, name) <= limit for name, limit in limits.items() if limit), tape.counted


def estimate_feasible_share(
    space: Space,
    fits: Callable[[Genotype], tuple[bool, int]],
    input: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> FeasibleShare | None:
    """Count what the limits leave of a space; the search's own draws are not touched.

    Args:
        space: The space.
        fits: Whether a network is within the limits, and how many operations that took. An `InputError` is a point of
            the space that is no network, which counts for nothing.
        input: The images' shape (channels, height, width); None leaves it to the space.
        classes: The number of classes; None leaves it to the space.

    Returns:
        The share; None if no network could be drawn.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    found: list[bool] = []
    operations = 0
    for _ in range(NETWORKS):
        try:
            fit, size = fits(space.genotype(space.sample(rng), input, classes))
        except InputError:
            operations += 1000
        else:
            found.append(fit)
            operations += size
        if operations > OPERATIONS:
            break
    if not found:
        return None
    named = [_fits(fits, space.point(name, input, classes)) for name in space.points]
    return FeasibleShare(len(found), sum(found), len(named), sum(named))


def format_limits(limits: Mapping[str, Any]) -> str:
    """Limits by the names of objectives as people read them, ``1,000,000 MACs and 2 ms``; 0 or None is no limit."""
    return " and ".join(METRICS[name].format(limit) for name, limit in limits.items() if limit)


def _fits(fits: Callable[[Genotype], tuple[bool, int]], genotype: Genotype) -> bool:
    try:
        return fits(genotype)[0]
    except InputError:
        return False


def _rounded(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 1 else f"{percent:.1g}"
