"""How a search shows itself: a live line on a terminal, plain lines elsewhere; the log gets every line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from nas_agg.console import print_table
from nas_agg.study.result import SearchResult, ranked
from nas_agg.study.trial import TrialRecord

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

KEEP_EVERY = 1.0  # seconds between two writings of the tables when trials end
KEEP_ANYWAY = 10.0  # and when none does


class Display:
    """Tells people, and keeps what a run leaves up to date; a search's :class:`~nas_agg.study.coordinator.Watcher`.

    Args:
        budget: Networks the search is to evaluate.
        trials: Gives every trial.
        log: Takes each line.
        keep: Called with the time now and then, and at the end, to write what is kept of the trials.
        show: Whether to print.
        percent: Whether values are accuracies, shown in percent.
        timeout: Seconds the search may take, and ``spent``: those already gone.
    """

    def __init__(
        self,
        budget: int,
        trials: Callable[[], list[TrialRecord]],
        log: Callable[[str], None],
        keep: Callable[[], None],
        show: bool = False,
        percent: bool = True,
        timeout: float | None = None,
        spent: float = 0.0,
    ):
        self._budget, self._trials, self._log, self._keep = budget, trials, log, keep
        self._show, self._percent, self._timeout = show, percent, timeout
        self._kept = self._begun = time.monotonic()
        self._spent = spent
        self._already = sum(trial.counts for trial in trials())
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
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
            done = sum(trial.counts for trial in self._trials())
            self._live.update(self._task, completed=done, state=self._state(done, now))

    def step(self, what: str, step: int, steps: int, value: float) -> None:
        """Tell how far the final training is."""
        line = epoch_line(step, steps, value)
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=what, completed=step, total=steps, state=line)
        if is_tenth(step, steps):
            self._log(f"{what}: {line}")
            if self._show and self._live is None:
                print(f"{what}: {line}", flush=True)

    def shown(self, value: float | None) -> str:
        """A value as people read it."""
        if value is None:
            return "none"
        return f"{100 * value:.2f} %" if self._percent else f"{value:.6g}"

    def _line(self, trial: TrialRecord) -> str:
        if trial.state in ("failed", "stopped"):
            return f"trial {trial.number}: {trial.state}: {trial.reason}"
        if trial.state == "infeasible":
            return f"trial {trial.number}: refused: {trial.reason} ({trial.params:,} params, {trial.macs:,} MACs)"
        if trial.state == "repeat":
            return f"trial {trial.number}: equal to trial {trial.twin}, {self._value(trial)}"
        best = ranked(self._trials())
        early = " when stopped" if trial.state == "pruned" else ""
        words = [f"{trial.params:,} params", f"{trial.macs:,} MACs", f"{trial.seconds or 0:.1f} s"]
        if trial.accuracy is not None:
            words.insert(0, f"accuracy {self.shown(trial.accuracy)}")
        if trial.latency_ms is not None:
            words.append(f"latency {trial.latency_ms:.4g} ms")
        if trial.memory != "plain":
            words.append(f"memory {trial.memory}")
        if best:
            words.append(f"best {self._value(best[0])}")
        return f"trial {trial.number}: {self._value(trial)}{early} ({', '.join(words)})"

    def _value(self, trial: TrialRecord) -> str:
        """What a trial scored: its accuracy in percent, or a score that is none."""
        return self.shown(trial.value) if trial.accuracy is None else f"score {trial.value:.4f}"

    def _state(self, done: int, now: float) -> str:
        best = ranked(self._trials())
        words = [f"{done} of {self._budget}", f"best {self._value(best[0]) if best else 'none yet'}"]
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


def epochs_text(epochs: int, compiled: bool) -> str:
    """How long a training is to be."""
    before = ", compiled before the first, which may take minutes" if compiled else ""
    return f"{epochs} epoch{'s' * (epochs != 1)}{before}"


def is_tenth(epoch: int, epochs: int) -> bool:
    """Whether an epoch is told where there is no line that can be overwritten: about ten of a training are."""
    return epoch == epochs or epoch % max(1, epochs // 10) == 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _row(trial: TrialRecord, percent: bool) -> dict[str, str]:
    """A trial's cells by the names of their columns, which are the same for all trials of a search."""
    row = {"trial": str(trial.number)}
    if trial.accuracy is not None:
        row["score"] = f"{trial.value:.4f}"
    accuracy = trial.value if trial.accuracy is None else trial.accuracy
    row["accuracy" if percent else "value"] = f"{100 * (accuracy or 0):.2f} %" if percent else f"{accuracy:.6g}"
    if trial.latency_ms is not None:
        row["latency"] = f"{trial.latency_ms:.4g} ms"
    return row | {"params": f"{trial.params:,}", "MACs": f"{trial.macs:,}", "hash": trial.hash[:12]}


def print_result(result: SearchResult, percent: bool = True, file: TextIO | None = None) -> None:
    """Print the five best networks, the final one's test, and what to type next."""
    out = file or sys.stdout
    rows = [_row(trial, percent) for trial in result.top]
    print_table(list(rows[0]), [list(row.values()) for row in rows], "the best networks", range(len(rows[0]) - 1), out)
    counted = sum(trial.counts for trial in result.trials)
    print(f"{counted} network{'s' * (counted != 1)} evaluated; {result.reason}", file=out)
    if result.test is not None:
        test = result.test
        right = f"{test['correct']:,} of {test['images']:,} images"
        print(f"test accuracy of the final network: {100 * test['test_accuracy']:.2f} % ({right})", file=out)
    if result.path is not None:
        commands = [f"evaluate {result.path}"] if result.test is not None else []
        commands += [f"show {result.path}"]
        if result.test is not None:
            commands += [f"compile {result.path} --out {result.path.name}-model"]
        print("next: " + "\n      ".join(f"nas_agg {command}" for command in commands), file=out)
