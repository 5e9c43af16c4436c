"""Trials that remote workers (`nas_agg worker`) train, on the coordinator's side.

Both sides communicate through the storage alone, by the attributes of :mod:`nas_agg.study.workers.protocol`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.storages import storage_errors
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.remote.workers import Clock, RemoteWorkers
from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.messages import EventKind
from nas_agg.study.workers.protocol import (
    AWAY,
    COORDINATOR,
    FINISHED,
    HERE,
    LEASE,
    TASK,
    LeasedTrial,
    LeaseSettings,
    TrialStatus,
    job_attrs,
    read_outcome,
    read_reports,
    versions,
)

LONGEST_PAUSE = 1.0  # seconds between two reads of the storage, however long a read takes
READS_PER_TRIAL = 8  # trials that are read together in the time that it takes to read one alone


@dataclass
class _Lease:
    worker: str
    attempt: int
    started: float
    reports_read: int = 0
    is_stopped: bool = False
    is_unread: bool = False  # whether its trial must be read even if its worker says nothing new
    status: TrialStatus | None = None  # what its worker said of it when it was read last


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
        self._workers = RemoteWorkers(self._storage, self._study, self._lease, clock)
        self._leases: dict[int, _Lease] = {}
        self._queue: list[tuple[Assignment, int]] = []  # with the attempt
        self._leased: set[int] = set()  # trials that have had a lease
        self._events: list[Event] = []
        self._next_read, self._open_trials = 0.0, 0
        self._write_study(TASK, {**task, "versions": versions()})
        self._write_study(COORDINATOR, {"session": self._workers.session, "state": HERE})
        # Read before their workers are told anything: they would cancel what they are not told to train.
        self._earlier, self._ended = self._earlier_leases()
        self._workers.read()

    @property
    def poll_interval(self) -> float:
        """Seconds between two reads of the storage."""
        return self._lease.poll_interval

    # ---- the storage

    def _write_study(self, key: str, value: Any) -> None:
        with storage_errors("cannot be written"):
            if self._storage.get_study_user_attrs(self._study).get(key) != value:
                self._storage.set_study_user_attr(self._study, key, value)

    def _write_trial(self, number: int, key: str, value: Any) -> None:
        with storage_errors("cannot be written"):
            self._storage.set_trial_user_attr(self._record.storage_trial_id(number), key, value)

    def _read_trials(self, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
        """The attributes of trials: one by one if they are few among those that are open, else with all of these."""
        attrs: dict[int, dict[str, Any]] = {}
        if numbers and len(numbers) * READS_PER_TRIAL >= max(len(self._leases), self._open_trials):
            attrs = {trial.number: trial.user_attrs for trial in self._running_trials()}
        with storage_errors("cannot be read"):
            for number in set(numbers) - set(attrs):
                attrs[number] = self._storage.get_trial(self._record.storage_trial_id(number)).user_attrs
        return attrs

    def _running_trials(self) -> list[FrozenTrial]:
        """All trials that have no result, paused ones included."""
        with storage_errors("cannot be read"):
            trials = self._storage.get_all_trials(self._study, deepcopy=False, states=(TrialState.RUNNING,))
        self._open_trials = len(trials)
        return trials

    # ---- leases of an earlier coordinator

    def _earlier_leases(self) -> tuple[dict[int, _Lease], dict[int, _Lease]]:
        """Leases that a killed coordinator left: those whose trials were running, and those that have ended."""
        leases, ended = dict[int, _Lease](), dict[int, _Lease]()
        open_trials = {
            trial.number: trial.state
            for trial in self._record.trials
            if trial.state in (RecordState.RUNNING, RecordState.PAUSED)
        }
        for trial in self._running_trials() if open_trials else ():
            if lease := trial.user_attrs.get(LEASE):
                self._leased.add(trial.number)
                outcome = read_outcome(trial.user_attrs, lease["attempt"])
                # A paused one may have been promoted meanwhile; resuming from its checkpoint takes little time.
                has_ended = outcome is not None and outcome.is_final
                is_running = open_trials.get(trial.number) == RecordState.RUNNING
                if is_running and lease["worker"] and (outcome is None or has_ended):
                    group = ended if has_ended else leases
                    now = self._clock.monotonic()
                    group[trial.number] = _Lease(lease["worker"], lease["attempt"], now, is_unread=True)
        return leases, ended

    def adopt(self) -> dict[int, int]:
        """Adopt the leases of a killed coordinator; waits a moment for the heartbeats of their workers."""
        workers = [self._workers.get(lease.worker) for lease in self._earlier.values()]
        told = [worker.instructions for worker in workers if worker is not None and worker.instructions is not None]
        pace = max((instructions.pace for instructions in told), default=1.0)
        self._workers.instruct(self._leased_trials())
        end = self._clock.monotonic() + pace * self._lease.adoption_seconds
        while self._clock.monotonic() < end and not all(self._has_worker(lease) for lease in self._earlier.values()):
            self._clock.sleep(self._lease.poll_interval)
            self._workers.read()
        alive = {number: lease for number, lease in self._earlier.items() if self._has_worker(lease)}
        adopted, self._earlier, self._ended = alive | self._ended, {}, {}
        self._leases |= adopted
        self._workers.instruct(self._leased_trials(), force=True)
        return {number: lease.attempt for number, lease in adopted.items()}

    def _has_worker(self, lease: _Lease) -> bool:
        return self._workers.is_alive(lease.worker)

    def revoke(self, number: int, attempt: int) -> None:
        """Take a trial from the worker that it was leased to, as it runs elsewhere now, or no longer."""
        lease = self._leases.pop(number, None)
        if number in self._leased:
            self._write_trial(number, LEASE, {"worker": None, "attempt": attempt, "pieces": 0})
        if lease is not None:
            self._workers.instruct(self._leased_trials(), only=[lease.worker], force=True)

    # ---- workers

    def _leased_trials(self) -> dict[str, list[LeasedTrial]]:
        """The trials that each worker is to train."""
        trials: dict[str, list[LeasedTrial]] = {}
        for number, lease in (self._leases | self._earlier).items():
            trial_id = self._record.storage_trial_id(number)
            trial = LeasedTrial(number=number, trial_id=trial_id, attempt=lease.attempt, stop=lease.is_stopped)
            trials.setdefault(lease.worker, []).append(trial)
        return trials

    def capacity(self) -> int:
        return sum(worker.slots for id, worker in self._workers.items() if self._workers.is_alive(id))

    def _free_slots(self) -> dict[str, int]:
        """The free slots of the workers that have any."""
        slots = {id: worker.slots for id, worker in self._workers.items() if self._workers.is_alive(id)}
        for lease in (self._leases | self._earlier).values():
            if lease.worker in slots:
                slots[lease.worker] -= 1
        return {id: free for id, free in slots.items() if free > 0}

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        """Lease a trial as soon as there is a worker for it, which takes one trial per slot."""
        self._queue.append((assignment, attempt))
        self._lease_queued()

    def take_queued(self) -> tuple[Assignment, int] | None:
        """Remove and return a trial that has no worker yet, and its attempt."""
        return self._queue.pop(0) if self._queue else None

    def _lease_queued(self) -> None:
        """Lease queued trials to the workers that have the most free slots."""
        free, instructed = self._free_slots() if self._queue else {}, set()
        while self._queue and free:
            worker = max(free, key=lambda id: free[id])
            free[worker] -= 1
            if not free[worker]:
                del free[worker]
            assignment, attempt = self._queue.pop(0)
            assert assignment.job is not None
            number = assignment.number
            pieces = job_attrs(assignment.job)
            for key, piece in pieces.items():
                self._write_trial(number, key, piece)
            self._write_trial(number, LEASE, {"worker": worker, "attempt": attempt, "pieces": len(pieces)})
            self._leases[number] = _Lease(worker, attempt, self._clock.monotonic())
            self._leased.add(number)
            instructed.add(worker)
        if instructed:
            self._workers.instruct(self._leased_trials(), only=instructed)

    # ---- events

    def poll(self, timeout: float) -> list[Event]:
        clock = self._clock
        end = clock.monotonic() + timeout
        while True:
            now = clock.monotonic()
            if now >= self._next_read:
                self._read_storage()
                pause = min(10 * (clock.monotonic() - now), LONGEST_PAUSE)
                self._next_read = clock.monotonic() + max(self._lease.poll_interval, pause)
            if self._events or clock.monotonic() >= end:
                events, self._events = self._events, []
                return events
            clock.sleep(max(0.0, min(self._next_read, end) - clock.monotonic()))

    def _read_storage(self) -> None:
        self._workers.read()
        changed = {number: lease for number, lease in self._leases.items() if self._has_news(number, lease)}
        attrs = self._read_trials(changed)
        for number, lease in changed.items():
            self._update_lease(number, lease, attrs[number])
        self._workers.finish_dead()
        self._lease_queued()
        self._workers.instruct(self._leased_trials())

    def _has_news(self, number: int, lease: _Lease) -> bool:
        """Whether a worker says something new of its trial, or is not there any more."""
        worker = self._workers.get(lease.worker)
        status = worker.trial_status(number, lease.attempt) if worker else None
        has_news = status != lease.status or lease.is_unread or not self._has_worker(lease)
        lease.status, lease.is_unread = status, False
        return has_news

    def _update_lease(self, number: int, lease: _Lease, attrs: Mapping[str, Any]) -> None:
        outcome = read_outcome(attrs, lease.attempt)  # first: all reports are written before it
        for step, value in read_reports(attrs, lease.attempt, lease.reports_read):
            lease.reports_read += 1
            self._events.append(Event(number, lease.attempt, EventKind.REPORT, step, value))
        if outcome is not None:
            del self._leases[number]
            event = Event(number, lease.attempt, outcome.kind, seconds=outcome.seconds, reason=outcome.reason)
            self._events.append(replace(event, outcome=outcome.outcome))
        elif not self._has_worker(lease):
            del self._leases[number]
            seconds, reason = self._clock.monotonic() - lease.started, self._workers.reason_gone(lease.worker)
            self._events.append(Event(number, lease.attempt, EventKind.WORKER_DIED, seconds=seconds, reason=reason))

    def stop(self, number: int) -> None:
        """Tell a trial's worker to stop early; it does not wait for a reply, and continues until it reads this."""
        lease = self._leases.get(number)
        if lease is not None and not lease.is_stopped:
            lease.is_stopped = True
            self._workers.instruct(self._leased_trials(), only=[lease.worker])

    def cancel(self, number: int) -> None:
        self._queue = [queued for queued in self._queue if queued[0].number != number]
        if (lease := self._leases.get(number)) is not None:
            self.revoke(number, lease.attempt)

    def close(self, leave_running: bool = False) -> None:
        """Announce that the coordinator is away, or cancel all trials."""
        with contextlib.suppress(NasAggError):  # the storage may be gone
            if not leave_running:
                for number in list(self._leases):
                    self.cancel(number)
            self._write_study(COORDINATOR, {"session": self._workers.session, "state": AWAY})


def announce_finished(record: StudyRecord, reason: str) -> None:
    """Tell remote workers that the search has finished."""
    storage = record.storage
    if storage is not None:
        with storage_errors("cannot be written"):
            attrs = storage.get_study_user_attrs(record.study_id)
            if TASK in attrs:
                finished = {**attrs.get(COORDINATOR, {}), "state": FINISHED, "reason": reason}
                storage.set_study_user_attr(record.study_id, COORDINATOR, finished)
                RemoteWorkers(storage, record.study_id, LeaseSettings()).announce_finished(reason)
