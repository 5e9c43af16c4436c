"""A worker process: it does the jobs that its pool sends, and knows nothing of the search.

It is started as ``python -m nas_agg.study.workers.process FD`` with its thread budget already in the environment, and
exchanges JSON over the socket of that descriptor. It ends when its parent process does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.connection import do_and_send, open_connection, receive, send
from nas_agg.study.workers.messages import (
    AnyJob,
    Envelope,
    FinalJob,
    FinalOutcome,
    Progress,
    TrialJob,
    TrialOutcome,
    WorkerMessage,
)

if TYPE_CHECKING:
    from nas_agg.study.workers.connection import Work
    from nas_agg.study.workers.jobs import Report
    from nas_agg.training.data import Data


def serve(prepare: Callable[[WorkerConfig], Work]) -> None:
    """Do jobs until the parent process is gone.

    Args:
        prepare: Called once with the worker's configuration. Returns a function that does a job: it takes the job and
            a function ``report(step, value)``, which returns whether to stop, and returns the job's outcome.
    """
    connection = open_connection()
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            work = prepare(receive(connection, WorkerConfig))
        except NasAggError as error:
            return send(connection, WorkerMessage(kind=Progress.UNUSABLE, reason=str(error)))
        while True:
            do_and_send(connection, receive(connection, Envelope).job, work)


# ---- the jobs of a search


def prepare(config: WorkerConfig) -> Work:
    """Load the data once; returns what trains a trial or the final network."""
    limit_threads(config.threads)
    data = load(config)
    return lambda job, report: train(job, data, report)


def limit_threads(threads: int) -> None:
    """Let trainings of this process use some threads."""
    import torch

    torch.set_num_threads(threads)


def load(config: WorkerConfig) -> Data | WorkerConfig:
    """Load the data; the configuration itself if each job is done by several processes, which load them."""
    if config.processes > 1:
        return config
    from nas_agg.training.data import load_data

    return load_data(**config.data)


def train(job: AnyJob, data: Data | WorkerConfig, report: Report) -> TrialOutcome | FinalOutcome:
    """Train a trial or the final network, here or by several processes."""
    import torch

    from nas_agg.study.workers.final_jobs import train_final
    from nas_agg.study.workers.jobs import train_trial
    from nas_agg.study.workers.ranks import train_by_processes

    assert isinstance(job, TrialJob | FinalJob)
    if job.processes > 1 or isinstance(data, WorkerConfig):
        return train_by_processes(job, data, report)
    try:
        if isinstance(job, TrialJob):
            return train_trial(job, data, report)
        metrics = train_final(job, data, report)
        return FinalOutcome(uncompiled=metrics.get("uncompiled", ""))
    finally:
        if job.device.startswith("cuda"):
            with contextlib.suppress(RuntimeError):  # a broken device fails again; the first error is the cause
                torch.cuda.empty_cache()


@dataclass(frozen=True)
class Trainer:
    """How jobs are done where a backend has no processes of its own kind: functions that other machines import.

    Attributes:
        limit_threads: Called once where jobs are done, before the first.
        load: Loads the data of a worker's configuration.
        train: Does a job with the data; its report returns whether to stop.
    """

    limit_threads: Callable[[int], None] = limit_threads
    load: Callable[[WorkerConfig], Any] = load
    train: Callable[[AnyJob, Any, Report], TrialOutcome | FinalOutcome] = train


if __name__ == "__main__":
    serve(prepare)
