"""Sections on results: the history of a search, its Pareto fronts and its best networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from nas_agg.report.html.parts import (
    BAD,
    BEST,
    INK,
    MUTED,
    SERIES,
    MetricChoice,
    Plot,
    Section,
    Table,
    label,
    metric_axis,
    metric_title,
    visible,
    with_legend,
)
from nas_agg.report.runs.summary import best_so_far, best_trial, top_trials
from nas_agg.study.definition.metrics import Metric
from nas_agg.study.definition.pareto import dominated
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.definition.trial_rows import known_metrics, metric_value
from nas_agg.study.records.saved_run import SavedRun

STATE_LOOKS: dict[RecordState, tuple[str, str]] = {
    RecordState.COMPLETE: (SERIES[0], "circle"),
    RecordState.PRUNED: (MUTED, "x-thin-open"),
    RecordState.PAUSED: (SERIES[2], "diamond-open"),
    RecordState.DUPLICATE: (SERIES[4], "circle-open"),
}
OVER_LIMIT = "exceeds a limit"


def history_section(run: SavedRun) -> Section | None:
    """Each trial's value and the best so far, for each objective."""
    if not any(trial.values for trial in run.trials):
        return None
    plots = [_history(run, index, metric) for index, metric in enumerate(run.objectives)]
    return Section("history", "History", plots)


def _history(run: SavedRun, index: int, metric: Metric) -> Plot:
    groups: dict[tuple[str, str, str], list[TrialRecord]] = {}
    for trial in run.trials:
        if trial.values is not None:
            look = (str(trial.state), *STATE_LOOKS.get(trial.state, (MUTED, "circle-open")))
            if trial.scores is None and trial.consumes_budget:
                look = (OVER_LIMIT, BAD, "triangle-up-open")
            groups.setdefault(look, []).append(trial)
    traces: list[dict[str, Any]] = []
    for (name, colour, symbol), trials in groups.items():
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [trial.number for trial in trials],
                "y": [trial.values[index] for trial in trials if trial.values],
                "text": [trial_text(run, trial) for trial in trials],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 7, "line": {"width": 1.5, "color": colour}},
            }
        )
    if line := best_so_far(run, index):
        x, y = [number for number, _ in line], [value for _, value in line]
        stairs = {"color": BEST, "width": 2, "shape": "hv"}
        traces.append(
            {"type": "scatter", "mode": "lines", "name": "best so far", "x": x, "y": y, "line": stairs}
            | {"hovertemplate": "best up to trial %{x}: %{y}<extra></extra>"}
        )
    values = [trial.values[index] for trial in run.trials if trial.values]
    layout = with_legend(xaxis={"title": {"text": "trial"}}, yaxis=metric_axis(metric, values))
    return Plot(f"history-{index}", f"{metric_title(metric)} of each trial", traces, layout)


def trial_text(run: SavedRun, trial: TrialRecord) -> str:
    """A trial and its metrics as lines of a hover label."""
    lines = [f"trial {trial.number}: {trial.state}"]
    for metric in known_metrics(run.trials, run.objectives):
        value = metric_value(trial, metric, run.objectives)
        if value is not None:
            lines.append(f"{label(metric.name)} {label(metric.format(value).removeprefix(f'{metric.name} '))}")
    if trial.duplicate_of is not None:
        lines.append(f"equal to trial {trial.duplicate_of}")
    return "<br>".join(lines)


# ---------------------------------------------------------------------- Pareto fronts


def shown_trials(run: SavedRun) -> list[TrialRecord]:
    """The trials in the scatter plot of metrics: those with a result of their own."""
    return [trial for trial in run.trials if trial.consumes_budget and trial.values is not None]


def front_of(run: SavedRun, trials: Sequence[TrialRecord], x: Metric, y: Metric) -> list[int]:
    """The places of the trials in the Pareto front of two metrics, ordered along x.

    Only fully trained networks within the limits take part.
    """
    places, scores = [], []
    for place, trial in enumerate(trials):
        values = [metric_value(trial, metric, run.objectives) for metric in (x, y)]
        if trial.state == RecordState.COMPLETE and trial.scores is not None and None not in values:
            places.append(place)
            scores.append(
                [metric.score(value) for metric, value in zip((x, y), values, strict=True) if value is not None]
            )
    if not places:
        return []
    mask = dominated(np.array(scores, float))
    front = [place for place, is_dominated in zip(places, mask, strict=True) if not is_dominated]
    return sorted(front, key=lambda place: metric_value(trials[place], x, run.objectives) or 0.0)


def pareto_section(run: SavedRun) -> Section | None:
    """The trials by any two metrics, with the Pareto front of these."""
    metrics, trials = known_metrics(run.trials, run.objectives), shown_trials(run)
    if len(metrics) < 2 or len(trials) < 2:
        return None
    y = metrics[0]
    x = metrics[1] if run.objectives.is_multi_objective else next((m for m in metrics if m.name == "macs"), metrics[1])
    values = {metric.name: [metric_value(trial, metric, run.objectives) for trial in trials] for metric in metrics}
    fronts = {f"{a.name} {b.name}": front_of(run, trials, a, b) for a, b in permutations(metrics, 2)}
    axes = {
        metric.name: metric_axis(metric, [value for value in values[metric.name] if value is not None])
        for metric in metrics
    }
    front = fronts[f"{x.name} {y.name}"]
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "networks",
        "x": values[x.name],
        "y": values[y.name],
        "text": [trial_text(run, trial) for trial in trials],
        "customdata": [trial.number for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": [SERIES[0] if trial.state == RecordState.COMPLETE else MUTED for trial in trials],
            "symbol": ["circle" if trial.state == RecordState.COMPLETE else "circle-open" for trial in trials],
            "size": 8,
        },
    }
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "Pareto front",
        "x": [values[x.name][place] for place in front],
        "y": [values[y.name][place] for place in front],
        "text": [trial_text(run, trials[place]) for place in front],
        "customdata": [trials[place].number for place in front],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": BEST, "width": 2},
        "marker": {"color": BEST, "size": 10, "line": {"color": INK, "width": 1}},
    }
    plot = Plot(
        "pareto",
        "Pareto front of two metrics",
        [points, line],
        with_legend(xaxis=axes[x.name], yaxis=axes[y.name], hovermode="closest"),
        height=440,
        note="Filled: trained in full; hollow: stopped early. Hover or tap a network of the front to see it drawn.",
        choices=MetricChoice(axes, values, fronts, x.name, y.name),
    )
    return Section("pareto", "Pareto front", [plot])


def drawn_trials(run: SavedRun, limit: int = 40) -> list[int]:
    """The numbers of the trials whose networks the page draws: the best, and those of fronts, up to a limit."""
    best, metrics, trials = best_trial(run), known_metrics(run.trials, run.objectives), shown_trials(run)
    numbers = [best.number] if best else []
    for objective in run.objectives:
        for metric in metrics:
            if metric.name != objective.name:
                numbers += [trials[place].number for place in front_of(run, trials, metric, objective)]
    return list(dict.fromkeys(numbers))[:limit]


def best_section(run: SavedRun) -> Section | None:
    """A table of the best networks or, with several objectives, of the Pareto front."""
    top = top_trials(run)
    if not top:
        return None
    title = "Networks of the Pareto front" if run.objectives.is_multi_objective else "Best networks"
    metrics = [
        metric
        for metric in known_metrics(run.trials, run.objectives)
        if metric.name != "loss" or "loss" in run.objectives.names
    ]
    header = ["trial", *(_column(metric) for metric in metrics), "seconds", "hash"]
    rows = []
    for trial in top:
        cells = [(metric_value(trial, metric, run.objectives), metric) for metric in metrics]
        texts = ["" if value is None else _cell(metric, value) for value, metric in cells]
        seconds = "" if trial.seconds is None else f"{trial.seconds:.1f}"
        rows.append([str(trial.number), *texts, seconds, trial.hash[:12]])
    return Section("best", title, [Table(header, rows, right=range(len(header) - 1))])


def _column(metric: Metric) -> str:
    return {"macs": "MACs", "activations": "activation bytes"}.get(metric.name, visible(metric.name))


def _cell(metric: Metric, value: float) -> str:
    text = metric.format(value)
    return visible(text.removeprefix(f"{metric.name} ").removesuffix(" params").removesuffix(" MACs"))
