"""Importance of each search variable, and the effect of each of its values, from the trials of a search.

Importances are those of PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023), as Optuna computes them: how much the
values among the best fifth of the trials differ from those among all. Half-samples of the trials give the interval: the
spread between random halves estimates that of the whole sample.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas_agg.report.runs.summary import mean_interval
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.records.saved_run import SavedRun
from nas_agg.study.records.storages import silence_optuna

MIN_TRIALS = 10
HALVES = 40
TOP_SHARE = 0.2


@dataclass(frozen=True)
class Importance:
    """Importance of a search variable, 0 to 1; those of all variables sum to 1.

    Attributes:
        name: The search variable.
        value: Its importance.
        low, high: 95 % interval; equal to the value where trials are too few for one.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """Results by the value of a search variable.

    Attributes:
        name: The search variable.
        choices: Its values, in the order of its domain, as far as they occur.
        results: For each of them, the values of the objective.
        means: For each of them, mean and 95 % confidence interval.
    """

    name: str
    choices: list[Any]
    results: list[list[float]]
    means: list[tuple[float, float, float]]


def comparable_trials(run: SavedRun) -> list[TrialRecord]:
    """The trials that were trained in full and are within the limits."""
    return [t for t in run.trials if t.state == RecordState.COMPLETE and t.scores is not None and t.values]


def importances(run: SavedRun, objective: int = 0, seed: int = 0) -> list[Importance]:
    """The importance of each search variable with more than one value, most important first.

    Args:
        run: The run.
        objective: The objective's index.
        seed: Seed of the half-samples.

    Returns:
        Empty if fewer than ``MIN_TRIALS`` trials are complete, or all have the same value.
    """
    trials = comparable_trials(run)
    names = [name for name, distribution in run.distributions.items() if not distribution.single()]
    scores = [trial.scores[objective] for trial in trials if trial.scores]
    if len(trials) < MIN_TRIALS or not names or max(scores) == min(scores):
        return []
    draw, halves = np.random.default_rng(seed), []
    with silence_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = _study(trials, scores, run.distributions)
        values = _ped_anova(study, names, scores, range(len(trials)))
        if len(trials) >= 2 * MIN_TRIALS:
            halves = [
                _ped_anova(study, names, scores, draw.permutation(len(trials))[: len(trials) // 2].tolist())
                for _ in range(HALVES)
            ]
    result = []
    for name in names:
        value = values[name]
        deviation = math.sqrt(sum((half[name] - value) ** 2 for half in halves) / len(halves)) if halves else 0.0
        result.append(Importance(name, value, max(0.0, value - 1.96 * deviation), min(1.0, value + 1.96 * deviation)))
    return sorted(result, key=lambda importance: -importance.value)


def _study(trials: Sequence[TrialRecord], scores: Sequence[float], distributions: Any) -> Any:
    import optuna

    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(params=trial.labels, distributions=dict(distributions), value=score)
            for trial, score in zip(trials, scores, strict=True)
        ]
    )
    return study


def _ped_anova(study: Any, names: list[str], scores: Sequence[float], places: Sequence[int]) -> dict[str, float]:
    """Importances by the trials in some places; Optuna leaves out trials whose target is not finite."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    chosen = set(places)
    values = get_param_importances(
        study,
        evaluator=PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE),
        params=names,
        target=lambda trial: -scores[trial.number] if trial.number in chosen else math.inf,
    )
    return {name: float(value) for name, value in values.items()}


def effects(run: SavedRun, names: Sequence[str], objective: int = 0) -> list[Effect]:
    """The effect of each value of some search variables on an objective.

    Args:
        run: The run.
        names: The search variables.
        objective: The objective's index.
    """
    trials, result = comparable_trials(run), []
    for name in names:
        by_choice: dict[Any, list[float]] = {}
        for trial in trials:
            if name in trial.labels and trial.values:
                by_choice.setdefault(trial.labels[name], []).append(trial.values[objective])
        choices = [choice for choice in _domain(run.distributions[name], by_choice) if choice in by_choice]
        results = [by_choice[choice] for choice in choices]
        result.append(Effect(name, choices, results, [mean_interval(values) for values in results]))
    return result


def _domain(distribution: BaseDistribution, occurring: dict[Any, list[float]]) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return sorted(occurring)
