"""A pool of worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from nas_agg.common.errors import NasAggError
from nas_agg.common.files import write_errors
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.connection import receive, send
from nas_agg.study.workers.messages import Envelope, EventKind, Progress, Reply, WorkerMessage

WORKER_COMMAND = (sys.executable, "-P", "-m", "nas_agg.study.workers.process")
MAX_FAILED_STARTS = 3  # workers in a row that die before they start a job


@dataclass
class _Worker:
    process: subprocess.Popen
    connection: Connection
    assignment: Assignment | None = None
    attempt: int = 0
    waits: bool = False  # for an answer to a report
    is_stopped: bool = False  # the next answer, at the latest, is to stop
    started: float | None = None  # when it started the job; before, it may be loading the data

    @property
    def seconds(self) -> float:
        """Seconds since it started its job."""
        return 0.0 if self.started is None else time.monotonic() - self.started


class WorkerPool(Backend):
    """Worker processes, spawned when they are first needed and again when they die.

    Args:
        configs: Configuration of each worker.
        log: File that receives what workers print; by default this process's standard error.
        trial_timeout: Seconds after which a job is killed and has failed.
        command: Starts a worker.
    """

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        log: Path | None,
        trial_timeout: float | None = None,
        command: Sequence[str] = WORKER_COMMAND,
    ):
        self._configs, self._log, self.trial_timeout, self._command = list(configs), log, trial_timeout, list(command)
        self._workers: list[_Worker | None] = [None] * len(self._configs)
        self._failed_starts = 0

    def capacity(self) -> int:
        return len(self._configs)

    def free_slots(self) -> int:
        """Number of workers without a job."""
        return sum(worker is None or worker.assignment is None for worker in self._workers)

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return bool(self._busy_workers())

    def _busy_workers(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker is not None and worker.assignment is not None]

    def submit(self, assignment: Assignment, attempt: int, resources: Resources | None = None) -> None:
        """Give a job to a free worker, whose device and threads are those of its configuration."""
        assert assignment.job is not None
        slot = next(i for i, worker in enumerate(self._workers) if worker is None or worker.assignment is None)
        worker = self._workers[slot]
        if worker is None or worker.process.poll() is not None:
            worker = self._workers[slot] = self._spawn(self._configs[slot])
        worker.assignment, worker.attempt, worker.started = assignment, attempt, None
        worker.waits = worker.is_stopped = False
        job = assignment.job.model_copy(update={"device": self._configs[slot].device})
        self._send(worker, Envelope(job=job))

    def _spawn(self, config: WorkerConfig) -> _Worker:
        own_end, worker_end = Pipe()
        threads = str(config.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # it imports what this process imports
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a busy machine, spinning threads cost a factor of 20
        with self._output() as log:
            process = subprocess.Popen(
                [*self._command, str(worker_end.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[worker_end.fileno()],
                process_group=0,  # Ctrl-C is for the coordinator alone
            )
        worker_end.close()
        worker = _Worker(process, own_end)
        self._send(worker, config)
        return worker

    @contextlib.contextmanager
    def _output(self) -> Iterator[IO[bytes] | int]:
        if self._log is None:
            yield _standard_error()
            return
        with write_errors(self._log), self._log.open("ab") as log:
            yield log

    @staticmethod
    def _send(worker: _Worker, message: BaseModel) -> None:
        with contextlib.suppress(OSError):  # it died: the next poll reaps it
            send(worker.connection, message)

    def poll(self, timeout: float) -> list[Event]:
        busy = self._busy_workers()
        if not busy:
            return []
        if self.trial_timeout is not None:
            left = [self.trial_timeout - worker.seconds for worker in busy if worker.started is not None]
            timeout = min([timeout, *(max(0.0, seconds) for seconds in left)])
        ready = wait([worker.connection for worker in busy], timeout)
        events = [self._time_out(worker) or self._receive(worker, worker.connection in ready) for worker in busy]
        return [event for event in events if event is not None]

    def _receive(self, worker: _Worker, ready: bool) -> Event | None:
        assignment = worker.assignment
        if not ready or assignment is None:
            return None
        try:
            message = receive(worker.connection, WorkerMessage)
        except (EOFError, OSError):
            return self._reap(worker)
        number, attempt, seconds = assignment.number, worker.attempt, worker.seconds
        match message.kind:
            case Progress.UNUSABLE:
                raise NasAggError(message.reason)
            case Progress.STARTED:
                self._failed_starts, worker.started = 0, time.monotonic()
                return None
            case Progress.REPORT:
                worker.waits = True
                if worker.is_stopped:
                    self._answer(worker)
                return Event(number, attempt, EventKind.REPORT, message.step, message.value, seconds)
        worker.assignment = worker.started = None
        if message.exits:
            self._kill(worker)
        kind = message.event_kind
        return Event(number, attempt, kind, seconds=seconds, reason=message.reason, outcome=message.outcome)

    def _reap(self, worker: _Worker) -> Event:
        """Remove a worker whose process has ended."""
        worker.connection.close()
        try:
            status = worker.process.wait(5)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        self._workers[self._workers.index(worker)] = None
        how = f"killed by signal {-status}" if status < 0 else f"exited with status {status}"
        if worker.started is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                where = "above" if self._log is None else f"in {self._log}"
                raise NasAggError(f"workers cannot start (the last one {how}); their output is {where}")
        return _event(worker, EventKind.WORKER_DIED, f"worker {how}")

    def _time_out(self, worker: _Worker) -> Event | None:
        limit = self.trial_timeout
        if limit is None or worker.started is None or worker.seconds < limit:
            return None
        event = _event(worker, EventKind.FAILED, f"exceeded {limit:g} s")
        self._kill(worker)
        return event

    def _kill(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.wait()
        worker.connection.close()
        self._workers[self._workers.index(worker)] = None

    def stop(self, number: int) -> None:
        for worker in self._workers_with(number):
            worker.is_stopped = True
            self._answer(worker)

    def proceed(self, number: int) -> None:
        for worker in self._workers_with(number):
            self._answer(worker)

    def _answer(self, worker: _Worker) -> None:
        """Answer the report that a worker waits with, if it does."""
        if worker.waits:
            worker.waits = False
            self._send(worker, Reply(stop=worker.is_stopped))

    def cancel(self, number: int) -> None:
        for worker in self._workers_with(number):
            self._kill(worker)

    def _workers_with(self, number: int) -> list[_Worker]:
        """The worker that has a trial's job, if one has."""
        return [worker for worker in self._busy_workers() if worker.assignment and worker.assignment.number == number]

    def close(self, leave_running: bool = False) -> None:
        for worker in self._workers:
            if worker is not None:
                self._kill(worker)


def _standard_error() -> int:
    """The descriptor of this process's standard error; a notebook or a test may have replaced the stream."""
    for stream in (sys.stderr, sys.__stderr__):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return stream.fileno()  # type: ignore[union-attr]
    return subprocess.DEVNULL


def _event(worker: _Worker, kind: EventKind, reason: str) -> Event:
    """An event of the job that a worker has."""
    assert worker.assignment is not None
    return Event(worker.assignment.number, worker.attempt, kind, seconds=worker.seconds, reason=reason)
