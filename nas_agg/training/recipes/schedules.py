"""Learning-rate schedules: the share of the highest rate at each step, in closed form.

A schedule has no state, so that a training can be resumed at any step and shortened to any number of epochs. Where
`torch.optim.lr_scheduler` has the same schedule, the rates are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

ONE_CYCLE_RISE = 0.3  # share of the training, by default
ONE_CYCLE_START = 1 / 25  # of the highest rate
ONE_CYCLE_END = 1e-4  # of the rate at the start


class ScheduledRecipe(Protocol):
    """The fields of a recipe that its schedule depends on."""

    @property
    def lr(self) -> float:
        """Maximum learning rate."""

    @property
    def epochs(self) -> int:
        """Epochs of the recipe."""

    @property
    def milestones(self) -> tuple[float, ...]:
        """Epochs after which the rate falls by steps."""

    @property
    def decay(self) -> float:
        """Factor of each fall."""

    def warmup_steps(self, steps: int) -> int:
        """Warm-up steps of a training of ``steps``."""


def _warm_up(recipe: ScheduledRecipe, step: int, steps: int) -> float:
    """The highest rate, or what linear warm-up has reached of it."""
    warmup = recipe.warmup_steps(steps)
    return recipe.lr * step / warmup if step <= warmup else recipe.lr


def cosine(recipe: ScheduledRecipe, step: int, steps: int) -> float:
    """Half a cosine from the highest rate to zero (Eq. 15 and 16 of the Micro-Dense Nets paper)."""
    return _warm_up(recipe, step, steps) * (1 + math.cos(math.pi * step / steps)) / 2


def step(recipe: ScheduledRecipe, step: int, steps: int) -> float:
    """The highest rate, multiplied by ``decay`` at each milestone."""
    passed = sum((step - 1) * recipe.epochs >= milestone * steps for milestone in recipe.milestones)
    return _warm_up(recipe, step, steps) * recipe.decay**passed


def linear(recipe: ScheduledRecipe, step: int, steps: int) -> float:
    """A line from the highest rate to zero."""
    return _warm_up(recipe, step, steps) * (1 - step / steps)


def constant(recipe: ScheduledRecipe, step: int, steps: int) -> float:
    """The highest rate throughout."""
    return _warm_up(recipe, step, steps)


def one_cycle(recipe: ScheduledRecipe, step: int, steps: int) -> float:
    """A rise from 1/25 of the highest rate and a fall to nearly zero, both along half a cosine (Smith, 2018).

    The rates are those of ``torch.optim.lr_scheduler.OneCycleLR``. It rises during warm-up, or for 30 % of the training
    where the recipe has none. Momentum stays as it is.
    """
    top = (recipe.warmup_steps(steps) or ONE_CYCLE_RISE * steps) - 1
    start = recipe.lr * ONE_CYCLE_START
    if step - 1 <= top:
        return _between(start, recipe.lr, (step - 1) / top if top > 0 else 1.0)
    return _between(recipe.lr, start * ONE_CYCLE_END, (step - 1 - top) / (steps - 1 - top))


def _between(start: float, end: float, share: float) -> float:
    """A point of the half cosine from one rate to another."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


#: Learning rate of a step (from 1) of a training of some steps, by the schedule's name.
SCHEDULES: dict[str, Callable[[ScheduledRecipe, int, int], float]] = {
    "cosine": cosine,
    "step": step,
    "linear": linear,
    "constant": constant,
    "one-cycle": one_cycle,
}
