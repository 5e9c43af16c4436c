"""What a trial scores when a search aims at a latency too, what it is over, when its training is not worth its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.study.scheduling.successive_halving import SuccessiveHalving

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

    from nas_agg.study.definition.objectives import Objectives
    from nas_agg.study.definition.settings import Settings

#: MnasNet's (Tan et al. 2019, section 3): of two networks of one latency the better wins, and twice as fast is worth
#: 5 % of the accuracy.
LATENCY_EXPONENT = -0.07


def latency_reward(accuracy: float, latency_ms: float | None, target: float | None) -> float:
    """``accuracy * (latency / target) ** -0.07``; the accuracy itself where there is no target."""
    if target is None or latency_ms is None:
        return accuracy
    return accuracy * (latency_ms / target) ** LATENCY_EXPONENT


def latency_rejection(latency_ms: float | None, limit: float | None) -> str:
    """Why a network of such a latency is refused; empty if it is not."""
    if not limit or latency_ms is None or latency_ms <= limit:
        return ""
    return f"latency {latency_ms:.4g} ms, more than {limit:.4g} ms"


def constraint_violations(settings: Settings, found: Mapping[str, Any]) -> dict[str, float]:
    """By how much a network is over each limit that a training tells of; 0 or less is within it.

    Args:
        settings: With the limits.
        found: What a worker told of the network.
    """
    by: dict[str, float] = {}
    if settings.max_latency is not None and found.get("latency_ms") is not None:
        by["latency"] = found["latency_ms"] - settings.max_latency
    if settings.min_accuracy is not None and found.get("accuracy") is not None:
        by["accuracy"] = settings.min_accuracy - found["accuracy"]
    if settings.max_loss is not None and found.get("loss") is not None:
        by["loss"] = found["loss"] - settings.max_loss
    return by


def make_pruner(settings: Settings, objectives: Objectives) -> BasePruner:
    """Stops a network below the median of the finished ones: not in its first third, nor before ten are finished.

    Of several objectives there is no median; trials that pause at rungs are not stopped in between.
    """
    from optuna.pruners import MedianPruner, NopPruner

    if objectives.is_multi_objective or settings.pruner not in (None, "median"):
        return NopPruner()
    return MedianPruner(n_startup_trials=10, n_warmup_steps=(settings.epochs or 0) // 3, n_min_trials=5)


def make_successive_halving(settings: Settings, objectives: Objectives) -> SuccessiveHalving | None:
    """Where trainings pause, by default after a third of their epochs; None: nowhere.

    Raises:
        InputError: There is no rung before the last epoch, or something is said of rungs where there are none.
    """
    if settings.pruner not in ("halving", "hyperband"):
        for name in ("first_epochs", "reduction"):
            if getattr(settings, name) is not None:
                raise InputError(f"{name}: of halving and hyperband; leave it out, or name such a pruner")
        return None
    assert settings.epochs is not None
    first = settings.first_epochs or math.ceil(settings.epochs / 3)
    if first >= settings.epochs:
        raise InputError(f"first_epochs: {first} of {settings.epochs} epochs leave nothing to save; give less")
    return SuccessiveHalving(
        first, settings.reduction or 3, settings.epochs, settings.pruner == "hyperband", objectives
    )
