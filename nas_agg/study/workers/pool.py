"""Where trials are evaluated: in worker processes, or by a function in this one."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from nas_agg.common.errors import NasAggError
from nas_agg.common.files import write_errors
from nas_agg.study.samplers.searcher import describe_exception
from nas_agg.study.workers.process import receive, send

if TYPE_CHECKING:
    from optuna.trial import Trial

    from nas_agg.language.genotype import Genotype

WORKER = (sys.executable, "-P", "-m", "nas_agg.study.workers.process")
STILLBORN = 3  # workers that may die in a row before they have begun a job


@dataclass(frozen=True)
class Job:
    """One trial to evaluate.

    Attributes:
        number: The trial's number.
        genotype: Its network.
        order: What a worker is sent, plain JSON.
    """

    number: int
    genotype: Genotype
    order: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial.

    Attributes:
        number: The trial's number.
        kind: ``report`` (and it waits for :meth:`Evaluator.answer`), ``done``, ``stopped`` (as it was told to),
            ``failed``, ``lost`` (with its worker, through no fault that is known to be its own), or ``left`` (its
            worker was told to leave).
        step, value: What a report says.
        seconds: How long the job has taken.
        reason: Why it failed or was lost.
        result: What a worker or a function gave, by the names of figures.
    """

    number: int
    kind: str
    step: int = 0
    value: float | None = None
    seconds: float = 0.0
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)


class Evaluator(Protocol):
    """What evaluates trials."""

    def free(self) -> int:
        """How many more jobs may be started now."""

    def start(self, job: Job) -> None:
        """Begin a job; only when one is free."""

    def events(self, timeout: float) -> list[Event]:
        """What happened since; waits so many seconds for something."""

    def answer(self, number: int, stop: bool) -> None:
        """Let a trial that reported go on, or stop it."""

    def close(self) -> None:
        """Stop whatever runs."""


class InProcessExecutor:
    """Evaluates with a function, here, one trial after another.

    Args:
        evaluate: Gives a genotype's value, or several; may report to the trial and raise ``optuna.TrialPruned``.
        trial: Gives the Optuna trial of a number.
        figures: What the values are called.
    """

    def __init__(
        self,
        evaluate: Callable[[Genotype, Trial], Any],
        trial: Callable[[int], Trial],
        figures: Sequence[str] = ("value",),
    ):
        self._evaluate, self._trial, self._figures = evaluate, trial, tuple(figures)
        self._job: Job | None = None

    def free(self) -> int:
        return 0 if self._job else 1

    def start(self, job: Job) -> None:
        self._job = job

    def events(self, timeout: float) -> list[Event]:
        import optuna

        if self._job is None:
            return []
        job, self._job = self._job, None
        begun = time.monotonic()

        def event(kind: str, **more: Any) -> list[Event]:
            return [Event(job.number, kind, seconds=time.monotonic() - begun, **more)]

        try:
            value: Any = self._evaluate(job.genotype, self._trial(job.number))
        except optuna.TrialPruned:
            return event("stopped")
        except Exception as error:  # the caller's own function: its failures are results
            return event("failed", reason=_own_reason(error) or describe_exception(error))
        numbers = _numbers(value, len(self._figures))
        if isinstance(numbers, str):
            return event("failed", reason=numbers)
        return event("done", result=dict(zip(self._figures, numbers, strict=True)))

    def answer(self, number: int, stop: bool) -> None:
        raise AssertionError("a function reports to its trial")

    def close(self) -> None:
        self._job = None


def _numbers(value: Any, wanted: int) -> list[float] | str:
    """A function's values, or what is wrong with them."""
    what = "a number" if wanted == 1 else f"{wanted} numbers"
    found = [value] if wanted == 1 else value
    if not isinstance(found, tuple | list) or len(found) != wanted:
        return f"evaluate gave a {type(value).__name__}, not {what}"
    numbers = []
    for one in found:
        try:
            number = None if isinstance(one, str | bytes | bytearray) else float(one)
        except Exception:  # whatever it is, it says so in a way of its own
            number = None
        if number is None:
            return f"evaluate gave a {type(one).__name__}, not {what}"
        if not math.isfinite(number):
            return f"diverged: the value is {'no number' if number != number else 'not finite'}"
        numbers.append(number)
    return numbers


def _own_reason(error: Exception) -> str:
    """The reason that this package's own errors give."""
    return str(getattr(error, "reason", "")) if isinstance(error, NasAggError) else ""


@dataclass
class _Worker:
    process: subprocess.Popen
    connection: Connection
    job: Job | None = None
    started: float | None = None  # when it began the job; it may still be loading the data


class WorkerPool:
    """Worker processes, started when they are first needed and again when they die.

    Args:
        setups: What each worker is sent first; as many workers as setups. ``threads`` in it is its thread budget.
        log: The file that takes what workers print; without one it stands among this process's errors.
        trial_timeout: Seconds after which a job is killed and has failed.
        command: Starts a worker.
    """

    def __init__(
        self,
        setups: Sequence[dict[str, Any]],
        log: Path | None,
        trial_timeout: float | None = None,
        command: Sequence[str] = WORKER,
    ):
        self._setups, self._log, self.trial_timeout, self._command = list(setups), log, trial_timeout, list(command)
        self._workers: list[_Worker | None] = [None] * len(self._setups)
        self._stillborn = 0

    def free(self) -> int:
        return sum(worker is None or worker.job is None for worker in self._workers)

    def busy(self) -> bool:
        """Whether a job is being done."""
        return any(worker is not None and worker.job is not None for worker in self._workers)

    def start(self, job: Job) -> None:
        place = next(i for i, worker in enumerate(self._workers) if worker is None or worker.job is None)
        worker = self._workers[place]
        if worker is None or worker.process.poll() is not None:
            worker = self._workers[place] = self._hire(self._setups[place])
        worker.job, worker.started = job, None
        self._send(worker, {**job.order, "device": self._setups[place].get("device", "cpu")})

    def _hire(self, setup: dict[str, Any]) -> _Worker:
        mine, theirs = Pipe()
        threads = str(setup.get("threads", 1))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # it finds what this process finds
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a busy machine, threads that spin cost 20 times
        with self._output() as log:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the coordinator alone
            )
        theirs.close()
        worker = _Worker(process, mine)
        self._send(worker, setup)
        return worker

    @contextlib.contextmanager
    def _output(self) -> Iterator[IO[bytes] | int]:
        if self._log is None:
            yield sys.stderr.fileno()
            return
        with write_errors(self._log), self._log.open("ab") as log:
            yield log

    @staticmethod
    def _send(worker: _Worker, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it died: the next look at it finds it so
            send(worker.connection, message)

    def events(self, timeout: float) -> list[Event]:
        busy = [worker for worker in self._workers if worker is not None and worker.job is not None]
        if not busy:
            return []
        limit = self.trial_timeout
        deadlines = [worker.started + limit for worker in busy if limit and worker.started is not None]
        if deadlines:
            timeout = min(timeout, max(0.0, min(deadlines) - time.monotonic()))
        ready = wait([worker.connection for worker in busy], timeout)
        found = [self._time_out(worker) or self._hear(worker, worker.connection in ready) for worker in busy]
        return [event for event in found if event is not None]

    def _hear(self, worker: _Worker, ready: bool) -> Event | None:
        job = worker.job
        if not ready or job is None:
            return None
        try:
            message = receive(worker.connection)
        except (EOFError, OSError):
            return self._bury(worker)
        kind = message["is"]
        if kind == "broken":
            raise NasAggError(message["reason"])
        if kind == "started":
            self._stillborn, worker.started = 0, time.monotonic()
            return None
        seconds = time.monotonic() - (worker.started or time.monotonic())
        if kind == "report":
            return Event(job.number, "report", message["step"], message["value"], seconds)
        worker.job = worker.started = None
        if message.get("leaving"):
            self._kill(worker)
        if kind == "failed":
            return Event(job.number, "failed", seconds=seconds, reason=message["reason"])
        kind = "stopped" if message["stopped"] else "done"
        result = message["result"]
        return Event(job.number, kind, value=result.get("value"), seconds=seconds, result=result)

    def _bury(self, worker: _Worker) -> Event:
        """Its process has ended: its job is lost."""
        worker.connection.close()
        try:
            status = worker.process.wait(5)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        self._workers[self._workers.index(worker)] = None
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if worker.started is None:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                there = "above" if self._log is None else f"in {self._log}"
                raise NasAggError(f"workers cannot start (the last one {how}); what they said is {there}")
        assert worker.job is not None
        seconds = time.monotonic() - (worker.started or time.monotonic())
        return Event(worker.job.number, "lost", seconds=seconds, reason=f"worker {how}")

    def _time_out(self, worker: _Worker) -> Event | None:
        limit = self.trial_timeout
        if limit is None or worker.started is None or time.monotonic() < worker.started + limit:
            return None
        job, seconds = worker.job, time.monotonic() - worker.started
        self._kill(worker)
        assert job is not None
        return Event(job.number, "failed", seconds=seconds, reason=f"longer than {limit:g} s")

    def _kill(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.wait()
        worker.connection.close()
        self._workers[self._workers.index(worker)] = None

    def answer(self, number: int, stop: bool) -> None:
        for worker in self._workers:
            if worker is not None and worker.job is not None and worker.job.number == number:
                self._send(worker, {"stop": stop})

    def drop(self, number: int) -> None:
        """End a trial's job, and say nothing of it."""
        for worker in self._workers:
            if worker is not None and worker.job is not None and worker.job.number == number:
                self._kill(worker)

    def close(self) -> None:
        for worker in self._workers:
            if worker is not None:
                self._kill(worker)
