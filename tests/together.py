"""Processes that train together: `start` runs this file in each of them, as ``torchrun`` would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment that ``torchrun`` gives a process."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    return {
        **os.environ,
        **{name: str(value) for name, value in ranks.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }


def start(count: int, *command: str, **options: Any) -> list[subprocess.Popen]:
    """Start processes that run a command of Python together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen([sys.executable, *command], env=environment(rank, count, port), text=True, **options)
        for rank in range(count)
    ]


def run(count: int, *command: str) -> None:
    """Run a command of Python in several processes; all must succeed."""
    processes = start(count, *command, stderr=subprocess.PIPE)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
