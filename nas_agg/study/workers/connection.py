"""The connection of a worker process with the process that started it: messages as JSON, jobs and their ends."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from nas_agg.common.errors import NasAggError, ProcessLost
from nas_agg.study.workers.messages import (
    AnyJob,
    FinalOutcome,
    Progress,
    Reply,
    TrialOutcome,
    WorkerMessage,
)

if TYPE_CHECKING:
    from nas_agg.study.workers.jobs import Report

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


def open_connection() -> Connection:
    """The connection to the parent process, with which this one ends."""
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    return Connection(int(sys.argv[1]))


def do_and_send(connection: Connection, job: AnyJob, work: Work) -> None:
    """Do a job, and send its reports and its end.

    Raises:
        SystemExit: This process cannot be used any more.
    """
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
    except ProcessLost as error:
        return WorkerMessage(kind=Progress.LOST, reason=str(error))
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
