"""The workers that joined a search, as its coordinator sees them: who is alive, and what each is told.

A worker counts as alive as long as its heartbeat changes, by the coordinator's own clock; clocks of different machines
are never compared.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nas_agg.study.records.storages import storage_errors
from nas_agg.study.workers.protocol import (
    ABOUT,
    INSTRUCTIONS,
    STATUS,
    Instructions,
    LeasedTrial,
    LeaseSettings,
    TrialStatus,
    WorkerStatus,
    workers_study,
)


class Clock(Protocol):
    """A source of time; the :mod:`time` module is one."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@dataclass
class RemoteWorker:
    """A worker that joined.

    Attributes:
        row: ID of its row in the storage.
        host: Its machine.
        slots: Number of trials that it trains at a time.
        status: What it said last.
        last_seen: When that changed last; minus infinity if it has not changed since this coordinator began.
        silent_since: When that changed last, or when this coordinator first saw it.
        lease_seconds: Time without a heartbeat after which it counts as dead.
        instructions: What it was told last.
    """

    row: int
    host: str
    slots: int
    status: WorkerStatus
    last_seen: float
    silent_since: float
    lease_seconds: float
    instructions: Instructions | None = None

    def trial_status(self, number: int, attempt: int) -> TrialStatus | None:
        """What it said of an attempt at a trial."""
        return next((t for t in self.status.trials if (t.number, t.attempt) == (number, attempt)), None)


class RemoteWorkers:
    """Reads the rows of workers, and writes their instructions.

    Args:
        storage: The storage.
        study_id: ID of the search's study.
        lease: Timing of leases.
        clock: Source of time.

    Attributes:
        session: ID of this coordinator.
    """

    def __init__(self, storage: BaseStorage, study_id: int, lease: LeaseSettings, clock: Clock = time):
        self._storage, self._lease, self._clock = storage, lease, clock
        self.session = secrets.token_hex(4)
        with storage_errors("cannot be read"):
            self._study_name = workers_study(storage.get_study_name_from_id(study_id))
        self._rows_study: int | None = None
        self._workers: dict[str, RemoteWorker] = {}
        self._unresponsive: dict[str, str] = {}  # ID and host of those whose rows were finished here
        self._has_read, self._capacity = False, 1
        self._beat, self._last_beat = 0, -math.inf

    def items(self) -> Iterable[tuple[str, RemoteWorker]]:
        """The workers that have neither left nor died long ago, by ID."""
        return self._workers.items()

    def get(self, id: str) -> RemoteWorker | None:
        """A worker that has neither left nor died long ago."""
        return self._workers.get(id)

    def is_alive(self, id: str) -> bool:
        """Whether a worker's heartbeat changed within its lease."""
        worker = self._workers.get(id)
        return worker is not None and self._clock.monotonic() - worker.last_seen < worker.lease_seconds

    def reason_gone(self, id: str) -> str:
        """Why a worker that is not alive is gone."""
        worker = self._workers.get(id)
        host = self._unresponsive.get(id) if worker is None else worker.host
        seconds = self._lease.seconds if worker is None else worker.lease_seconds
        return "its worker left" if host is None else f"worker {host} unresponsive for {seconds:g} s"

    # ---- rows

    def read(self) -> None:
        """Read the rows of all workers that have not left."""
        now, rows = self._clock.monotonic(), self._read_rows()
        for id in set(self._workers) - {self._update(row, now) for row in rows}:  # it left
            del self._workers[id]
        self._has_read = True
        alive = sum(map(self.is_alive, self._workers))
        if not self._capacity / 4 < alive <= self._capacity:  # rarely changes as workers come and go
            self._capacity = 2 ** math.ceil(math.log2(max(1, alive)))

    def _read_rows(self) -> list[FrozenTrial]:
        with storage_errors("cannot be read"):
            if self._rows_study is None:
                try:
                    self._rows_study = self._storage.get_study_id_from_name(self._study_name)
                except KeyError:  # nobody has joined yet
                    return []
            return self._storage.get_all_trials(self._rows_study, deepcopy=False, states=(TrialState.RUNNING,))

    def _update(self, row: FrozenTrial, now: float) -> str:
        about, status = row.user_attrs[ABOUT], WorkerStatus.model_validate(row.user_attrs[STATUS])
        id = str(about["id"])
        worker = self._workers.get(id)
        if worker is None:
            # One that was there before the first read may have been dead for days, and one that never sent a
            # heartbeat died as it registered.
            last_seen = now if self._has_read and status.beat else -math.inf
            earlier = row.user_attrs.get(INSTRUCTIONS)
            self._workers[id] = RemoteWorker(
                row=row._trial_id,
                host=str(about["host"]),
                slots=int(about["slots"]),
                status=status,
                last_seen=last_seen,
                silent_since=now,
                lease_seconds=self._lease.seconds,
                instructions=Instructions.model_validate(earlier) if earlier else None,
            )
        elif status != worker.status:
            worker.status, worker.last_seen, worker.silent_since = status, now, now
            if worker.instructions is not None:
                worker.lease_seconds = worker.instructions.lease_seconds
        return id

    def finish_dead(self) -> None:
        """Finish the rows of unresponsive workers, which are not read any more; whoever revives registers again."""
        now = self._clock.monotonic()
        for id, worker in list(self._workers.items()):
            if not self.is_alive(id) and now - worker.silent_since >= worker.lease_seconds:
                del self._workers[id]
                self._unresponsive[id] = worker.host
                with storage_errors("cannot be written"), contextlib.suppress(UpdateFinishedTrialError):  # it left
                    self._storage.set_trial_state_values(worker.row, TrialState.FAIL)

    # ---- instructions

    def instruct(
        self, trials: Mapping[str, Sequence[LeasedTrial]], only: Collection[str] | None = None, force: bool = False
    ) -> None:
        """Tell workers what they need to know.

        Trials that a worker has ended are removed from its instructions with the next change.

        Args:
            trials: The trials of each worker that has any.
            only: The workers that may have new instructions; by default all.
            force: Whether to remove trials at once, so that their workers cancel them.
        """
        now = self._clock.monotonic()
        if any(map(self.is_alive, self._workers)) and now - self._last_beat >= self._lease.seconds / self._lease.beats:
            self._beat, self._last_beat = self._beat + 1, now
        for id in self._workers if only is None else only:
            worker = self._workers.get(id)
            if worker is not None and (new := self._new_instructions(worker, trials.get(id, ()), force)):
                worker.instructions = new
                # Until its next beat it may still beat as it was told before.
                worker.lease_seconds = max(worker.lease_seconds, new.lease_seconds)
                self._write(worker.row, new)

    def _new_instructions(
        self, worker: RemoteWorker, trials: Sequence[LeasedTrial], force: bool
    ) -> Instructions | None:
        """What a worker must be told now; None if it need not be told anything."""
        told = worker.instructions
        if told is not None and told.session != self.session:
            told = None
        new = Instructions(
            session=self.session,
            beat=told.beat if told is not None and trials else self._beat,
            lease_seconds=self._lease.lease_seconds(self._capacity),
            pace=self._lease.pace(self._capacity),
            trials=tuple(trials),
        )
        if told is None or new == told:
            return new if told is None else None
        only_ended = told.model_copy(update={"trials": new.trials}) == new and set(new.trials) <= set(told.trials)
        return None if only_ended and not force else new

    def _write(self, row: int, instructions: Instructions) -> None:
        with storage_errors("cannot be written"), contextlib.suppress(UpdateFinishedTrialError):  # it left
            self._storage.set_trial_user_attr(row, INSTRUCTIONS, instructions.model_dump(mode="json"))

    def announce_finished(self, reason: str) -> None:
        """Tell all workers that the search has finished.

        Args:
            reason: Why.
        """
        lease_seconds = self._lease.lease_seconds(self._capacity)
        finished = Instructions(session=self.session, finished=reason, lease_seconds=lease_seconds)
        for row in self._read_rows():
            self._write(row._trial_id, finished)
