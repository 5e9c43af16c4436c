"""Passes what happens in a search to its progress display and to callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError, one_line, truncate
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.records.history import read_history
from nas_agg.study.records.progress import ProgressReporter

Reports = Callable[[int], Mapping[int, float]]


def check_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """Check callbacks.

    Raises:
        InputError: One is not a `Callback`.
    """
    result = tuple(callbacks)
    for callback in result:
        if not isinstance(callback, Callback):
            raise InputError(f"callbacks: expected nas_agg.Callback objects, not {truncate(repr(callback))}")
    return result


class Notifier:
    """The callback of the coordinator.

    Args:
        reporter: Displays progress.
        callbacks: Receive epochs, trials and the end.
        reports: Returns the reported values of a trial by epoch.
        folder: The run folder, if there is one.
    """

    def __init__(
        self, reporter: ProgressReporter, callbacks: Sequence[Callback], reports: Reports, folder: Path | None = None
    ):
        self._reporter, self._reports, self._folder = reporter, reports, folder
        self._callbacks = list(callbacks)
        self._last_epochs: dict[int, int] = {}

    def start(self, settings: Mapping[str, Any]) -> None:
        """The search begins."""
        self._call("on_start", settings, self._folder)

    def end(self, result: SearchResult) -> None:
        """The search has ended."""
        self._call("on_end", result)

    def message(self, line: str) -> None:
        """Any other event, described in one line."""
        self._reporter.message(line)

    def tick(self) -> None:
        """Time has passed."""
        self._reporter.tick()

    def epoch(self, number: int, epoch: int, value: float) -> None:
        """A running trial has reported a value."""
        self._reporter.epoch(number, epoch, value)
        if self._callbacks:
            self._send_epochs(number)

    def restarted(self, number: int) -> None:
        """A trial begins anew, and will report its epochs again."""
        self._last_epochs.pop(number, None)

    def trial(self, trial: TrialRecord) -> None:
        """A trial has a result, failed, or duplicates another."""
        self._reporter.trial(trial)
        if self._callbacks:
            if trial.state != RecordState.DUPLICATE:
                self._send_epochs(trial.number)  # a function reports to its trial, so they are known only now
            self._call("on_trial", trial)

    def _send_epochs(self, number: int) -> None:
        last = self._last_epochs.get(number, 0)
        new = {epoch: value for epoch, value in sorted(self._reports(number).items()) if epoch > last}
        history = self._history(number) if new else {}
        for epoch, value in new.items():
            self._last_epochs[number] = epoch
            self._call("on_epoch", number, epoch, {"value": value} | history.get(epoch, {}))

    def _history(self, number: int) -> dict[int, dict[str, float]]:
        """What the training of a trial measured in each epoch; nothing if it runs on another machine."""
        folder = None if self._folder is None else self._folder / "trials" / str(number)
        if folder is None or not folder.is_dir():
            return {}
        try:
            epochs = read_history(folder)
        except InputError:  # the trial will fail by itself, or resume
            return {}
        return {
            int(epoch["epoch"]): {k: v for k, v in epoch.items() if k != "epoch" and isinstance(v, int | float)}
            for epoch in epochs
        }

    def _call(self, method: str, *arguments: Any) -> None:
        """Call a method of each callback; one that fails receives nothing more."""
        for callback in tuple(self._callbacks):
            try:
                getattr(callback, method)(*arguments)
            except Exception as error:  # a callback is the caller's code; a search goes on without
                self._callbacks.remove(callback)
                reason = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
                name = f"{type(callback).__name__}.{method}"
                self._reporter.message(f"note: {name} failed and is not called again: {reason}")
