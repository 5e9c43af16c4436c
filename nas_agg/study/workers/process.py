"""A worker process: it does the jobs that its pool sends, and knows nothing of the search.

It is started as ``python -m nas_agg.study.workers.process FD`` with its thread budget already in the environment, and
exchanges JSON over the socket of that descriptor. It ends when its parent process does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.messages import (
    AnyJob,
    Envelope,
    FinalJob,
    FinalOutcome,
    Progress,
    Reply,
    TrialJob,
    TrialOutcome,
    WorkerMessage,
)

if TYPE_CHECKING:
    from nas_agg.study.workers.jobs import Report
    from nas_agg.training.data import Data

    Work = Callable[[AnyJob, Report], TrialOutcome | FinalOutcome]

M = TypeVar("M", bound=BaseModel)


def send(connection: Connection, message: BaseModel) -> None:
    """Send one message."""
    connection.send_bytes(message.model_dump_json().encode())


def receive(connection: Connection, kind: type[M]) -> M:
    """Wait for one message.

    Raises:
        EOFError: The other side is gone.
    """
    return kind.model_validate_json(connection.recv_bytes())


def serve(prepare: Callable[[WorkerConfig], Work]) -> None:
    """Do jobs until the parent process is gone.

    Args:
        prepare: Called once with the worker's configuration. Returns a function that does a job: it takes the job and
            a function ``report(step, value)``, which returns whether to stop, and returns the job's outcome.
    """
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            work = prepare(receive(connection, WorkerConfig))
        except NasAggError as error:
            return send(connection, WorkerMessage(kind=Progress.UNUSABLE, reason=str(error)))
        while True:
            _do(connection, receive(connection, Envelope).job, work)


def _do(connection: Connection, job: AnyJob, work: Work) -> None:
    send(connection, WorkerMessage(kind=Progress.STARTED))
    stopped = False

    def report(step: int, value: float) -> bool:
        nonlocal stopped
        send(connection, WorkerMessage(kind=Progress.REPORT, step=step, value=value))
        stopped = receive(connection, Reply).stop
        return stopped

    message = do_job(lambda: work(job, report), job.device)
    send(connection, message.model_copy(update={"stopped": stopped}))
    if message.exits:
        raise SystemExit(1)


def do_job(work: Callable[[], TrialOutcome | FinalOutcome], device: str) -> WorkerMessage:
    """Do a job; returns a message with its outcome, or with the reason why it failed.

    Raises:
        EOFError, ConnectionError: The coordinator is gone.
    """
    try:
        return WorkerMessage(kind=Progress.FINISHED, outcome=work())
    except (EOFError, ConnectionError):
        raise
    except NasAggError as error:
        return WorkerMessage(kind=Progress.FAILED, reason=getattr(error, "reason", None) or str(error))
    except Exception as error:  # whatever it is, the trial failed and the search continues; the log has the traceback
        traceback.print_exc()
        line = next(iter(str(error).splitlines()), "")
        # A CUDA error may leave the process unable to use its GPU; another process replaces it.
        exits = device.startswith("cuda")
        return WorkerMessage(kind=Progress.FAILED, reason=f"{type(error).__name__}: {line}", exits=exits)


def _exit_with(parent: int) -> None:
    """End this process within half a second of its parent, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


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


def load(config: WorkerConfig) -> Data:
    """Load the data."""
    from nas_agg.training.data import load_data

    return load_data(**config.data)


def train(job: AnyJob, data: Data, report: Report) -> TrialOutcome | FinalOutcome:
    """Train a trial or the final network."""
    import torch

    from nas_agg.study.workers.final_jobs import train_final
    from nas_agg.study.workers.jobs import train_trial

    try:
        if isinstance(job, TrialJob):
            return train_trial(job, data, report)
        assert isinstance(job, FinalJob)
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
