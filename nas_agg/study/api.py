"""The entry points of a search: `search` and `resume`, which check their arguments before anything begins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from nas_agg.common.errors import InputError
from nas_agg.common.urls import without_password
from nas_agg.common.values import json_values
from nas_agg.search_space.joint_space import JointSpace
from nas_agg.search_space.space import Space, list_spaces, open_space
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.notations import short_repr
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.settings import RESUMABLE_SETTINGS, Settings
from nas_agg.study.definition.task import absolute, dataset_spec
from nas_agg.study.earlier_results import read_earlier_runs
from nas_agg.study.engine.run import run_search
from nas_agg.study.notifier import check_callbacks
from nas_agg.study.plan import Evaluate, plan_search
from nas_agg.study.records.run_folder import RunFolder, read_run, resume_instructions
from nas_agg.study.records.run_status import Interrupted, stop_on_signal
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.stored_runs import find_stored_run
from nas_agg.study.samplers.initial_points import initial_points
from nas_agg.study.samplers.sampler_objects import searcher_of
from nas_agg.study.samplers.searcher import Searcher, find_searcher
from nas_agg.study.tables.bare_parameters import ParameterSpace
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.workers.functions import check_not_importing

__all__ = ["Interrupted", "reattach", "resume", "search"]

_TRAINING_SETTINGS = {"pruner", "memory", "compile", "max_latency", "latency_target", "min_accuracy", "max_loss"}
_TRAINING_SETTINGS |= {"metric", "min_metric", "max_metric", "batch_size", "lr", "optimizer", "set", "backend"}
_TRAINING_SETTINGS |= {"ray_address", "slurm", "cpus_per_trial", "gpus_per_trial", "memory_per_trial", "sync_bn"}
_TRAINING_SETTINGS |= {"weights", "download"}


def search(
    space: str | os.PathLike[str] | Space | Mapping[str, Any],
    evaluate: Evaluate | None = None,
    searcher: str | type[Searcher] | BaseSampler = "predictor",
    budget: int = 50,
    seed: int = 0,
    *,
    out: str | os.PathLike[str] | None = None,
    show: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> SearchResult:
    """Search a space.

    Without ``evaluate``, worker processes train networks on a data set, and the best one is trained in full and tested;
    the run folder keeps the search, and an unfinished one is resumed. If the space has a table of results, networks are
    looked up there, unless a data set is specified. With ``evaluate``, that function is called in this process for one
    network at a time, or with ``workers`` in as many processes that import it, and its values are maximized; the
    space's own limits do not apply, and there is a run folder only if ``out`` is specified.

    Args:
        space: Name of a space, a space file, a space or its content; with ``evaluate`` also bare search variables such
            as ``{"rate": {"from": 1, "to": 9}, "how": ["sum", "concat"]}``, whose values the function receives.
        evaluate: ``evaluate(genotype, trial) -> float``, or a tuple if ``objective`` names several metrics that
            arithmetic does not know; ``trial`` is an Optuna trial, which takes reports. ``optuna.TrialPruned`` ends
            a trial early; any other exception is a failed trial.
        searcher: Name or class of a searcher, or a sampler of Optuna.
        budget: Number of networks to evaluate.
        seed: Seed of all randomness of the search.
        out: Run folder; when networks are trained, ``runs/SPACE-DATASET-SEED`` by default.
        show: Whether to print progress and the result.
        callbacks: Receive what happens in the search: see :class:`~nas_agg.study.definition.callbacks.Callback`.
        **settings: Further fields of :class:`~nas_agg.study.definition.settings.Settings`, such as
            ``dataset="cifar10"`` (or a `nas_agg.Data`), ``max_params="1M"``, ``workers=2``, ``timeout="2h"``;
            ``objective="accuracy,macs"``, for a function also its own metrics, such as ``"error:min,macs"``;
            ``start``: the first networks, each the name of a point, a genotype of the space as `nas_agg.load` takes
            it, or values of the search variables; ``learn``: folders of earlier runs.

    Raises:
        InputError: A setting is wrong, or the run in ``out`` has other settings.
        NasAggError: Ten trials in a row failed, or no network has a result.
        Interrupted: SIGINT or SIGTERM stopped the search, which can be resumed.
    """
    check_not_importing()
    if isinstance(searcher, BaseSampler):
        searcher = searcher_of(searcher)
    if not isinstance(searcher, str) and not (isinstance(searcher, type) and issubclass(searcher, Searcher)):
        raise InputError(
            f"searcher: expected a name, a subclass of Searcher or a sampler of Optuna, not {short_repr(searcher)}"
        )
    if evaluate is not None and not callable(evaluate):
        raise InputError(f"evaluate: expected a function, not {short_repr(evaluate)}")
    if "dataset" in settings:
        settings["dataset"] = dataset_spec(settings["dataset"])
    opened, space_name = _open(space)
    if evaluate is None and isinstance(opened, ParameterSpace):
        raise InputError("space: bare search variables make no network to train; specify an evaluate function")
    if evaluate is None and isinstance(opened, Space) and opened.table and settings.get("dataset") is None:
        opened = TabularSpace(opened)
        settings |= _table_settings(opened, settings)
    if settings.get("start"):
        settings["start"] = initial_points(opened, settings["start"])
        if isinstance(opened, TabularSpace):
            opened.check_contains(settings["start"])
    if settings.get("learn"):
        settings["learn"] = read_earlier_runs(settings["learn"])
    searcher_name = searcher if isinstance(searcher, str) else f"{searcher.__module__}.{searcher.__qualname__}"
    specified = {"space": space_name, "searcher": searcher_name, "budget": budget, "seed": seed, **settings}
    parsed = _parse(evaluate, specified, isinstance(opened, TabularSpace))
    if parsed.tuned:
        if not isinstance(opened, Space) or isinstance(opened, TabularSpace):
            raise InputError("tune: requires a space of networks that are trained")
        recipe = parsed.trial_recipe
        opened = JointSpace(opened, parsed.tuned, {name: getattr(recipe, name) for name in parsed.tuned})
    if parsed.weights is not None and parsed.final == 0:
        raise InputError("weights: the final training starts from them, and there is none; omit weights or final")
    plan = plan_search(
        opened,
        parsed,
        find_searcher(searcher) if isinstance(searcher, str) else searcher,
        evaluate,
        is_named=evaluate is None and not isinstance(space, Space | Mapping) and isinstance(searcher, str),
        callbacks=check_callbacks(callbacks),
    )
    if out is None and evaluate is None:
        out = _default_folder(opened.name, parsed)
    if out is None:
        if parsed.storage is not None:
            raise InputError("storage: requires a run folder; specify out as well")
        return run_search(plan, show=show)
    folder = RunFolder(out)
    try:
        with stop_on_signal(folder):
            return run_search(plan, folder, show)
    finally:
        folder.close()


def resume(
    path: str | os.PathLike[str],
    *,
    storage: str | None = None,
    show: bool = False,
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> SearchResult:
    """Resume a search of the command line.

    Args:
        path: The run folder.
        storage: The URL of the search's storage with its password, which is not kept.
        show: Whether to print progress and the result.
        callbacks: As for `search`.
        **changes: Settings to change: ``workers``, ``timeout``, ``trial_timeout``, ``retries``, a larger ``budget``, or
            ``weights`` if the final training is not finished.

    Raises:
        InputError: There is no such run, a setting cannot change, or a part of the search is a Python object.
    """
    run = read_run(path)
    for name in changes.keys() - RESUMABLE_SETTINGS:
        allowed = ", ".join(sorted(RESUMABLE_SETTINGS))
        raise InputError(f"{name}: cannot be changed when a search is resumed; only {allowed} can")
    if "study" not in run:
        raise InputError(f"{path}: the run folder of a standalone training, not of a search")
    if not run.get("named"):
        raise InputError(f"{path}: a part of this search is a Python object; resume {resume_instructions(run, path)}")
    settings = dict(run["settings"]) | changes
    if storage is not None:
        if without_password(storage) != settings["storage"]:
            raise InputError(f"storage: the run's is {settings['storage']}; it cannot change when a search is resumed")
        settings["storage"] = storage
    return search(settings.pop("space"), out=path, show=show, callbacks=callbacks, **settings)


def reattach(
    storage: str,
    study: str,
    *,
    out: str | os.PathLike[str] | None = None,
    show: bool = False,
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> SearchResult:
    """Resume a search whose run folder is gone, from its study in a database; the folder is made again.

    Args:
        storage: The URL of the storage.
        study: The study's name, with or without its random suffix.
        out: The run folder; by default ``runs/NAME`` with the name that it had.
        show: Whether to print progress and the result.
        callbacks: As for `search`.
        **changes: As for `resume`.

    Raises:
        InputError: There is no such study, the folder holds another run, or as for `resume`.
    """
    name, run = find_stored_run(open_storage(storage, Path(), must_exist=True), study, storage)
    path = Path("runs") / name if out is None else out
    folder = RunFolder(path)
    try:
        if folder.new:
            folder.restore(run)
        elif folder.run.get("study") != run["study"]:
            raise InputError(f"{path}: holds the run of another study than {run['study']}; choose another --out")
    finally:
        folder.close()
    return resume(path, storage=storage, show=show, callbacks=callbacks, **changes)


def _default_folder(space: str, settings: Settings) -> Path:
    """``runs/SPACE-DATASET-SEED``; for a table, the searcher stands in place of the data set."""
    task = Path(settings.dataset).stem.replace(":", "-") if settings.dataset else settings.searcher
    return Path("runs") / f"{space}-{task}-{settings.seed}"


def _table_settings(space: TabularSpace, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that follow from a table of results.

    Raises:
        InputError: A setting concerns trainings.
    """
    unset = ("recipe", "batch_size", "lr", "optimizer", "set", "tune", "image_size", "latency_target", "backend")
    defaults = dict.fromkeys((*unset, "weights")) | {"compile": False, "download": False, "workers": 1}
    for name, default in defaults.items():
        if settings.get(name) not in (None, default):
            raise InputError(f"{name}: {space.name} has a table of results; omit it, or specify a data set to train on")
    if settings.get("epochs") not in (None, space.epochs):
        raise InputError(f"epochs: the table has {space.epochs}; omit it, or specify a data set to train on")
    return {"dataset": None, "workers": 1, "epochs": space.epochs}


def _parse(evaluate: Evaluate | None, settings: dict[str, Any], has_table: bool = False) -> Settings:
    """Parse and check the settings of a search; paths become absolute."""
    if evaluate is not None:
        # The space's own limits are there to keep trainings short.
        settings = {"dataset": None, "workers": 1, "max_params": 0, "max_macs": 0} | settings
        if settings["dataset"] is not None:
            raise InputError("dataset: networks are trained on it; omit it with an evaluate function")
        if settings["workers"] == 0:
            raise InputError("workers: an evaluate function runs on this machine; specify 1 or more")
        for name in _TRAINING_SETTINGS & settings.keys():
            raise InputError(f"{name}: applies to trained networks only; omit it with an evaluate function")
    parsed = Settings.parse(**settings)
    if evaluate is None and parsed.dataset is None and not has_table:
        raise InputError("dataset: specify one, or an evaluate function")
    weights = parsed.weights
    if weights is not None and Path(weights).exists():
        weights = str(Path(weights).resolve())
    return parsed.model_copy(update={"dataset": parsed.dataset and absolute(parsed.dataset), "weights": weights})


def _open(space: str | os.PathLike[str] | Space | Mapping[str, Any]) -> tuple[Space | ParameterSpace, str]:
    """Open a space; returns its name for run.json as well, which is the absolute path of a file."""
    if isinstance(space, Space):
        return space, space.name
    if isinstance(space, Mapping):
        opened = Space(json_values(space), "space") if "net" in space else ParameterSpace(space)
        return opened, opened.name
    if not isinstance(space, str | os.PathLike):
        raise InputError(f"space: expected a name, a file, a Space or search variables, not {short_repr(space)}")
    name = os.fspath(space)
    return open_space(name), name if name in list_spaces() else str(Path(name).resolve())
