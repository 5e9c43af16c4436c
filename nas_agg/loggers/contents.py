"""What loggers write: search variables, results and drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nas_agg.common.errors import NasAggError
from nas_agg.language.genotype import Genotype
from nas_agg.report.drawing import draw
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.definition.trial_rows import choice_text


def hyperparameters(trial: TrialRecord) -> dict[str, str | int | float]:
    """A trial's values of the search variables; texts as people write them."""
    return {
        name: choice if isinstance(choice, int | float) and not isinstance(choice, bool) else choice_text(choice)
        for name, choice in trial.labels.items()
    }


def trial_results(trial: TrialRecord) -> dict[str, float]:
    """The known metrics of a trial by their attributes, its first objective's value and its seconds."""
    metrics = {metric.attribute: getattr(trial, metric.attribute) for metric in METRICS.values()}
    metrics |= {"value": trial.value, "seconds": trial.seconds}
    return finite(metrics)


def final_results(result: SearchResult) -> dict[str, float]:
    """The numbers of the final network's metrics.json, and the best value of the search."""
    return finite({**(result.test or {}), "best_value": result.value})


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among some values."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def drawing_of(result: SearchResult) -> str | None:
    """The best network of a search as SVG; None if it is no network."""
    try:
        return draw(result.best, "best network", adapts=False) if isinstance(result.best, Genotype) else None
    except NasAggError:
        return None
