"""A remote worker: it trains the trials that are leased to it, in processes of its own."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.signals import Stopped, check_stopped
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.records.run_folder import RUN_FILE
from nas_agg.study.remote.connection import NotRegistered, StudyHandle, WorkerConnection
from nas_agg.study.workers.backend import Assignment, Event
from nas_agg.study.workers.messages import EventKind, TrialOutcome
from nas_agg.study.workers.pool import WORKER_COMMAND, WorkerPool
from nas_agg.study.workers.protocol import (
    COORDINATOR,
    FINISHED,
    LEASE,
    OUTCOME,
    TASK,
    Instructions,
    LeasedTrial,
    LeaseSettings,
    RemoteOutcome,
    TrialStatus,
    WorkerStatus,
    read_job,
    report_attrs,
)


@dataclass(frozen=True)
class PollSettings:
    """Timing of a remote worker, in seconds; one of many workers waits longer, as its coordinator tells it.

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


@dataclass
class _OwnTrial:
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
        self._study, self._poll, self._print_line = study, poll or PollSettings(), print_line
        self._host = socket.gethostname()
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        about = {"host": self._host, "pid": os.getpid(), "device": configs[0].device, "slots": len(configs)}
        self._about = {**about, "since": since}
        self._connection = WorkerConnection(study, self._about, print_line)
        self._pool = WorkerPool(configs, None, study.task.get("trial_timeout"), command)
        self._trials: dict[int, _OwnTrial] = {}
        self._ended: dict[tuple[int, int], int] = {}  # trials and attempts that instructions still list, and reports
        self._trained = 0
        self._beat, self._last_beat = 0, -math.inf
        self._session, self._pace = "", 1.0
        self._coordinator_beat: tuple[str, int] = ("", 0)
        self._coordinator_seen = time.monotonic()
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
        while not self._connection.register():
            check_stopped()
        slots = self._about["slots"]
        folder = "with" if self._trial_folders else "without"
        self._print_line(
            f"joined {self._study.name} as {self._connection.id}: {self._study.task['about']}, {slots} "
            f"process{'es' * (slots != 1)} on {self._about['device']}, {folder} access to the run folder"
        )
        interval = self._poll.after_trial
        while True:
            check_stopped()
            try:
                if reason := self._look():
                    self._print_line(f"{reason}; exiting")
                    self._pool.close()
                    self._connection.sign_off(self._trained)
                    return
                interval = self._work(interval)
            except NotRegistered:
                self._register_again()

    def _work(self, interval: float) -> float:
        """Handle events of the pool until the next look at the storage.

        Args:
            interval: Seconds between two looks while there is nothing to do.

        Returns:
            The same, for the next time.
        """
        poll = self._poll
        wait = interval if self._pool.free_slots() else poll.while_training
        wait = min(wait, poll.while_training) if self._trials else interval
        trial_ended = self._handle_events_until(time.monotonic() + self._pace * wait)
        if self._queue_reports() or trial_ended:
            self._queue_status()
        self._connection.flush()
        return poll.after_trial if trial_ended else min(poll.at_rest, 1.2 * interval)

    def _register_again(self) -> None:
        """Drop all trials, which others train by now, and register as another worker."""
        for number in list(self._trials):
            self._revoke(number)
        self._ended.clear()
        self._last_beat = -math.inf
        while not self._connection.register():
            check_stopped()

    def _handle_events_until(self, end: float) -> bool:
        """Handle events of the pool until a trial ends or the time is over; returns whether a trial ended."""
        while self._trials and time.monotonic() < end:
            ended = [self._handle_event(event) for event in self._pool.poll(max(0.0, end - time.monotonic()))]
            if any(ended):
                return True
        if not self._trials:
            time.sleep(max(0.0, end - time.monotonic()))
        return False

    # ---- leases

    def _look(self) -> str:
        """Read the instructions, start and cancel trials accordingly; returns why the search is over, if it is."""
        if time.monotonic() - self._last_beat >= self._connection.lease_seconds / LeaseSettings().beats:
            self._queue_status()
            # It may have finished before the coordinator noticed this worker.
            attrs = None if self._trials else self._connection.read_study()
            if attrs is not None and attrs.get(COORDINATOR, {}).get("state") == FINISHED:
                return "the search has finished"
        self._connection.flush()
        instructions = self._connection.read_instructions()
        if instructions is not None:
            if instructions.finished is not None:
                return "the search has finished"
            self._update_coordinator(instructions)
            self._update_leases({trial.number: trial for trial in instructions.trials})
        self._check_idle(instructions)
        return ""

    def _queue_status(self) -> None:
        """Queue a heartbeat, which says how far the trials are."""
        trials = [
            TrialStatus(number=number, attempt=trial.attempt, reports=trial.sent)
            for number, trial in self._trials.items()
        ]
        trials += [
            TrialStatus(number=number, attempt=attempt, reports=reports, ended=True)
            for (number, attempt), reports in self._ended.items()
        ]
        self._beat, self._last_beat = self._beat + 1, time.monotonic()
        self._connection.write_status(WorkerStatus(beat=self._beat, trials=tuple(trials)))

    def _update_coordinator(self, instructions: Instructions) -> None:
        self._pace = instructions.pace
        self._connection.lease_seconds = instructions.lease_seconds
        if instructions.session != self._session:  # a new coordinator needs a heartbeat at once
            self._session = instructions.session
            self._queue_status()
            self._connection.flush()
            attrs = self._connection.read_study() or {}
            self._pool.trial_timeout = attrs.get(TASK, self._study.task).get("trial_timeout")

    def _check_idle(self, instructions: Instructions | None) -> None:
        """Note the coordinator's heartbeat.

        Raises:
            NasAggError: There has been none for too long.
        """
        now = time.monotonic()
        beat = self._coordinator_beat if instructions is None else (instructions.session, instructions.beat)
        if self._trials or beat != self._coordinator_beat:
            self._coordinator_seen, self._coordinator_beat = now, beat
        if now - self._coordinator_seen > self._poll.idle:
            raise NasAggError(f"no coordinator for {self._poll.idle:g} s; exiting")

    def _update_leases(self, leased: dict[int, LeasedTrial]) -> None:
        for number, own in list(self._trials.items()):
            if number not in leased or leased[number].attempt != own.attempt:
                self._revoke(number)
        listed = {(trial.number, trial.attempt) for trial in leased.values()}
        self._ended = {ended: reports for ended, reports in self._ended.items() if ended in listed}
        for number, trial in leased.items():
            if number in self._trials:
                self._trials[number].stop = trial.stop
            elif (number, trial.attempt) not in self._ended and self._pool.free_slots():
                self._start(trial)

    def _revoke(self, number: int) -> None:
        self._print_line(f"trial {number}: lease revoked")
        self._pool.cancel(number)
        self._forget(number)

    def _start(self, trial: LeasedTrial) -> None:
        attrs = self._connection.read_trial(trial.trial_id)
        if attrs is None or attrs[LEASE]["attempt"] != trial.attempt:
            return  # the storage cannot be reached, or the lease was revoked after the instructions were read
        number, own_folder = trial.number, None
        if self._trial_folders is None:
            out = own_folder = Path(tempfile.mkdtemp(prefix=f"{number}-", suffix="-nas_agg"))
        else:
            out = self._trial_folders / str(number)
        job = read_job(attrs).model_copy(update={"out": str(out)})
        self._print_line(f"trial {number}: training" + (f", attempt {trial.attempt}" if trial.attempt > 1 else ""))
        self._trials[number] = _OwnTrial(trial.trial_id, trial.attempt, own_folder)
        self._pool.submit(Assignment(number, job=job), trial.attempt)

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
        self._connection.write(trial.id, f"{OUTCOME}{trial.attempt}", outcome.model_dump(mode="json"))
        self._ended[event.number, trial.attempt] = trial.sent
        self._trained += outcome.is_final
        self._forget(event.number)

    def _forget(self, number: int) -> None:
        trial = self._trials.pop(number)
        if trial.own_folder is not None:
            shutil.rmtree(trial.own_folder, ignore_errors=True)

    def _queue_reports(self) -> bool:
        """Queue new reports; returns whether there are any."""
        new = [trial for trial in self._trials.values() if trial.sent < len(trial.reports)]
        for trial in new:
            for key, block in report_attrs(trial.attempt, trial.reports, trial.sent).items():
                self._connection.write(trial.id, key, block)
            trial.sent = len(trial.reports)
        return bool(new)

    # ---- exit

    def _release_all(self, reason: str) -> None:
        """Release the running trials, so that others need not wait until this worker counts as dead."""
        self._pool.close()
        for number, trial in list(self._trials.items()):
            seconds = time.monotonic() - trial.started
            self._end(Event(number, trial.attempt, EventKind.RELEASED, seconds=seconds, reason=reason))
        self._queue_status()
        self._connection.sign_off(self._trained)


def _accessible_trial_folders(study: StudyHandle) -> Path | None:
    """Folder of the run's trials, if this machine can write to it."""
    folder = study.run or Path(study.task.get("folder") or "")
    try:
        is_same = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["study"] == study.name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder / "trials" if is_same and os.access(folder, os.W_OK) else None
