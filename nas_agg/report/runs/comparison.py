"""Several runs side by side: what differs between them, their results, and means of those that differ by seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.report.runs.summary import best_trial, format_seconds, format_test_result, mean_interval, state_of
from nas_agg.study.definition.metrics import Metric
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.saved_run import SavedRun

_IGNORED = {"workers", "retries", "storage", "device", "timeout", "trial_timeout"}  # which change no result


@dataclass(frozen=True)
class Group:
    """Runs whose settings differ in their seed alone.

    Attributes:
        name: The values of the settings in which groups differ.
        runs: The runs.
    """

    name: str
    runs: tuple[SavedRun, ...]


@dataclass(frozen=True)
class MeanCurve:
    """The best value so far by number of evaluated networks, over the runs of a group.

    Attributes:
        networks: 1, 2, ... up to the shortest run's number of networks.
        mean, low, high: Mean and 95 % confidence interval at each; of a single run all are its values.
    """

    networks: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def check_comparable(runs: Sequence[SavedRun]) -> None:
    """Check that runs can be compared.

    Raises:
        InputError: Two are the same, or searches have different objectives.
    """
    folders = [run.path.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise InputError(f"{run.path}: specified twice")
    searches = [run for run in runs if run.settings]
    for run in searches[1:]:
        if run.objectives.names != searches[0].objectives.names:
            first, other = (", ".join(r.objectives.names) for r in (searches[0], run))
            raise InputError(
                f"{run.path}: objectives are {other}, but {first} in {searches[0].path}; they must be equal"
            )


def run_names(runs: Sequence[SavedRun]) -> list[str]:
    """A short name for each run: that of its folder, else as much of its path as makes it unique."""
    paths = [run.path.resolve() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def settings_of(run: SavedRun) -> dict[str, Any]:
    """The settings of a run that determine its results, and where they come from."""
    settings = {name: value for name, value in run.run["settings"].items() if name not in _IGNORED}
    if run.settings is None:
        genotype = settings.pop("genotype", None)
        settings["space"] = run.run.get("origin", {}).get("title", "") or ("" if genotype is None else "a genotype")
        settings["searcher"] = "none: one training"
    elif run.settings.dataset is None:
        settings["dataset"] = "table" if run.run.get("named") else "function"
    return settings


def differing_settings(runs: Sequence[SavedRun]) -> list[str]:
    """Names of the settings that are not equal in all runs, apart from the seed."""
    settings = [settings_of(run) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one if name != "seed")
    return [name for name in names if any(one.get(name) != settings[0].get(name) for one in settings)]


def groups_of(runs: Sequence[SavedRun]) -> list[Group]:
    """The runs grouped by all settings but the seed, in the order of their first runs."""
    names, groups = differing_settings(runs), {}  # type: ignore[var-annotated]
    for run in runs:
        settings = settings_of(run)
        key = ", ".join(_setting_text(name, settings.get(name)) for name in names)
        groups.setdefault(key or str(settings.get("searcher")), []).append(run)
    return [Group(name, tuple(members)) for name, members in groups.items()]


def _setting_text(name: str, value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "default" if value is None else str(value)
    return text if name in ("space", "searcher", "dataset", "recipe") else f"{name.replace('_', '-')} {text}"


def best_by_networks(run: SavedRun, objective: int = 0) -> list[float | None]:
    """The best value of an objective after each evaluated network; None before the first within the limits."""
    metric, best = run.objectives[objective], None
    values: list[float | None] = []
    for trial in run.trials:
        if trial.consumes_budget:
            counts = trial.state == RecordState.COMPLETE and trial.scores is not None and trial.values is not None
            if counts and trial.values and (best is None or metric.score(trial.values[objective]) > metric.score(best)):
                best = trial.values[objective]
            values.append(best)
    return values


def mean_curve(runs: Sequence[SavedRun], objective: int = 0) -> MeanCurve:
    """The mean of the best value so far over runs, as far as all of them have one."""
    curves = [best_by_networks(run, objective) for run in runs]
    curve = MeanCurve([], [], [], [])
    for place in range(min(map(len, curves), default=0)):
        values = [one[place] for one in curves]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            mean, low, high = mean_interval(known)
            curve.networks.append(place + 1)
            curve.mean.append(mean)
            curve.low.append(low)
            curve.high.append(high)
    return curve


def comparison_rows(runs: Sequence[SavedRun]) -> list[dict[str, str]]:
    """A row of a table for each run: what differs, and the results."""
    names = differing_settings(runs)
    rows = []
    for name, run in zip(run_names(runs), runs, strict=True):
        settings, best = settings_of(run), best_trial(run)
        row = {"run": name} | {setting: _cell(settings.get(setting)) for setting in names}
        row["seed"] = str(settings.get("seed", ""))
        row["networks"] = str(sum(trial.consumes_budget for trial in run.trials)) if run.settings else ""
        for index, metric in enumerate(run.objectives if run.settings else ()):
            row[f"best {metric.name}"] = "" if best is None or not best.values else _plain(metric, best.values[index])
        row["params"] = f"{best.params:,}" if best and best.params else _count((run.metrics or {}).get("params"))
        row["MACs"] = f"{best.macs:,}" if best and best.macs else _count((run.metrics or {}).get("macs"))
        row["test"] = format_test_result(run)
        row["time"] = format_seconds(float(run.run.get("seconds", 0))) if run.settings else ""
        row["state"] = state_of(run)
        rows.append(row)
    columns = dict.fromkeys(column for row in rows for column in row)
    used = [column for column in columns if any(row.get(column) for row in rows)]
    return [{column: row.get(column, "") for column in used} for row in rows]


def _cell(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _plain(metric: Metric, value: float) -> str:
    text = metric.format(value).removeprefix(f"{metric.name} ")
    return text.removesuffix(" params").removesuffix(" MACs")


@dataclass(frozen=True)
class GroupResult:
    """The final results of a group: mean and 95 % confidence interval of an objective, and of the test accuracy."""

    name: str
    runs: int
    best: tuple[float, float, float] | None
    test: tuple[float, float, float] | None


def group_results(groups: Sequence[Group], objective: int = 0) -> list[GroupResult]:
    """The final results of each group."""
    results = []
    for group in groups:
        best = [values[-1] for run in group.runs if (values := best_by_networks(run, objective))]
        known = [value for value in best if value is not None]
        tests = [
            float(run.metrics["test_accuracy"]) for run in group.runs if run.metrics and "test_accuracy" in run.metrics
        ]
        interval, test = mean_interval(known) if known else None, mean_interval(tests) if tests else None
        results.append(GroupResult(group.name, len(group.runs), interval, test))
    return results


def interval_text(metric: Metric, interval: tuple[float, float, float] | None, runs: int) -> str:
    """A mean with its interval: ``97.3 % (96.8 % to 97.8 %)``; a single run has no interval."""
    if interval is None:
        return ""
    mean, low, high = (_plain(metric, value) for value in interval)
    return mean if runs < 2 else f"{mean} ({low} to {high})"
