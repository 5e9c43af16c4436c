"""The backend `slurm`: each trial a job of Slurm, submitted by submitit (``pip install 'nas-agg[slurm]'``).

The nodes share the disk of the run folder, as they do on such clusters: a trial is trained in its own folder, and its
reports and its outcome are read from a folder of its attempt. Jobs that are preempted or reach their time limit are
requeued and resume from their checkpoint. Jobs outlive the coordinator; the next one adopts them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import submitit

from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.common.files import write_atomic
from nas_agg.study.clusters.slurm_job import ORDER, OUTCOME, REPORTS, STARTED, STOP, SlurmOrder, SlurmTrial
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.backend import Assignment, Backend, BackendContext, Event, Resources
from nas_agg.study.workers.messages import EventKind, FinalJob, Progress, TrialJob, WorkerMessage
from nas_agg.study.workers.pool import MAX_FAILED_STARTS
from nas_agg.study.workers.protocol import versions

JOBS = 8  # at once, by default
FILE_SECONDS = 0.2  # between two looks at the files of jobs
QUEUE_SECONDS = 5.0  # between two looks at Slurm's queue
GONE_LOOKS = 3  # without a job, after which it is lost: its outcome may take a while to appear on a shared disk
TIMEOUT_MINUTES = 60  # of a job, by default; it is requeued then
_ID = "job-id"  # a file with the number of the job


class _Queue(Protocol):
    """Where jobs wait and run."""

    def living(self, ids: Iterable[str]) -> set[str] | None:
        """Which of these jobs wait or run; None if that cannot be found out now."""

    def cancel(self, id: str) -> None:
        """End a job."""


class _SlurmQueue:
    """Slurm's queue; accounting is not needed."""

    def living(self, ids: Iterable[str]) -> set[str] | None:
        command = ["squeue", "--noheader", "--format=%i", "--me"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(done.stdout.split()) & set(ids) if done.returncode == 0 else None

    def cancel(self, id: str) -> None:
        subprocess.run(["scancel", "--signal=KILL", "--full", id], capture_output=True, check=False)
        subprocess.run(["scancel", id], capture_output=True, check=False)


class _LocalQueue:
    """Processes of this machine, which submitit runs in place of jobs for tests."""

    def living(self, ids: Iterable[str]) -> set[str] | None:
        return {id for id in ids if _is_alive(int(id))}

    def cancel(self, id: str) -> None:
        if _is_alive(int(id)):
            os.kill(int(id), signal.SIGINT)


def _is_alive(pid: int) -> bool:
    try:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        return ended == 0
    except ChildProcessError:  # another coordinator's
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@dataclass
class _Job:
    number: int
    attempt: int
    folder: Path
    id: str
    reports: int = 0  # that were read
    started: float | None = None
    gone: int = 0  # looks at the queue that did not find it
    submitted: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def event(self, kind: EventKind, reason: str = "", **more: Any) -> Event:
        """An event of this job."""
        return Event(self.number, self.attempt, kind, seconds=self.seconds, reason=reason, **more)


class SlurmBackend(Backend):
    """Trains as jobs of Slurm.

    Args:
        context: The search.
    """

    trains_final_networks = True

    def __init__(self, context: BackendContext):
        settings = context.settings
        options = dict(settings.slurm or {})
        self._is_local = options.pop("cluster", "slurm") == "local"
        self._queue: _Queue = _LocalQueue() if self._is_local else _SlurmQueue()
        self._root, self._data, self._trainer = context.folder / "slurm", context.task.data, context.trainer
        self._limit, self._capacity = settings.trial_timeout, settings.workers or JOBS
        self._has_gpus = settings.device.startswith("cuda") or bool(Resources.of(settings).gpus)
        self._executor = self._make_executor(options)
        self._jobs: dict[int, _Job] = {}
        self._ended: list[_Job] = []  # whose last event was delivered by the last poll
        self._looked, self._failed_starts = time.monotonic(), 0

    @classmethod
    def open(cls, context: BackendContext) -> Self:
        if (context.settings.gpus_per_trial or 0) % 1:
            raise InputError("gpus_per_trial: Slurm gives whole GPUs to a job; specify a whole number")
        return cls(context)

    def _make_executor(self, options: dict[str, str]) -> Any:
        try:
            executor = submitit.AutoExecutor(
                self._root / "logs", cluster="local" if self._is_local else "slurm", slurm_max_num_timeout=10_000
            )
            known = submitit.SlurmExecutor._valid_parameters()
            named = {f"slurm_{name}": value for name, value in options.items() if name in known}
            others = {name: value for name, value in options.items() if name not in known}
            executor.update_parameters(
                name="nas_agg", **{"timeout_min": TIMEOUT_MINUTES, **named}, slurm_additional_parameters=others
            )
        except RuntimeError as error:  # sbatch is missing
            raise InputError(f"backend slurm: {one_line(str(error))}") from None
        return executor

    def capacity(self) -> int:
        """Jobs that are submitted at once; Slurm decides when they run."""
        return self._capacity

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        job, number = assignment.job, assignment.number
        assert isinstance(job, TrialJob | FinalJob)
        gpus = int(self._has_gpus if resources.gpus is None else resources.gpus)
        job = job.model_copy(update={"device": "cuda" if gpus else "cpu"})
        folder, cpus = self._root / f"{number}-{attempt}", max(1, math.ceil(resources.cpus))
        folder.mkdir(parents=True, exist_ok=True)
        config = WorkerConfig(data=self._data, threads=cpus, processes=job.processes)
        order = SlurmOrder(job=job, config=config, versions=versions())
        write_atomic(folder / ORDER, order.model_dump_json() + "\n")
        needs = {"cpus_per_task": cpus, "gpus_per_node": gpus}
        if resources.memory:
            needs["mem_gb"] = math.ceil(resources.memory / 2**30)
        self._executor.update_parameters(**{name: value for name, value in needs.items() if value})
        try:
            submitted = self._executor.submit(SlurmTrial(folder, self._trainer))
        except Exception as error:  # submitit's own kinds, for whatever sbatch says
            raise NasAggError(f"Slurm refuses jobs: {one_line(str(error))[:500]}") from error
        write_atomic(folder / _ID, submitted.job_id)
        self._jobs[number] = _Job(number, attempt, folder, submitted.job_id)

    # ---- events

    def poll(self, timeout: float) -> list[Event]:
        for job in self._ended:  # the coordinator has recorded their end
            shutil.rmtree(job.folder, ignore_errors=True)
        self._ended = []
        end = time.monotonic() + timeout
        while True:
            events = [event for job in list(self._jobs.values()) for event in self._read(job)]
            events += self._missing()
            if events or time.monotonic() >= end:
                return events
            time.sleep(max(0.0, min(FILE_SECONDS, end - time.monotonic())))

    def _read(self, job: _Job) -> list[Event]:
        """New events of a job, from its files."""
        if job.started is None and (job.folder / STARTED).exists():
            job.started, self._failed_starts = time.monotonic(), 0
        outcome = _read_text(job.folder / OUTCOME)  # first: all reports are written before it
        lines = _read_text(job.folder / REPORTS).split("\n")[:-1]  # the last has no end of line yet, or is empty
        events = []
        for line in lines[job.reports :]:
            step, value = json.loads(line)
            events.append(job.event(EventKind.REPORT, step=int(step), value=float(value)))
        job.reports = max(job.reports, len(lines))
        if outcome:
            events.append(self._end(job, WorkerMessage.model_validate_json(outcome)))
        elif self._limit is not None and job.seconds >= self._limit:
            self._queue.cancel(job.id)
            self._forget(job)
            events.append(job.event(EventKind.FAILED, f"exceeded {self._limit:g} s"))
        return events

    def _end(self, job: _Job, message: WorkerMessage) -> Event:
        self._forget(job)
        if message.kind == Progress.UNUSABLE:
            raise NasAggError(f"a node cannot run trials: {message.reason}")
        return job.event(message.event_kind, message.reason, outcome=message.outcome)

    def _missing(self) -> list[Event]:
        """Events of jobs that are no longer in the queue, and have no outcome."""
        now = time.monotonic()
        if not self._jobs or now - self._looked < (FILE_SECONDS if self._is_local else QUEUE_SECONDS):
            return []
        self._looked = now
        living = self._queue.living([job.id for job in self._jobs.values()])
        if living is None:
            return []  # Slurm does not answer: it is asked again
        events = []
        for job in list(self._jobs.values()):
            job.gone = 0 if job.id in living else job.gone + 1
            if job.gone >= GONE_LOOKS:
                self._forget(job)
                events.append(self._lost(job))
        return events

    def _lost(self, job: _Job) -> Event:
        reason = f"Slurm job {job.id} ended without an outcome; its output is in {self._root / 'logs'}"
        if job.started is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise NasAggError(f"jobs cannot start: {reason}")
        return job.event(EventKind.WORKER_DIED, reason)

    def _forget(self, job: _Job) -> None:
        del self._jobs[job.number]
        self._ended.append(job)

    # ---- the end of jobs

    def stop(self, number: int) -> None:
        """Stop a trial after the epoch in which its node sees this; a job does not wait for an answer."""
        if (job := self._jobs.get(number)) is not None:
            (job.folder / STOP).touch()

    def cancel(self, number: int) -> None:
        if (job := self._jobs.pop(number, None)) is not None:
            self._queue.cancel(job.id)
            shutil.rmtree(job.folder, ignore_errors=True)

    def adopt(self) -> dict[int, int]:
        jobs: dict[int, _Job] = {}
        for path in self._root.glob(f"*-*/{_ID}"):
            number, attempt = map(int, path.parent.name.split("-"))
            job = _Job(number, attempt, path.parent, path.read_text(encoding="utf-8").strip())
            if number not in jobs or jobs[number].attempt < attempt:
                jobs[number] = job
        living = self._queue.living([job.id for job in jobs.values()]) if jobs else set()
        if living is None:
            raise NasAggError("squeue fails: whether earlier jobs of this search still run is unknown; try again later")
        self._jobs = {n: job for n, job in jobs.items() if job.id in living or (job.folder / OUTCOME).exists()}
        for path in self._root.glob("*-*"):
            if path not in [job.folder for job in self._jobs.values()]:
                shutil.rmtree(path, ignore_errors=True)
        return {number: job.attempt for number, job in self._jobs.items()}

    def close(self, leave_running: bool = False) -> None:
        if not leave_running:
            for number in list(self._jobs):
                self.cancel(number)


def _read_text(path: Path) -> str:
    """The content of a file; empty if there is none yet."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
