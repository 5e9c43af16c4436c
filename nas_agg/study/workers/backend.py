"""Interface of the backends: where the trials of a search run.

The coordinator owns the trials and their attempts; a backend owns the jobs. An attempt is one submitted job of a
trial: the first, one after a worker was lost, or one that continues a paused trial. A backend never retries a job
itself. Every event bears the attempt of its job, and the coordinator drops those of earlier attempts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nas_agg.study.workers.messages import AnyJob, EventKind, FinalOutcome, TrialOutcome

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.definition.task import Task
    from nas_agg.study.records.study_record import StudyRecord
    from nas_agg.study.workers.process import Trainer
    from nas_agg.study.workers.protocol import LeaseSettings


@dataclass(frozen=True)
class Assignment:
    """A trial that a backend is to evaluate.

    Attributes:
        number: Number of the trial.
        genotype: Its network, for backends in this process.
        job: Its job, for backends that train.
        pause_at: Epoch at which the evaluation pauses, if it does.
    """

    number: int
    genotype: Genotype | None = None
    job: AnyJob | None = None
    pause_at: int | None = None


@dataclass(frozen=True)
class Resources:
    """What a job needs on the machine that runs it.

    Attributes:
        cpus: Number of CPU cores.
        gpus: Number of GPUs; a fraction shares one with other jobs. None: one if the machines have any.
        memory: Bytes of main memory; None: not reserved.
    """

    cpus: float = 1.0
    gpus: float | None = None
    memory: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What each trial of a search needs."""
        gpus = 0.0 if settings.device == "cpu" else settings.gpus_per_trial
        cpus = settings.cpus_per_trial or float(settings.processes_per_trial)
        return cls(cpus, gpus, settings.memory_per_trial)


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        number: Number of the trial.
        attempt: Attempt that the job was submitted as.
        kind: What happened.
        step, value: A report.
        seconds: Seconds since the job began.
        reason: Why it failed, or its worker died or left.
        outcome: The result, if it has one.
    """

    number: int
    attempt: int
    kind: EventKind
    step: int = 0
    value: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    outcome: TrialOutcome | FinalOutcome | None = None


@dataclass(frozen=True)
class BackendContext:
    """What a backend may need to know of the search.

    Attributes:
        settings: Its settings.
        record: Its trials, and the storage that holds them.
        task: The data set and the devices.
        folder: The run folder.
        worker_command: Starts a worker process on this machine.
        lease: Timing of the leases of workers that join.
        trainer: Does the jobs, for backends whose jobs run elsewhere than in worker processes.
    """

    settings: Settings
    record: StudyRecord
    task: Task
    folder: Path
    worker_command: Sequence[str]
    lease: LeaseSettings
    trainer: Trainer


class Backend(ABC):
    """Runs the jobs of a search's trials; the coordinator calls it from one thread."""

    #: Whether final networks may be trained by it, too; if not, a process beside the coordinator trains them.
    trains_final_networks = False

    @classmethod
    def open(cls, context: BackendContext) -> Self:
        """Open the backend for a search; those that a search is never told to use by name cannot be.

        Raises:
            InputError: It cannot be used with these settings, or on this machine.
        """
        raise NotImplementedError

    @abstractmethod
    def capacity(self) -> int:
        """Number of jobs that can run at once now, including those that do; it may grow and shrink."""

    @abstractmethod
    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        """Submit the job of a trial. If the capacity has shrunk meanwhile, it runs as soon as there is a place."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to ``timeout`` seconds for the first.

        A job ends with exactly one event that is no report. A job that pauses ends, too.

        Raises:
            NasAggError: No job can run any more.
        """

    @abstractmethod
    def stop(self, number: int) -> None:
        """Stop a trial after the epoch that it has reported, or soon afterwards; its outcome follows as an event."""

    def proceed(self, number: int) -> None:  # noqa: B027 (not abstract: there may be nothing to do)
        """Let a trial that has reported continue; only backends whose jobs wait for an answer need to know."""

    @abstractmethod
    def cancel(self, number: int) -> None:
        """End the job of a trial at once, without an event."""

    def adopt(self) -> dict[int, int]:
        """The jobs of an earlier coordinator that still run, or whose events nobody has received; called once.

        Returns:
            Attempts by trial. The events of these jobs follow, reports from the first one on.
        """
        return {}

    @abstractmethod
    def close(self, leave_running: bool = False) -> None:
        """End all jobs.

        Args:
            leave_running: The search may be resumed: jobs that the next coordinator can adopt need not end.
        """
