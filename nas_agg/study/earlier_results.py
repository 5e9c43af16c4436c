"""Reads the results of earlier runs that a new search learns from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.study.definition.notations import short_repr
from nas_agg.study.definition.trial import MEASURED, RecordState
from nas_agg.study.records.saved_run import read_saved_run

if TYPE_CHECKING:
    from nas_agg.study.definition.objectives import Objectives
    from nas_agg.study.definition.trial import TrialRecord

MAX_NETWORKS = 200  # of a run: its best and its latest ones


def read_earlier_runs(sources: Any) -> list[dict[str, Any]]:
    """The results of earlier runs.

    They are kept with the settings of the new search, so that it can be resumed without the earlier runs.

    Args:
        sources: One or several run folders, or what this function returned for them.

    Returns:
        For each run its folder in ``run``, and its ``networks`` with the ``values`` of their search variables and their
        ``metrics`` by attributes.

    Raises:
        InputError: One of them is not a run of a search, or has no results.
    """
    if isinstance(sources, str | os.PathLike | Mapping):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise InputError(f"learn: expected run folders, not {short_repr(sources)}")
    return [_read_run(source) for source in sources]


def _read_run(source: Any) -> dict[str, Any]:
    if isinstance(source, Mapping) and {"run", "networks"} == source.keys():
        return dict(source)
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"learn: expected a run folder, not {short_repr(source)}")
    try:
        run = read_saved_run(source)
    except InputError as error:
        raise InputError(f"learn: {error}") from None
    if run.settings is None:
        raise InputError(f"learn: {source}: the run folder of a standalone training, not of a search")
    # Results at rungs cannot be compared with those of full trainings.
    paused = any(trial.rungs for trial in run.trials)
    states = [RecordState.COMPLETE] if paused else [RecordState.COMPLETE, RecordState.PRUNED]
    trials = [trial for trial in run.trials if trial.state in states and trial.scores is not None]
    if not trials:
        raise InputError(f"learn: {source}: no network has a result")
    if len(trials) > MAX_NETWORKS:
        best = sorted(trials, key=lambda trial: trial.scores or (), reverse=True)[: MAX_NETWORKS // 2]
        chosen = {trial.number for trial in (*best, *trials[-MAX_NETWORKS // 2 :])}
        trials = [trial for trial in trials if trial.number in chosen]
    networks = [{"values": _values(trial), "metrics": _metrics(trial, run.objectives)} for trial in trials]
    return {"run": os.path.abspath(source), "networks": networks}


def _values(trial: TrialRecord) -> dict[str, Any]:
    """The values of a trial's search variables: labels of lists are JSON, integers of ranges are themselves."""
    return {
        name: json.loads(label) if isinstance(label, str) else label for name, label in sorted(trial.labels.items())
    }


def _metrics(trial: TrialRecord, objectives: Objectives) -> dict[str, float]:
    """All metrics of a trial, by their attributes."""
    metrics = {name: getattr(trial, name) for name in MEASURED if getattr(trial, name) is not None}
    return metrics | dict(zip((objective.attribute for objective in objectives), trial.values or (), strict=True))
