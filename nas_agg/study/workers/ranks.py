"""One job done by several processes of this machine, each on a device of its own.

The process that has the job starts them, passes their reports on, and ends them together: once one has failed or died,
the others wait for it in vain. So a worker looks the same to its backend however many processes train a network.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from nas_agg.common.errors import ProcessLost
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.connection import receive, send
from nas_agg.study.workers.jobs import with_batch_that_fits
from nas_agg.study.workers.messages import (
    Envelope,
    FinalJob,
    FinalOutcome,
    Progress,
    Reply,
    TrialJob,
    TrialOutcome,
    WorkerMessage,
)
from nas_agg.training.data.images import Images, MappedImages
from nas_agg.training.outcome import TrainingFailed

if TYPE_CHECKING:
    from nas_agg.study.workers.jobs import Report
    from nas_agg.training.data import Data

RANK_COMMAND = (sys.executable, "-P", "-m", "nas_agg.study.workers.rank_process")
REASON_SECONDS = 3.0  # to wait, once a process has failed, for one that knows why
_SPLITS = ("train", "validation", "test")


def train_by_processes(
    job: TrialJob | FinalJob, data: Data | WorkerConfig, report: Report
) -> TrialOutcome | FinalOutcome:
    """Train a trial or the final network by as many processes as the job says.

    Args:
        job: The job.
        data: The data set, which the processes share; or its configuration, by which they load it.
        report: Takes the reports of the first process.

    Raises:
        TrainingFailed: The training failed in one of them.
        ProcessLost: One of them has died.
    """
    with tempfile.TemporaryDirectory(prefix="nas_agg-ranks-") as folder:
        if not isinstance(data, WorkerConfig):
            data = _with_shared_images(data, Path(folder))

        def train(job: TrialJob | FinalJob) -> Any:
            with tempfile.TemporaryDirectory(dir=folder) as meeting, _Ranks.start(job, data, meeting) as ranks:
                return ranks.run(report)

        if isinstance(job, FinalJob):
            outcome: FinalOutcome = train(job)
            return outcome
        return with_batch_that_fits(job, train)


def _with_shared_images(data: Data, folder: Path) -> Data:
    """A data set whose images are in files, which processes map."""
    mapped: dict[int, MappedImages] = {}

    def of(images: Images) -> MappedImages:
        if isinstance(images, MappedImages):
            return images
        if id(images) not in mapped:
            array, path = images.cpu().contiguous().numpy(), folder / f"{len(mapped)}.images"
            array.tofile(path)
            mapped[id(images)] = MappedImages(path, array.shape, array.dtype)
        return mapped[id(images)]

    splits = {name: getattr(data, name) for name in _SPLITS}
    return replace(data, **{name: replace(split, pixels=of(split.pixels)) for name, split in splits.items()})


@dataclass(frozen=True)
class _Rank:
    number: int
    process: subprocess.Popen
    connection: Connection


class _Ranks:
    """Processes that do a job together.

    Args:
        ranks: The processes.
    """

    def __init__(self, ranks: list[_Rank]):
        self._ranks = ranks

    @classmethod
    def start(cls, job: TrialJob | FinalJob, data: Data | WorkerConfig, meeting: str) -> Self:
        """Start the processes of a job, which meet in an empty folder."""
        threads = max(1, torch.get_num_threads() // job.processes)
        config = WorkerConfig(data=data.data if isinstance(data, WorkerConfig) else {}, threads=threads)
        kind, _, first = job.device.partition(":")
        ranks = cls([])
        try:
            for number in range(job.processes):
                device = kind if kind == "cpu" else f"{kind}:{int(first or 0) + number}"
                rank = _spawn(number, job.processes, config.threads, f"file://{meeting}/store")
                ranks._ranks.append(rank)
                with contextlib.suppress(OSError):  # it died: `run` notices
                    send(rank.connection, config.model_copy(update={"device": device}))
                    if not isinstance(data, WorkerConfig):
                        rank.connection.send_bytes(pickle.dumps(data))
                    send(rank.connection, Envelope(job=job.model_copy(update={"device": device})))
        except BaseException:
            ranks.end()
            raise
        return ranks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """End the processes."""
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.process.wait()
            rank.connection.close()

    def run(self, report: Report) -> TrialOutcome | FinalOutcome:
        """Pass reports on until all processes have done the job; returns the first one's outcome.

        Raises:
            TrainingFailed, ProcessLost: One of them has failed, or died.
        """
        running = {rank.connection: rank for rank in self._ranks}
        outcome: TrialOutcome | FinalOutcome | None = None
        failures: list[Exception] = []
        end: float | None = None
        while running and (end is None or time.monotonic() < end):
            left = None if end is None else max(0.0, end - time.monotonic())
            for connection in wait(list(running), left):
                assert isinstance(connection, Connection)
                rank = running[connection]
                message = _receive(rank)
                if isinstance(message, WorkerMessage) and message.kind == Progress.REPORT:
                    stop = bool(failures) or report(message.step, message.value)
                    with contextlib.suppress(OSError):
                        send(connection, Reply(stop=stop))
                elif not (isinstance(message, WorkerMessage) and message.kind == Progress.STARTED):
                    del running[connection]
                    if isinstance(message, WorkerMessage) and message.outcome is not None:
                        outcome = message.outcome if rank.number == 0 else outcome
                    else:
                        failures.append(_failure(message))
            if failures and end is None:
                end = time.monotonic() + REASON_SECONDS
        if failures:
            raise max(failures, key=lambda error: not isinstance(error, ProcessLost) or isinstance(error, _Died))
        assert outcome is not None
        return outcome


class _Died(ProcessLost):
    """A process has died itself, rather than for want of another."""


def _receive(rank: _Rank) -> WorkerMessage | _Died:
    """The next message of a process, or how it died."""
    try:
        return receive(rank.connection, WorkerMessage)
    except (EOFError, OSError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(1)
        rank.process.kill()  # it can say nothing any more
        status = rank.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        return _Died(f"process {rank.number + 1} of the training {how}")


def _failure(message: WorkerMessage | _Died) -> Exception:
    """The error that a process has met."""
    if isinstance(message, _Died):
        return message
    return ProcessLost(message.reason) if message.kind == Progress.LOST else TrainingFailed(message.reason)


def _spawn(number: int, count: int, threads: int, url: str) -> _Rank:
    own_end, rank_end = Pipe()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # it imports what this process imports
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    process = subprocess.Popen(
        [*RANK_COMMAND, str(rank_end.fileno()), str(number), str(count), url],
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=[rank_end.fileno()],
        process_group=0,  # signals are for the process that has the job
    )
    rank_end.close()
    return _Rank(number, process, own_end)
