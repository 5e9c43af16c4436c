"""The page that compares several runs: their results, the best so far with means and intervals, fronts, networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_agg.expansion.costs import cost
from nas_agg.report.drawing import draw
from nas_agg.report.html.overview import next_commands
from nas_agg.report.html.page import check_installed, render
from nas_agg.report.html.parts import (
    SERIES,
    Commands,
    Drawing,
    Part,
    Plot,
    Section,
    Table,
    Tables,
    Text,
    label,
    metric_axis,
    metric_title,
    padded,
    visible,
    with_legend,
)
from nas_agg.report.html.results import front_of, shown_trials, trial_text
from nas_agg.report.runs.comparison import (
    Group,
    best_by_networks,
    check_comparable,
    comparison_rows,
    differing_settings,
    group_results,
    groups_of,
    interval_text,
    mean_curve,
    run_names,
)
from nas_agg.report.runs.summary import best_trial, final_history, network_of, trial_values
from nas_agg.study.definition.metrics import METRICS, Metric
from nas_agg.study.definition.trial_rows import known_metrics, metric_value
from nas_agg.study.records.saved_run import SavedRun

MAX_DRAWN = 6


def comparison_page(runs: Sequence[SavedRun], refresh: int | None = None) -> str:
    """The comparison of runs as an HTML page.

    Args:
        runs: Two or more runs.
        refresh: Seconds after which a browser loads the page again.

    Raises:
        InputError: The runs cannot be compared, or Plotly or Jinja is not installed.
    """
    check_installed()
    check_comparable(runs)
    made = (runs_section, groups_section, history_section, fronts_section, training_section, networks_section)
    sections = [section for make in made if (section := make(runs)) is not None]
    sections.append(_commands_section(runs))
    return render(f"{len(runs)} runs compared", _lines(runs), sections, {}, refresh)


def _searches(runs: Sequence[SavedRun]) -> list[SavedRun]:
    return [run for run in runs if run.settings is not None]


def _lines(runs: Sequence[SavedRun]) -> list[tuple[str, str]]:
    groups, names = groups_of(runs), dict(zip(map(id, runs), run_names(runs), strict=True))
    differing = ", ".join(differing_settings(runs)) or "the seed alone"
    lines = [("Compared", f"{len(runs)} runs in {len(groups)} groups that differ in {differing}")]
    ranked = [(best.scores[0], run, best) for run in _searches(runs) if (best := best_trial(run)) and best.scores]
    if ranked:
        _, run, best = max(ranked, key=lambda item: item[0])
        lines.append(("Best", f"{names[id(run)]}, trial {best.number}: {trial_values(run, best)}"))
    results = [result for result in group_results(groups) if result.best]
    if ranked and len(results) > 1:
        metric = ranked[0][1].objectives[0]
        first = max(results, key=lambda result: metric.score(result.best[0] if result.best else 0))
        mean = interval_text(metric, first.best, first.runs)
        lines.append(("Best mean", f"{first.name}: {metric.name} {mean} over {first.runs} runs"))
    return [(heading, visible(text)) for heading, text in lines]


def runs_section(runs: Sequence[SavedRun]) -> Section:
    """A table of the runs."""
    rows = comparison_rows(runs)
    header, numbers = list(rows[0]), ("seed", "networks", "params", "MACs", "time")
    right = [i for i, name in enumerate(header) if name in numbers or name.startswith("best ")]
    cells = [[visible(text) for text in row.values()] for row in rows]
    return Section("runs", "Runs", [Table([visible(name) for name in header], cells, right)])


def groups_section(runs: Sequence[SavedRun]) -> Section | None:
    """Means and intervals of the final results of each group."""
    groups = groups_of(runs)
    if all(len(group.runs) < 2 for group in groups):
        return None
    searches = _searches(runs)
    tables = []
    for index, metric in enumerate(searches[0].objectives if searches else ()):
        rows = [
            [visible(result.name), str(result.runs), visible(interval_text(metric, result.best, result.runs))]
            for result in group_results(groups, index)
        ]
        tables.append(Table(["group", "runs", f"mean of the best {visible(metric.name)}"], rows, right=(1, 2)))
    tested = [result for result in group_results(groups) if result.test] if searches else []
    if tested:
        accuracy = METRICS["accuracy"]
        rows = [[visible(r.name), str(r.runs), interval_text(accuracy, r.test, r.runs)] for r in tested]
        tables.append(Table(["group", "runs", "mean of the test accuracy"], rows, right=(1, 2)))
    note = "Runs of a group differ in their seed alone. In brackets: 95 % confidence interval by Student's t."
    return Section("groups", "Means over seeds", [Text(note), Tables(tables)])


def history_section(runs: Sequence[SavedRun]) -> Section | None:
    """The best so far of each run, and the mean of each group with its interval."""
    searches = [run for run in _searches(runs) if any(value is not None for value in best_by_networks(run))]
    if not searches:
        return None
    groups = groups_of(searches)
    plots = [_history(groups, index, metric) for index, metric in enumerate(searches[0].objectives)]
    return Section("history", "Best so far", plots)


def _history(groups: Sequence[Group], index: int, metric: Metric) -> Plot:
    traces: list[dict[str, Any]] = []
    values: list[float] = []
    for place, group in enumerate(groups):
        colour = SERIES[place % len(SERIES)]
        names = run_names(group.runs)
        for name, run in zip(names, group.runs, strict=True):
            curve = best_by_networks(run, index)
            values += [value for value in curve[len(curve) // 5 :] if value is not None]
            traces.append(
                {"type": "scatter", "mode": "lines", "name": label(name), "showlegend": False}
                | {"x": list(range(1, len(curve) + 1)), "y": curve, "opacity": 0.4}
                | {"line": {"color": colour, "width": 1, "shape": "hv"}}
                | {"hovertemplate": f"{label(name)}: %{{y}} after %{{x}} networks<extra></extra>"}
            )
        mean = mean_curve(group.runs, index)
        if len(group.runs) > 1:
            band = {"type": "scatter", "mode": "lines", "x": mean.networks, "line": {"width": 0, "shape": "hv"}}
            hidden = {"showlegend": False, "hoverinfo": "skip", "legendgroup": str(place)}
            traces.append({**band, **hidden, "y": mean.low})
            traces.append({**band, **hidden, "y": mean.high, "fill": "tonexty", "fillcolor": f"{colour}/26"})
        traces.append(
            {"type": "scatter", "mode": "lines", "name": label(group.name), "legendgroup": str(place)}
            | {"x": mean.networks, "y": mean.mean, "line": {"color": colour, "width": 2.5, "shape": "hv"}}
            | {"hovertemplate": f"{label(group.name)}: mean %{{y}} after %{{x}} networks<extra></extra>"}
        )
    axis = metric_axis(metric) | {"range": padded(values)}
    layout = with_legend(xaxis={"title": {"text": "evaluated networks"}}, yaxis=axis, hovermode="closest")
    note = (
        "Thin: single runs; thick: the mean of a group, with its 95 % confidence interval. "
        "The axis shows the last four fifths; double-click to see all."
    )
    return Plot(f"history-{index}", f"Best {metric_title(metric)} so far", traces, layout, height=420, note=note)


def fronts_section(runs: Sequence[SavedRun]) -> Section | None:
    """The Pareto front of each run for the first objective and a second metric, MACs by default."""
    searches = [run for run in _searches(runs) if len(known_metrics(run.trials, run.objectives)) > 1]
    if not searches:
        return None
    metrics = known_metrics(searches[0].trials, searches[0].objectives)
    y = metrics[0]
    x = metrics[1] if searches[0].objectives.is_multi_objective else METRICS["macs"]
    groups = groups_of(searches)
    traces, shown = [], []
    for place, group in enumerate(groups):
        for first, run in zip([True] + [False] * len(group.runs), group.runs, strict=False):
            if {x.name, y.name} <= {metric.name for metric in known_metrics(run.trials, run.objectives)}:
                trials = shown_trials(run)
                front = [trials[i] for i in front_of(run, trials, x, y)]
                shown += [value for trial in front if (value := metric_value(trial, x, run.objectives)) is not None]
                traces.append(
                    {"type": "scatter", "mode": "lines+markers", "name": label(group.name), "showlegend": first}
                    | {"legendgroup": str(place), "x": [metric_value(trial, x, run.objectives) for trial in front]}
                    | {"y": [metric_value(trial, y, run.objectives) for trial in front]}
                    | {"text": [f"{label(run.name)}<br>{trial_text(run, trial)}" for trial in front]}
                    | {"hovertemplate": "%{text}<extra></extra>", "opacity": 0.8}
                    | {"line": {"color": SERIES[place % len(SERIES)], "width": 1.5}, "marker": {"size": 7}}
                )
    if not shown:
        return None
    layout = with_legend(xaxis=metric_axis(x, shown), yaxis=metric_axis(y), hovermode="closest")
    title = f"{metric_title(y)} against {metric_title(x)}, one line per run"
    return Section("fronts", "Pareto fronts", [Plot("fronts", title, traces, layout, height=420)])


def training_section(runs: Sequence[SavedRun]) -> Section | None:
    """The learning curves of the final trainings."""
    histories = [(name, final_history(run)) for name, run in zip(run_names(runs), runs, strict=True)]
    plots = []
    for quantity in ("accuracy", "loss"):
        traces = []
        for place, (name, history) in enumerate(histories):
            points = [(epoch["epoch"], epoch[f"train_{quantity}"]) for epoch in history if f"train_{quantity}" in epoch]
            if points:
                look = {"line": {"color": SERIES[place % len(SERIES)], "width": 1.8}}
                x, y = [point[0] for point in points], [point[1] for point in points]
                traces.append({"type": "scatter", "mode": "lines", "name": label(name), "x": x, "y": y} | look)
        if traces:
            axis = metric_axis(METRICS[quantity])
            layout = with_legend(xaxis={"title": {"text": "epoch"}}, yaxis=axis)
            plots.append(Plot(f"training-{quantity}", f"Final trainings: training {quantity}", traces, layout))
    return Section("training", "Final trainings", plots) if plots else None


def networks_section(runs: Sequence[SavedRun]) -> Section | None:
    """The final or best networks of the runs; one that several runs have found is drawn once."""
    names_by_hash: dict[str, list[str]] = {}
    genotypes = {}
    for name, run in zip(run_names(runs), runs, strict=True):
        if (genotype := network_of(run)) is not None:
            digest = cost(genotype).hash
            names_by_hash.setdefault(digest, []).append(name)
            genotypes[digest] = genotype
    parts: list[Part] = []
    for digest, names in list(names_by_hash.items())[:MAX_DRAWN]:
        title = ", ".join(names)
        parts.append(Drawing(draw(genotypes[digest], visible(title), adapts=False), visible(title)))
    return Section("networks", "Best networks", parts) if parts else None


def _commands_section(runs: Sequence[SavedRun]) -> Section:
    named = zip(run_names(runs), runs, strict=True)
    return Section("reproduce", "Continue", [Commands(next_commands(run), visible(name)) for name, run in named])
