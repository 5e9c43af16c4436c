"""Reward and constraints of a trial, and the pruner or rungs that end its training early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.setting_groups import PAUSING_PRUNERS
from nas_agg.study.scheduling.freeze_thaw import FreezeThaw
from nas_agg.study.scheduling.rungs import Rungs
from nas_agg.study.scheduling.successive_halving import SuccessiveHalving

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

    from nas_agg.study.definition.objectives import Objectives
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.samplers.searcher import Searcher

#: Of MnasNet (Tan et al. 2019, section 3): halving the latency is worth 5 % of the accuracy.
LATENCY_EXPONENT = -0.07


def latency_reward(accuracy: float, latency_ms: float | None, target: float | None) -> float:
    """MnasNet's reward (Tan et al. 2019, equation 2): ``accuracy * (latency / target) ** -0.07``.

    Args:
        accuracy: Validation accuracy.
        latency_ms: Milliseconds of a forward pass.
        target: The target latency in milliseconds; ``None`` makes the accuracy itself the reward.
    """
    if target is None or latency_ms is None:
        return accuracy
    return accuracy * (latency_ms / target) ** LATENCY_EXPONENT


def latency_rejection(latency_ms: float | None, limit: float | None) -> str:
    """The reason to reject a network of this latency; empty if it is within the limit."""
    if not limit or latency_ms is None or latency_ms <= limit:
        return ""
    return f"latency {latency_ms:.4g} ms, more than {limit:.4g} ms"


def constraint_violations(settings: Settings, metrics: Mapping[str, Any]) -> dict[str, float]:
    """By how much a network exceeds each limit on a measured or trained metric; 0 or less is within it.

    Args:
        settings: The limits.
        metrics: Metrics of the network; a limit without its metric is left out.
    """
    violations: dict[str, float] = {}
    if settings.max_latency is not None and metrics.get("latency_ms") is not None:
        violations["latency"] = metrics["latency_ms"] - settings.max_latency
    if settings.min_accuracy is not None and metrics.get("accuracy") is not None:
        violations["accuracy"] = settings.min_accuracy - metrics["accuracy"]
    if settings.max_loss is not None and metrics.get("loss") is not None:
        violations["loss"] = metrics["loss"] - settings.max_loss
    for name, sign, bounds in (("min", 1, settings.min_metric), ("max", -1, settings.max_metric)):
        for metric, bound in (bounds or {}).items():
            if (value := metrics.get(METRICS[metric].attribute)) is not None:
                violations[f"{name} {metric}"] = sign * (bound - value)
    return violations


def make_pruner(settings: Settings, objectives: Objectives) -> BasePruner:
    """Optuna's median pruner, from a third of the epochs on and once ten trials are finished.

    With several objectives there is no median, and trials that pause at rungs are not stopped in between: then the
    pruner stops no trial.
    """
    from optuna.pruners import MedianPruner, NopPruner

    if objectives.is_multi_objective or settings.pruner not in (None, "median"):
        return NopPruner()
    return MedianPruner(n_startup_trials=10, n_warmup_steps=(settings.epochs or 0) // 3, n_min_trials=5)


def check_freeze_thaw(searcher: Searcher, settings: Settings) -> None:
    """Check that a searcher can decide which paused trials continue.

    Raises:
        InputError: It does not model learning curves, or a proxy chooses the networks.
    """
    if not searcher.supports_freeze_thaw:
        raise InputError(
            f"pruner: freeze-thaw needs a searcher that models learning curves, and {settings.searcher} does not; use "
            "the searcher predictor, or the pruner halving"
        )
    if settings.proxy is not None:
        raise InputError("pruner: freeze-thaw cannot be combined with a proxy; leave out one of them")


def make_rungs(settings: Settings, objectives: Objectives) -> Rungs | None:
    """The rungs of a search, by default from a third of the epochs on, or at each quarter for freeze-thaw.

    Returns:
        None for a pruner without rungs.

    Raises:
        InputError: The first rung is not below the last epoch, or a setting of rungs is given for another pruner.
    """
    uses = {"reduction_factor": ("halving", "hyperband"), "min_epochs": PAUSING_PRUNERS}
    for name, pruners in uses.items():
        if getattr(settings, name) is not None and settings.pruner not in pruners:
            names = f"{', '.join(pruners[:-1])} and {pruners[-1]}"
            raise InputError(f"{name}: only for the pruners {names}; leave it out, or choose one")
    if settings.pruner not in PAUSING_PRUNERS:
        return None
    assert settings.epochs is not None
    first = settings.min_epochs or math.ceil(settings.epochs / (4 if settings.pruner == "freeze-thaw" else 3))
    if first >= settings.epochs:
        raise InputError(f"min_epochs: {first} must be less than the {settings.epochs} epochs of a full training")
    if settings.pruner == "freeze-thaw":
        return FreezeThaw(first, settings.epochs)
    return SuccessiveHalving(
        first, settings.reduction_factor or 3, settings.epochs, settings.pruner == "hyperband", objectives
    )
