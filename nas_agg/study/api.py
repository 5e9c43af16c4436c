"""What a search is called with: a space, settings and a folder, checked before anything begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.search_space.space import Space, list_spaces, open_space
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.settings import RESUMABLE_SETTINGS, Settings, short_repr
from nas_agg.study.definition.task import absolute
from nas_agg.study.engine import Engine, Evaluate
from nas_agg.study.records.run_folder import RunFolder, read_run, resume_instructions
from nas_agg.study.records.run_status import Interrupted, stop_on_signal
from nas_agg.study.samplers.initial_points import initial_points
from nas_agg.study.samplers.searcher import Searcher, find_searcher
from nas_agg.study.tables.bare_parameters import ParameterSpace
from nas_agg.study.tables.results_table import TabularSpace

__all__ = ["Interrupted", "resume", "search"]

_OF_TRAINING = {"pruner", "memory", "compile", "max_latency", "latency_target", "min_accuracy", "max_loss"}


def search(
    space: str | os.PathLike[str] | Space | Mapping[str, Any],
    evaluate: Evaluate | None = None,
    searcher: str | type[Searcher] = "predictor",
    budget: int = 50,
    seed: int = 0,
    *,
    out: str | os.PathLike[str] | None = None,
    show: bool = False,
    **settings: Any,
) -> SearchResult:
    """Search a space.

    Without ``evaluate`` networks are trained on a data set by worker processes, and the best is trained in full and
    tested; the run is kept in a folder and goes on where it was if it was not finished. Networks of a space that has a
    table of results are looked up there instead, unless a data set is named. With ``evaluate`` that
    function is called here instead, one network at a time, and its values are maximised; the space's own limits do not
    hold, and a folder is kept only if ``out`` names one.

    Args:
        space: A space's name, a space file, a space or its text; with ``evaluate`` also open names alone, such as
            ``{"rate": {"from": 1, "to": 9}, "how": ["sum", "concat"]}``: it is given their values.
        evaluate: ``evaluate(genotype, trial) -> float``, or a tuple of several where ``objective`` names several that
            arithmetic does not know; ``trial`` is an Optuna trial, to report scores to and to raise
            ``optuna.TrialPruned`` by. An exception is a failed trial.
        searcher: A searcher's name, or a class of one.
        budget: Networks to evaluate.
        seed: Of everything random in the search.
        out: The run folder; ``runs/SPACE-DATASET-SEED`` unless told, when networks are trained.
        show: Whether to print how it goes.
        **settings: Further fields of :class:`~nas_agg.study.definition.settings.Settings`, such as
            ``dataset="cifar10"``, ``max_params="1M"``, ``workers=2``, ``timeout="2h"``;
            ``objective="accuracy,macs"``, of an own function also names of its own such as ``"error:min,macs"``;
            ``start``: the first networks, each a point's name, a genotype of the space as `nas_agg.load` takes it, or
            values.

    Raises:
        InputError: A setting is wrong, or ``out`` is a run with other settings.
        NasAggError: Ten networks in a row failed, or none gave a result.
        Interrupted: SIGINT or SIGTERM came and the run was kept.
    """
    if not isinstance(searcher, str) and not (isinstance(searcher, type) and issubclass(searcher, Searcher)):
        raise InputError(f"searcher: a name or a subclass of Searcher, not {short_repr(searcher)}")
    if evaluate is not None and not callable(evaluate):
        raise InputError(f"evaluate: a function, not {short_repr(evaluate)}")
    found, name = _opened(space)
    if evaluate is None and isinstance(found, ParameterSpace):
        raise InputError("space: names alone make no network that could be trained; give an evaluate function")
    if evaluate is None and isinstance(found, Space) and found.table and settings.get("dataset") is None:
        found = TabularSpace(found)
        settings |= _of_table(found, settings)
    if settings.get("start"):
        settings["start"] = initial_points(found, settings["start"])
        if isinstance(found, TabularSpace):
            found.check_contains(settings["start"])
    kind = searcher if isinstance(searcher, str) else f"{searcher.__module__}.{searcher.__qualname__}"
    said = {"space": name, "searcher": kind, "budget": budget, "seed": seed, **settings}
    wanted = _wanted(evaluate, said, isinstance(found, TabularSpace))
    proposes = find_searcher(searcher) if isinstance(searcher, str) else searcher
    if out is None and evaluate is None:
        on = Path(wanted.dataset).stem.replace(":", "-") if wanted.dataset else wanted.searcher
        out = Path("runs") / f"{found.name}-{on}-{seed}"
    if out is None and wanted.storage is not None:
        raise InputError("storage: give out as well, a folder for the run")
    run = Engine(found, wanted, proposes, evaluate, show)
    named = evaluate is None and not isinstance(space, Space | Mapping) and isinstance(searcher, str)
    if out is None:
        return run.search(None, named)
    folder = RunFolder(out)
    try:
        with stop_on_signal(folder):
            return run.search(folder, named)
    finally:
        folder.close()


def resume(path: str | os.PathLike[str], *, show: bool = False, **changes: Any) -> SearchResult:
    """Go on with a search of the command line's.

    Args:
        path: The run folder.
        show: Whether to print how it goes.
        **changes: ``workers``, ``timeout``, ``trial_timeout``, ``retries``, or a larger ``budget``, where they are to
            differ.

    Raises:
        InputError: There is no such run, a setting cannot change, or a part of the search is a Python object.
    """
    run = read_run(path)
    for name in changes.keys() - RESUMABLE_SETTINGS:
        raise InputError(f"{name}: cannot change when a search goes on; {', '.join(sorted(RESUMABLE_SETTINGS))} can")
    if "study" not in run:
        raise InputError(f"{path}: the folder of a training, not of a search")
    if not run.get("named"):
        raise InputError(f"{path}: a part of this search is a Python object; resume {resume_instructions(run, path)}")
    settings = dict(run["settings"]) | changes
    return search(settings.pop("space"), out=path, show=show, **settings)


def _of_table(space: TabularSpace, settings: dict[str, Any]) -> dict[str, Any]:
    """What a search of a table adds to its settings.

    Raises:
        InputError: One of them is of trainings.
    """
    trained = {"recipe": None, "image_size": None, "compile": False, "latency_target": None, "workers": 1}
    for name, none in trained.items():
        if settings.get(name) not in (None, none):
            raise InputError(
                f"{name}: {space.name} has a table of results; leave it out, or name a dataset to train on"
            )
    if settings.get("epochs") not in (None, space.epochs):
        raise InputError(f"epochs: those of the table are {space.epochs}; leave it out, or name a dataset to train on")
    return {"dataset": None, "workers": 1, "epochs": space.epochs}


def _wanted(evaluate: Evaluate | None, settings: dict[str, Any], table: bool = False) -> Settings:
    """The settings of a search, checked; paths in them are absolute."""
    if evaluate is not None:
        # The space's own limits are there to keep training short.
        settings = {"dataset": None, "workers": 1, "max_params": 0, "max_macs": 0} | settings
        if settings["workers"] != 1 or settings["dataset"] is not None:
            raise InputError("evaluate is called in this process: give it no dataset and no workers")
        for key in _OF_TRAINING & settings.keys():
            raise InputError(f"{key}: for networks that are trained here, not scored by evaluate; leave it out")
    wanted = Settings.parse(**settings)
    if evaluate is None and wanted.dataset is None and not table:
        raise InputError("dataset: name one, or give an evaluate function")
    return wanted.model_copy(update={"dataset": wanted.dataset and absolute(wanted.dataset)})


def _opened(space: str | os.PathLike[str] | Space | Mapping[str, Any]) -> tuple[Space | ParameterSpace, str]:
    """A space, and what run.json calls it: a file by its absolute path."""
    if isinstance(space, Space):
        return space, space.name
    if isinstance(space, Mapping):
        found = Space(space, "space") if "net" in space else ParameterSpace(space)
        return found, found.name
    if not isinstance(space, str | os.PathLike):
        raise InputError(f"space: a name, a file, a Space or open names, not {short_repr(space)}")
    name = os.fspath(space)
    return open_space(name), name if name in list_spaces() else str(Path(name).resolve())
