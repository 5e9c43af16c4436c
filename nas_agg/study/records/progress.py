"""Progress of a search: a live line on a terminal, plain lines elsewhere, and every line in the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from nas_agg.common.console import print_table
from nas_agg.study.definition.leaders import Leaders
from nas_agg.study.definition.metrics import METRICS, Metric, format_evaluation, imbalance_note
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.trial import RecordState, TrialRecord

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WRITE_INTERVAL = 1.0  # seconds at least between two writes of the run's files when trials end
IDLE_WRITE_INTERVAL = 10.0  # and when none ends


class ProgressReporter:
    """A search callback that prints progress and keeps the files of the run up to date.

    Args:
        budget: The number of networks to evaluate.
        leaders: The best of the trials, kept up to date by others.
        log: Receives each line.
        write_files: Called at intervals with the trials that ended since, and at the end, to write the run's files.
        show: Whether to print.
        objectives: The objectives of the search.
        timeout: Seconds that the search may take.
        seconds_before: Seconds that earlier parts of the search took.
        epochs: Epochs of a trial, if trials are trained; each is logged.
        reported: The metric that trials report.
    """

    def __init__(
        self,
        budget: int,
        leaders: Leaders,
        log: Callable[[str], None],
        write_files: Callable[[Sequence[TrialRecord], bool], None],
        show: bool = False,
        objectives: Objectives | None = None,
        timeout: float | None = None,
        seconds_before: float = 0.0,
        epochs: int = 0,
        reported: Metric | None = None,
    ):
        self._budget, self._leaders, self._log, self._write_files = budget, leaders, log, write_files
        self._show, self._timeout = show, timeout
        self._objectives = objectives or Objectives()
        self._epochs, self._reported = epochs, reported
        self._steps: dict[int, int] = {}  # epochs of running trials
        self._last_write = self._started = time.monotonic()
        self._seconds_before = seconds_before
        self._evaluated_before = leaders.evaluated
        self._ended: list[TrialRecord] = []  # since the last write
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReporter:
        if self._show and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
            self._live = Progress(*columns, transient=True)
            completed = self._evaluated_before
            self._task = self._live.add_task("searching", total=self._budget, completed=completed, state="")
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._write_files(self._ended, True)

    def epoch(self, number: int, step: int, value: float) -> None:
        """Log an epoch of a trial that is being trained, and show it."""
        if not self._epochs:
            return
        self._steps[number] = step
        text = self._reported.format(value) if self._reported is not None else f"{value:.6g}"
        self._log(f"trial {number}: epoch {step} of {self._epochs}: {text}")

    def message(self, line: str) -> None:
        """Log and print a line."""
        self._log(line)
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        elif self._show:
            print(line, flush=True)

    def trial(self, trial: TrialRecord) -> None:
        """Report a trial that ended."""
        self._steps.pop(trial.number, None)
        self.message(self._line(trial))
        if trial.state != RecordState.PAUSED:
            self._ended.append(trial)
        self.tick(trial)

    def tick(self, trial: TrialRecord | None = None) -> None:
        """Update the live line and, at intervals, the files.

        Args:
            trial: The trial that ended, if one did.
        """
        now = time.monotonic()
        if now - self._last_write >= (IDLE_WRITE_INTERVAL if trial is None else WRITE_INTERVAL):
            self._last_write = now
            self._write_files(self._ended, False)
            self._ended = []
        if self._live is not None and self._task is not None:
            evaluated = self._leaders.evaluated
            self._live.update(self._task, completed=evaluated, state=self._state(evaluated, now))

    def step(self, description: str, epoch: int, epochs: int, value: float, task: str = "classification") -> None:
        """Report an epoch of the final training; see `epoch_line`."""
        line = epoch_line(epoch, epochs, value, task)
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=description, completed=epoch, total=epochs, state=line)
        if is_logged_epoch(epoch, epochs):
            self._log(f"{description}: {line}")
            if self._show and self._live is None:
                print(f"{description}: {line}", flush=True)

    def _line(self, trial: TrialRecord) -> str:
        if trial.state in (RecordState.FAILED, RecordState.INTERRUPTED):
            return f"trial {trial.number}: {trial.state}: {trial.reason}"
        if trial.state == RecordState.INFEASIBLE:
            return f"trial {trial.number}: infeasible: {trial.reason} ({trial.params:,} params, {trial.macs:,} MACs)"
        if trial.state == RecordState.DUPLICATE:
            return f"trial {trial.number}: equal to trial {trial.duplicate_of}, {self._value(trial)}"
        early = " when stopped" if trial.state == RecordState.PRUNED else ""
        if trial.state == RecordState.PAUSED:
            early = f" after {pluralize(max(trial.rungs), 'epoch')}"
        metrics = _metric_texts(trial, self._objectives)
        details = [_labelled(name, text) for name, text in metrics.items() if name not in self._objectives.names]
        details.append(f"{trial.seconds or 0:.1f} s")
        if trial.memory != "plain":
            details.append(f"memory {trial.memory}")
        if trial.batch_size is not None:
            details.append(f"batch size {trial.batch_size}")
        if trial.consumes_budget and trial.scores is None:
            details.append("exceeds a limit")
        if best := self._best():
            details.append(best)
        return f"trial {trial.number}: {self._value(trial)}{early} ({', '.join(details)})"

    def _value(self, trial: TrialRecord) -> str:
        """A trial's values for the objectives."""
        if trial.values is None:
            return "no value"
        pairs = zip(self._objectives, trial.values, strict=True)
        return ", ".join(objective.format(value) for objective, value in pairs)

    def _best(self) -> str:
        if self._objectives.is_multi_objective:
            count = self._leaders.front_size
            return f"{count} in the front" if count else ""
        best = self._leaders.best
        return f"best {self._value(best)}" if best else ""

    def _state(self, evaluated: int, now: float) -> str:
        """The text of the live line."""
        parts = [f"{evaluated} of {self._budget}", self._best() or "no result yet"]
        if self._steps:
            running = ", ".join(f"{step}" for _, step in sorted(self._steps.items()))
            parts.append(f"{'epoch' if len(self._steps) == 1 else 'epochs'} {running} of {self._epochs}")
        elapsed, evaluated_now = now - self._started, evaluated - self._evaluated_before
        if evaluated_now:
            parts.append(f"{60 * evaluated_now / elapsed:.1f} per minute")
            remaining = elapsed / evaluated_now * (self._budget - evaluated)
            if self._timeout is not None:
                remaining = min(remaining, max(0.0, self._timeout - self._seconds_before - elapsed))
            parts.append(f"{_clock(remaining)} left")
        return ", ".join(parts)


def epoch_line(epoch: int, epochs: int, value: float, task: str = "classification") -> str:
    """The progress of a training without validation.

    Args:
        epoch: The epoch that ended.
        epochs: Epochs of the training.
        value: Accuracy on the training images, 0 to 1; the loss on them unless each has one label.
        task: The task of the data set.
    """
    result = f"train acc {100 * value:.2f} %" if task == "classification" else f"train loss {value:.4g}"
    return f"epoch {epoch} of {epochs}: {result}"


def pluralize(count: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def training_length(epochs: int, compiled: bool) -> str:
    """The number of epochs and, if the network is compiled first, a warning that it takes long."""
    return pluralize(epochs, "epoch") + (", compiled before the first, which may take minutes" if compiled else "")


def is_logged_epoch(epoch: int, epochs: int) -> bool:
    """Whether an epoch gets a line of its own where no live line is possible: about ten of a training do."""
    return epoch == epochs or epoch % max(1, epochs // 10) == 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _metric_texts(trial: TrialRecord, objectives: Objectives) -> dict[str, str]:
    """The known metrics of a trial's network as texts, by name; the loss only where it is an objective."""
    texts = {}
    for name, metric in METRICS.items():
        value = getattr(trial, metric.attribute)
        if value is not None and (name != "loss" or name in objectives.names):
            texts[name] = metric.format(value)
    return texts


def _labelled(name: str, text: str) -> str:
    """A metric with its name, unless its text says it already."""
    return text if name in ("params", "macs") or text.startswith(f"{name} ") else f"{name} {text}"


def _row(trial: TrialRecord, objectives: Objectives) -> dict[str, str]:
    """A trial's cells by column, with equal columns for all trials of a search."""
    values = dict(zip(objectives, trial.values or (), strict=False))
    row = {objective.name: objective.format(value) for objective, value in values.items()}
    row = {"trial": str(trial.number)} | row | _metric_texts(trial, objectives) | {"hash": trial.hash[:12]}
    return {"MACs" if name == "macs" else name: _without_column_name(text, name) for name, text in row.items()}


def _without_column_name(text: str, name: str) -> str:
    return text.removeprefix(f"{name} ").removesuffix(f" {name}").removesuffix(" MACs" if name == "macs" else "")


def print_result(result: SearchResult, file: TextIO | None = None) -> None:
    """Print the best networks, the test of the final one, and the next commands."""
    out = file or sys.stdout
    rows = [_row(trial, result.objectives) for trial in result.top]
    title = "the best networks"
    if result.objectives.is_multi_objective:
        print(f"the Pareto front: {pluralize(len(rows), 'network')}", file=out)
        title = ""
    print_table(list(rows[0]), [list(row.values()) for row in rows], title, range(len(rows[0]) - 1), out)
    evaluated = sum(trial.consumes_budget for trial in result.trials)
    print(f"{pluralize(evaluated, 'network')} evaluated; {result.reason}", file=out)
    if result.test is not None:
        text = format_evaluation(result.test, "test_")
        is_accuracy = text.startswith("accuracy ") and "correct" in result.test
        text = text.removeprefix("accuracy ") if is_accuracy else text
        print(
            f"test {'accuracy ' if is_accuracy else ''}of the final network: {text.removeprefix('not tested: ')}",
            file=out,
        )
        if note := imbalance_note(result.test, "test_"):
            print(note, file=out)
    if result.path is not None:
        commands = [f"evaluate {result.path}"] if result.test is not None and "untested" not in result.test else []
        commands += [f"trials {result.path} --front"] if result.objectives.is_multi_objective else []
        commands += [f"show {result.path}"]
        if result.test is not None:
            commands += [f"compile {result.path} --out {result.path.name}-model"]
        print("next: " + "\n      ".join(f"nas_agg {command}" for command in commands), file=out)
