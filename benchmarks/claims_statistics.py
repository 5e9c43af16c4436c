"""Contrasts between arms that share seeds: a randomised block design, with Holm's correction over all contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Results = Mapping[str, Mapping[int, float]]  # arm -> seed -> value


@dataclass(frozen=True)
class Contrast:
    """A difference between means of arms with its uncertainty.

    Attributes:
        estimate: The difference, in the unit of the values.
        half_width: Half of the 95 % confidence interval.
        p: Two-sided p-value of no difference.
        seeds: Number of seeds common to all arms of the family.
        degrees: Degrees of freedom of the residual.
    """

    estimate: float
    half_width: float
    p: float
    seeds: int
    degrees: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval."""
        return self.estimate - self.half_width, self.estimate + self.half_width


def shared_seeds(results: Results, arms: Sequence[str]) -> list[int]:
    """The seeds common to some arms."""
    return sorted(set.intersection(*(set(results.get(arm, {})) for arm in arms)))


def residual_deviation(results: Results, arms: Sequence[str]) -> tuple[float, int]:
    """Standard deviation of the residual of arms and seeds, and its degrees of freedom.

    The model is additive: value = arm + seed + residual, with ``(arms - 1) * (seeds - 1)`` degrees of freedom, so that
    effects of a seed common to all arms (order of images, augmentation) are not noise.

    Raises:
        ValueError: There are fewer than two arms, or fewer than two common seeds.
    """
    seeds = shared_seeds(results, arms)
    if len(arms) < 2 or len(seeds) < 2:
        raise ValueError(f"{len(arms)} arms with {len(seeds)} common seeds: at least two of each are needed")
    table = np.array([[results[arm][seed] for seed in seeds] for arm in arms])
    residual = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    degrees = (len(arms) - 1) * (len(seeds) - 1)
    return float(np.sqrt((residual**2).sum() / degrees)), degrees


def contrast(results: Results, arms: Sequence[str], signs: Mapping[str, int]) -> Contrast:
    """The mean of some arms minus the mean of others; the residual is pooled over the family.

    Args:
        results: Values by arm and seed.
        arms: All arms of the family.
        signs: 1 for arms of the first mean, -1 for those of the second.

    Raises:
        ValueError: One of the means has no arm, or there are too few arms or seeds.
    """
    counts = {sign: list(signs.values()).count(sign) for sign in (1, -1)}
    if not all(counts.values()):
        raise ValueError(f"signs {dict(signs)}: at least one arm with 1 and one with -1 are needed")
    weights = {arm: sign / counts[sign] for arm, sign in signs.items()}
    seeds = shared_seeds(results, arms)
    deviation, degrees = residual_deviation(results, arms)
    differences = [sum(weight * results[arm][seed] for arm, weight in weights.items()) for seed in seeds]
    estimate = float(np.mean(differences))
    error = deviation * float(np.sqrt(sum(weight**2 for weight in weights.values()) / len(seeds)))
    if error == 0:
        return Contrast(estimate, 0.0, float(estimate == 0), len(seeds), degrees)
    half_width = float(stats.t.ppf(0.975, degrees)) * error
    p = float(2 * stats.t.sf(abs(estimate) / error, degrees))
    return Contrast(estimate, half_width, p, len(seeds), degrees)


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down procedure (Holm, 1979), in the given order."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted.tolist()
