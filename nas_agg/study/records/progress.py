"""How a search shows itself: a live line on a terminal, plain lines elsewhere; the log gets every line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from nas_agg.common.console import accuracy_text, print_table
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.result import SearchResult, front, ranked
from nas_agg.study.definition.trial import RecordState, TrialRecord

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

KEEP_EVERY = 1.0  # seconds between two writings of the tables when trials end
KEEP_ANYWAY = 10.0  # and when none does


class ProgressReporter:
    """Prints the progress of a search and keeps its run folder up to date, as a search callback.

    Args:
        budget: Networks the search is to evaluate.
        trials: Gives every trial.
        log: Takes each line.
        keep: Called with the time now and then, and at the end, to write what is kept of the trials.
        show: Whether to print.
        objectives: What values are of.
        timeout: Seconds the search may take, and ``spent``: those already gone.
    """

    def __init__(
        self,
        budget: int,
        trials: Callable[[], list[TrialRecord]],
        log: Callable[[str], None],
        keep: Callable[[], None],
        show: bool = False,
        objectives: Objectives | None = None,
        timeout: float | None = None,
        spent: float = 0.0,
    ):
        self._budget, self._trials, self._log, self._keep = budget, trials, log, keep
        self._show, self._timeout = show, timeout
        self._objectives = objectives or Objectives()
        self._kept = self._begun = time.monotonic()
        self._spent = spent
        self._already = sum(trial.consumes_budget for trial in trials())
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReporter:
        if self._show and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
            self._live = Progress(*columns, transient=True)
            self._task = self._live.add_task("searching", total=self._budget, completed=self._already, state="")
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._keep()

    def say(self, line: str) -> None:
        """Log and print a line."""
        self._log(line)
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        elif self._show:
            print(line, flush=True)

    def trial(self, trial: TrialRecord) -> None:
        """Tell of a trial that ended."""
        self.say(self._line(trial))
        self.tick(trial)

    def tick(self, trial: TrialRecord | None = None) -> None:
        """Bring the live line and, now and then, the files up to date."""
        now = time.monotonic()
        if now - self._kept >= (KEEP_ANYWAY if trial is None else KEEP_EVERY):
            self._kept = now
            self._keep()
        if self._live is not None and self._task is not None:
            done = sum(trial.consumes_budget for trial in self._trials())
            self._live.update(self._task, completed=done, state=self._state(done, now))

    def step(self, what: str, step: int, steps: int, value: float) -> None:
        """Tell how far the final training is."""
        line = epoch_line(step, steps, value)
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=what, completed=step, total=steps, state=line)
        if is_logged_epoch(step, steps):
            self._log(f"{what}: {line}")
            if self._show and self._live is None:
                print(f"{what}: {line}", flush=True)

    def _line(self, trial: TrialRecord) -> str:
        if trial.state in (RecordState.FAILED, RecordState.INTERRUPTED):
            return f"trial {trial.number}: {trial.state}: {trial.reason}"
        if trial.state == RecordState.INFEASIBLE:
            return f"trial {trial.number}: refused: {trial.reason} ({trial.params:,} params, {trial.macs:,} MACs)"
        if trial.state == RecordState.DUPLICATE:
            return f"trial {trial.number}: equal to trial {trial.duplicate_of}, {self._value(trial)}"
        early = " when stopped" if trial.state == RecordState.PRUNED else ""
        if trial.state == RecordState.PAUSED:
            early = f" after {pluralize(max(trial.rungs), 'epoch')}"
        told = _told(trial, self._objectives)
        words = [_named(name, text) for name, text in told.items() if name not in self._objectives.names]
        words.append(f"{trial.seconds or 0:.1f} s")
        if trial.memory != "plain":
            words.append(f"memory {trial.memory}")
        if trial.batch_size is not None:
            words.append(f"batch size {trial.batch_size}")
        if trial.consumes_budget and trial.scores is None:
            words.append("over a limit")
        if best := self._best():
            words.append(best)
        return f"trial {trial.number}: {self._value(trial)}{early} ({', '.join(words)})"

    def _value(self, trial: TrialRecord) -> str:
        """What a trial has for the objectives."""
        if trial.values is None:
            return "nothing"
        pairs = zip(self._objectives, trial.values, strict=True)
        return ", ".join(objective.format(value) for objective, value in pairs)

    def _best(self) -> str:
        if self._objectives.is_multi_objective:
            count = len(front(self._trials()))
            return f"{count} in the front" if count else ""
        best = ranked(self._trials())
        return f"best {self._value(best[0])}" if best else ""

    def _state(self, done: int, now: float) -> str:
        words = [f"{done} of {self._budget}", self._best() or "best none yet"]
        passed, fresh = now - self._begun, done - self._already
        if fresh:
            words.append(f"{60 * fresh / passed:.1f} a minute")
            left = passed / fresh * (self._budget - done)
            if self._timeout is not None:
                left = min(left, max(0.0, self._timeout - self._spent - passed))
            words.append(f"{_clock(left)} left")
        return ", ".join(words)


def epoch_line(epoch: int, epochs: int, value: float) -> str:
    """How far a training is that is not validated."""
    return f"epoch {epoch} of {epochs}: {100 * value:.2f} % of the training images right"


def pluralize(count: int, what: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{count} {what}{'s' * (count != 1)}"


def training_length(epochs: int, compiled: bool) -> str:
    """How long a training is to be."""
    before = ", compiled before the first, which may take minutes" if compiled else ""
    return f"{epochs} epoch{'s' * (epochs != 1)}{before}"


def is_logged_epoch(epoch: int, epochs: int) -> bool:
    """Whether an epoch is told where there is no line that can be overwritten: about ten of a training are."""
    return epoch == epochs or epoch % max(1, epochs // 10) == 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _told(trial: TrialRecord, objectives: Objectives) -> dict[str, str]:
    """What is known of a trial's network, as texts, by the names of objectives."""
    told = {}
    for name, metric in METRICS.items():
        found = getattr(trial, metric.attribute)
        # Who asks for accuracies is not told losses.
        if found is not None and (name != "loss" or name in objectives.names):
            told[name] = metric.format(found)
    return told


def _named(name: str, text: str) -> str:
    """A figure with its name, where its unit does not say it."""
    return text if name in ("params", "macs", "loss") else f"{name} {text}"


def _row(trial: TrialRecord, objectives: Objectives) -> dict[str, str]:
    """A trial's cells by the names of their columns, which are the same for all trials of a search."""
    own = dict(zip(objectives, trial.values or (), strict=False))
    row = {objective.name: objective.format(value) for objective, value in own.items()}
    row = {"trial": str(trial.number)} | row | _told(trial, objectives) | {"hash": trial.hash[:12]}
    return {"MACs" if name == "macs" else name: _bare(text, name) for name, text in row.items()}


def _bare(text: str, name: str) -> str:
    """A cell without what its column is called."""
    return text.removeprefix(f"{name} ").removesuffix(f" {name}").removesuffix(" MACs" if name == "macs" else "")


def print_result(result: SearchResult, file: TextIO | None = None) -> None:
    """Print the best networks, the final one's test, and what to type next."""
    out = file or sys.stdout
    rows = [_row(trial, result.objectives) for trial in result.top]
    title = "the best networks"
    if result.objectives.is_multi_objective:
        title = f"the Pareto front: {len(rows)} network{'s' * (len(rows) != 1)} that no other is better than"
        print(title, file=out)
        title = ""
    print_table(list(rows[0]), [list(row.values()) for row in rows], title, range(len(rows[0]) - 1), out)
    counted = sum(trial.consumes_budget for trial in result.trials)
    print(f"{counted} network{'s' * (counted != 1)} evaluated; {result.reason}", file=out)
    if result.test is not None:
        test = result.test
        top5 = test.get("test_top5_accuracy")
        accuracy = accuracy_text(test["test_accuracy"], test["correct"], test["images"], top5)
        print(f"test accuracy of the final network: {accuracy}", file=out)
    if result.path is not None:
        commands = [f"evaluate {result.path}"] if result.test is not None else []
        commands += [f"show {result.path}"]
        if result.test is not None:
            commands += [f"compile {result.path} --out {result.path.name}-model"]
        print("next: " + "\n      ".join(f"nas_agg {command}" for command in commands), file=out)
