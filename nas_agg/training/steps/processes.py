"""The processes that train one network together, as ``torchrun`` starts them, and what they tell each other."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nas_agg.common.errors import InputError, ProcessLost, is_out_of_memory

#: How long a process waits for the others, as while the first one evaluates; one that ended is noticed at once.
PATIENCE = timedelta(hours=6)
#: Seconds after which a process that is to end, but waits for one that has ended, is ended.
GRACE = 10.0


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        local_rank: Number of this process on its machine.
        local_count: Number of processes on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    _store: Any = field(default=None, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, prints and evaluates."""
        return self.rank == 0

    @property
    def keeps_store(self) -> bool:
        """Whether what the processes have in common ends with this process; under torchrun it does not."""
        return self.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(numbers)
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether a flag is true in any process."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor([int(flag)])) > 0)

    def share(self, value: Any) -> Any:
        """The first process's value, which is one of JSON."""
        if self.count == 1:
            return value
        return json.loads(self._share_bytes(json.dumps(value).encode() if self.is_first else b""))

    def share_state(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        """The first process's tensors and plain values by name, on the CPU; or None."""
        if self.count == 1:
            return state
        buffer = io.BytesIO()
        if self.is_first and state is not None:
            torch.save(state, buffer)
        content = self._share_bytes(buffer.getvalue())
        if self.is_first or not content:
            return state
        return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))

    def _share_bytes(self, content: bytes) -> bytes:
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0)
        tensor = torch.empty(int(size), dtype=torch.uint8)
        if self.is_first and content:
            tensor.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(tensor, 0)
        return tensor.numpy().tobytes()

    def ignore_termination(self) -> None:
        """Ignore SIGTERM from now on: torchrun sends it several times, and this process ends by itself."""
        if self.count > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def is_first_to_fail(self) -> bool:
        """Whether no other process has failed before, so that this one reports why."""
        try:
            return self._store is None or self._store.add("nas_agg/failed", 1) == 1
        except (RuntimeError, OSError):  # the store was the first process's, which has ended
            return True


ONE_PROCESS = Processes()


def started_processes() -> Processes:
    """The processes that ``torchrun`` or the like has started, by the environment.

    Raises:
        InputError: The environment is incomplete.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ:
        return ONE_PROCESS
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_count = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    except ValueError:
        values = ", ".join(f"{name}={os.environ[name]!r}" for name in names if name in os.environ)
        raise InputError(f"environment: not numbers: {values}; start the processes with torchrun") from None
    return Processes(rank, count, local_rank, local_count)


def device_of(processes: Processes, device: str) -> str:
    """The device of this process: with several on a machine, each takes the GPU of its number there.

    Args:
        processes: The processes.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: A single GPU is specified, or there are fewer than processes.
    """
    if processes.count == 1 or device == "cpu":
        return device
    gpus = torch.cuda.device_count()
    if device == "auto" and not gpus:
        return "cpu"
    if device not in ("auto", "cuda"):
        raise InputError(f"device '{device}': {processes.count} processes take a GPU each; use auto, cuda or cpu")
    if processes.local_count > gpus:
        raise InputError(f"{processes.local_count} processes on a machine with {gpus} GPUs; start {gpus}, or use cpu")
    return f"cuda:{processes.local_rank}"


@contextlib.contextmanager
def connected(processes: Processes, device: str, url: str = "env://") -> Iterator[Processes]:
    """Connect this process with the others, until the context ends without an error.

    Args:
        processes: The processes, not connected yet.
        device: The device of this process.
        url: Where they meet: by default the address in the environment; or a file, as `torch.distributed` names it.
    """
    from torch.distributed.rendezvous import rendezvous

    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.set_device(device)
    store, rank, count = next(rendezvous(url, processes.rank, processes.count, timeout=timedelta(minutes=10)))
    # torchrun may start processes again with the store of those that ended, where their addresses are.
    store = dist.PrefixStore(f"nas_agg/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    yield Processes(rank, count, processes.local_rank, processes.local_count, store)
    dist.destroy_process_group()


@contextlib.contextmanager
def joined(processes: Processes, device: str) -> Iterator[Processes]:
    """Connect this process with the others; within the context an error is reported by one of them alone.

    Once another process has ended, this one ends as well: its error is `ProcessLost`. Since kernels of a GPU wait for
    ever, it is ended some seconds after a signal.

    Args:
        processes: The processes, not connected yet.
        device: The device of this process.

    Raises:
        ProcessLost: Another process has ended.
        SystemExit: Another process reports why the training ended.
    """
    if processes.count == 1:
        yield processes
        return
    together: Processes | None = None
    try:
        with _ended_by_signals(), connected(processes, device) as together:
            yield together
    except BaseException as error:
        processes.ignore_termination()
        lost = is_lost_connection(error)
        if lost or not isinstance(error, Exception):
            _end_later(1)  # should something wait for the others
        if lost:
            time.sleep(0.5)  # whoever failed for a reason of its own reports it
        if together is not None:
            if not together.is_first_to_fail():
                raise SystemExit(getattr(error, "status", 1)) from None
            if not lost and together.keeps_store:
                dist.destroy_process_group()  # the others notice
                time.sleep(2)  # and ask the store whether they are to report it
        if lost:
            raise ProcessLost(
                "another process of the training has ended; repeat the command to resume from the last checkpoint"
            ) from None
        raise


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process does not answer any more."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def _end_later(status: int) -> None:
    """End this process after some seconds, if it has not ended by itself."""

    def end() -> None:
        time.sleep(GRACE)
        os._exit(status)

    threading.Thread(target=end, daemon=True).start()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the context, SIGTERM and SIGINT end this process after some seconds, even if it waits for others.

    Python's own handlers do not run as long as the main thread waits in a collective operation.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while arrived := reading.recv(1):
                if arrived[0] in (signal.SIGTERM, signal.SIGINT):
                    _end_later(128 + arrived[0])
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writing.close()
        sys.stdout.flush()
