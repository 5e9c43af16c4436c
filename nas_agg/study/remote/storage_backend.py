"""The backend `storage`: workers that join through the search's storage, and processes on this machine."""

from __future__ import annotations

from typing import Self

from nas_agg.study.remote.executor import RemoteExecutor
from nas_agg.study.workers.backend import Assignment, Backend, BackendContext, Event, Resources
from nas_agg.study.workers.pool import WorkerPool


class StorageBackend(Backend):
    """Gives trials to the workers of this machine first, then to those that joined.

    Args:
        pool: The workers of this machine.
        remote: The workers that join.
    """

    def __init__(self, pool: WorkerPool, remote: RemoteExecutor):
        self._pool, self._remote = pool, remote
        self._local: set[int] = set()  # trials of the pool

    @classmethod
    def open(cls, context: BackendContext) -> Self:
        settings, task, folder = context.settings, context.task, context.folder
        configs = task.worker_configs() if settings.workers != 0 else []
        pool = WorkerPool(configs, folder / "log.txt", settings.trial_timeout, context.worker_command)
        shared = {
            "data": task.data,
            "dataset_digest": task.dataset_digest,
            "about": task.about,
            "trial_timeout": settings.trial_timeout,
            "folder": str(folder.resolve()),
        }
        return cls(pool, RemoteExecutor(context.record, shared, context.lease))

    def capacity(self) -> int:
        return self._pool.capacity() + self._remote.capacity()

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        if self._pool.free_slots():
            self._remote.revoke(assignment.number, attempt)
            self._local.add(assignment.number)
            self._pool.submit(assignment, attempt, resources)
        else:
            self._local.discard(assignment.number)
            self._remote.submit(assignment, attempt, resources)

    def poll(self, timeout: float) -> list[Event]:
        events = self._remote.poll(0)
        if self._pool.is_busy:
            events += self._pool.poll(0 if events else min(timeout, self._remote.poll_interval))
        elif not events:
            events = self._remote.poll(timeout)
        while self._pool.free_slots() and (queued := self._remote.take_queued()):
            self.submit(*queued, Resources())
        return events

    def stop(self, number: int) -> None:
        self._backend_of(number).stop(number)

    def proceed(self, number: int) -> None:
        self._backend_of(number).proceed(number)

    def cancel(self, number: int) -> None:
        self._backend_of(number).cancel(number)

    def _backend_of(self, number: int) -> Backend:
        return self._pool if number in self._local else self._remote

    def adopt(self) -> dict[int, int]:
        return self._remote.adopt()

    def close(self, leave_running: bool = False) -> None:
        self._pool.close()
        self._remote.close(leave_running)
