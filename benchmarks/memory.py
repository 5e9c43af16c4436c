"""Bytes kept for backward and time of a training step, beside torchvision's and beside the plain form, in one run.

    python benchmarks/memory.py [densenet/121 sparsenet/121-k32 microdense/60a115] [--rounds 7] [--batch 4]

Bytes are glibc's live heap bytes with what backward needs alive, less those before the images were made: they see what
hooks on saved tensors do not. A round steps every form once, in an order that turns; ratios are medians over rounds of
a form's time to that of the first form in the same round. One thread.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import time

import torch
from torch import nn
from torchvision import models

import nas_agg
from nas_agg.compiler import build
from nas_agg.costs import Cost
from nas_agg.expansion import expand
from nas_agg.lowering import MEMORY

#: Points that are a model of torchvision's too, and that model.
THEIRS = {
    "densenet/121": models.densenet121,
    "residual/resnet50": models.resnet50,
    "efficientnet/b0": models.efficientnet_b0,
}
LAYOUTS = {"nchw": torch.contiguous_format, "last": torch.channels_last}


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "us", "fs", "uordblks", "fordblks", "keepcost")
    ]


_libc = ctypes.CDLL("libc.so.6")
_libc.mallinfo2.restype = _Mallinfo


def live_bytes() -> int:
    """Bytes that malloc has given out."""
    found = _libc.mallinfo2()
    return found.uordblks + found.hblkhd


def images(shape: tuple[int, ...], count: int, layout: torch.memory_format) -> torch.Tensor:
    return torch.randn(count, *shape).to(memory_format=layout)


def kept_bytes(network: nn.Module, shape: tuple[int, ...], count: int, layout: torch.memory_format) -> float:
    """Bytes an image that are alive for backward: everything since before the images, but the gradients."""
    for _ in range(2):
        network(images(shape, count, layout)).sum().backward()
    found = []
    for _ in range(2):
        gc.collect()
        before = live_bytes()
        output = network(images(shape, count, layout))
        found.append((live_bytes() - before) / count)
        output.sum().backward()
        del output
    return min(found)


def step(network: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of forward, loss and backward."""
    for parameter in network.parameters():
        parameter.grad = None
    begin = time.perf_counter()
    nn.functional.cross_entropy(network(x), labels).backward()
    return time.perf_counter() - begin


def compare(name: str, rounds: int, batch: int) -> None:
    """Prints the forms of one network, each beside the first."""
    genotype = nas_agg.load(name)
    graph = expand(genotype)
    cost, shape = Cost(graph), graph.shapes[0]
    forms: dict[str, tuple[nn.Module, torch.memory_format]] = {}
    if name in THEIRS:
        forms["torchvision"] = THEIRS[name](weights=None), torch.contiguous_format
    for memory in MEMORY:
        for said, layout in LAYOUTS.items():
            network = build(graph, 0, memory=memory).to(memory_format=layout)
            forms[f"{memory} {said}"] = network, layout
    kept = {form: kept_bytes(network.train(), shape, batch, layout) for form, (network, layout) in forms.items()}
    labels = torch.randint(genotype.classes, (batch,))
    inputs = {form: images(shape, batch, layout) for form, (_, layout) in forms.items()}
    times: dict[str, list[float]] = {form: [] for form in forms}
    order = list(forms)
    for number in range(rounds + 1):
        order = order[1:] + order[:1]
        for form in order:
            seconds = step(forms[form][0], inputs[form], labels)
            if number:  # the first round warms up
                times[form].append(seconds)
    first = next(iter(forms))
    print(f"{name}, batch {batch}, {rounds} rounds; ratios to {first}")
    for form in forms:
        ratios = [a / b for a, b in zip(times[form], times[first], strict=True)]
        memory = form.split()[0]
        said = f"{cost.kept_bytes(memory, batch) / 1e6:9.2f}" if memory in MEMORY else " " * 9
        print(
            f"  {form:<14} {kept[form] / 1e6:8.2f} MB an image  predicted {said}  {kept[form] / kept[first]:6.3f}   "
            f"{statistics.median(times[form]):7.3f} s  "
            f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["densenet/121", "sparsenet/121-k32", "microdense/60a115"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        compare(name, options.rounds, options.batch)


if __name__ == "__main__":
    main()
