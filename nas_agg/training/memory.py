"""What a training step takes of a device's memory, what is free there, and which way of training fits.

Run as a program it prints the free bytes of the devices that it is given: asking CUDA takes some hundred megabytes of
the device for as long as the process lives that asks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from nas_agg.common.console import bytes_text
from nas_agg.graph.rematerialization import FLOAT, MEMORY

if TYPE_CHECKING:
    from nas_agg.expansion.costs import Cost

#: What may be asked for; auto is the first of the others that fits.
Asked = Literal["auto", "plain", "lean", "leanest"]

LIVE = 6  # largest live sets of the forward pass beside what is kept: gradients, workspaces, what is built again
STEP = 128 * 2**20  # bytes that a step takes of any network: the libraries' own
PROCESS = 512 * 2**20  # bytes of a worker before it trains: torch and its libraries, or its context on a GPU
ROOM = 0.9  # of what is free; the rest is the machine's


class MemoryChoice(NamedTuple):
    """A way of training.

    Attributes:
        memory: ``plain``, ``lean`` or ``leanest``.
        line: Why it is not plain, for people; else empty.
    """

    memory: str
    line: str = ""


def step_bytes(cost: Cost, memory: str, batch: int) -> int:
    """Predicted bytes at the peak of a training step in float32: weights, gradients, momentum, and all of the batch.

    Meant to be enough: measured steps on a CPU stay below. In bfloat16 about half of it is needed.

    Args:
        cost: The network's.
        memory: ``plain``, ``lean`` or ``leanest``.
        batch: Images a step.
    """
    an_image = cost.kept_bytes(memory, batch) + LIVE * cost.peak_bytes_inference
    return batch * an_image + 3 * FLOAT * cost.params + STEP


def choose(cost: Cost, batch: int, room: int | None, asked: str = "auto") -> MemoryChoice:
    """The way of training a network: the one asked for, or the first that fits into the room.

    Args:
        cost: The network's.
        batch: Images a step.
        room: Bytes that the training may take; None where nobody can tell.
        asked: ``auto`` or the way itself.
    """
    if asked != "auto" or room is None:
        return MemoryChoice("plain" if asked == "auto" else asked)
    for memory in MEMORY:
        if step_bytes(cost, memory, batch) <= room:
            break
    if memory == "plain":
        return MemoryChoice(memory)
    needs = bytes_text(step_bytes(cost, "plain", batch))
    line = f"memory {memory}: a plain step needs about {needs}, {bytes_text(max(room, 0))} are free"
    least = step_bytes(cost, memory, batch)
    return MemoryChoice(
        memory, line if least <= room else f"{line}; this one needs {bytes_text(least)}, and may run out"
    )


def room(free: int | None, workers: int = 0, held: int = 0) -> int | None:
    """Bytes that one training may take.

    Args:
        free: Bytes that are free on its device.
        workers: Processes that are yet to begin and share the device; 0: this process, which has begun.
        held: Bytes of the data set, which each process holds: as it is, joined, and with borders.
    """
    if free is None:
        return None
    return int(ROOM * free / max(1, workers)) - (PROCESS if workers else 0) - 3 * held


def free_bytes(device: str) -> int | None:
    """Bytes that are free for this process on ``cpu`` or a CUDA device; None where nobody can tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return free_of_machine()


def free_apart(devices: Sequence[str]) -> int | None:
    """The least that is free on one of some devices of a kind, without taking any of it."""
    if all(device == "cpu" for device in devices):
        return free_of_machine()
    command = [sys.executable, "-P", "-m", "nas_agg.training.memory", *dict.fromkeys(devices)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # it finds what this one finds
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment).stdout
        return min(int(line) for line in told.splitlines())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def free_of_machine(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that this process may still take; None where the system does not say.

    That is what the machine has to spare, or what the limits of the process's control groups leave, if it is less.

    Args:
        root: Where ``proc`` and ``sys`` lie.
    """
    try:
        words = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        available = 1024 * int(words["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return max(0, min([available, *_groups(root)]))


def _groups(root: Path) -> Iterator[int]:
    """What each control group around the process leaves, of both versions of them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and "memory" not in kinds.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        limit, used, cache = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if kinds
            else ("memory.max", "memory.current", "inactive_file")
        )
        own = base / path.strip("/")  # in a container this may be the path outside of it: then the base alone is there
        for place in {base, own, *[parent for parent in own.parents if base in parent.parents]}:
            try:
                most, taken = int((place / limit).read_text()), int((place / used).read_text())
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                yield most - taken + int(stat.get(cache, 0))  # what files may be dropped from memory is free
            except (OSError, ValueError):
                continue  # no limit, or no such group


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(free_bytes(name))
