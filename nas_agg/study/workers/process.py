"""A worker process: builds, trains and reports what its coordinator sends, and knows nothing of the search.

It is started as ``python -m nas_agg.study.workers.process FD`` with its thread budget already in the environment, and
speaks JSON over the socket of that number. It ends when its coordinator does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import NasAggError

if TYPE_CHECKING:
    from nas_agg.study.workers.jobs import Report

    Work = Callable[[dict[str, Any], Report], dict[str, Any]]


def send(connection: Connection, message: dict[str, Any]) -> None:
    """Send one message."""
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """Wait for one message; raises EOFError when the other side is gone."""
    return json.loads(connection.recv_bytes())


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Do jobs until the coordinator is gone.

    Args:
        prepare: Called once with what all jobs share; gives what does a job: it takes the job and a function
            ``report(step, value)`` that says whether to stop, and gives the job's result.
    """
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            work = prepare(receive(connection))
        except NasAggError as error:
            return send(connection, {"is": "broken", "reason": str(error)})
        while True:
            _do(connection, receive(connection), work)


def _do(connection: Connection, job: dict[str, Any], work: Work) -> None:
    send(connection, {"is": "started"})
    stopped = False

    def report(step: int, value: float) -> bool:
        nonlocal stopped
        send(connection, {"is": "report", "step": step, "value": value})
        stopped = bool(receive(connection)["stop"])
        return stopped

    try:
        result = work(job, report)
    except (EOFError, ConnectionError):
        raise
    except NasAggError as error:
        send(connection, {"is": "failed", "reason": getattr(error, "reason", None) or str(error)})
    except Exception as error:  # whatever it is, the trial failed and the search goes on; the log has the rest
        traceback.print_exc()
        line = next(iter(str(error).splitlines()), "")
        # A GPU that has failed once fails this process for ever: another one takes its place.
        leaving = str(job.get("device", "")).startswith("cuda")
        send(connection, {"is": "failed", "reason": f"{type(error).__name__}: {line}", "leaving": leaving})
        if leaving:
            raise SystemExit(1) from error
    else:
        send(connection, {"is": "done", "stopped": stopped, "result": result})


def _die_with(parent: int) -> None:
    """End this process within half a second of its parent, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


# ---- the work of a search


def prepare(setup: dict[str, Any]) -> Work:
    """Load the data once; gives what trains a trial or the final network."""
    import torch

    torch.set_num_threads(setup["threads"])
    from nas_agg.training.data import load_data

    data = load_data(**setup["data"])

    from nas_agg.study.workers.jobs import train_in_full, train_trial

    def work(job: dict[str, Any], report: Report) -> dict[str, Any]:
        try:
            return (train_in_full if job["final"] else train_trial)(job, data, report)
        finally:
            if job["device"].startswith("cuda"):
                with contextlib.suppress(RuntimeError):  # a broken device says so again; the first fault is the one
                    torch.cuda.empty_cache()

    return work


if __name__ == "__main__":
    serve(prepare)
