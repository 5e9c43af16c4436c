"""Measured latency of a network's forward pass."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from nas_agg.common.errors import InputError, explain_out_of_memory, truncate
from nas_agg.common.values import is_integer
from nas_agg.compiler import compile
from nas_agg.language.genotype import Genotype
from nas_agg.training.loop import pick_device

MAX_BATCH = 10**6
MIN_RUNS = 10  # timed passes, at least
WARMUP_RUNS = 3  # untimed passes before, at least


@dataclass(frozen=True)
class Latency:
    """The time of a forward pass: float32, eval mode, channels_last; times are in milliseconds.

    Attributes:
        median_ms: Median over passes.
        low_ms: First quartile.
        high_ms: Third quartile.
        minimum_ms: The fastest pass.
        runs: Number of timed passes.
        batch: Images per pass.
        device: ``cpu`` or ``cuda:N``.
        threads: CPU threads.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    minimum_ms: float
    runs: int
    batch: int
    device: str
    threads: int

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency."""
        return round(1000 * self.batch / self.median_ms, 2)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"images_per_second": self.images_per_second}

    def rows(self) -> list[tuple[str, str, str]]:
        """Rows of a table: name, value and explanation."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        where = f"on {self.device}{threads}, batch {self.batch}"
        return [
            (
                "latency",
                f"{self.median_ms:.4g} ms",
                f"a forward pass in eval mode, float32, {where}: median of {self.runs}",
            ),
            ("latency_quartiles", f"{self.low_ms:.4g} to {self.high_ms:.4g} ms", "first and third quartile"),
            ("latency_minimum", f"{self.minimum_ms:.4g} ms", "the fastest pass"),
            ("images_per_second", f"{self.images_per_second:,.1f}", "at the median latency"),
        ]


def latency(
    genotype: Genotype, *, device: str = "auto", batch: int = 1, threads: int | None = None, seconds: float = 2.0
) -> Latency:
    """Measure the latency of a genotype's network with random weights.

    Args:
        genotype: A genotype without search variables.
        device: auto, cpu, cuda or cuda:N.
        batch: Images per pass.
        threads: CPU threads; by default torch's own number.
        seconds: Time over which passes are measured, at least ten of them.

    Raises:
        InputError: The genotype is invalid, or there is no such device.
        NasAggError: Memory ran out.
    """
    if not isinstance(device, str):
        raise InputError(f"device: must be auto, cpu, cuda or cuda:N, not {truncate(repr(device))}")
    place = pick_device(device)
    cores = max(64, 4 * (os.cpu_count() or 1))
    for name, value, limit in (("batch", batch, MAX_BATCH), ("threads", 1 if threads is None else threads, cores)):
        if not is_integer(value) or not 1 <= value <= limit:
            raise InputError(f"{name}: must be an integer from 1 to {limit:,}, not {truncate(repr(value))}")
    with _threads(threads and int(threads)), explain_out_of_memory("latency"):
        return measure(compile(genotype, seed=0), genotype.input, device=place, batch=int(batch), seconds=seconds)


def measure(
    model: nn.Module,
    input: tuple[int, int, int],
    *,
    device: torch.device | str = "cpu",
    batch: int = 1,
    seconds: float = 2.0,
) -> Latency:
    """Measure the latency of a module; see `latency`.

    Args:
        model: The module; moved to the device and to channels_last, its mode is restored.
        input: Shape of an image (channels, height, width).
        device: The device.
        batch: Images per pass.
        seconds: Time over which passes are measured.
    """
    place, training = torch.device(device), model.training
    try:
        model.to(place, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        with torch.inference_mode(), explain_out_of_memory(f"latency: at batch size {batch}", "use a smaller batch"):
            images = torch.rand((batch, *input), generator=torch.Generator().manual_seed(0)).to(
                place, memory_format=torch.channels_last
            )
            time_pass = _time_on_cuda if place.type == "cuda" else _time_on_cpu
            _time_passes(lambda: time_pass(model, images), WARMUP_RUNS, seconds / 4)
            times = sorted(_time_passes(lambda: time_pass(model, images), MIN_RUNS, seconds))
    finally:
        model.train(training)
    low, median, high = (round(value, 4) for value in statistics.quantiles(times, n=4, method="inclusive"))
    name = "cpu" if place.type == "cpu" else f"cuda:{place.index or 0}"
    return Latency(median, low, high, round(times[0], 4), len(times), batch, name, torch.get_num_threads())


def _time_passes(run_once: Callable[[], float], min_runs: int, seconds: float) -> list[float]:
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < min_runs or time.perf_counter() < end:
        times.append(run_once())
    return times


def _time_on_cpu(model: nn.Module, images: torch.Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return 1000 * (time.perf_counter() - start)


def _time_on_cuda(model: nn.Module, images: torch.Tensor) -> float:
    with torch.cuda.device(images.device):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        model(images)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
