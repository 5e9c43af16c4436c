"""A run as it is saved: its settings, trials, reported values and times, read without changing anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.display import Displayed
from nas_agg.common.errors import InputError
from nas_agg.study.definition.objectives import Objectives, objectives_of
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.trial import OWN, RecordState, TrialRecord, as_record
from nas_agg.study.definition.trial_rows import trials_frame
from nas_agg.study.records.consistency import check_best, check_trials
from nas_agg.study.records.journal import JOURNAL, RunJournal
from nas_agg.study.records.run_folder import check_finished, read_metrics, read_run
from nas_agg.study.records.storages import open_storage, storage_errors
from nas_agg.study.records.trials_table import Row, read_trials_table

if TYPE_CHECKING:
    import pandas
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage


@dataclass(frozen=True)
class SavedTrial:
    """A trial with what a search stores beside its result.

    Attributes:
        record: The trial.
        reports: The values that it reported, by epoch.
        created: When it was created.
        ended: When its result was stored; None while it has none.
    """

    record: TrialRecord
    reports: Mapping[int, float]
    created: datetime | None
    ended: datetime | None


@dataclass(frozen=True, repr=False)
class SavedRun(Displayed):
    """A search or a standalone training in a run folder.

    Attributes:
        path: The run folder.
        run: The contents of run.json.
        settings: The settings of a search; None for a standalone training.
        objectives: The objectives of a search.
        saved: The trials of a search, by number.
        distributions: The search variables of a search that has trials.
        metrics: The contents of best/metrics.json; None while there is no final network.
    """

    path: Path
    run: Mapping[str, Any]
    settings: Settings | None
    objectives: Objectives
    saved: tuple[SavedTrial, ...]
    distributions: Mapping[str, BaseDistribution]
    metrics: Mapping[str, Any] | None

    def __repr__(self) -> str:
        return f"SavedRun('{self.path}', {self.run['status']}, {len(self.saved)} trials)"

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.path.resolve().name

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials, by number."""
        return [trial.record for trial in self.saved]

    @property
    def is_tested(self) -> bool:
        """Whether there is a final network with test metrics."""
        return self.metrics is not None and "test_loss" in self.metrics

    def to_dataframe(self) -> pandas.DataFrame:
        """All trials as a pandas DataFrame: state, metrics, seconds, hash and values of the search variables.

        Raises:
            InputError: pandas is not installed.
        """
        return trials_frame(self.trials, self.objectives)


def read_saved_run(path: str | os.PathLike[str]) -> SavedRun:
    """Read a run, which may be in progress; nothing is written.

    Args:
        path: The run folder.

    Raises:
        InputError: There is no such run, or a part of it is missing or damaged.
    """
    folder, run = Path(path), read_run(path)
    if "study" not in run:
        return SavedRun(folder, run, None, Objectives(), (), {}, _metrics(folder, run))
    settings = Settings.parse(**run["settings"])
    rows, stored = read_trials_table(folder), _stored_trials(folder, run, settings)
    objectives = objectives_of(settings, _is_evaluated_by_function(run, settings, stored))
    saved, metrics = _checked(folder, run, rows, stored, objectives), _metrics(folder, run)
    if run["status"] == "finished":
        check_best(folder, metrics, [trial.record for trial in saved])
    return SavedRun(
        path=folder,
        run=run,
        settings=settings,
        objectives=objectives,
        saved=saved,
        distributions=stored[0].distributions if stored else {},
        metrics=metrics,
    )


def read_saved_trials(folder: Path, run: Mapping[str, Any], objectives: Objectives) -> list[TrialRecord]:
    """The trials of a search, which may be in progress.

    Args:
        folder: The run folder.
        run: The contents of its run.json.
        objectives: The objectives of the search.

    Raises:
        InputError: The study is missing or damaged.
    """
    rows = read_trials_table(folder)
    stored = _stored_trials(folder, run, Settings.parse(**run["settings"]))
    return [trial.record for trial in _checked(folder, run, rows, stored, objectives)]


def _checked(
    folder: Path, run: Mapping[str, Any], rows: Sequence[Row], stored: Sequence[FrozenTrial], objectives: Objectives
) -> tuple[SavedTrial, ...]:
    """The trials of a study, compared with the table of trials, which was read before."""
    saved = tuple(_saved(trial, objectives) for trial in stored)
    if stored or rows:
        where = run["settings"].get("storage") or str(folder / JOURNAL)
        check_trials(folder, run, rows, [trial.record for trial in saved], where)
    return saved


def _is_evaluated_by_function(run: Mapping[str, Any], settings: Settings, trials: list[FrozenTrial]) -> bool:
    """Whether a user's function evaluated the networks, rather than a training or a table of results."""
    if not run.get("evaluate") or run.get("named"):
        return False
    return settings.objective is not None or not any(OWN + "accuracy" in trial.user_attrs for trial in trials)


def _metrics(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    best = folder / "best"
    if not os.path.lexists(best):
        return None
    check_finished(folder, run)
    return read_metrics(best, tested=not run.get("evaluate") and run["settings"].get("final", 1) > 0)


def open_study(run: SavedRun) -> tuple[BaseStorage, int]:
    """The storage of a search, to be read only, and the ID of its study.

    Raises:
        InputError: The run is no search, or its study is missing.
    """
    if run.settings is None:
        raise InputError(f"{run.path}: the run folder of a standalone training, not of a search")
    found = _find_study(run.path, run.run, run.settings)
    if found is None:
        raise InputError(f"{run.path}: the search has no trial yet")
    return found


def _stored_trials(folder: Path, run: Mapping[str, Any], settings: Settings) -> list[FrozenTrial]:
    """The trials in the study's storage, by number; none of a search that has only begun."""
    where = settings.storage or str(folder / JOURNAL)
    with storage_errors("cannot be read", where, InputError):
        found = _find_study(folder, run, settings)
        if found is None:
            return []
        storage, study = found
        trials = sorted(storage.get_all_trials(study), key=lambda trial: trial.number)
    for trial in trials:
        if trial.state == TrialState.WAITING or OWN + "hash" not in trial.user_attrs:
            raise InputError(f"{where}: trial {trial.number} of the study was not created by nas_agg")
    return trials


def _find_study(folder: Path, run: Mapping[str, Any], settings: Settings) -> tuple[BaseStorage, int] | None:
    """The storage of a run and the ID of its study; None of a search that has only begun."""
    where = settings.storage or str(folder / JOURNAL)
    missing = InputError(f"{where}: the study is missing; restore it")
    if settings.storage is None and not (folder / JOURNAL).exists():
        if run["status"] == "running":
            return None
        raise missing
    with storage_errors("cannot be read", where, InputError):
        storage = _open(folder, settings.storage)
        try:
            return storage, storage.get_study_id_from_name(run["study"])
        except KeyError:
            if run["status"] == "running":
                return None
            raise missing from None


def _open(folder: Path, url: str | None) -> BaseStorage:
    if url is not None:
        return open_storage(url, folder, must_exist=True)
    return RunJournal(folder / JOURNAL, read_only=True)


def _saved(trial: FrozenTrial, objectives: Objectives) -> SavedTrial:
    try:
        record = as_record(trial, objectives)
    except (TypeError, ValueError) as error:
        raise InputError(f"trial {trial.number} of the study is damaged: {error}") from None
    ended = None if record.state in (RecordState.RUNNING, RecordState.PAUSED) else trial.datetime_complete
    return SavedTrial(record, dict(sorted(trial.intermediate_values.items())), trial.datetime_start, ended)
