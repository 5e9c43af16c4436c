"""A remote worker: it trains the trials that are leased to it, in processes of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.signals import Stopped, check_stopped, shielded
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.records.run_folder import RUN_FILE
from nas_agg.study.records.storages import silence_optuna, storage_errors
from nas_agg.study.workers.backend import Assignment, Event
from nas_agg.study.workers.messages import EventKind, TrialOutcome
from nas_agg.study.workers.pool import WORKER_COMMAND, WorkerPool
from nas_agg.study.workers.protocol import (
    AWAY,
    BEAT,
    COORDINATOR,
    FINISHED,
    LEASE,
    OUTCOME,
    STOP,
    TASK,
    WORKER,
    LeaseSettings,
    RemoteOutcome,
    read_job,
    report_attrs,
)


@dataclass(frozen=True)
class PollSettings:
    """Timing of a remote worker, in seconds.

    Attributes:
        after_trial: Time between two reads of the storage after a trial has ended.
        at_rest: The same, as it grows while there is nothing to do.
        while_training: The same while trials are trained.
        idle: Time without a coordinator after which the worker leaves.
    """

    after_trial: float = 0.1
    at_rest: float = 2.0
    while_training: float = 0.5
    idle: float = 600.0


@dataclass(frozen=True)
class StudyHandle:
    """A study that a worker joins.

    Attributes:
        storage: The storage that holds it.
        id: Its number there.
        name: Its name.
        task: What its coordinator wrote about the task.
        run: The run folder, if the study was located by it.
    """

    storage: BaseStorage
    id: int
    name: str
    task: dict[str, Any]
    run: Path | None = None


@dataclass
class _LeasedTrial:
    """A trial that this worker trains."""

    id: int
    attempt: int
    own_folder: Path | None  # temporary, if the run folder is not accessible
    started: float = field(default_factory=time.monotonic)
    reports: list[tuple[int, float]] = field(default_factory=list)
    sent: int = 0
    stop: bool = False


class WorkerStopped(NasAggError):
    """A signal stopped a worker, which signed off."""

    def __init__(self, status: int, released: int):
        self.status = status
        super().__init__(f"stopped{f'; {released} of its trials released' if released else ''}")


class WorkerAgent:
    """A remote worker in a study.

    Args:
        study: The study.
        configs: Configuration of each of its processes.
        poll: Timing.
        print_line: Receives lines about events.
        command: Starts a process.
    """

    def __init__(
        self,
        study: StudyHandle,
        configs: Sequence[WorkerConfig],
        *,
        poll: PollSettings | None = None,
        print_line: Callable[[str], None] = print,
        command: Sequence[str] = WORKER_COMMAND,
    ):
        self._study, self._storage, self._poll, self._print_line = (
            study,
            study.storage,
            poll or PollSettings(),
            print_line,
        )
        self._host = socket.gethostname()
        self.id = f"{self._host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._about = {"host": self._host, "pid": os.getpid(), "slots": len(configs), "device": configs[0].device}
        self._about["since"] = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._pool = WorkerPool(configs, None, study.task.get("trial_timeout"), command)
        self._trials: dict[int, _LeasedTrial] = {}
        self._ended: set[tuple[int, int]] = set()  # trials and attempts
        self._outbox: dict[tuple[int | None, str], Any] = {}
        self._beat, self._last_beat = 0, 0.0
        self._session: str | None = None
        self._lease_seconds = LeaseSettings().seconds
        self._coordinator_beat: tuple[Any, Any] = (None, None)
        self._coordinator_seen = self._storage_reached = time.monotonic()
        self._is_unreachable = False
        self._trial_folders = _accessible_trial_folders(study)

    def run(self) -> None:
        """Work until the search has finished.

        Raises:
            WorkerStopped: A signal stopped the worker.
            NasAggError: The coordinator, the storage or the worker processes are gone.
        """
        try:
            self._run()
        except Stopped as stopped:
            released = len(self._trials)
            self._release_all("was stopped")
            raise WorkerStopped(stopped.status, released) from None
        except NasAggError as error:
            self._release_all(f"failed: {error}")
            raise
        finally:
            self._pool.close()
            for number in list(self._trials):
                self._forget(number)

    def _run(self) -> None:
        self._write(None, f"{WORKER}{self.id}", self._about)
        slots = self._about["slots"]
        folder = "with" if self._trial_folders else "without"
        self._print_line(
            f"joined {self._study.name} as {self.id}: {self._study.task['about']}, {slots} "
            f"process{'es' * (slots != 1)} on {self._about['device']}, {folder} access to the run folder"
        )
        poll, interval = self._poll, self._poll.after_trial
        while True:
            check_stopped()
            if reason := self._read_storage():
                self._print_line(f"{reason}; exiting")
                self._pool.close()
                self._sign_off()
                return
            wait = interval if self._pool.free_slots() else poll.while_training
            end = time.monotonic() + (min(wait, poll.while_training) if self._trials else interval)
            trial_ended = self._handle_events_until(end)
            interval = poll.after_trial if trial_ended else min(poll.at_rest, 1.2 * interval)
            self._queue_reports()
            self._flush()

    def _handle_events_until(self, end: float) -> bool:
        """Handle events of the pool until a trial ends or the time is over; returns whether a trial ended."""
        while self._trials and time.monotonic() < end:
            ended = [self._handle_event(event) for event in self._pool.poll(max(0.0, end - time.monotonic()))]
            if any(ended):
                return True
        if not self._trials:
            time.sleep(max(0.0, end - time.monotonic()))
        return False

    # ---- the storage

    def _with_retries(self, call: Callable[[], Any]) -> Any:
        """The result of a call to the storage; None while the storage cannot be reached.

        Raises:
            NasAggError: It has been unreachable for so long that this worker counts as dead.
        """
        try:
            with shielded():
                result = call()
        except (UpdateFinishedTrialError, KeyError):
            raise
        except Exception as error:  # whatever the driver raises
            if time.monotonic() - self._storage_reached > self._lease_seconds:
                with storage_errors(f"cannot be reached for {self._lease_seconds:g} s"):
                    raise
            if not self._is_unreachable:
                self._print_line(f"the storage cannot be reached ({type(error).__name__}); retrying")
            self._is_unreachable = True
            time.sleep(1.0)
            return None
        self._storage_reached, self._is_unreachable = time.monotonic(), False
        return result

    def _write(self, trial: int | None, key: str, value: Any) -> None:
        """Queue an attribute of a trial or of the study, to be written as soon as the storage can be reached."""
        self._outbox.pop((trial, key), None)
        self._outbox[trial, key] = value

    def _flush(self) -> None:
        """Write the queued attributes, in order."""
        for (trial, key), value in list(self._outbox.items()):
            try:
                if self._with_retries(lambda t=trial, k=key, v=value: self._set(t, k, v)) is None:  # type: ignore[misc]
                    return
            except (UpdateFinishedTrialError, KeyError):
                pass  # the trial was ended without this worker
            del self._outbox[trial, key]

    def _set(self, trial: int | None, key: str, value: Any) -> bool:
        if trial is None:
            self._storage.set_study_user_attr(self._study.id, key, value)
        else:
            self._storage.set_trial_user_attr(trial, key, value)
        return True

    def _read(self) -> tuple[dict[str, Any], list[FrozenTrial]] | None:
        def read() -> tuple[dict[str, Any], list[FrozenTrial]]:
            attrs = self._storage.get_study_user_attrs(self._study.id)
            running = self._storage.get_all_trials(self._study.id, deepcopy=False, states=(TrialState.RUNNING,))
            return attrs, running

        try:
            return self._with_retries(read)
        except KeyError:
            raise NasAggError(f"study {self._study.name} no longer exists in the storage") from None

    # ---- leases

    def _read_storage(self) -> str:
        """Send a heartbeat, and start and cancel trials as leased; returns why the search has ended, if it has."""
        if (content := self._read()) is None:
            return ""
        attrs, running = content
        coordinator = attrs.get(COORDINATOR, {})
        if coordinator.get("state") == FINISHED:
            return "the search has finished"
        self._update_coordinator(coordinator, attrs)
        now = time.monotonic()
        if now - self._last_beat >= self._lease_seconds / LeaseSettings().beats:
            self._beat, self._last_beat = self._beat + 1, now
            self._write(None, f"{BEAT}{self.id}", self._beat)
        self._update_leases({t.number: t for t in running if t.user_attrs.get(LEASE, {}).get("worker") == self.id})
        self._flush()
        return ""

    def _update_coordinator(self, coordinator: dict[str, Any], attrs: dict[str, Any]) -> None:
        """Note the coordinator's heartbeat.

        Raises:
            NasAggError: There has been none for too long.
        """
        now, beat = time.monotonic(), (coordinator.get("session"), coordinator.get("beat"))
        if self._trials or (beat != self._coordinator_beat and coordinator.get("state") != AWAY):
            self._coordinator_seen = now
        self._coordinator_beat = beat
        if now - self._coordinator_seen > self._poll.idle:
            raise NasAggError(f"no coordinator for {self._poll.idle:g} s; exiting")
        if coordinator.get("session") != self._session:  # a new coordinator needs a heartbeat at once
            self._session = coordinator.get("session")
            self._lease_seconds = coordinator.get("lease", LeaseSettings().seconds)
            self._pool.trial_timeout = attrs[TASK].get("trial_timeout")
            self._last_beat = 0.0

    def _update_leases(self, leased: dict[int, FrozenTrial]) -> None:
        for number in [n for n, own in self._trials.items() if not _is_attempt(leased.get(n), own.attempt)]:
            self._print_line(f"trial {number}: lease revoked")
            self._pool.cancel(number)
            self._forget(number)
        for number, trial in leased.items():
            attempt = trial.user_attrs[LEASE]["attempt"]
            if number in self._trials:
                self._trials[number].stop = bool(trial.user_attrs.get(f"{STOP}{attempt}"))
            elif (number, attempt) not in self._ended and self._pool.free_slots():
                self._start(trial, attempt)

    def _start(self, trial: FrozenTrial, attempt: int) -> None:
        number, own_folder = trial.number, None
        if self._trial_folders is None:
            out = own_folder = Path(tempfile.mkdtemp(prefix=f"{number}-", suffix="-nas_agg"))
        else:
            out = self._trial_folders / str(number)
        job = read_job(trial.user_attrs).model_copy(update={"out": str(out)})
        self._print_line(f"trial {number}: training" + (f", attempt {attempt}" if attempt > 1 else ""))
        self._trials[number] = _LeasedTrial(trial._trial_id, attempt, own_folder)
        self._pool.submit(Assignment(number, job=job), attempt)

    def _handle_event(self, event: Event) -> bool:
        """Handle an event of the pool; returns whether a trial ended."""
        if event.kind == EventKind.REPORT:
            trial = self._trials[event.number]
            trial.reports.append((event.step, event.value))
            (self._pool.stop if trial.stop else self._pool.proceed)(event.number)
            return False
        self._end(event)
        self._print_line(
            f"trial {event.number}: {event.kind.replace('_', ' ')}{f': {event.reason}' if event.reason else ''}"
        )
        return True

    def _end(self, event: Event) -> None:
        trial, reason = self._trials[event.number], event.reason[:1000]
        if event.kind in (EventKind.WORKER_DIED, EventKind.RELEASED):
            reason = f"worker {self._host}: {reason}"
        self._queue_reports()
        assert event.outcome is None or isinstance(event.outcome, TrialOutcome)
        seconds = round(event.seconds, 3)
        outcome = RemoteOutcome(kind=event.kind, seconds=seconds, reason=reason, outcome=event.outcome)
        self._write(trial.id, f"{OUTCOME}{trial.attempt}", outcome.model_dump(mode="json"))
        self._ended.add((event.number, trial.attempt))
        self._forget(event.number)

    def _forget(self, number: int) -> None:
        trial = self._trials.pop(number)
        if trial.own_folder is not None:
            shutil.rmtree(trial.own_folder, ignore_errors=True)

    def _queue_reports(self) -> None:
        for trial in self._trials.values():
            if trial.sent < len(trial.reports):
                for key, block in report_attrs(trial.attempt, trial.reports, trial.sent).items():
                    self._write(trial.id, key, block)
                trial.sent = len(trial.reports)

    # ---- exit

    def _release_all(self, reason: str) -> None:
        """Release the running trials, so that others need not wait until this worker counts as dead."""
        self._pool.close()
        for number, trial in list(self._trials.items()):
            seconds = time.monotonic() - trial.started
            self._end(Event(number, trial.attempt, EventKind.RELEASED, seconds=seconds, reason=reason))
        self._sign_off()

    def _sign_off(self) -> None:
        self._write(None, f"{WORKER}{self.id}", {**self._about, "signed_off": True})
        with silence_optuna():
            try:
                self._flush()
            except NasAggError:
                return  # the storage is gone; the missing heartbeat tells the others


def _is_attempt(trial: FrozenTrial | None, attempt: int) -> bool:
    return trial is not None and trial.user_attrs[LEASE]["attempt"] == attempt


def _accessible_trial_folders(study: StudyHandle) -> Path | None:
    """Folder of the run's trials, if this machine can write to it."""
    folder = study.run or Path(study.task.get("folder") or "")
    try:
        is_same = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["study"] == study.name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder / "trials" if is_same and os.access(folder, os.W_OK) else None
