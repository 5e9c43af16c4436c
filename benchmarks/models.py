"""Our networks against torchvision's: training step, inference, bytes kept for backward, peak memory.

    python benchmarks/models.py [NETWORK ...] [--compiled] [--rounds 15] [--batch 4] [--side 96] [--threads 1]

Each round runs every variant once, in rotating order. A ratio is the median over rounds of a variant's time divided by
that of the first variant in the same round, with the 95 % interval of the median. Bytes are those of the allocator
(glibc's live bytes, since hooks on saved tensors miss caches): bytes kept for backward per image, and the peak of a
step above the level before it, including weight gradients. If there is a GPU, networks run there too, in bfloat16.
Each network is measured in a process of its own. `--compiled` adds variants under `torch.compile`, whose compilation
takes minutes. `--checks` only times how long mode lean checks that its modules are as they were built.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision import models

import nas_agg
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.rematerialization import MEMORY_MODES
from nas_agg.language.genotype import Genotype
from nas_agg.training.torch_compile import backend

NETWORKS = ("densenet/121", "residual/resnet50", "efficientnet/b0", "sparsenet/121-k32", "dsnet/dsnet50")
#: Points with an equivalent model in torchvision.
TORCHVISION: dict[str, Callable[..., nn.Module]] = {
    "densenet/121": models.densenet121,
    "residual/resnet50": models.resnet50,
    "efficientnet/b0": models.efficientnet_b0,
}
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt


class Variant(NamedTuple):
    """One variant of a network.

    Attributes:
        name: Its name in the table.
        network: The network, on the device.
        layout: Memory format of images.
        predicted: Bytes kept per image as predicted by `nas_agg cost`; None if there is no prediction.
    """

    name: str
    network: Callable[[torch.Tensor], torch.Tensor]
    layout: torch.memory_format
    predicted: float | None = None


class Measurement(NamedTuple):
    """Measurements of one variant; None where not measured."""

    name: str
    step: list[float]
    inference: list[float]
    kept: float | None
    peak: float | None
    predicted: float | None


# ---------------------------------------------------------------------- variants


def at_side(name: str, side: int | None) -> Genotype:
    """A point's genotype, for images of another size if specified."""
    genotype = nas_agg.load(name)
    return genotype.with_task(input=(genotype.input[0], side, side)) if side else genotype


def variants(name: str, options: argparse.Namespace, device: torch.device, training: bool) -> Iterator[Variant]:
    """The variants of a network; the first is the reference."""
    genotype = at_side(name, options.side)
    cost = Cost(expand(genotype))
    layouts = {"": torch.contiguous_format, " last": torch.channels_last}
    if device.type == "cuda":
        layouts = {" last": torch.channels_last}

    def ours(**settings: Any) -> nn.Module:
        return nas_agg.compile(genotype, 0, **settings).to(device)

    def predicted(memory: str) -> float | None:
        return cost.bytes_for_backward(memory, options.batch) if device.type == "cpu" else None

    for suffix, layout in layouts.items():
        if name in TORCHVISION:
            yield Variant(f"torchvision{suffix}", TORCHVISION[name]().to(device, memory_format=layout), layout)
            if training and name.startswith("densenet"):
                network = TORCHVISION[name](memory_efficient=True).to(device, memory_format=layout)
                yield Variant(f"torchvision memory_efficient{suffix}", network, layout)
    for memory in MEMORY_MODES if training else ("plain",):
        for suffix, layout in layouts.items():
            network = ours(memory=memory).to(memory_format=layout)
            yield Variant(f"{memory}{suffix}", network, layout, predicted(memory))
    if not training:
        yield Variant("fuse=True", ours(fuse=True), torch.contiguous_format)
    if options.compiled:
        yield from compiled_variants(name, ours, layouts, device, training)


def compiled_variants(
    name: str, ours: Callable, layouts: dict, device: torch.device, training: bool
) -> Iterator[Variant]:
    """The variants under `torch.compile`, in the last of the layouts."""
    suffix, layout = list(layouts.items())[-1]
    if name in TORCHVISION:
        theirs = TORCHVISION[name]().to(device, memory_format=layout)
        yield Variant(f"torchvision compiled{suffix}", torch.compile(theirs), layout)
    yield Variant(f"plain compiled{suffix}", torch.compile(ours().to(memory_format=layout)), layout)
    if training:
        for memory in MEMORY_MODES[1:]:
            network = torch.compile(ours().to(memory_format=layout), backend=backend(memory))
            yield Variant(f"{memory} compiled{suffix}", network, layout)


# ---------------------------------------------------------------------- memory


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "us", "fs", "uordblks", "fordblks", "keepcost")
    ]


def live_bytes(device: torch.device) -> int:
    """Bytes currently allocated."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Mallinfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def kept_bytes(step: Step) -> float:
    """Bytes per image kept for backward: everything allocated since before the images, without gradients."""
    kept = []
    for _ in range(2):
        step.run()
    for _ in range(2):
        gc.collect()
        before = live_bytes(step.device)
        loss = step.loss(step.images())
        kept.append((live_bytes(step.device) - before) / step.batch)
        loss.backward()
        del loss
    return min(kept)


def peak_bytes(step: Step) -> float:
    """Peak bytes of a step above the level before it, per image."""
    step.clear_gradients()
    gc.collect()
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.run()
        return (torch.cuda.max_memory_allocated() - before) / step.batch
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current level
    before = _resident_bytes("VmRSS")
    step.run()
    return (_resident_bytes("VmHWM") - before) / step.batch


def _resident_bytes(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return 1024 * int(match.group(1))


def return_freed_memory() -> None:
    """Configure malloc to map tensors individually, so that freed memory is no longer resident."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_MMAP_THRESHOLD, 65536)
    libc.mallopt(_TRIM_THRESHOLD, 65536)


# ---------------------------------------------------------------------- steps


class Step:
    """A training step or inference of a variant."""

    def __init__(self, variant: Variant, shape: tuple[int, ...], batch: int, device: torch.device):
        self.variant, self.shape, self.batch, self.device = variant, shape, batch, device
        self.labels = torch.zeros(batch, dtype=torch.long, device=device)
        self.x = self.images()

    def images(self) -> torch.Tensor:
        images = torch.randn(self.batch, *self.shape, device=self.device)
        return images.to(memory_format=self.variant.layout)

    def call(self, x: torch.Tensor) -> torch.Tensor:
        on_gpu = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext():
            return self.variant.network(x)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.call(x).float(), self.labels)

    def clear_gradients(self) -> None:
        for parameter in self.variant.network.parameters():  # type: ignore[attr-defined]
            parameter.grad = None

    def run(self) -> None:
        self.clear_gradients()
        self.loss(self.x).backward()

    def infer(self) -> None:
        with torch.inference_mode():
            self.call(self.x)


def time_rounds(work: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each function in each round, in rotating order; the first rounds are warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    order = list(work)
    for number in range(rounds + 2):
        order = order[1:] + order[:1]
        for name in order:
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            work[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number > 1:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def measure(name: str, options: argparse.Namespace, device: torch.device) -> list[Measurement]:
    """All measurements of a network on a device, except peak memory."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    shape = at_side(name, options.side).input
    results: dict[str, list[Any]] = {}
    steps = {}
    for variant in variants(name, options, device, training=True):
        variant.network.train()  # type: ignore[attr-defined]
        steps[variant.name] = Step(variant, shape, options.batch, device)
    times = time_rounds({name: step.run for name, step in steps.items()}, options.rounds, device)
    for label, step in steps.items():
        # The peak is measured separately.
        results[label] = [times[label], [], kept_bytes(step), None, step.variant.predicted]
        step.clear_gradients()
    inference = {}
    for variant in variants(name, options, device, training=False):
        variant.network.eval()  # type: ignore[attr-defined]
        inference[variant.name] = Step(variant, shape, options.batch, device).infer
    for label, seconds in time_rounds(inference, options.rounds, device).items():
        results.setdefault(label, [[], [], None, None, None])[1] = seconds
    return [Measurement(label, *values) for label, values in results.items()]


def peaks(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Peak bytes of a step of each variant, in a fresh process that returns freed memory."""
    torch.set_num_threads(options.threads)
    if device.type == "cpu":
        return_freed_memory()
    results = {}
    for variant in variants(name, options, device, training=True):
        variant.network.train()  # type: ignore[attr-defined]
        step = Step(variant, at_side(name, options.side).input, options.batch, device)
        step.run()
        results[variant.name] = peak_bytes(step)
        step.clear_gradients()
    return results


# ---------------------------------------------------------------------- table


def ratio(times: list[float], first: list[float]) -> str:
    """The median of paired ratios with its 95 % interval by order statistics."""
    if not times:
        return ""
    ratios = sorted(a / b for a, b in zip(times, first, strict=True))
    count = len(ratios)
    low = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    return f"{statistics.median(ratios):.2f} ({ratios[low]:.2f} to {ratios[count - 1 - low]:.2f})"


def row(measurement: Measurement, first: Measurement, batch: int) -> str:
    def milliseconds(times: list[float]) -> str:
        return f"{1000 * statistics.median(times) / batch:.1f}" if times else ""

    def megabytes(number: float | None) -> str:
        return "" if number is None else f"{number / 1e6:.1f}"

    kept = megabytes(measurement.kept)
    if measurement.predicted and measurement.kept:
        kept += f" (predicted {100 * (measurement.predicted / measurement.kept - 1):+.1f} %)"
    cells = [
        measurement.name,
        milliseconds(measurement.step),
        ratio(measurement.step, first.step),
        kept,
        f"{measurement.kept / first.kept:.3f}" if measurement.kept and first.kept else "",
        megabytes(measurement.peak),
        milliseconds(measurement.inference),
        ratio(measurement.inference, first.inference),
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = ("variant", "step ms", "ratio", "kept MB", "ratio", "peak MB", "inference ms", "ratio")


def print_module_checks(names: list[str]) -> None:
    """Print the CPU time per forward in which mode lean checks that its modules are as they were built."""
    for name in names:
        network = nas_agg.compile(name, seed=0, memory="lean")
        times = []
        for _ in range(50):
            began = time.process_time()
            for piece in network._rematerialized.pieces:
                assert not isinstance(piece.find_modules(network), str)
            times.append(time.process_time() - began)
        modules = sum(1 for _ in network.modules())
        print(f"{name}: {1000 * min(times):.2f} ms for {modules} modules (the fastest of {len(times)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, help="side of images (default: the network's own)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checks", action="store_true", help="only time the checks of modules in mode lean")
    parser.add_argument("--compiled", action="store_true", help="add variants under torch.compile")
    options = parser.parse_args()
    if options.checks:
        print_module_checks(options.networks)
        return
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    for name in options.networks:
        for device in devices:
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                results = pool.apply(measure, (name, options, device))
                peak = pool.apply(peaks, (name, options, device))
            results = [measurement._replace(peak=peak.get(measurement.name)) for measurement in results]
            print(f"\n{name} on {device}, batch {options.batch}; per image\n")
            print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
            for measurement in results:
                print(row(measurement, results[0], options.batch), flush=True)


if __name__ == "__main__":
    main()
