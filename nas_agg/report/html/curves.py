"""Learning curves of all trials, with rungs and pruned trials, and of the final training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_agg.report.html.parts import (
    BAD,
    BEST,
    MUTED,
    SERIES,
    Plot,
    Section,
    label,
    metric_axis,
    metric_title,
    with_legend,
)
from nas_agg.report.runs.summary import best_trial, final_history, learning_curve, reported_metric
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.records.saved_run import SavedRun

_LOOKS = {
    RecordState.COMPLETE: ("trained in full", SERIES[0]),
    RecordState.PRUNED: ("stopped early", MUTED),
    RecordState.PAUSED: ("paused", SERIES[2]),
    RecordState.RUNNING: ("running", SERIES[3]),
    RecordState.FAILED: ("failed", BAD),
    RecordState.INTERRUPTED: ("interrupted", MUTED),
}


@dataclass(frozen=True)
class Curve:
    """The values of a trial by epoch."""

    record: TrialRecord
    values: Mapping[int, float]


def curves_section(run: SavedRun) -> Section | None:
    """Reported values of all trials by epoch, and the metrics of the final training."""
    plots = [plot for plot in (_trial_curves(run), *_final_curves(run)) if plot is not None]
    return Section("curves", "Learning curves", plots) if plots else None


def _trial_curves(run: SavedRun) -> Plot | None:
    reporting = [Curve(t.record, learning_curve(run, t)) for t in run.saved if t.record.state in _LOOKS]
    reporting = [curve for curve in reporting if curve.values]
    if not any(len(curve.values) > 1 for curve in reporting):
        return None
    best = best_trial(run)
    traces = _traces(reporting, None if best is None else best.number)
    rungs = sorted({epoch for trial in run.trials for epoch in trial.rungs})
    shapes = [
        {"type": "line", "x0": epoch, "x1": epoch, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
        | {"line": {"color": MUTED, "width": 1, "dash": "dot"}}
        for epoch in rungs
    ]
    metric = reported_metric(run)
    title = f"{metric_title(metric)} by epoch" if metric else "reported value by epoch"
    axis = metric_axis(metric) if metric else {"title": {"text": "reported value"}}
    note = f"Dotted lines: rungs at epochs {', '.join(map(str, rungs))}." if rungs else ""
    layout = with_legend(xaxis={"title": {"text": "epoch"}}, yaxis=axis, shapes=shapes, hovermode="closest")
    return Plot("curves-trials", title, traces, layout, height=400, note=note)


def _traces(curves: list[Curve], best: int | None) -> list[dict[str, Any]]:
    """The curves of trials by their state, the ends of those that were stopped, and the best trial on top."""
    traces = []
    width, opacity = 1.0 if len(curves) > 30 else 1.4, 0.35 if len(curves) > 100 else 0.6
    for state, (name, colour) in _LOOKS.items():
        if group := [curve for curve in curves if curve.record.state == state and curve.record.number != best]:
            traces.append(_lines(group, name, {"color": colour, "width": width}, opacity))
    if stopped := [curve for curve in curves if curve.record.state == RecordState.PRUNED]:
        traces.append(_ends(stopped))
    if own := [curve for curve in curves if curve.record.number == best]:
        traces.append(_lines(own, f"best (trial {best})", {"color": BEST, "width": 3}, 1.0))
    return traces


def _lines(trials: list[Curve], name: str, line: dict[str, Any], opacity: float) -> dict[str, Any]:
    """The curves of trials as one trace, with a gap after each."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        x += [*trial.values, None]
        y += [*trial.values.values(), None]
        numbers += [trial.record.number] * len(trial.values) + [None]
    return {
        "type": "scatter",
        "mode": "lines" if any(len(trial.values) > 1 for trial in trials) else "markers",
        "name": name,
        "x": x[:-1],
        "y": y[:-1],
        "customdata": numbers[:-1],
        "line": line,
        "marker": {"color": line["color"], "size": 5},
        "opacity": opacity,
        "connectgaps": False,
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y}<extra></extra>",
    }


def _ends(trials: list[Curve]) -> dict[str, Any]:
    """A mark at the last report of each trial that was stopped early."""
    last = [max(trial.values) for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "where it stopped",
        "x": last,
        "y": [trial.values[epoch] for trial, epoch in zip(trials, last, strict=True)],
        "customdata": [trial.record.number for trial in trials],
        "marker": {"color": MUTED, "symbol": "x-thin-open", "size": 6, "line": {"width": 1.5, "color": MUTED}},
        "hovertemplate": "trial %{customdata} stopped after epoch %{x}: %{y}<extra></extra>",
    }


def _final_curves(run: SavedRun) -> list[Plot]:
    """Accuracy and loss of the final training by epoch."""
    history = final_history(run)
    plots = []
    for quantity in ("accuracy", "loss"):
        traces = []
        for part, colour in (("train", SERIES[0]), ("validation", SERIES[1])):
            points = [
                (epoch["epoch"], epoch[f"{part}_{quantity}"]) for epoch in history if f"{part}_{quantity}" in epoch
            ]
            if points:
                x, y = [point[0] for point in points], [point[1] for point in points]
                traces.append(
                    {"type": "scatter", "mode": "lines+markers", "name": part, "x": x, "y": y} | _look(colour)
                )
        test = (run.metrics or {}).get(f"test_{quantity}")
        if traces and test is not None:
            last = history[-1]["epoch"]
            look = {"color": BEST, "symbol": "star", "size": 12}
            traces.append(
                {"type": "scatter", "mode": "markers", "name": "test", "x": [last], "y": [test], "marker": look}
            )
        if traces:
            axis: dict[str, Any] = {"title": {"text": label(quantity)}}
            if quantity == "accuracy":
                axis |= {"tickformat": ".1%", "hoverformat": ".2%"}
            layout = with_legend(xaxis={"title": {"text": "epoch"}}, yaxis=axis)
            plots.append(Plot(f"curves-final-{quantity}", f"Final training: {quantity}", traces, layout, height=320))
    return plots


def _look(colour: str) -> dict[str, Any]:
    return {"line": {"color": colour, "width": 2}, "marker": {"color": colour, "size": 4}}
