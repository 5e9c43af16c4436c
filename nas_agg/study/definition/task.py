"""The data set and devices of a search."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from nas_agg.common.console import format_classes
from nas_agg.common.errors import InputError
from nas_agg.training.datasets import FILE_KINDS

if TYPE_CHECKING:
    from nas_agg.search_space.space import Space
    from nas_agg.study.definition.settings import Settings

MACS_PER_THREAD = 10_000_000  # per image; with less work, threads wait for each other longer than they compute


class WorkerConfig(BaseModel):
    """Configuration of a worker process.

    Attributes:
        data: Arguments of :func:`nas_agg.training.data.load_data`.
        device: Device of its trainings, the first one of several.
        threads: Threads of its trainings.
        processes: Processes of each training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: dict[str, Any]
    device: str = "cpu"
    threads: int = 1
    processes: int = 1


@dataclass(frozen=True)
class Task:
    """A data set and the devices to train on.

    Attributes:
        about: A description in one line.
        data: Arguments of :func:`nas_agg.training.data.load_data`.
        input: Shape of the images (channels, height, width).
        classes: Number of classes.
        devices: Device of each worker, the first one of several.
        processes: Processes that train a network together.
        device_name: Name of the hardware.
        dataset_bytes: Bytes that the images take in a device's memory.
        dataset_digest: Checksum of the images.
        dataset: What is kept of the data set with the run, to notice when it changes.
        notes: Messages about what was done to the images.
        kind: Whether an image has one label, several, or numbers to predict.
    """

    about: str
    data: dict[str, Any]
    input: tuple[int, int, int]
    classes: int
    devices: tuple[str, ...]
    device_name: str
    dataset_bytes: int = 0
    dataset_digest: str = ""
    dataset: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kind: str = "classification"
    processes: int = 1

    def worker_configs(self) -> list[WorkerConfig]:
        """Configuration of each worker: one thread on a CPU, since there is a worker per core."""
        threads = processes = self.processes
        return [
            WorkerConfig(data=self.data, device=device, threads=threads, processes=processes) for device in self.devices
        ]

    def final_worker_config(self, macs: int) -> WorkerConfig:
        """Configuration of the final training's only worker: more threads, up to what the network's size justifies."""
        threads = max(self.processes, min(cores(), macs // MACS_PER_THREAD))
        return WorkerConfig(data=self.data, device=self.devices[0], threads=threads, processes=self.processes)

    def as_dict(self) -> dict[str, Any]:
        """Entries of run.json."""
        return {
            "data": self.data,
            "dataset": self.dataset,
            "input": self.input,
            "classes": self.classes,
            "device": self.devices[0].partition(":")[0],
            "device_name": self.device_name,
        }


def open_task(settings: Settings, space: Space) -> Task:
    """Load the data set, downloading it once for all workers if necessary, and inspect the machine.

    Raises:
        InputError: The data set, recipe, weights or device are unknown or unavailable.
    """
    import torch

    from nas_agg.compiler.fine_tuning import check_weights
    from nas_agg.training.data import load_data
    from nas_agg.training.evaluation import find_metric
    from nas_agg.training.loop import pick_device
    from nas_agg.training.optimizers import check_recipe
    from nas_agg.training.torch_compile import check_compiler

    for recipe in (settings.trial_recipe, settings.final_recipe):
        check_recipe(recipe)
    if settings.weights is not None:
        check_weights(settings.weights, settings.download)
    device = pick_device(settings.device)
    if settings.compile:
        check_compiler(str(device))  # now rather than after the search
    arguments = data_arguments(
        settings.dataset or "",
        settings.seed,
        settings.image_size,
        settings.resize,
        settings.crop_share,
        settings.skip_unreadable,
    )
    arguments["min_side"] = space.min_input
    if settings.processes_per_trial > 1 and settings.backend_name == "storage":
        raise InputError("gpus_per_trial: backend storage trains on one GPU per trial; use local, ray or slurm")
    if settings.compile and settings.sync_bn:
        raise InputError("sync_bn: not together with compile; leave one of them out")
    gpus = settings.gpus_per_trial
    devices = devices_of(settings.device, settings.workers, gpus) if settings.runs_here else (str(device),)
    data = load_data(**arguments, processes=1 + len(devices) * settings.processes_per_trial)
    for name in settings.trained_metrics([settings.main_metric, *(settings.objective or ())]):
        find_metric(name, data.task)
    size = "x".join(map(str, data.input))
    count = len(data.train) + len(data.validation) + len(data.test)
    return Task(
        about=f"{data.name} ({count:,} images {size}, {format_classes(data.classes)})",
        data=arguments,
        input=data.input,
        classes=data.classes,
        devices=devices,
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {cores()} cores",
        dataset_bytes=data.resident_bytes(str(device)),
        dataset_digest=data.digest,
        dataset=data.description(),
        notes=data.notes,
        kind=data.task,
        processes=settings.processes_per_trial,
    )


def data_arguments(
    dataset: str,
    seed: int,
    image_size: int | str | None,
    resize: str = "crop",
    crop_share: float | None = None,
    skip_unreadable: bool = False,
) -> dict[str, Any]:
    """A run's data set as arguments of :func:`nas_agg.training.data.load_data`, without those that are defaults."""
    arguments: dict[str, Any] = {"spec": dataset, "seed": seed, "image_size": image_size}
    if resize != "crop":
        arguments["resize"] = resize
    if crop_share is not None:
        arguments["crop_share"] = crop_share
    if skip_unreadable:
        arguments["skip_unreadable"] = True
    return arguments


def check_unchanged(run: dict[str, Any], path: str | os.PathLike[str], now: dict[str, Any]) -> None:
    """Refuse to continue a run whose data set has changed.

    Args:
        run: The contents of its run.json.
        path: Its folder.
        now: The data set, as by `nas_agg.training.data.Data.description`.

    Raises:
        InputError: The data set has changed; the message says how.
    """
    from nas_agg.training.data.dataset import differences

    if changes := differences(run.get("dataset") or now, now):
        spec = run.get("data", {}).get("spec", "its data set")
        raise InputError(
            f"{path}: {spec} has changed since the run began: {changes}; restore it, or begin another run (--out)"
        )


def devices_of(device: str, workers: int | None, gpus_per_trial: float | None = None) -> tuple[str, ...]:
    """The device of each worker process: by default one process per GPU, or up to two on a CPU.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` (all GPUs) or ``cuda:N``.
        workers: Number of processes; None or 0 for the default.
        gpus_per_trial: GPUs per trial. Of several, which are neighbours, a worker has the first one's name; with a
            fraction there are several workers per GPU by default.

    Raises:
        InputError: There is no such device, or there are fewer than a trial needs.
    """
    import torch

    from nas_agg.training.loop import pick_device

    chosen = pick_device(device)
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    devices = gpus if str(chosen) == "cuda" else [str(chosen)]
    together = int(max(1.0, gpus_per_trial or 0.0))
    if together > 1 and device != "cpu":
        count = len(devices) if chosen.type == "cuda" else 0
        if count < together:
            raise InputError(
                f"gpus_per_trial: a trial needs {together} GPUs; device '{device}' has {count} here; with cpu, "
                f"{together} processes share the CPU"
            )
        devices = devices[: len(devices) // together * together : together]
    elif chosen.type == "cuda" and gpus_per_trial:
        workers = workers or int(len(devices) / gpus_per_trial + 1e-6)
    count = workers or (max(1, min(2, cores() // together)) if chosen.type == "cpu" else len(devices))
    return tuple(devices[i % len(devices)] for i in range(count))


def dataset_spec(dataset: Any) -> Any:
    """The specification of a data set that Python code made, which other processes read; others are unchanged.

    Raises:
        InputError: It was read from files, whose options are unknown here.
    """
    if not hasattr(dataset, "spec"):
        return dataset
    if not dataset.spec.startswith("cache:"):
        raise InputError(f"dataset: specify '{dataset.spec}' by its name, with image_size and other options")
    return dataset.spec


def absolute(spec: str) -> str:
    """A data set's specification with its path, if any, made absolute, since a run may be resumed from anywhere."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(os.path.expanduser(path)).resolve()}" if kind in FILE_KINDS and path else spec


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
