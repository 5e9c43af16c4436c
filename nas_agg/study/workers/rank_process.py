"""One of several processes that do a job together; `nas_agg.study.workers.ranks` starts it.

It is started as ``python -m nas_agg.study.workers.rank_process FD RANK COUNT URL``, is sent a configuration, the data
set unless the configuration says how to load it, and a job, and ends after it.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import NasAggError, ProcessLost
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
from nas_agg.study.workers.process import limit_threads, load

if TYPE_CHECKING:
    from nas_agg.study.workers.jobs import Report
    from nas_agg.training.data import Data


def main() -> None:
    """Do one job."""
    connection = open_connection()
    rank, count, url = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with contextlib.suppress(EOFError, ConnectionError):
        config = receive(connection, WorkerConfig)
        limit_threads(config.threads)
        try:
            # What the parent process itself has made, through a pipe that nobody else has.
            data: Any = load(config) if config.data else pickle.loads(connection.recv_bytes())
        except NasAggError as error:
            return send(connection, WorkerMessage(kind=Progress.UNUSABLE, reason=str(error)))
        job = receive(connection, Envelope).job
        do_and_send(connection, job, lambda job, report: train(job, data, report, rank, count, url))


def train(job: AnyJob, data: Data, report: Report, rank: int, count: int, url: str) -> TrialOutcome | FinalOutcome:
    """Train together with the other processes.

    Args:
        job: The job; its device is this process's.
        data: The data set.
        report: Takes the reports of the first process.
        rank, count: Number of this process, and of all.
        url: Where they meet.

    Raises:
        ProcessLost: Another process has ended.
    """
    from nas_agg.study.workers.final_jobs import train_final
    from nas_agg.study.workers.jobs import train_at_batch_size
    from nas_agg.training.steps.processes import Processes, connected, is_lost_connection

    try:
        with connected(Processes(rank, count, rank, count), job.device, url) as processes:
            outcome: TrialOutcome | FinalOutcome
            if not processes.is_first:
                report = _report_nothing
            if isinstance(job, TrialJob):
                outcome = train_at_batch_size(job, data, report, processes)
            else:
                assert isinstance(job, FinalJob)
                metrics = train_final(job, data, report, processes=processes)
                outcome = FinalOutcome(uncompiled=metrics.get("uncompiled", ""))
            processes.share(None)  # the others wait until the first one has written everything
            return outcome
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise ProcessLost("another process of the training has ended") from error


def _report_nothing(epoch: int, value: float) -> bool:
    """What processes other than the first do with a report; whether to stop they hear from the first."""
    return False


if __name__ == "__main__":
    main()
