"""Trials that are trained by workers elsewhere (`nas_agg worker`), seen from the coordinator.

It speaks with them through the storage alone, by the attributes of :mod:`nas_agg.study.workers.protocol`. A worker is
alive as long as its beat changes, by the coordinator's own clock; the clocks of several machines never meet.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.storages import storage_errors
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.workers.pool import Event, Job, WorkerPool
from nas_agg.study.workers.protocol import (
    BEAT,
    COORDINATOR,
    FINISHED,
    LEASE,
    OUTCOME,
    STOP,
    TASK,
    WORKER,
    pieces,
    reports_of,
    versions,
)

LEASE_SECONDS = 60.0  # without a beat, after which a worker's trials are given to others
BEATS = 6  # in that time
LOOK = 0.1  # seconds between two looks at the storage; longer where a look takes long
ADOPTION = 3.0  # seconds in which those who train for a coordinator that was killed answer its successor

ENDS = ("done", "stopped", "failed")  # ways in which a trial ends that need no other attempt


@dataclass
class _Worker:
    host: str
    slots: int
    beat: Any
    heard: float  # when its beat last changed


@dataclass
class _Lease:
    job: Job
    worker: str
    attempt: int
    begun: float
    read: int = 0
    stopped: bool = False


class RemoteExecutor:
    """Hands trials to whoever has joined the study; an :class:`~nas_agg.study.workers.pool.Evaluator`.

    Args:
        record: The trials, in a storage that others can reach.
        task: What workers must know before they begin: ``data``, ``images`` (their checksum), ``about``, ``folder``
            and ``trial_timeout``.
    """

    def __init__(self, record: StudyRecord, task: Mapping[str, Any]):
        assert record.storage is not None
        self._record, self._storage, self._study = record, record.storage, record.study_id
        self._lease_seconds = LEASE_SECONDS
        self._session, self._beat, self._beaten = secrets.token_hex(4), 0, -math.inf
        self._workers: dict[str, _Worker] = {}
        self._leases: dict[int, _Lease] = {}
        self._queue: list[Job] = []
        self._attempts: dict[int, int] = {}
        self._ready: list[Event] = []
        self._before: dict[int, tuple[str, bool]] = {}
        self._looked, self._next = False, 0.0
        self._say(TASK, {**task, "versions": versions()})
        self._say_here()
        self._look()
        self._before = self._left_over()

    # ---- the storage

    def _say(self, key: str, value: Any) -> None:
        with storage_errors("cannot be written"):
            if self._storage.get_study_user_attrs(self._study).get(key) != value:
                self._storage.set_study_user_attr(self._study, key, value)

    def _say_here(self) -> None:
        self._beat, self._beaten = self._beat + 1, time.monotonic()
        here = {"session": self._session, "beat": self._beat, "lease": self._lease_seconds, "state": "here"}
        self._say(COORDINATOR, here)

    def _tell(self, number: int, key: str, value: Any) -> None:
        with storage_errors("cannot be written"):
            self._storage.set_trial_user_attr(self._record.storage_trial_id(number), key, value)

    def _running(self) -> dict[int, FrozenTrial]:
        with storage_errors("cannot be read"):
            found = self._storage.get_all_trials(self._study, deepcopy=False, states=(TrialState.RUNNING,))
        return {trial.number: trial for trial in found}

    # ---- trials of a coordinator that is gone

    def _left_over(self) -> dict[int, tuple[str, bool]]:
        """The worker of each trial that was leased before, and whether the trial has ended meanwhile.

        Those who still train are given a moment to answer.
        """
        found = {}
        open = {
            trial.number: trial.state
            for trial in self._record.trials
            if trial.state in (RecordState.RUNNING, RecordState.PAUSED)
        }
        for number, trial in self._running().items() if open else ():
            if lease := trial.user_attrs.get(LEASE):
                self._attempts[number] = lease["attempt"]
                outcome = trial.user_attrs.get(f"{OUTCOME}{lease['attempt']}")
                # What paused has perhaps been told to go on; from its checkpoint that is soon done again.
                ended = outcome is not None and outcome["kind"] in ENDS and not outcome["result"].get("paused")
                if open.get(number) == RecordState.RUNNING and lease["worker"] and (outcome is None or ended):
                    found[number] = (lease["worker"], ended)
        end = time.monotonic() + ADOPTION
        while time.monotonic() < end and not all(over or self._alive(worker) for worker, over in found.values()):
            time.sleep(LOOK)
            self._look()
        return found

    def adopts(self, number: int) -> bool:
        """Whether a trial need not be begun anew: it has ended meanwhile, or is still being trained."""
        worker, over = self._before.get(number, ("", False))
        return over or self._alive(worker)

    def release(self, number: int) -> None:
        """A trial is trained by others now: whoever has it here is to drop it."""
        self._before.pop(number, None)
        if number in self._attempts:
            self._tell(number, LEASE, {"worker": None, "attempt": self._attempts[number], "pieces": 0})

    # ---- workers

    def _alive(self, worker: str | None) -> bool:
        known = self._workers.get(worker or "")
        return known is not None and time.monotonic() - known.heard < self._lease_seconds

    def _places(self, worker: str) -> int:
        """How many more trials a worker takes."""
        if not self._alive(worker):
            return 0
        taken = sum(lease.worker == worker for lease in self._leases.values())
        before = sum(of == worker and not over for of, over in self._before.values())
        return max(0, self._workers[worker].slots - taken - before)

    def free(self) -> int:
        adopted = sum(self.adopts(number) for number in self._before)
        return max(0, sum(map(self._places, self._workers)) - len(self._queue)) + adopted

    def start(self, job: Job) -> None:
        """Begin a job as soon as there is a worker for it."""
        number = job.number
        if self.adopts(number):
            worker, _ = self._before.pop(number)
            self._leases[number] = _Lease(job, worker, self._attempts[number], time.monotonic())
            return
        self._before.pop(number, None)
        self._queue.append(job)
        self._assign()

    def waiting(self) -> Job | None:
        """Takes back a job that no worker has yet."""
        return self._queue.pop(0) if self._queue else None

    def _assign(self) -> None:
        while self._queue and self._workers:
            worker = max(self._workers, key=self._places)
            if not self._places(worker):
                return
            job = self._queue.pop(0)
            attempt = self._attempts[job.number] = self._attempts.get(job.number, 0) + 1
            order = pieces(job.order)
            for key, piece in order.items():
                self._tell(job.number, key, piece)
            self._tell(job.number, LEASE, {"worker": worker, "attempt": attempt, "pieces": len(order)})
            self._leases[job.number] = _Lease(job, worker, attempt, time.monotonic())

    # ---- listening

    def events(self, timeout: float) -> list[Event]:
        end = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            if now >= self._next:
                self._look()
                self._next = time.monotonic() + max(LOOK, 10 * (time.monotonic() - now))
            if self._ready or time.monotonic() >= end:
                found, self._ready = self._ready, []
                return found
            time.sleep(max(0.0, min(self._next, end) - time.monotonic()))

    def _look(self) -> None:
        with storage_errors("cannot be read"):
            attrs = self._storage.get_study_user_attrs(self._study)
        now = time.monotonic()
        for key, worker in attrs.items():
            if key.startswith(WORKER):
                self._hear_of(key.removeprefix(WORKER), worker, attrs, now)
        self._looked = True
        if any(map(self._alive, self._workers)) and now - self._beaten >= self._lease_seconds / BEATS:
            self._say_here()
        if self._leases:
            running = self._running()
            for number, lease in list(self._leases.items()):
                if number in running:
                    self._read(number, lease, running[number].user_attrs)
        self._assign()

    def _hear_of(self, id: str, said: Mapping[str, Any], attrs: Mapping[str, Any], now: float) -> None:
        beat, known = attrs.get(BEAT + id), self._workers.get(id)
        if said.get("left"):
            self._workers.pop(id, None)
        elif known is None:
            # Who was there before the first look may have been dead for days: a beat will tell.
            heard = now if self._looked else -math.inf
            self._workers[id] = _Worker(str(said["host"]), int(said["slots"]), beat, heard)
        elif beat != known.beat:
            known.beat, known.heard = beat, now

    def _read(self, number: int, lease: _Lease, attrs: Mapping[str, Any]) -> None:
        outcome = attrs.get(f"{OUTCOME}{lease.attempt}")  # first: what is there now has all reports beside it
        for step, value in reports_of(attrs, lease.attempt, lease.read):
            lease.read += 1
            self._ready.append(Event(number, "report", step, value))
        if outcome is not None:
            del self._leases[number]
            more = {"reason": outcome["reason"], "result": outcome["result"]}
            self._ready.append(Event(number, outcome["kind"], seconds=outcome["seconds"], **more))
        elif not self._alive(lease.worker):
            del self._leases[number]
            known = self._workers.get(lease.worker)
            reason = f"no word from worker {known.host} in {self._lease_seconds:g} s" if known else "its worker left"
            self._ready.append(Event(number, "lost", seconds=time.monotonic() - lease.begun, reason=reason))

    def answer(self, number: int, stop: bool) -> None:
        """Say that a trial is to stop; who trains it asks for nothing and goes on until it reads so."""
        lease = self._leases.get(number)
        if stop and lease is not None and not lease.stopped:
            lease.stopped = True
            self._tell(number, f"{STOP}{lease.attempt}", True)

    def close(self) -> None:
        """Say that the coordinator is gone. What is being trained goes on: a search that is resumed takes it up."""
        with contextlib.suppress(NasAggError):  # a storage that is gone is told nothing
            self._say(COORDINATOR, {"session": self._session, "beat": self._beat, "state": "away"})


def dismiss(record: StudyRecord, reason: str) -> None:
    """Tell workers elsewhere that the search is over."""
    if record.storage is not None:
        with storage_errors("cannot be written"):
            attrs = record.storage.get_study_user_attrs(record.study_id)
            if TASK in attrs:
                over = {**attrs.get(COORDINATOR, {}), "state": FINISHED, "reason": reason}
                record.storage.set_study_user_attr(record.study_id, COORDINATOR, over)


class CombinedExecutor:
    """Workers here first, then those elsewhere; an :class:`~nas_agg.study.workers.pool.Evaluator`.

    Args:
        here: This machine's.
        elsewhere: Those that join.
    """

    def __init__(self, here: WorkerPool, elsewhere: RemoteExecutor):
        self._here, self._elsewhere = here, elsewhere
        self._mine: set[int] = set()  # what is done here

    def free(self) -> int:
        return self._here.free() + self._elsewhere.free()

    def start(self, job: Job) -> None:
        if self._here.free() and not self._elsewhere.adopts(job.number):
            self._elsewhere.release(job.number)
            self._mine.add(job.number)
            self._here.start(job)
        else:
            self._mine.discard(job.number)
            self._elsewhere.start(job)

    def events(self, timeout: float) -> list[Event]:
        found = self._elsewhere.events(0)
        if self._here.busy():
            found += self._here.events(0 if found else min(timeout, LOOK))
        elif not found:
            found = self._elsewhere.events(timeout)
        while self._here.free() and (job := self._elsewhere.waiting()):
            self.start(job)
        return found

    def answer(self, number: int, stop: bool) -> None:
        (self._here if number in self._mine else self._elsewhere).answer(number, stop)

    def close(self) -> None:
        self._here.close()
        self._elsewhere.close()
