"""Memory of a training step: its predicted size, the free bytes of a device, and the memory mode that fits.

Run as a program, it prints the free bytes of the devices named on its command line: querying CUDA takes some hundred
megabytes of the device for the lifetime of the querying process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nas_agg.common.console import format_bytes
from nas_agg.graph.backward_plan import FLOAT_BYTES
from nas_agg.graph.rematerialization import MEMORY_MODES, MemoryMode, RequestedMemoryMode

if TYPE_CHECKING:
    from nas_agg.expansion.costs import Cost

LIVE_SETS = (
    6  # largest live sets of the forward pass beside the kept tensors: gradients, workspaces, recomputed tensors
)
STEP_OVERHEAD = 128 * 2**20  # bytes of a step that do not depend on the network: those of the libraries
PROCESS_OVERHEAD = 512 * 2**20  # bytes of a worker before it trains: torch and its libraries, or its context on a GPU
USABLE_SHARE = 0.9  # of the free bytes; the rest is left to the machine


class MemoryChoice(NamedTuple):
    """The memory mode of a training.

    Attributes:
        mode: ``plain``, ``lean`` or ``leanest``.
        message: The reason for a mode other than ``plain``, to be printed; else empty.
    """

    mode: MemoryMode
    message: str = ""


def step_bytes(cost: Cost, memory: MemoryMode, batch: int) -> int:
    """Predicted peak bytes of a training step in float32: weights, gradients, momentum and all that the batch needs.

    An upper estimate: measured steps on a CPU stay below it. In bfloat16 about half of it is needed.

    Args:
        cost: The network's.
        memory: ``plain``, ``lean`` or ``leanest``.
        batch: Images per step.
    """
    bytes_per_image = cost.bytes_for_backward(memory, batch) + LIVE_SETS * cost.peak_bytes_inference
    return batch * bytes_per_image + 3 * FLOAT_BYTES * cost.params + STEP_OVERHEAD


def choose_memory_mode(
    cost: Cost, batch: int, budget: int | None, requested: RequestedMemoryMode = "auto"
) -> MemoryChoice:
    """The requested memory mode, or for ``auto`` the first whose training step fits the budget.

    Args:
        cost: The network's.
        batch: Images per step.
        budget: Bytes available to the training; None if unknown.
        requested: ``auto`` or a mode.
    """
    if requested != "auto":
        return MemoryChoice(requested)
    if budget is None:
        return MemoryChoice("plain")
    for mode in MEMORY_MODES:
        if step_bytes(cost, mode, batch) <= budget:
            break
    if mode == "plain":
        return MemoryChoice(mode)
    plain_needs = format_bytes(step_bytes(cost, "plain", batch))
    message = (
        f"using memory mode '{mode}': a step in mode 'plain' needs about {plain_needs} and "
        f"{format_bytes(max(budget, 0))} are available"
    )
    needs = step_bytes(cost, mode, batch)
    if needs > budget:
        message += f"; '{mode}' needs {format_bytes(needs)} and may run out of memory"
    return MemoryChoice(mode, message)


def memory_budget(free: int | None, workers: int = 0, dataset_bytes: int = 0) -> int | None:
    """Bytes available to one training; None if unknown.

    Args:
        free: Free bytes of its device.
        workers: Worker processes that will share the device and have not started yet; 0 for a training in this process.
        dataset_bytes: Bytes of the data set, of which each process holds two copies at most: as read, and joined.
    """
    if free is None:
        return None
    return int(USABLE_SHARE * free / max(1, workers)) - (PROCESS_OVERHEAD if workers else 0) - 2 * dataset_bytes


def free_bytes(device: str) -> int | None:
    """Free bytes for this process on ``cpu`` or a CUDA device; None if unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return free_main_memory()


def free_bytes_in_subprocess(devices: Sequence[str]) -> int | None:
    """Smallest number of free bytes among devices of one kind, measured without taking any; None if unknown."""
    if all(device == "cpu" for device in devices):
        return free_main_memory()
    command = [sys.executable, "-P", "-m", "nas_agg.training.memory", *dict.fromkeys(devices)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # imports as this process does
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
        return min(int(line) for line in result.stdout.splitlines())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def free_main_memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory still available to this process; None if unknown.

    These are the machine's available bytes or those below the limits of the process's control groups (cgroups), if
    fewer.

    Args:
        root: The folder that contains ``proc`` and ``sys``.
    """
    try:
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        available = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return max(0, min([available, *_bytes_below_cgroup_limits(root)]))


def _bytes_below_cgroup_limits(root: Path) -> Iterator[int]:
    """Remaining bytes of each control group that contains the process, for cgroups v1 and v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit_file, usage_file, cache = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        own = base / path.strip("/")  # in a container this may be a path outside of it: then only the base exists
        for folder in {base, own, *[parent for parent in own.parents if base in parent.parents]}:
            try:
                limit, usage = int((folder / limit_file).read_text()), int((folder / usage_file).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield limit - usage + int(stat.get(cache, 0))  # cached files can be evicted
            except (OSError, ValueError):
                continue  # no limit, or no such group


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(free_bytes(name))
