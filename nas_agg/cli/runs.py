"""The commands that list runs, their trials and learning curves, and compare them."""

from __future__ import annotations

import csv
import io
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.cli.options import Format, FormatOption, RunArgument, print_json
from nas_agg.common.console import print_table
from nas_agg.common.errors import InputError, did_you_mean, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas_agg.study.definition.trial import TrialRecord
    from nas_agg.study.records.saved_run import SavedRun

MAX_DEPTH = 3  # folders below the one that is listed
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Show only the first N trials.")]


class TrialFormat(StrEnum):
    """Output formats of trials."""

    table = "table"
    json = "json"
    csv = "csv"


# ---- runs


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that contains run folders.")] = Path("runs"),
    format: FormatOption = Format.table,
) -> None:
    """List runs with their state, their best network and when they began."""
    rows = [_run_row(path) for path in _run_folders(folder)]
    if format is Format.json:
        print_json(rows)
    elif not rows:
        print(f"no runs in {folder}")
    else:
        columns = ("run", "state", "space", "data", "searcher", "networks", "best", "test", "begun")
        shown = [row | {"begun": str(row.get("begun", ""))[:16].replace("T", " ")} for row in rows]
        cells = [[one_line(str(row.get(column, ""))) for column in columns] for row in shown]
        used = [i for i, column in enumerate(columns) if any(row[i] for row in cells)]
        right = [k for k, i in enumerate(used) if columns[i] in ("networks", "best")]
        print_table([columns[i] for i in used], [[row[i] for i in used] for row in cells], right=right)


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; runs are in runs/ unless --out names another")
    patterns = ["run.json", *("*/" * depth + "run.json" for depth in range(1, MAX_DEPTH + 1))]
    found = {path.parent for pattern in patterns for path in folder.glob(pattern)}
    return sorted(found, key=lambda path: (path / "run.json").stat().st_mtime)


def _run_row(path: Path) -> dict[str, Any]:
    """A run as JSON values; of a damaged run only the error."""
    from nas_agg.report.runs.summary import best_trial, format_test_result, state_of, trial_values
    from nas_agg.study.records.saved_run import read_saved_run

    try:
        run = read_saved_run(path)
    except InputError as error:
        return {"run": str(path), "state": f"damaged: {str(error).removeprefix(f'{path}/')}"}
    settings, best = run.run["settings"], best_trial(run)
    row: dict[str, Any] = {
        "run": str(path),
        "state": state_of(run),
        "space": run.run.get("origin", {}).get("title") or settings.get("space", ""),
        "data": settings.get("dataset") or ("table" if run.run.get("named") else "function"),
        "searcher": settings.get("searcher", "one training"),
        "begun": run.run.get("created", ""),
    }
    if run.settings is not None:
        row["networks"] = f"{sum(trial.consumes_budget for trial in run.trials)} of {run.settings.budget}"
    if best is not None:
        row |= {"best": trial_values(run, best), "trial": best.number, "values": list(best.values or ())}
    if run.is_tested:
        row["test"] = format_test_result(run)
    return row


# ---- trials


def trials(
    run: RunArgument,
    front: Annotated[bool, typer.Option("--front", help="Only the Pareto front of the objectives.")] = False,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only trials in this state, such as complete; repeatable.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Sort by a column, largest first; -COLUMN: smallest first."),
    ] = None,
    limit: LimitOption = None,
    format: Annotated[TrialFormat, typer.Option("--format", help="Output format.")] = TrialFormat.table,
) -> None:
    """List the trials of a search, best first. The formats json and csv include the search variables."""
    from nas_agg.study.definition.result import pareto_front
    from nas_agg.study.definition.trial_rows import trial_rows
    from nas_agg.study.records.saved_run import read_saved_run

    saved = read_saved_run(run)
    chosen = pareto_front(saved.trials) if front else _ranked(saved.trials)
    chosen = [trial for trial in chosen if not state or trial.state in _states(state)]
    rows = trial_rows(chosen, saved.trials, saved.objectives)
    if sort is not None:
        rows = _sorted(rows, sort)
    rows = rows[:limit]
    if format is TrialFormat.json:
        print_json(rows)
    elif format is TrialFormat.csv:
        sys.stdout.write(_csv(rows))
    elif not rows:
        print("no trials")
    else:
        _print_trials(saved, rows)


def _ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All trials: those with a result by rank, then the others by number."""
    from nas_agg.study.definition.result import ranked

    best = ranked(trials)
    numbers = {trial.number for trial in best}
    return [*best, *(trial for trial in trials if trial.number not in numbers)]


def _states(names: Sequence[str]) -> set[str]:
    from nas_agg.study.definition.trial import RecordState

    for name in names:
        if name not in list(RecordState):
            hint = did_you_mean(name, RecordState) or f"; choose from {', '.join(RecordState)}"
            raise InputError(f"--state: unknown state '{name}'{hint}")
    return set(names)


def _sorted(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    name, falling = sort.removeprefix("-"), not sort.startswith("-")
    columns = list(rows[0]) if rows else []
    if rows and name not in columns:
        raise InputError(f"--sort: no column '{name}'{did_you_mean(name, columns)}; choose from {', '.join(columns)}")
    known = [row for row in rows if row[name] is not None]
    numbers = all(isinstance(row[name], int | float) for row in known)
    known.sort(key=lambda row: row[name] if numbers else str(row[name]), reverse=falling)
    return known + [row for row in rows if row[name] is None]


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _print_trials(run: SavedRun, rows: list[dict[str, Any]]) -> None:
    from nas_agg.study.definition.trial_rows import known_metrics

    metrics = known_metrics(run.trials, run.objectives)
    header = [
        "trial",
        "state",
        *("MACs" if metric.name == "macs" else metric.name for metric in metrics),
        "seconds",
        "hash",
    ]
    cells = []
    for row in rows:
        texts = ["" if row[m.name] is None else m.format(row[m.name]).removeprefix(f"{m.name} ") for m in metrics]
        texts = [text.removesuffix(" params").removesuffix(" MACs") for text in texts]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        cells.append([str(row["trial"]), row["state"], *texts, seconds, row["hash"][:12]])
    if reasons := [row["reason"] for row in rows if row["reason"]]:
        header.append("reason")
        cells = [[*cell, one_line(row["reason"])] for cell, row in zip(cells, rows, strict=True)]
    print_table(header, cells, right=[0, *range(2, len(header) - 1 - bool(reasons))])


# ---- curves


def curves(
    source: Annotated[
        list[str],
        typer.Argument(metavar="RUN[:TRIAL]", help="A run folder, for a line per trial; or trials, for a chart."),
    ],
    limit: LimitOption = None,
) -> None:
    """Show learning curves in the terminal: one line per trial of a run, or a chart of the named trials."""
    from nas_agg.report.runs.summary import reported_metric
    from nas_agg.report.runs.terminal_curves import chart
    from nas_agg.study.records.saved_run import read_saved_run

    if len(source) == 1 and Path(source[0]).is_dir():
        _print_lines(read_saved_run(source[0]), limit or 20)
        return
    named: dict[str, dict[int, float]] = {}
    for text in source:
        run = read_saved_run(text if Path(text).is_dir() else text.rpartition(":")[0] or text)
        named[text] = _curve_of(run, text)
    metric = reported_metric(run)
    lines = chart(named, lambda value: metric.format(value) if metric else f"{value:.4g}")
    print("\n".join(lines) if lines else "no epoch has been reported")


def _curve_of(run: SavedRun, text: str) -> dict[int, float]:
    """The values of the trial or, for a run folder, of its best trial or only training."""
    from nas_agg.report.runs.summary import best_trial, final_history, learning_curve

    if run.settings is None:
        return {epoch["epoch"]: epoch["train_accuracy"] for epoch in final_history(run) if "train_accuracy" in epoch}
    best = best_trial(run)
    number = text.rpartition(":")[2] if not Path(text).is_dir() else str(best.number if best else 0)
    if not number.isdecimal() or int(number) >= len(run.saved):
        last = f"its trials are 0 to {len(run.saved) - 1}" if run.saved else "it has no trials"
        raise InputError(f"{run.path}: no trial '{number}'; {last}")
    return learning_curve(run, run.saved[int(number)])


def _print_lines(run: SavedRun, limit: int) -> None:
    """A line of blocks for each trial, best first, on one scale."""
    from nas_agg.report.runs.summary import learning_curve, reported_metric
    from nas_agg.report.runs.terminal_curves import chart, sparkline

    metric = reported_metric(run)
    if run.settings is None:
        print(
            "\n".join(chart({"training accuracy": _curve_of(run, str(run.path))}, lambda value: f"{100 * value:.2f} %"))
        )
        return
    known = [(trial, learning_curve(run, run.saved[trial.number])) for trial in _ranked(run.trials)]
    known = [(trial, curve) for trial, curve in known if curve and trial.duplicate_of is None][:limit]
    if not known or metric is None:
        print("no epoch has been reported")
        return
    values = [value for _, curve in known for value in curve.values() if math.isfinite(value)]
    rows = []
    for trial, curve in known:
        finite = [value for value in curve.values() if math.isfinite(value)]
        line = sparkline(finite, min(values), max(values))
        ends = (
            [metric.format(value).removeprefix(f"{metric.name} ") for value in (finite[0], finite[-1])]
            if finite
            else ["", ""]
        )
        rows.append([str(trial.number), str(trial.state), str(max(curve)), line, *(ends or ["", ""])])
    print_table(["trial", "state", "epochs", metric.name, "first", "last"], rows, right=(0, 2, 4, 5))


# ---- compare


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, two or more.")],
    format: FormatOption = Format.table,
) -> None:
    """Compare runs: what differs in their settings, their results, and means of runs that differ by seed alone."""
    from nas_agg.report.runs.comparison import (
        check_comparable,
        comparison_rows,
        group_results,
        groups_of,
        interval_text,
    )
    from nas_agg.study.records.saved_run import read_saved_run

    if len(runs) < 2:
        raise InputError("RUN: specify at least two run folders")
    saved = [read_saved_run(path) for path in runs]
    check_comparable(saved)
    rows, groups = comparison_rows(saved), groups_of(saved)
    searches = [run for run in saved if run.settings]
    objectives = list(searches[0].objectives) if searches else []
    means = [
        {"group": result.name, "runs": result.runs, "metric": metric.name, "mean": result.best and result.best[0]}
        | {"interval": list(result.best[1:]) if result.best and result.runs > 1 else None}
        | {"text": interval_text(metric, result.best, result.runs)}
        for index, metric in enumerate(objectives)
        for result in group_results(groups, index)
    ]
    if format is Format.json:
        print_json({"runs": rows, "groups": means})
        return
    right = [
        i
        for i, name in enumerate(rows[0])
        if name in ("seed", "networks", "params", "MACs", "time") or name[:5] == "best "
    ]
    print_table(list(rows[0]), [[one_line(text) for text in row.values()] for row in rows], right=right)
    if any(len(group.runs) > 1 for group in groups) and means:
        print()
        cells = [[str(mean["group"]), str(mean["runs"]), str(mean["metric"]), str(mean["text"])] for mean in means]
        print_table(["group", "runs", "metric", "mean of the best (95 % interval)"], cells, right=(1,))
