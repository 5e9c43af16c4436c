"""How long a network takes for a forward pass, measured."""

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
from nas_agg.compiler import compile
from nas_agg.language.genotype import Genotype
from nas_agg.training.loop import pick_device

MOST_IMAGES = 10**6  # a pass
LEAST = 10  # passes that are timed, at least
WARM = 3  # passes before, at least


@dataclass(frozen=True)
class Latency:
    """The time of a forward pass: float32, eval mode, channels_last; times are in milliseconds.

    Attributes:
        median_ms: The median of the passes.
        low_ms: A quarter of them took no longer.
        high_ms: Three quarters of them took no longer.
        minimum_ms: The fastest.
        runs: Passes that were timed.
        batch: Images a pass.
        device: ``cpu`` or ``cuda:N``.
        threads: Of the CPU.
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
        """By the median."""
        return round(1000 * self.batch / self.median_ms, 2)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"images_per_second": self.images_per_second}

    def rows(self) -> list[tuple[str, str, str]]:
        """For people: names, values and what they mean."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        where = f"on {self.device}{threads}, batch {self.batch}"
        return [
            (
                "latency",
                f"{self.median_ms:.4g} ms",
                f"a forward pass in eval mode, float32, {where}: median of {self.runs}",
            ),
            ("latency_quartiles", f"{self.low_ms:.4g} to {self.high_ms:.4g} ms", "the middle half of them"),
            ("latency_minimum", f"{self.minimum_ms:.4g} ms", "the fastest of them"),
            ("images_per_second", f"{self.images_per_second:,.1f}", "by the median"),
        ]


def latency(
    genotype: Genotype, *, device: str = "auto", batch: int = 1, threads: int | None = None, seconds: float = 2.0
) -> Latency:
    """Measures a genotype's network, with random weights.

    Args:
        genotype: A genotype without open names.
        device: auto, cpu, cuda or cuda:N.
        batch: Images a pass.
        threads: Of the CPU; torch's own number if unsaid.
        seconds: How long passes are timed; there are ten at least.

    Raises:
        InputError: It is no network, or there is no such device.
        NasAggError: Memory ran out.
    """
    if not isinstance(device, str):
        raise InputError(f"device: auto, cpu, cuda or cuda:N, not {truncate(repr(device))}")
    place = pick_device(device)
    cores = max(64, 4 * (os.cpu_count() or 1))
    for name, value, limit in (("batch", batch, MOST_IMAGES), ("threads", 1 if threads is None else threads, cores)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise InputError(f"{name}: 1 to {limit:,}, not {truncate(repr(value))}")
    with _threads(threads), explain_out_of_memory("latency"):
        return measure(compile(genotype, seed=0), genotype.input, device=place, batch=batch, seconds=seconds)


def measure(
    model: nn.Module,
    input: tuple[int, int, int],
    *,
    device: torch.device | str = "cpu",
    batch: int = 1,
    seconds: float = 2.0,
) -> Latency:
    """Measures a module; see `latency`.

    Args:
        model: Moved to the device and to channels_last; left in the mode it was in.
        input: The images' shape (channels, height, width).
        device: Where to work.
        batch: Images a pass.
        seconds: How long passes are timed.
    """
    place, training = torch.device(device), model.training
    try:
        model.to(place, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        with torch.inference_mode(), explain_out_of_memory(f"latency: at batch size {batch}", "give a smaller one"):
            images = torch.rand((batch, *input), generator=torch.Generator().manual_seed(0)).to(
                place, memory_format=torch.channels_last
            )
            clock = _on_cuda if place.type == "cuda" else _on_cpu
            _passes(lambda: clock(model, images), WARM, seconds / 4)
            times = sorted(_passes(lambda: clock(model, images), LEAST, seconds))
    finally:
        model.train(training)
    low, median, high = (round(value, 4) for value in statistics.quantiles(times, n=4, method="inclusive"))
    name = "cpu" if place.type == "cpu" else f"cuda:{place.index or 0}"
    return Latency(median, low, high, round(times[0], 4), len(times), batch, name, torch.get_num_threads())


def _passes(once: Callable[[], float], least: int, seconds: float) -> list[float]:
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < least or time.perf_counter() < end:
        times.append(once())
    return times


def _on_cpu(model: nn.Module, images: torch.Tensor) -> float:
    begun = time.perf_counter()
    model(images)
    return 1000 * (time.perf_counter() - begun)


def _on_cuda(model: nn.Module, images: torch.Tensor) -> float:
    with torch.cuda.device(images.device):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begun.record()
        model(images)
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
