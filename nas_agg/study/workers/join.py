"""How a worker joins a search from anywhere: it finds the study, and sees that it can do the same as others do."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.records.run_folder import read_run
from nas_agg.study.records.storages import JOURNAL, open_storage, silence_optuna, storage_errors
from nas_agg.study.workers.agent import IDLE, StudyHandle, WorkerAgent, WorkerStopped
from nas_agg.study.workers.protocol import COORDINATOR, FINISHED, TASK, versions


def find(
    storage: str | None = None,
    study: str | None = None,
    run: str | os.PathLike[str] | None = None,
    wait: float = 0,
    say: Callable[[str], None] = lambda line: None,
) -> StudyHandle:
    """The study that is meant.

    Args:
        storage: An Optuna storage URL, or ``grpc://HOST:PORT``.
        study: Its name in the storage, with or without the letters at its end; it may be left out if the storage
            holds one unfinished study.
        run: A run folder that this machine can reach, in the place of both.
        wait: Seconds to wait for it, if it is not there yet.
        say: Takes a line if it must be waited for.

    Raises:
        InputError: There is no such storage, or no such study in it.
    """
    if (run is None) == (storage is None):
        raise InputError("name a storage (--storage URL --study NAME) or a run folder (--run RUN), one of them")
    end, said_so = time.monotonic() + wait, False
    while True:
        try:
            return _find(storage, study, run)
        except InputError as error:
            if time.monotonic() >= end:
                raise
            if not said_so:
                say(f"{error}; waiting")
            said_so = True
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


def _find(storage: str | None, study: str | None, run: str | os.PathLike[str] | None) -> StudyHandle:
    place = Path(run or ".")
    if run is not None:
        known = read_run(run)
        if "study" not in known:
            raise InputError(f"{run}: the folder of a training, not of a search")
        storage, study = known["settings"].get("storage"), known["study"]
        if storage is None and not (place / JOURNAL).exists():
            raise InputError(f"{run}: the search has not begun yet; wait for it with --wait")
    opened = open_storage(storage, place, must_exist=True)
    with storage_errors("cannot be read", kind=InputError), silence_optuna():
        found = opened.get_all_studies()
    every = {one.study_name: one for one in found}
    name = _chosen(study, {name: one.user_attrs for name, one in every.items()}, storage or str(run))
    attrs = every[name].user_attrs
    if TASK not in attrs:
        raise InputError(f"study {name}: no search that trains networks has it yet")
    return StudyHandle(opened, every[name]._study_id, name, attrs[TASK], None if run is None else place.resolve())


def _chosen(study: str | None, found: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """The one study of a name, or the one that is not finished."""
    if study is not None and study in found:
        return study
    ours = [name for name, attrs in found.items() if TASK in attrs]
    if study is not None:
        ours = [name for name in ours if re.fullmatch(re.escape(study) + "-[0-9a-f]{6}", name)]
        if not ours:
            raise InputError(f"{where}: holds no study '{study}'{did_you_mean(study, found)}")
    open = [name for name in ours if found[name].get(COORDINATOR, {}).get("state") != FINISHED]
    if not ours or len(open) > 1 or (not open and len(ours) > 1):
        names = ", ".join(open or ours)
        raise InputError(f"{where}: " + (f"name one by --study: {names}" if names else "holds no search yet"))
    return (open or ours)[0]


def check_versions(task: Mapping[str, Any]) -> None:
    """Refuse a search of other versions: its networks might be others here.

    Raises:
        InputError: What differs.
    """
    here = versions()
    for name, there in task["versions"].items():
        if here.get(name) != there:
            raise InputError(f"the search has {name} {there}, this machine {here.get(name)}; install that version here")


def setups_of(task: Mapping[str, Any], dataset: str | None, device: str, workers: int | None) -> list[dict[str, Any]]:
    """What this machine's worker processes are told; its images are compared with the search's.

    Raises:
        InputError: The data set or the device is not to be had, or the images are others.
    """
    from nas_agg.study.definition.task import absolute, devices_of
    from nas_agg.training.data import load_data

    data = {**task["data"], **({"spec": absolute(dataset)} if dataset else {})}
    devices = devices_of(device, workers)
    if load_data(**data).digest != task["images"]:
        raise InputError(f"{data['spec']}: its images are not those of the search ({task['about']}); name those")
    return [{"data": data, "device": device, "threads": 1} for device in devices]


def join(
    storage: str | None = None,
    study: str | None = None,
    run: str | os.PathLike[str] | None = None,
    *,
    dataset: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    wait: float = 0,
    idle: float = IDLE,
    say: Callable[[str], None] = print,
) -> None:
    """Train a search's trials until it is over.

    Args:
        storage, study, run, wait: See :func:`find`.
        dataset: In the place of the search's, where its files lie elsewhere here.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Trials at once; one a GPU unless told, else 2 or the cores.
        idle: Seconds without a coordinator after which it leaves.
        say: Takes lines about what happens.

    Raises:
        InputError: There is no such study, or it is another's: versions or images differ.
        NasAggError: The coordinator, the storage or the worker processes are gone.
        Left: A signal said to stop.
    """
    with stoppable():
        try:
            found = find(storage, study, run, wait, say)
            check_versions(found.task)
            setups = setups_of(found.task, dataset, device, workers)
        except Stopped as stopped:
            raise WorkerStopped(stopped.status, 0) from None
        WorkerAgent(found, setups, idle=idle, say=say).run()
