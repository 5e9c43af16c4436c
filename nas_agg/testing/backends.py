"""The conformance check of backends."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.workers.backend import Assignment, Backend, BackendContext, Event, Resources
from nas_agg.study.workers.messages import EventKind, TrialJob
from nas_agg.study.workers.process import Trainer
from nas_agg.study.workers.protocol import LeaseSettings
from nas_agg.testing import worker

WORKER_COMMAND = (sys.executable, "-P", "-m", "nas_agg.testing.worker")
TRIALS = 9  # that the record of the check has
EPOCHS = 4  # of a job that counts


def check_backend(
    kind: type[Backend],
    *,
    workers: Callable[[BackendContext], AbstractContextManager[Any]] | None = None,
    patience: float = 60.0,
    **settings: Any,
) -> None:
    """Run jobs on a backend as a search does, and check what a search relies on.

    Reports arrive in order and bear their attempt; each job ends with one event; a job that pauses ends, and another
    attempt continues from its checkpoint. A stopped job keeps its score, a cancelled one is not heard of again. A job
    that raises has failed; one whose process dies is lost, and the backend goes on. What an earlier coordinator left
    running is adopted with its attempt, or not at all; closing ends the jobs.

    Args:
        kind: The backend's class.
        workers: Starts the workers that join, for backends that have none of their own.
        patience: Seconds to wait for an event, 10 or more.
        **settings: Settings of the search, such as ``ray_address``.

    Raises:
        AssertionError: With the problem, in one line.
    """
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise AssertionError(f"{kind!r} is not a subclass of nas_agg.study.workers.backend.Backend")
    with tempfile.TemporaryDirectory(prefix="nas_agg-check-") as folder:
        context = _context(Path(folder), Settings(space="microdense", **{"workers": 2, **settings}))
        backend = kind.open(context)
        check = _Check(kind, context, backend, patience)
        try:
            with workers(context) if workers else nullcontext():
                _check_jobs(check)
                _check_adoption(check)
                _check_closing(check)
        except NasAggError as error:
            raise AssertionError(str(error)) from error
        finally:
            check.backend.close()


def _context(folder: Path, settings: Settings) -> BackendContext:
    """What a search tells a backend; its record has trials to be run."""
    (folder / "trials").mkdir()
    (folder / "notes").mkdir()
    (folder / "run.json").write_text('{"study": "check"}\n')
    record = StudyRecord(optuna.pruners.NopPruner(), open_storage(None, folder), "check")
    distributions = {"x": optuna.distributions.IntDistribution(0, 100)}
    while record.next_number < TRIALS:
        labels = next(record.draws(optuna.samplers.RandomSampler(seed=record.next_number), distributions))
        hash = str(record.next_number)
        record.create_trial(labels, distributions, {"hash": hash, "params": 1, "macs": 1, "seed": int(hash)})
    task = Task(
        "a check", {"notes": str(folder / "notes")}, (1, 8, 8), 10, ("cpu",) * (settings.workers or 0), "no device"
    )
    lease, trainer = LeaseSettings(seconds=5.0), Trainer(worker.limit_threads, worker.load, worker.train)
    return BackendContext(settings, record, task, folder, WORKER_COMMAND, lease, trainer)


@dataclass
class _Check:
    """A backend, and what it has said.

    Attributes:
        kind: Its class.
        context: What it was opened with.
        backend: The backend.
        patience: Seconds to wait for an event.
        events: Its events, by trial and attempt.
    """

    kind: type[Backend]
    context: BackendContext
    backend: Backend
    patience: float
    events: dict[tuple[int, int], list[Event]] = field(default_factory=dict)

    def submit(
        self, number: int, act: str, attempt: int = 1, epochs: int = EPOCHS, pause_at: int | None = None
    ) -> None:
        """Submit a job, as soon as there is room."""
        out = self.context.folder / "trials" / str(number)
        out.mkdir(exist_ok=True)
        job = TrialJob(
            genotype={"act": act}, seed=number, recipe="search", epochs=epochs, out=str(out), pause_at=pause_at
        )
        self.events[number, attempt] = []
        self.backend.submit(Assignment(number, job=job, pause_at=pause_at), attempt, Resources())

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Handle events until something is the case."""
        end = time.monotonic() + self.patience
        while not done():
            _expect(time.monotonic() < end, f"{what}: not within {self.patience:g} s")
            self.poll(0.2)

    def poll(self, timeout: float) -> None:
        """Handle events; all jobs proceed."""
        for event in self.backend.poll(timeout):
            _expect((event.number, event.attempt) in self.events, f"an event of a job that was not submitted: {event}")
            earlier = self.events[event.number, event.attempt]
            _expect(not _has_ended(earlier), f"an event of a job that has ended: {event}")
            earlier.append(event)
            if event.kind == EventKind.REPORT:
                self.backend.proceed(event.number)

    def end(self, number: int, attempt: int, kind: EventKind) -> Event:
        """Wait for the end of a job, which must be of some kind."""
        events = self.events[number, attempt]
        self.wait(lambda: _has_ended(events), f"the end of trial {number}")
        last = events[-1]
        _expect(last.kind == kind, f"trial {number} ended as {last.kind} ({last.reason}), not as {kind}")
        return last

    def reports(self, number: int, attempt: int) -> list[tuple[int, float]]:
        """The reports of a job."""
        events = self.events[number, attempt]
        return [(event.step, event.value) for event in events if event.kind == EventKind.REPORT]

    def beats(self, number: int) -> int:
        """How often a job has said that it is alive."""
        path = self.context.folder / "notes" / f"beats-{number}"
        return len(path.read_text().splitlines()) if path.exists() else 0


def _has_ended(events: Sequence[Event]) -> bool:
    return bool(events) and events[-1].kind != EventKind.REPORT


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _values(number: int, epochs: int) -> list[tuple[int, float]]:
    return [(epoch, worker.value_of(number, epoch)) for epoch in range(1, epochs + 1)]


def _check_jobs(check: _Check) -> None:
    check.wait(lambda: check.backend.capacity() > 0, "a capacity of 1 or more")
    check.submit(0, "count")
    end = check.end(0, 1, EventKind.COMPLETED)
    _expect(check.reports(0, 1) == _values(0, EPOCHS), f"reports are {check.reports(0, 1)}, not {_values(0, EPOCHS)}")
    metrics = getattr(end.outcome, "metrics", None)
    _expect(metrics == {"value": worker.value_of(0, EPOCHS)}, f"the outcome has the metrics {metrics}")

    check.submit(1, "count", pause_at=2)
    paused = check.end(1, 1, EventKind.PAUSED)
    _expect(getattr(paused.outcome, "paused_at", None) == 2, f"a job paused with {paused.outcome}")
    check.submit(1, "count", attempt=2)
    check.end(1, 2, EventKind.COMPLETED)
    _expect(check.beats(1) == EPOCHS, f"{check.beats(1)} epochs of a job that paused, not {EPOCHS}: it began anew")

    check.submit(2, "raise")
    failed = check.end(2, 1, EventKind.FAILED)
    _expect("as it was told" in failed.reason, f"a job that raised has the reason '{failed.reason}'")
    check.submit(3, "die")
    lost = check.end(3, 1, EventKind.WORKER_DIED)
    _expect(bool(lost.reason), "a job whose process died has no reason")
    check.submit(3, "count", attempt=2)
    check.end(3, 2, EventKind.COMPLETED)

    check.submit(4, "count", epochs=2000)
    check.wait(lambda: bool(check.reports(4, 1)), "a report")
    check.backend.stop(4)
    pruned = check.end(4, 1, EventKind.PRUNED)
    steps = len(check.reports(4, 1))
    metrics = getattr(pruned.outcome, "metrics", None)
    kept = metrics == {"value": worker.value_of(4, steps)}
    _expect(kept and steps < 2000, f"a stopped job has {metrics} after {steps} reports")

    check.submit(5, "hang")
    check.wait(lambda: check.beats(5) > 2, "a job that hangs")
    check.backend.cancel(5)
    check.submit(5, "count", attempt=2)
    check.end(5, 2, EventKind.COMPLETED)
    _expect(not _has_ended(check.events[5, 1]), "a cancelled job has an event")


def _check_adoption(check: _Check) -> None:
    """Close while a job runs, as a coordinator that is stopped does, and open again."""
    check.submit(6, "count", epochs=60)
    check.wait(lambda: bool(check.reports(6, 1)), "a report")
    check.backend.close(leave_running=True)
    record = StudyRecord(optuna.pruners.NopPruner(), check.context.record.storage, "check", must_exist=True)
    check.context = BackendContext(**{**vars(check.context), "record": record})
    check.backend = check.kind.open(check.context)
    adopted = check.backend.adopt()
    _expect(adopted in ({}, {6: 1}), f"adopted {adopted}; trial 6 was left in attempt 1")
    check.wait(lambda: check.backend.capacity() > 0, "a capacity of 1 or more after a restart")
    if adopted:
        check.events[6, 1] = []
        check.end(6, 1, EventKind.COMPLETED)
        _expect(check.reports(6, 1) == _values(6, 60), f"{len(check.reports(6, 1))} reports of 60 of an adopted job")
    else:
        check.submit(6, "count", attempt=2, epochs=60)
        check.end(6, 2, EventKind.COMPLETED)


def _check_closing(check: _Check) -> None:
    check.submit(7, "hang")
    check.wait(lambda: check.beats(7) > 2, "a job that hangs")
    check.backend.close()
    deadline = time.monotonic() + check.patience
    while True:
        beats = check.beats(7)
        time.sleep(1.0)
        if check.beats(7) == beats:
            return
        _expect(time.monotonic() < deadline, "a job goes on after the backend was closed")
