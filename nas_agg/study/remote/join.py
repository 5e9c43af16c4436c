"""Locates a study and validates versions and data before a remote worker joins it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.definition.task import WorkerConfig, absolute, devices_of
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.run_folder import read_run
from nas_agg.study.records.storages import open_storage, silence_optuna, storage_errors
from nas_agg.study.remote.agent import PollSettings, WorkerAgent, WorkerStopped
from nas_agg.study.remote.connection import StudyHandle
from nas_agg.study.workers.protocol import COORDINATOR, FINISHED, TASK, version_difference


def join_study(
    storage: str | None = None,
    study: str | None = None,
    run: str | os.PathLike[str] | None = None,
    *,
    dataset: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    wait: float = 0,
    idle: float = PollSettings.idle,
    print_line: Callable[[str], None] = print,
) -> None:
    """Train trials of a study until its search has finished.

    Args:
        storage, study, run, wait: See :func:`locate_study`.
        dataset: Overrides the search's data set, if its files are elsewhere on this machine.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Trials at once; by default one per GPU, or up to two on a CPU.
        idle: Seconds without a coordinator after which the worker leaves.
        print_line: Receives lines about events.

    Raises:
        InputError: There is no such study, or its versions or images differ from this machine's.
        NasAggError: The coordinator, the storage or the worker processes are gone.
        WorkerStopped: A signal stopped the worker.
    """
    with stoppable():
        try:
            handle = locate_study(storage, study, run, wait, print_line)
            check_versions(handle.task)
            configs = worker_configs(handle.task, dataset, device, workers)
        except Stopped as stopped:
            raise WorkerStopped(stopped.status, 0) from None
        WorkerAgent(handle, configs, poll=PollSettings(idle=idle), print_line=print_line).run()


def locate_study(
    storage: str | None = None,
    study: str | None = None,
    run: str | os.PathLike[str] | None = None,
    wait: float = 0,
    print_line: Callable[[str], None] = lambda line: None,
) -> StudyHandle:
    """Locate a study, by a storage and a name or by a run folder.

    Args:
        storage: An Optuna storage URL, or ``grpc://HOST:PORT``.
        study: Name of the study, with or without its random suffix; may be omitted if the storage holds exactly one
            unfinished study.
        run: A run folder that this machine can access, in place of both.
        wait: Seconds to wait for a study that does not exist yet.
        print_line: Receives a line if it must wait.

    Raises:
        InputError: There is no such storage, or no such study in it.
    """
    if (run is None) == (storage is None):
        raise InputError("specify either a storage (--storage URL --study NAME) or a run folder (--run RUN)")
    end, is_announced = time.monotonic() + wait, False
    while True:
        try:
            return _locate(storage, study, run)
        except InputError as error:
            if time.monotonic() >= end:
                raise
            if not is_announced:
                print_line(f"{error}; waiting")
            is_announced = True
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


def _locate(storage: str | None, study: str | None, run: str | os.PathLike[str] | None) -> StudyHandle:
    folder = Path(run or ".")
    if run is not None:
        content = read_run(run)
        if "study" not in content:
            raise InputError(f"{run}: the run folder of a standalone training, not of a search")
        storage, study = content["settings"].get("storage"), content["study"]
        if storage is None and not (folder / JOURNAL).exists():
            raise InputError(f"{run}: the search has not started yet; wait for it with --wait")
    opened = open_storage(storage, folder, must_exist=True, for_worker=True)
    with storage_errors("cannot be read", kind=InputError), silence_optuna():
        summaries = opened.get_all_studies()
    studies = {summary.study_name: summary for summary in summaries}
    name = _choose(study, {name: summary.user_attrs for name, summary in studies.items()}, storage or str(run))
    attrs = studies[name].user_attrs
    if TASK not in attrs:
        raise InputError(f"study {name}: not used by a search that trains networks yet")
    return StudyHandle(opened, studies[name]._study_id, name, attrs[TASK], None if run is None else folder.resolve())


def _choose(name: str | None, studies: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """The study of a name or, without a name, the only one that is unfinished."""
    if name is not None and name in studies:
        return name
    candidates = [study for study, attrs in studies.items() if TASK in attrs]
    if name is not None:
        candidates = [study for study in candidates if re.fullmatch(re.escape(name) + "-[0-9a-f]{6}", study)]
        if not candidates:
            raise InputError(f"{where}: no study '{name}'{did_you_mean(name, studies)}")
    unfinished = [study for study in candidates if studies[study].get(COORDINATOR, {}).get("state") != FINISHED]
    choice = unfinished or candidates
    if not choice:
        raise InputError(f"{where}: no search uses it yet")
    if len(choice) > 1:
        raise InputError(f"{where}: several studies; choose one with --study: {', '.join(choice)}")
    return choice[0]


def check_versions(task: Mapping[str, Any]) -> None:
    """Refuse a search of other versions, whose networks might differ here.

    Raises:
        InputError: A version differs.
    """
    if difference := version_difference(task["versions"]):
        raise InputError(difference)


def worker_configs(
    task: Mapping[str, Any], dataset: str | None, device: str, workers: int | None
) -> list[WorkerConfig]:
    """Configurations of this machine's worker processes; compares its images with the search's.

    Raises:
        InputError: The data set or the device is unavailable, or the images differ.
    """
    from nas_agg.training.data import load_data

    data = {**task["data"], **({"spec": absolute(dataset)} if dataset else {})}
    devices = devices_of(device, workers)
    if load_data(**data).digest != task["dataset_digest"]:
        raise InputError(f"{data['spec']}: its images differ from those of the search ({task['about']})")
    return [WorkerConfig(data=data, device=device) for device in devices]
