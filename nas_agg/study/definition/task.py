"""What networks are trained on, and by how many hands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_agg.search_space.space import Space
    from nas_agg.study.definition.settings import Settings

MACS_A_THREAD = 10_000_000  # of an image; below, threads wait for each other longer than they work


@dataclass(frozen=True)
class Task:
    """A data set and the devices to train on.

    Attributes:
        about: One line for people.
        data: The arguments of :func:`nas_agg.training.data.load_data`.
        input: The images' shape (channels, height, width).
        classes: The number of classes.
        devices: The device of each worker.
        device_name: The hardware's own name.
        held: Bytes of its images.
        images: Their checksum.
    """

    about: str
    data: dict[str, Any]
    input: tuple[int, int, int]
    classes: int
    devices: tuple[str, ...]
    device_name: str
    held: int = 0
    images: str = ""

    def setups(self) -> list[dict[str, Any]]:
        """What each worker is told first: one thread on a CPU, since there is a worker for each core."""
        return [{"data": self.data, "device": device, "threads": 1} for device in self.devices]

    def final_setup(self, macs: int) -> dict[str, Any]:
        """What the one worker of the final training is told: it may have all cores, but small networks gain nothing."""
        threads = max(1, min(cores(), macs // MACS_A_THREAD))
        return {"data": self.data, "device": self.devices[0], "threads": threads}

    def as_dict(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {
            "data": self.data,
            "input": self.input,
            "classes": self.classes,
            "device": self.devices[0].partition(":")[0],
            "device_name": self.device_name,
        }


def open_task(settings: Settings, space: Space) -> Task:
    """Look at the data set, downloading it once for all workers if need be, and at the machine.

    Raises:
        InputError: The data set, recipe or device is unknown or not to be had.
    """
    import torch

    from nas_agg.training.data import load_data
    from nas_agg.training.loop import pick_device
    from nas_agg.training.recipes import get_recipe
    from nas_agg.training.torch_compile import check_compiler

    if settings.recipe is not None:
        get_recipe(settings.recipe)
    device = pick_device(settings.device)
    if settings.compile:
        check_compiler(str(device))  # now, and not when the search is over
    arguments: dict[str, Any] = {
        "spec": settings.dataset,
        "seed": settings.seed,
        "image_size": settings.image_size,
        "min_side": space.min_input,
    }
    data = load_data(**arguments)
    size = "x".join(map(str, data.input))
    count = len(data.train) + len(data.validation) + len(data.test)
    return Task(
        about=f"{data.name} ({count:,} images {size}, {data.classes} classes)",
        data=arguments,
        input=data.input,
        classes=data.classes,
        devices=devices_of(settings.device, settings.workers),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {cores()} cores",
        held=data.nbytes,
        images=data.digest,
    )


def devices_of(device: str, workers: int | None) -> tuple[str, ...]:
    """The device of each worker process: one process a GPU unless told, else 2 or the cores.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` (every one) or ``cuda:N``.
        workers: How many processes; 0 counts as unsaid.

    Raises:
        InputError: There is no such device.
    """
    import torch

    from nas_agg.training.loop import pick_device

    found = pick_device(device)
    every = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    devices = every if str(found) == "cuda" else [str(found)]
    count = workers or (min(2, cores()) if found.type == "cpu" else len(devices))
    return tuple(devices[i % len(devices)] for i in range(count))


def absolute(spec: str) -> str:
    """A data set's name with the path in it, if there is one, made absolute: a run may go on from anywhere."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(os.path.expanduser(path)).resolve()}" if kind in ("folder", "npz") and path else spec


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
