"""Trials that remote workers (`nas_agg worker`) train, on the coordinator's side.

Both sides communicate through the storage alone, by the attributes of :mod:`nas_agg.study.workers.protocol`. A worker
counts as alive as long as its heartbeat changes, by the coordinator's own clock; clocks of different machines are never
compared.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.storages import storage_errors
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.messages import EventKind
from nas_agg.study.workers.protocol import (
    AWAY,
    BEAT,
    COORDINATOR,
    FINISHED,
    HERE,
    LEASE,
    STOP,
    TASK,
    WORKER,
    LeaseSettings,
    job_attrs,
    read_outcome,
    read_reports,
    versions,
)


class Clock(Protocol):
    """A source of time; the :mod:`time` module is one."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@dataclass
class _RemoteWorker:
    host: str
    slots: int
    beat: Any
    last_seen: float  # when its heartbeat last changed


@dataclass
class _Lease:
    worker: str
    attempt: int
    started: float
    reports_read: int = 0
    is_stopped: bool = False


class RemoteExecutor(Backend):
    """Leases trials to the workers that joined.

    Args:
        record: The trials, in a storage that workers can reach.
        task: What workers need to know in advance: ``data``, ``dataset_digest``, ``about``, ``folder`` and
            ``trial_timeout``.
        lease: Timing of leases.
        clock: Source of time.
    """

    def __init__(
        self,
        record: StudyRecord,
        task: Mapping[str, Any],
        lease: LeaseSettings | None = None,
        clock: Clock = time,
    ):
        assert record.storage is not None
        self._record, self._storage, self._study = record, record.storage, record.study_id
        self._lease, self._clock = lease or LeaseSettings(), clock
        self._session, self._beat, self._last_beat = secrets.token_hex(4), 0, -math.inf
        self._workers: dict[str, _RemoteWorker] = {}
        self._leases: dict[int, _Lease] = {}
        self._queue: list[tuple[Assignment, int]] = []  # with the attempt
        self._leased: set[int] = set()  # trials that have had a lease
        self._events: list[Event] = []
        self._has_read, self._next_read = False, 0.0
        self._write_study(TASK, {**task, "versions": versions()})
        self._send_beat()
        self._read_storage()

    @property
    def poll_interval(self) -> float:
        """Seconds between two reads of the storage."""
        return self._lease.poll_interval

    # ---- the storage

    def _write_study(self, key: str, value: Any) -> None:
        with storage_errors("cannot be written"):
            if self._storage.get_study_user_attrs(self._study).get(key) != value:
                self._storage.set_study_user_attr(self._study, key, value)

    def _send_beat(self) -> None:
        self._beat, self._last_beat = self._beat + 1, self._clock.monotonic()
        here = {"session": self._session, "beat": self._beat, "lease": self._lease.seconds, "state": HERE}
        self._write_study(COORDINATOR, here)

    def _write_trial(self, number: int, key: str, value: Any) -> None:
        with storage_errors("cannot be written"):
            self._storage.set_trial_user_attr(self._record.storage_trial_id(number), key, value)

    def _running_trials(self) -> dict[int, FrozenTrial]:
        with storage_errors("cannot be read"):
            trials = self._storage.get_all_trials(self._study, deepcopy=False, states=(TrialState.RUNNING,))
        return {trial.number: trial for trial in trials}

    # ---- leases of an earlier coordinator

    def adopt(self) -> dict[int, int]:
        """Adopt the leases of a killed coordinator; waits a moment for the heartbeats of their workers."""
        leases, ended = self._earlier_leases()
        end = self._clock.monotonic() + self._lease.adoption_seconds
        while self._clock.monotonic() < end and not all(self._is_alive(lease.worker) for lease in leases.values()):
            self._clock.sleep(self._lease.poll_interval)
            self._read_storage()
        leases = {number: lease for number, lease in leases.items() if self._is_alive(lease.worker)} | ended
        self._leases |= leases
        return {number: lease.attempt for number, lease in leases.items()}

    def _earlier_leases(self) -> tuple[dict[int, _Lease], dict[int, _Lease]]:
        """Leases that a killed coordinator left: those whose trials were running, and those that have ended."""
        leases, ended = dict[int, _Lease](), dict[int, _Lease]()
        open_trials = {
            trial.number: trial.state
            for trial in self._record.trials
            if trial.state in (RecordState.RUNNING, RecordState.PAUSED)
        }
        for number, trial in self._running_trials().items() if open_trials else ():
            if lease := trial.user_attrs.get(LEASE):
                self._leased.add(number)
                outcome = read_outcome(trial.user_attrs, lease["attempt"])
                # A paused one may have been promoted meanwhile; resuming from its checkpoint takes little time.
                has_ended = outcome is not None and outcome.is_final
                if (
                    open_trials.get(number) == RecordState.RUNNING
                    and lease["worker"]
                    and (outcome is None or has_ended)
                ):
                    group = ended if has_ended else leases
                    group[number] = _Lease(lease["worker"], lease["attempt"], self._clock.monotonic())
        return leases, ended

    def revoke(self, number: int, attempt: int) -> None:
        """Take a trial from the worker that it was leased to, as it runs elsewhere now, or no longer."""
        self._leases.pop(number, None)
        if number in self._leased:
            self._write_trial(number, LEASE, {"worker": None, "attempt": attempt, "pieces": 0})

    # ---- workers

    def _is_alive(self, id: str | None) -> bool:
        worker = self._workers.get(id or "")
        return worker is not None and self._clock.monotonic() - worker.last_seen < self._lease.seconds

    def _free_slots_of(self, id: str) -> int:
        if not self._is_alive(id):
            return 0
        return max(0, self._workers[id].slots - sum(lease.worker == id for lease in self._leases.values()))

    def capacity(self) -> int:
        return sum(worker.slots for id, worker in self._workers.items() if self._is_alive(id))

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        """Lease a trial as soon as there is a worker for it, which takes one trial per slot."""
        self._queue.append((assignment, attempt))
        self._lease_queued()

    def take_queued(self) -> tuple[Assignment, int] | None:
        """Remove and return a trial that has no worker yet, and its attempt."""
        return self._queue.pop(0) if self._queue else None

    def _lease_queued(self) -> None:
        while self._queue and self._workers:
            worker = max(self._workers, key=self._free_slots_of)
            if not self._free_slots_of(worker):
                return
            assignment, attempt = self._queue.pop(0)
            assert assignment.job is not None
            number = assignment.number
            pieces = job_attrs(assignment.job)
            for key, piece in pieces.items():
                self._write_trial(number, key, piece)
            self._write_trial(number, LEASE, {"worker": worker, "attempt": attempt, "pieces": len(pieces)})
            self._leases[number] = _Lease(worker, attempt, self._clock.monotonic())
            self._leased.add(number)

    # ---- events

    def poll(self, timeout: float) -> list[Event]:
        clock = self._clock
        end = clock.monotonic() + timeout
        while True:
            now = clock.monotonic()
            if now >= self._next_read:
                self._read_storage()
                self._next_read = clock.monotonic() + max(self._lease.poll_interval, 10 * (clock.monotonic() - now))
            if self._events or clock.monotonic() >= end:
                events, self._events = self._events, []
                return events
            clock.sleep(max(0.0, min(self._next_read, end) - clock.monotonic()))

    def _read_storage(self) -> None:
        with storage_errors("cannot be read"):
            attrs = self._storage.get_study_user_attrs(self._study)
        now = self._clock.monotonic()
        for key, worker in attrs.items():
            if key.startswith(WORKER):
                self._update_worker(key.removeprefix(WORKER), worker, attrs, now)
        self._has_read = True
        if any(map(self._is_alive, self._workers)) and now - self._last_beat >= self._lease.seconds / self._lease.beats:
            self._send_beat()
        if self._leases:
            running = self._running_trials()
            for number, lease in list(self._leases.items()):
                if number in running:
                    self._update_lease(number, lease, running[number].user_attrs)
        self._lease_queued()

    def _update_worker(self, id: str, about: Mapping[str, Any], attrs: Mapping[str, Any], now: float) -> None:
        beat, worker = attrs.get(BEAT + id), self._workers.get(id)
        if about.get("signed_off"):
            self._workers.pop(id, None)
        elif worker is None:
            # One that was there before the first read may have been dead for days: only a new beat proves it alive.
            last_seen = now if self._has_read else -math.inf
            self._workers[id] = _RemoteWorker(str(about["host"]), int(about["slots"]), beat, last_seen)
        elif beat != worker.beat:
            worker.beat, worker.last_seen = beat, now

    def _update_lease(self, number: int, lease: _Lease, attrs: Mapping[str, Any]) -> None:
        outcome = read_outcome(attrs, lease.attempt)  # first: all reports are written before it
        for step, value in read_reports(attrs, lease.attempt, lease.reports_read):
            lease.reports_read += 1
            self._events.append(Event(number, lease.attempt, EventKind.REPORT, step, value))
        if outcome is not None:
            del self._leases[number]
            event = Event(number, lease.attempt, outcome.kind, seconds=outcome.seconds, reason=outcome.reason)
            self._events.append(replace(event, outcome=outcome.outcome))
        elif not self._is_alive(lease.worker):
            del self._leases[number]
            worker = self._workers.get(lease.worker)
            reason = f"worker {worker.host} unresponsive for {self._lease.seconds:g} s" if worker else "its worker left"
            seconds = self._clock.monotonic() - lease.started
            kind = EventKind.WORKER_DIED
            self._events.append(Event(number, lease.attempt, kind, seconds=seconds, reason=reason))

    def stop(self, number: int) -> None:
        """Tell a trial's worker to stop early; it does not wait for a reply, and continues until it reads this."""
        lease = self._leases.get(number)
        if lease is not None and not lease.is_stopped:
            lease.is_stopped = True
            self._write_trial(number, f"{STOP}{lease.attempt}", True)

    def cancel(self, number: int) -> None:
        self._queue = [queued for queued in self._queue if queued[0].number != number]
        if (lease := self._leases.get(number)) is not None:
            self.revoke(number, lease.attempt)

    def close(self, leave_running: bool = False) -> None:
        """Announce that the coordinator is away, or cancel all trials."""
        if not leave_running:
            with contextlib.suppress(NasAggError):
                for number in list(self._leases):
                    self.cancel(number)
        with contextlib.suppress(NasAggError):  # the storage may be gone
            self._write_study(COORDINATOR, {"session": self._session, "beat": self._beat, "state": AWAY})


def announce_finished(record: StudyRecord, reason: str) -> None:
    """Tell remote workers that the search has finished."""
    if record.storage is not None:
        with storage_errors("cannot be written"):
            attrs = record.storage.get_study_user_attrs(record.study_id)
            if TASK in attrs:
                finished = {**attrs.get(COORDINATOR, {}), "state": FINISHED, "reason": reason}
                record.storage.set_study_user_attr(record.study_id, COORDINATOR, finished)
