"""Sections on the search variables: importance, effects, parallel coordinates; and on proxies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas_agg.report.html.parts import (
    BEST,
    INK,
    MUTED,
    SERIES,
    Grid,
    Part,
    Plot,
    Section,
    distinct,
    label,
    metric_axis,
    metric_title,
    padded,
    with_legend,
)
from nas_agg.report.html.results import shown_trials
from nas_agg.report.runs.importance import Effect, Importance, effects, importances
from nas_agg.study.definition.metrics import Metric
from nas_agg.study.definition.trial_rows import choice_text
from nas_agg.study.records.saved_run import SavedRun

MAX_EFFECTS, MAX_AXES, MAX_LINES = 12, 10, 500


def importance_section(run: SavedRun) -> Section | None:
    """The importance of each search variable for each objective, and the effect of its values."""
    parts: list[Part] = []
    for index, metric in enumerate(run.objectives):
        if metric.depends_on_training:  # of others, the expression is known
            measured = importances(run, index)
            if measured:
                parts.append(_bars(measured, metric, f"importance-{index}"))
                names = [importance.name for importance in measured[:MAX_EFFECTS]]
                plots = [
                    _effect(effect, metric, f"effect-{index}-{i}")
                    for i, effect in enumerate(effects(run, names, index))
                ]
                parts.append(Grid(plots, f"Effect of each value on {metric_title(metric)}"))
    return Section("variables", "Search variables", parts) if parts else None


def _bars(measured: Sequence[Importance], metric: Metric, name: str) -> Plot:
    shown = list(measured)[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [label(importance.name, 24) for importance in shown],
        "x": [importance.value for importance in shown],
        "marker": {"color": SERIES[0]},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [importance.high - importance.value for importance in shown],
            "arrayminus": [importance.value - importance.low for importance in shown],
            "color": INK,
            "thickness": 1.2,
        },
    }
    layout = {"xaxis": {"tickformat": ".0%", "rangemode": "tozero"}, "yaxis": {"type": "category"}}
    note = (
        "PED-ANOVA: how much the values among the best fifth of the trials differ from those among all, as a share of "
        "the sum. Whiskers: 95 % interval by half-samples."
    )
    title = f"Importance for {metric_title(metric)}"
    return Plot(name, title, [bars], layout, height=90 + 24 * len(shown), note=note)


def _effect(effect: Effect, metric: Metric, name: str) -> Plot:
    texts = distinct([label(choice_text(choice), 18) for choice in effect.choices])
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [text for text, results in zip(texts, effect.results, strict=True) for _ in results],
        "y": [value for results in effect.results for value in results],
        "marker": {"color": SERIES[0], "size": 5, "opacity": 0.35},
        "hovertemplate": "%{x}: %{y}<extra></extra>",
    }
    means = {
        "type": "scatter",
        "mode": "markers",
        "x": texts,
        "y": [mean for mean, _, _ in effect.means],
        "customdata": [len(results) for results in effect.results],
        "marker": {"color": BEST, "size": 9, "symbol": "diamond"},
        "hovertemplate": "%{x}: mean %{y} of %{customdata} trials<extra></extra>",
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - mean for mean, _, high in effect.means],
            "arrayminus": [mean - low for mean, low, _ in effect.means],
            "color": BEST,
            "thickness": 1.5,
        },
    }
    values = [value for results in effect.results for value in results]
    axis = {**metric_axis(metric), "title": None, "range": padded(values)}  # not that of the whiskers
    layout = {"xaxis": {"type": "category"}, "yaxis": axis, "showlegend": False}
    return Plot(name, label(effect.name), [points, means], layout, height=230)


# ---------------------------------------------------------------------- parallel coordinates


def parallel_section(run: SavedRun) -> Section | None:
    """Parallel coordinates of the search variables and the objectives; the most important variables where many."""
    trials = [trial for trial in shown_trials(run) if trial.scores is not None][-MAX_LINES:]
    names = [name for name, distribution in run.distributions.items() if not distribution.single()]
    if len(trials) < 2 or not names:
        return None
    order = [importance.name for importance in importances(run)]
    names = sorted(names, key=lambda name: order.index(name) if name in order else len(order))[:MAX_AXES]
    axes = [variable_axis(name, run.distributions[name], [t.labels.get(name) for t in trials]) for name in names]
    for index, metric in enumerate(run.objectives):
        axes.append(_metric_axis(metric, [trial.values[index] for trial in trials if trial.values]))
    groups = _groups([trial.scores[0] for trial in trials if trial.scores])
    traces = []
    for (name, colour, width), places in zip(_GROUPS, groups, strict=True):
        x: list[float | None] = []
        y: list[float | None] = []
        texts: list[str | None] = []
        for place in places:
            x += [*range(len(axes)), None]
            y += [*(axis.heights[place] for axis in axes), None]
            texts += [*(f"trial {trials[place].number}<br>{axis.title} {axis.texts[place]}" for axis in axes), None]
        if places:
            look = {"line": {"color": colour, "width": width}, "marker": {"color": colour, "size": 3}, "opacity": 0.55}
            traces.append(
                {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "text": texts}
                | {"hovertemplate": "%{text}<extra></extra>", **look}
            )
    plot = Plot(
        "parallel",
        f"Trials from the worst to the best fifth by {label(run.objectives[0].name)}",
        traces,
        with_legend(**_frame(axes)),
        height=460,
        min_width=105 * len(axes),
        note="A line is a trial. Click a name in the legend to hide a fifth, double-click to see it alone.",
    )
    return Section("parallel", "Parallel coordinates", [plot])


#: The fifths of the trials, from the worst to the best, which is drawn last.
_GROUPS = (
    ("worst fifth", "@scale0", 1.0),
    ("fourth", "@scale1", 1.0),
    ("third", "@scale2", 1.0),
    ("second", "@scale3", 1.2),
    ("best fifth", BEST, 1.8),
)


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates.

    Attributes:
        title: Its title.
        heights: The height of each trial, 0 to 1.
        texts: The value of each trial.
        ticks: Heights with their labels.
    """

    title: str
    heights: Sequence[float]
    texts: Sequence[str]
    ticks: Sequence[tuple[float, str]]


def variable_axis(name: str, distribution: BaseDistribution, labels: Sequence[Any]) -> Axis:
    """The axis of a search variable; values have equal distances, numbers those of the numbers.

    Args:
        name: The search variable.
        distribution: Its domain.
        labels: Its value in each trial.
    """
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        places = [choices.index(value) if value in choices else 0 for value in labels]
        heights = [place / max(1, len(choices) - 1) for place in places]
        ticks = [(i / max(1, len(choices) - 1), label(choice_text(c), 13)) for i, c in enumerate(choices)]
        return Axis(label(name, 15), heights, [label(choice_text(value)) for value in labels], ticks)
    low, high = getattr(distribution, "low", 0), getattr(distribution, "high", 1)
    heights = [(value - low) / (high - low or 1) for value in labels]
    texts = [choice_text(value) for value in labels]
    return Axis(label(name, 15), heights, texts, [(0.0, choice_text(low)), (1.0, choice_text(high))])


def _metric_axis(metric: Metric, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    heights = [(value - low) / (high - low or 1) for value in values]
    texts = [label(metric.format(value).removeprefix(f"{metric.name} ")) for value in values]
    short = [text.removesuffix(" params").removesuffix(" MACs") for text in texts]
    ticks = [(0.0, short[values.index(low)]), (1.0, short[values.index(high)])]
    return Axis(metric_title(metric), heights, texts, ticks)


def _groups(scores: Sequence[float]) -> list[list[int]]:
    """The places of the trials by fifths, from the worst to the best."""
    order = sorted(range(len(scores)), key=lambda place: (scores[place], -place))
    bounds = [round(len(order) * k / len(_GROUPS)) for k in range(len(_GROUPS) + 1)]
    return [order[low:high] for low, high in pairwise(bounds)]


def _frame(axes: Sequence[Axis]) -> dict[str, Any]:
    """Vertical lines, titles and tick labels of the axes."""
    lines = [
        {"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "layer": "below", "line": {"color": MUTED, "width": 1}}
        for i in range(len(axes))
    ]
    texts: list[dict[str, Any]] = []
    for i, axis in enumerate(axes):
        place = {"x": i, "showarrow": False}
        texts.append({**place, "y": -0.03, "yanchor": "top", "text": f"<b>{axis.title}</b>", "font": {"size": 11}})
        texts += [
            {**place, "y": height, "text": text, "xanchor": "left", "xshift": 3, "font": {"size": 10}}
            | {"bgcolor": "@background", "borderpad": 0, "opacity": 0.85}
            for height, text in axis.ticks
        ]
    hidden = {"showgrid": False, "showticklabels": False, "ticks": "", "showline": False}
    return {
        "xaxis": {**hidden, "range": [-0.4, len(axes) - 0.4]},
        "yaxis": {**hidden, "range": [-0.1, 1.04]},
        "shapes": lines,
        "annotations": texts,
        "hovermode": "closest",
    }
