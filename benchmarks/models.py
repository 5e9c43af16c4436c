"""Our networks beside torchvision's in one run: training step, inference, bytes kept for backward, peak memory.

    python benchmarks/models.py [NETWORK ...] [--compiled] [--rounds 15] [--batch 4] [--side 96] [--threads 1]

A round runs every form once, in an order that turns; a ratio is the median over rounds of a form's time to that of the
first form in the same round, with the 95 % interval of that median. Bytes are the allocator's (glibc's live bytes, for
hooks on saved tensors miss caches): what backward keeps alive an image, and the peak of a step above what was there
before it, gradients of weights included. A GPU, where there is one, runs in bfloat16 as well.
Every network has a process of its own. `--compiled` adds forms under `torch.compile`, whose compilation takes minutes.
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
#: Points that are a model of torchvision's too, and that model.
THEIRS: dict[str, Callable[..., nn.Module]] = {
    "densenet/121": models.densenet121,
    "residual/resnet50": models.resnet50,
    "efficientnet/b0": models.efficientnet_b0,
}
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt


class Form(NamedTuple):
    """A network in one form.

    Attributes:
        name: What it is called in the table.
        network: On the device.
        layout: Of its images.
        predicted: Bytes kept an image, as `nas_agg cost` says them; None if it says none.
    """

    name: str
    network: Callable[[torch.Tensor], torch.Tensor]
    layout: torch.memory_format
    predicted: float | None = None


class Figures(NamedTuple):
    """What was measured of one form; None where it was not."""

    name: str
    step: list[float]
    inference: list[float]
    kept: float | None
    peak: float | None
    predicted: float | None


# ---------------------------------------------------------------------- the forms


def at_side(name: str, side: int | None) -> Genotype:
    """A point, on its own images or on others'."""
    genotype = nas_agg.load(name)
    return genotype.with_task(input=(genotype.input[0], side, side)) if side else genotype


def forms(name: str, options: argparse.Namespace, device: torch.device, training: bool) -> Iterator[Form]:
    """The forms of a network; the first is what the others are compared with."""
    genotype = at_side(name, options.side)
    cost = Cost(expand(genotype))
    layouts = {"": torch.contiguous_format, " last": torch.channels_last}
    if device.type == "cuda":
        layouts = {" last": torch.channels_last}

    def ours(**settings: Any) -> nn.Module:
        return nas_agg.compile(genotype, 0, **settings).to(device)

    def predicted(memory: str) -> float | None:
        return cost.bytes_for_backward(memory, options.batch) if device.type == "cpu" else None

    for said, layout in layouts.items():
        if name in THEIRS:
            yield Form(f"torchvision{said}", THEIRS[name]().to(device, memory_format=layout), layout)
            if training and name.startswith("densenet"):
                network = THEIRS[name](memory_efficient=True).to(device, memory_format=layout)
                yield Form(f"torchvision memory_efficient{said}", network, layout)
    for memory in MEMORY_MODES if training else ("plain",):
        for said, layout in layouts.items():
            network = ours(memory=memory).to(memory_format=layout)
            yield Form(f"{memory}{said}", network, layout, predicted(memory))
    if not training:
        yield Form("fuse=True", ours(fuse=True), torch.contiguous_format)
    if options.compiled:
        yield from compiled(name, ours, layouts, device, training)


def compiled(name: str, ours: Callable, layouts: dict, device: torch.device, training: bool) -> Iterator[Form]:
    """The forms under `torch.compile`, in the last of the layouts."""
    said, layout = list(layouts.items())[-1]
    if name in THEIRS:
        theirs = THEIRS[name]().to(device, memory_format=layout)
        yield Form(f"torchvision compiled{said}", torch.compile(theirs), layout)
    yield Form(f"plain compiled{said}", torch.compile(ours().to(memory_format=layout)), layout)
    if training:
        for memory in MEMORY_MODES[1:]:
            network = torch.compile(ours().to(memory_format=layout), backend=backend(memory))
            yield Form(f"{memory} compiled{said}", network, layout)


# ---------------------------------------------------------------------- memory


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "us", "fs", "uordblks", "fordblks", "keepcost")
    ]


def live_bytes(device: torch.device) -> int:
    """Bytes that the allocator has given out."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Mallinfo
    found = libc.mallinfo2()
    return found.uordblks + found.hblkhd


def kept_bytes(step: Step) -> float:
    """Bytes an image that are alive for backward: everything since before the images, but the gradients."""
    found = []
    for _ in range(2):
        step.run()
    for _ in range(2):
        gc.collect()
        before = live_bytes(step.device)
        loss = step.loss(step.images())
        found.append((live_bytes(step.device) - before) / step.batch)
        loss.backward()
        del loss
    return min(found)


def peak_bytes(step: Step) -> float:
    """The peak of a step above what was there before it, an image."""
    step.forget()
    gc.collect()
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.run()
        return (torch.cuda.max_memory_allocated() - before) / step.batch
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = _resident("VmRSS")
    step.run()
    return (_resident("VmHWM") - before) / step.batch


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found.group(1))


def give_back_at_once() -> None:
    """Lets malloc map every tensor by itself, so that what is freed is no longer resident."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_MMAP_THRESHOLD, 65536)
    libc.mallopt(_TRIM_THRESHOLD, 65536)


# ---------------------------------------------------------------------- steps


class Step:
    """Forward, loss and backward of a form, or its inference."""

    def __init__(self, form: Form, shape: tuple[int, ...], batch: int, device: torch.device):
        self.form, self.shape, self.batch, self.device = form, shape, batch, device
        self.labels = torch.zeros(batch, dtype=torch.long, device=device)
        self.x = self.images()

    def images(self) -> torch.Tensor:
        made = torch.randn(self.batch, *self.shape, device=self.device)
        return made.to(memory_format=self.form.layout)

    def call(self, x: torch.Tensor) -> torch.Tensor:
        on_gpu = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext():
            return self.form.network(x)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.call(x).float(), self.labels)

    def forget(self) -> None:
        for parameter in self.form.network.parameters():  # type: ignore[attr-defined]
            parameter.grad = None

    def run(self) -> None:
        self.forget()
        self.loss(self.x).backward()

    def infer(self) -> None:
        with torch.inference_mode():
            self.call(self.x)


def timed(work: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work in each round, in an order that turns; the first rounds warm up."""
    found: dict[str, list[float]] = {name: [] for name in work}
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
                found[name].append(time.perf_counter() - begin)
    return found


def measure(name: str, options: argparse.Namespace, device: torch.device) -> list[Figures]:
    """All that is measured of a network on a device."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    shape = at_side(name, options.side).input
    found: dict[str, list[Any]] = {}
    steps = {}
    for form in forms(name, options, device, training=True):
        form.network.train()  # type: ignore[attr-defined]
        steps[form.name] = Step(form, shape, options.batch, device)
    times = timed({name: step.run for name, step in steps.items()}, options.rounds, device)
    for label, step in steps.items():
        found[label] = [times[label], [], kept_bytes(step), None, step.form.predicted]  # the peak is measured apart
        step.forget()
    inference = {}
    for form in forms(name, options, device, training=False):
        form.network.eval()  # type: ignore[attr-defined]
        inference[form.name] = Step(form, shape, options.batch, device).infer
    for label, seconds in timed(inference, options.rounds, device).items():
        found.setdefault(label, [[], [], None, None, None])[1] = seconds
    return [Figures(label, *values) for label, values in found.items()]


def peaks(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """The peak of a step of each form, in a process that did nothing else, so that what is freed is given back."""
    torch.set_num_threads(options.threads)
    if device.type == "cpu":
        give_back_at_once()
    found = {}
    for form in forms(name, options, device, training=True):
        form.network.train()  # type: ignore[attr-defined]
        step = Step(form, at_side(name, options.side).input, options.batch, device)
        step.run()
        found[form.name] = peak_bytes(step)
        step.forget()
    return found


# ---------------------------------------------------------------------- the table


def ratio(times: list[float], first: list[float]) -> str:
    """The median of paired ratios with its 95 % interval, by ranks."""
    if not times:
        return ""
    ratios = sorted(a / b for a, b in zip(times, first, strict=True))
    count = len(ratios)
    low = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    return f"{statistics.median(ratios):.2f} ({ratios[low]:.2f} to {ratios[count - 1 - low]:.2f})"


def row(figures: Figures, first: Figures, batch: int) -> str:
    def milliseconds(times: list[float]) -> str:
        return f"{1000 * statistics.median(times) / batch:.1f}" if times else ""

    def megabytes(number: float | None) -> str:
        return "" if number is None else f"{number / 1e6:.1f}"

    kept = megabytes(figures.kept)
    if figures.predicted and figures.kept:
        kept += f" (predicted {100 * (figures.predicted / figures.kept - 1):+.1f} %)"
    cells = [
        figures.name,
        milliseconds(figures.step),
        ratio(figures.step, first.step),
        kept,
        f"{figures.kept / first.kept:.3f}" if figures.kept and first.kept else "",
        megabytes(figures.peak),
        milliseconds(figures.inference),
        ratio(figures.inference, first.inference),
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = ("form", "step ms", "ratio", "kept MB", "ratio", "peak MB", "inference ms", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, help="of the images (default: the network's own)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="forms under torch.compile too")
    options = parser.parse_args()
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    for name in options.networks:
        for device in devices:
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                found = pool.apply(measure, (name, options, device))
                peak = pool.apply(peaks, (name, options, device))
            found = [figures._replace(peak=peak.get(figures.name)) for figures in found]
            print(f"\n{name} on {device}, batch {options.batch}; all an image\n")
            print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
            for figures in found:
                print(row(figures, found[0], options.batch), flush=True)


if __name__ == "__main__":
    main()
