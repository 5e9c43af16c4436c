"""Trials as rows of a table, and as a DataFrame of pandas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.study.definition.metrics import METRICS, Metric
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.trial import TrialRecord

if TYPE_CHECKING:
    import pandas


def known_metrics(trials: Sequence[TrialRecord], objectives: Objectives) -> list[Metric]:
    """The objectives, then the other metrics that are known of at least one trial's network."""
    others = [metric for metric in METRICS.values() if metric.name not in objectives.names]
    scored = [trial for trial in trials if trial.scores is not None]

    def is_known(metric: Metric) -> bool:
        values = [getattr(trial, metric.attribute) for trial in scored]
        return any(values) if metric.known_a_priori else any(value is not None for value in values)

    return [*objectives, *filter(is_known, others)]


def metric_value(trial: TrialRecord, metric: Metric, objectives: Objectives) -> float | None:
    """A trial's value of a metric; None if it is unknown."""
    if metric.name in objectives.names:
        return None if trial.values is None else trial.values[objectives.names.index(metric.name)]
    value: float | None = getattr(trial, metric.attribute)
    return value


def trial_rows(
    shown: Sequence[TrialRecord], trials: Sequence[TrialRecord], objectives: Objectives
) -> list[dict[str, Any]]:
    """Trials as JSON values: number, state, metrics, seconds, hash, reason, and values of the search variables.

    Args:
        shown: The trials of the rows, in their order.
        trials: All trials of the search; their metrics are the columns.
        objectives: The objectives of the search.
    """
    metrics = known_metrics(trials, objectives)
    names = list(dict.fromkeys(name for trial in trials for name in trial.labels))
    rows = []
    for trial in shown:
        row: dict[str, Any] = {"trial": trial.number, "state": str(trial.state)}
        row |= {metric.name: metric_value(trial, metric, objectives) for metric in metrics}
        row |= {name: getattr(trial, name) for name in ("seconds", "hash", "reason", "duplicate_of")}
        rows.append(row | {name: trial.labels.get(name) for name in names if name not in row})
    return rows


def choice_text(choice: Any) -> str:
    """A value of a search variable as people write it: texts without quotes, other values as JSON."""
    if isinstance(choice, str):
        try:
            value = json.loads(choice)
        except ValueError:
            return choice
        if (
            isinstance(value, dict)
            and len(value) == 1
            and not isinstance(word := next(iter(value.values())), dict | list)
        ):
            return f"{next(iter(value))} {choice_text(word)}"  # a pattern with its number
        return value if isinstance(value, str) else choice
    return f"{choice:g}" if isinstance(choice, float) else str(choice)


def trials_frame(trials: Sequence[TrialRecord], objectives: Objectives) -> pandas.DataFrame:
    """All trials as a DataFrame: a row per trial, with the columns of `trial_rows`, and choices as people write them.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("to_dataframe: pandas is not installed: pip install 'nas-agg[pandas]'") from None
    names = {name for trial in trials for name in trial.labels}
    rows = [
        {key: choice_text(value) if key in names and isinstance(value, str) else value for key, value in row.items()}
        for row in trial_rows(trials, trials, objectives)
    ]
    return pandas.DataFrame(rows).set_index("trial") if rows else pandas.DataFrame()
