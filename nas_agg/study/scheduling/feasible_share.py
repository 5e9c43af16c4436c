"""Networks within the limits of a search, by arithmetic: their share of a space, and the repair of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Tape
from nas_agg.graph.primitives import Shape
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.study.definition.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np

    from nas_agg.search_space.parameters import Values
    from nas_agg.search_space.searchable import SearchableSpace

MAX_NETWORKS = 400  # of a sample
MAX_REPAIRS = 300  # mutations
MAX_OPERATIONS = 40_000  # of all its networks together, which takes a fraction of a second


@dataclass(frozen=True)
class FeasibleShare:
    """Numbers of networks within the limits.

    Attributes:
        networks: Random networks, drawn uniformly.
        feasible: Those of them within the limits.
        points: The named points of the space.
        feasible_points: Those of them within the limits.
    """

    networks: int
    feasible: int
    points: int
    feasible_points: int

    def line(self, limits: str) -> str:
        """A line to print.

        Args:
            limits: The limits as a text, such as ``1,000,000 MACs``.
        """
        if self.feasible:
            share = f"about {_rounded(100 * self.feasible / self.networks)} %"
        else:  # upper end of the 95 % confidence interval
            share = f"at most {math.ceil(min(100, 300 / self.networks))} %"
        line = f"limits: {share} of the space ({self.feasible} of {self.networks} random networks) is within {limits}"
        if not self.points:
            return line
        if self.points == 1:
            return f"{line}; its named point is{'' if self.feasible_points else ' not'}"
        count = {0: "none", self.points: "each"}.get(self.feasible_points, str(self.feasible_points))
        verb = "is" if count in ("none", "each", "1") else "are"
        return f"{line}; {count} of its {self.points} named points {verb}"


class _LimitExceeded(Exception):
    """A network exceeds a limit by far."""


class _BoundedTape(Tape):
    """A tape that stops the expansion of a network at twice a limit.

    Operations without a reader are counted too, although the finished network has none of them; hence twice.
    """

    def __init__(self, image: Shape, limits: Mapping[str, int]):
        super().__init__(image)
        self.params = self.macs = self.counted = 0
        self.bounds = {name: 2 * limit for name, limit in limits.items() if limit and name in ("params", "macs")}

    def check_size(self, more: int) -> None:
        super().check_size(more)
        for op, shape in zip(self.ops[self.counted :], self.shapes[self.counted :], strict=True):
            self.params += op.params
            self.macs += op.macs(shape)
        self.counted = len(self.ops)
        if any(getattr(self, name) > bound for name, bound in self.bounds.items()):
            raise _LimitExceeded


def check_limits(genotype: Genotype, limits: Mapping[str, int]) -> tuple[bool, int]:
    """Check a network against limits without expanding it much further than they allow.

    Args:
        genotype: The network.
        limits: The largest value of each attribute of its cost; 0 is no limit.

    Returns:
        Whether the network is within the limits, and the number of operations that were expanded.

    Raises:
        GenotypeError: The genotype is not a valid network.
    """
    tape = _BoundedTape(genotype.input, limits)
    try:
        cost = Cost(expand(genotype, lambda image: tape))
    except _LimitExceeded:
        return False, tape.counted
    return all(getattr(cost, name) <= limit for name, limit in limits.items() if limit), tape.counted


def estimate_feasible_share(
    space: Space,
    check: Callable[[Genotype], tuple[bool, int]],
    input: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> FeasibleShare | None:
    """Estimate the share of a space that is within limits; the random state of the search is not used.

    Args:
        space: The space.
        check: Gives whether a network is within the limits, and the number of operations expanded for it. An
            `InputError` means that the point is not a valid network; such points are left out.
        input: The images' shape (channels, height, width); None takes the space's own.
        classes: The number of classes; None takes the space's own.

    Returns:
        The share; None if no valid network was drawn.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    feasible: list[bool] = []
    operations = 0
    for _ in range(MAX_NETWORKS):
        try:
            is_feasible, size = check(space.genotype(space.sample(rng), input, classes))
        except InputError:
            operations += 1000
        else:
            feasible.append(is_feasible)
            operations += size
        if operations > MAX_OPERATIONS:
            break
    if not feasible:
        return None
    named = [_is_feasible(check, space.point(name, input, classes)) for name in space.points]
    return FeasibleShare(len(feasible), sum(feasible), len(named), sum(named))


def repair_point(
    space: SearchableSpace, values: Values, excess: Callable[[Values], float], rng: np.random.Generator
) -> Values:
    """Change a point until its network is within the limits: mutations that do not exceed them by more are kept.

    Args:
        space: The space.
        values: The point.
        excess: By how much the network of a point exceeds the limits; 0 or less if it is within them.
        rng: Draws the mutations.

    Returns:
        The point; it may still exceed the limits after `MAX_REPAIRS` mutations.
    """
    highest = excess(values)
    for _ in range(MAX_REPAIRS):
        if highest <= 0:
            break
        changed = space.mutate(values, rng)
        if (other := excess(changed)) <= highest:
            values, highest = changed, other
    return values


def format_limits(limits: Mapping[str, Any]) -> str:
    """Limits as a text, such as ``1,000,000 MACs and 2 ms``.

    Args:
        limits: The largest value of each metric, by its name; 0 or None is no limit.
    """
    return " and ".join(METRICS[name].format(limit) for name, limit in limits.items() if limit)


def _is_feasible(check: Callable[[Genotype], tuple[bool, int]], genotype: Genotype) -> bool:
    try:
        return check(genotype)[0]
    except InputError:
        return False


def _rounded(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 1 else f"{percent:.1g}"
