"""What a trial scores when a search aims at a latency too, and when a training is not worth its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

#: MnasNet's (Tan et al. 2019, section 3): of two networks of one latency the better wins, and twice as fast is worth
#: 5 % of the accuracy.
EXPONENT = -0.07


def score(accuracy: float, latency_ms: float | None, target: float | None) -> float:
    """``accuracy * (latency / target) ** -0.07``; the accuracy itself where there is no target."""
    if target is None or latency_ms is None:
        return accuracy
    return accuracy * (latency_ms / target) ** EXPONENT


def over(latency_ms: float | None, limit: float | None) -> str:
    """Why a network of such a latency is refused; empty if it is not."""
    if not limit or latency_ms is None or latency_ms <= limit:
        return ""
    return f"latency {latency_ms:.4g} ms, more than {limit:.4g} ms"


def pruner_of(epochs: int) -> BasePruner:
    """Stops a network below the median of the finished ones: not in its first third, nor before ten are finished."""
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=10, n_warmup_steps=epochs // 3, n_min_trials=5)
