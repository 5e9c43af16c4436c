"""The record and the proposer of a search, from its plan and its run folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nas_agg.study.definition.settings import Settings
from nas_agg.study.plan import SearchPlan
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.consistency import check_trials
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.records.trials_table import read_trials_table
from nas_agg.study.scheduling.constraints import make_pruner
from nas_agg.study.scheduling.memory_plan import MemoryPlan
from nas_agg.study.tables.bare_parameters import ParameterSpace
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.tables.table_file import Row


class Images(NamedTuple):
    """The images that networks are made for; the space's own by default."""

    input: tuple[int, int, int] | None = None
    classes: int | None = None
    data: dict[str, Any] | None = None


def open_record(plan: SearchPlan, folder: RunFolder | None) -> StudyRecord:
    """Open the record of a search: in its storage, or in memory without a run folder.

    Raises:
        InputError: The storage has lost trials that the run folder has.
    """
    pruner = make_pruner(plan.settings, plan.objectives)
    if folder is None:
        return StudyRecord(pruner, objectives=plan.objectives)
    url, must_exist = plan.settings.storage, "forgiven" in folder.run  # which is written once there is a study
    storage = open_storage(url, folder.path, must_exist)
    where = url or str(folder.path / JOURNAL)
    record = StudyRecord(pruner, storage, folder.run["study"], must_exist, plan.objectives, where)
    if must_exist:
        check_trials(folder.path, folder.run, read_trials_table(folder.path), record.trials, where)
    return record


def make_proposer(
    plan: SearchPlan,
    settings: Settings,
    record: StudyRecord,
    images: Images,
    memory: MemoryPlan | None = None,
) -> Proposer:
    """Make the proposer of a search.

    Args:
        plan: The plan of the search.
        settings: Its settings, with the space's defaults.
        record: Its record.
        images: The images of its data set.
        memory: Memory modes of trainings, where networks are trained.
    """
    lookup: Callable[[Any], Row] | None = None  # networks of other spaces are counted
    if isinstance(plan.space, TabularSpace | ParameterSpace):
        lookup = plan.space.network
    return Proposer(
        plan.space,
        plan.searcher,
        record,
        start=plan.first_points(),
        limits={
            "params": settings.max_params or 0,
            "macs": settings.max_macs or 0,
            "activation_bytes": settings.max_activations or 0,
        },
        activations="activations" in plan.objectives.names,
        input=images.input,
        classes=images.classes,
        cost=lookup,
        memory=memory.for_trial if memory else None,
        screen=plan.screener(images.data),
        measured=plan.trains,
        full_epochs=(settings.epochs or 0) if settings.pruner == "freeze-thaw" else 0,
    )
