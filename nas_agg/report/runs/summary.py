"""What reports and tables show of a run, derived from its record."""

from __future__ import annotations

import fcntl
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nas_agg.common.console import format_accuracy
from nas_agg.common.errors import InputError
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.references import open_genotype
from nas_agg.study.definition.metrics import METRICS, Metric
from nas_agg.study.definition.result import pareto_front, ranked
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.records.history import read_history
from nas_agg.study.records.saved_run import SavedRun, SavedTrial


@dataclass(frozen=True)
class Span:
    """The time in which a trial was evaluated.

    Attributes:
        trial: The trial.
        start, end: Its first and last moment, UTC.
        lane: Trials that overlap have different lanes, numbered from 0.
    """

    trial: TrialRecord
    start: datetime
    end: datetime
    lane: int


def state_of(run: SavedRun) -> str:
    """The state of a run: ``running``, ``finished``, ``failed``, or ``stopped`` if no process works on it."""
    status = str(run.run["status"])
    return "stopped" if status == "running" and not _is_locked(run.path) else status


def _is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def best_trial(run: SavedRun) -> TrialRecord | None:
    """The best trial so far; with several objectives, that of the front which is best in the first."""
    best = ranked(run.trials)
    return best[0] if best else None


def top_trials(run: SavedRun, count: int = 10) -> list[TrialRecord]:
    """The best trials; with several objectives, the Pareto front."""
    return pareto_front(run.trials) if run.objectives.is_multi_objective else ranked(run.trials)[:count]


def counts(run: SavedRun) -> dict[RecordState, int]:
    """The number of trials in each state that occurs."""
    states = [trial.state for trial in run.trials]
    return {state: states.count(state) for state in RecordState if state in states}


def trial_values(run: SavedRun, trial: TrialRecord) -> str:
    """A trial's values of the objectives with their names: ``accuracy 98.26 %, 873,088 MACs``."""
    texts = []
    for metric, value in zip(run.objectives, trial.values or (), strict=False):
        text = metric.format(value)
        texts.append(
            text if metric.unit in ("params", "MACs") else f"{metric.name} {text.removeprefix(f'{metric.name} ')}"
        )
    return ", ".join(texts)


def best_so_far(run: SavedRun, objective: int = 0) -> list[tuple[int, float]]:
    """The best value of an objective among fully evaluated trials within the limits, at each of these trials.

    Args:
        run: The run.
        objective: The objective's index.

    Returns:
        Trial numbers, ascending, with the best value up to each.
    """
    metric, line = run.objectives[objective], []
    best = -math.inf
    for trial in run.trials:
        if trial.state == RecordState.COMPLETE and trial.scores is not None and trial.values is not None:
            best = max(best, trial.scores[objective])
            line.append((trial.number, best if metric.direction == "maximize" else -best))
    return line


def spans(run: SavedRun) -> list[Span]:
    """When each finished trial was evaluated, as far as it is recorded, with lanes for those at the same time.

    A trial that was trained ends when its result is stored and starts as many seconds earlier as it was trained; one
    that paused at a rung and was not promoted starts when it was created.
    """
    if run.run.get("evaluate") and run.run.get("named"):  # looked up in a table
        return []
    timed = []
    for saved in run.saved:
        trial, created, ended = saved.record, saved.created, saved.ended
        if created is None or ended is None or trial.state in (RecordState.DUPLICATE, RecordState.INTERRUPTED):
            continue
        start, end = created, ended
        if trial.seconds is not None and not run.run.get("evaluate"):
            duration = timedelta(seconds=trial.seconds)
            if trial.rungs and trial.state == RecordState.PRUNED:
                end = min(start + duration, ended)
            else:
                start = max(created, end - duration)
        timed.append((start.astimezone(UTC), end.astimezone(UTC), trial))
    lanes: list[datetime] = []
    result = []
    for start, end, trial in sorted(timed, key=lambda item: (item[0], item[2].number)):
        lane = next((i for i, free in enumerate(lanes) if free <= start), len(lanes))
        lanes[lane : lane + 1] = [end]
        result.append(Span(trial, start, end, lane))
    return result


def reported_metric(run: SavedRun) -> Metric | None:
    """The metric that trials report after each epoch."""
    trained = [metric for metric in run.objectives if metric.depends_on_training]
    return next((metric for metric in trained if metric.name == "accuracy"), trained[0] if trained else None)


def learning_curve(run: SavedRun, saved: SavedTrial) -> dict[int, float]:
    """A trial's values by epoch: those that it reported, else those at its rungs and at its end."""
    metric, record = reported_metric(run), saved.record
    if saved.reports or not record.rungs or metric is None:
        return dict(saved.reports)
    place = run.objectives.names.index(metric.name)
    sign = 1.0 if metric.direction == "maximize" else -1.0
    curve = {epoch: sign * scores[place] for epoch, scores in sorted(record.rungs.items())}
    if record.state == RecordState.COMPLETE and record.values and run.settings and run.settings.epochs:
        curve[run.settings.epochs] = record.values[place]
    return curve


def final_history(run: SavedRun) -> list[dict[str, Any]]:
    """The metrics of each epoch of the final training so far; empty if there is none.

    Raises:
        InputError: The file is damaged.
    """
    folders = (run.path / folder for folder in ("best", "best.tmp"))
    return next((history for folder in folders if (history := read_history(folder))), [])


def network_of(run: SavedRun, number: int | None = None) -> Genotype | None:
    """The network of a trial, by default the final one, else that of the best trial.

    Args:
        run: The run.
        number: The trial's number.

    Returns:
        None if the run has no such network, as that of a search of bare search variables.
    """
    sources = [f"{run.path}:{number}"]
    if number is None:
        best = best_trial(run)
        sources = [str(run.path)] + ([f"{run.path}:{best.number}"] if best else [])
    for source in sources:
        try:
            return open_genotype(source)
        except InputError:
            continue
    return None


def original_number(trial: TrialRecord) -> int:
    """The number of the trial that evaluated a trial's network: its own, unless it is a duplicate."""
    return trial.number if trial.duplicate_of is None else trial.duplicate_of


def format_test_result(run: SavedRun) -> str:
    """The test result of a final network: its accuracy with counts, or the metrics of another task; empty without."""
    return format_test_metrics(run.metrics or {})


def format_test_metrics(metrics: Mapping[str, Any]) -> str:
    """The contents of a metrics.json as `format_test_result` shows them."""
    if "test_loss" not in metrics:
        return ""
    if metrics.get("correct") is not None and metrics.get("test_accuracy") is not None:
        top5 = metrics.get("test_top5_accuracy")
        return format_accuracy(metrics["test_accuracy"], metrics["correct"], metrics["images"], top5)
    by_attribute = {metric.attribute: metric for metric in METRICS.values()}
    texts = []
    for key, value in metrics.items():
        attribute = key.removeprefix("test_")
        if key.startswith("test_") and isinstance(value, int | float):
            metric = by_attribute.get(attribute, Metric(attribute, attribute))
            texts.append(f"{metric.name} {metric.format(value).removeprefix(f'{metric.name} ')}")
    return ", ".join(texts)


def format_seconds(seconds: float) -> str:
    """A duration: ``12.5 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of values and its 95 % confidence interval by Student's t; one value has no interval."""
    from scipy import stats

    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, mean, mean
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half
