"""Whether data fit into this machine's memory or on its disk, by arithmetic, before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

from nas_agg.common.errors import InputError

_MEMORY_SHARE = 0.8
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
    return total


def check_memory(what: str, needed: int, remedy: str) -> None:
    """Refuse data that do not fit.

    Args:
        what: What is to be read.
        needed: Bytes it takes, in all processes and with copies.
        remedy: What to do instead.

    Raises:
        InputError: They need more than 80 % of the memory.
    """
    available = machine_memory()
    if needed > _MEMORY_SHARE * available:
        raise InputError(
            f"{what}: needs {needed / 2**30:.1f} GiB of memory, this machine has {available / 2**30:.1f} GiB; {remedy}"
        )
