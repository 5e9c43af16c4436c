"""Runs a planned search, from its run folder to its result."""

from __future__ import annotations

from nas_agg.search_space.space import Space
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.task import check_unchanged
from nas_agg.study.engine.active_search import ActiveSearch
from nas_agg.study.engine.components import Images, make_proposer, open_record
from nas_agg.study.engine.outcome import search_result
from nas_agg.study.engine.run_start import begin_run, check_same_search, extend_run
from nas_agg.study.final_training import change_weights
from nas_agg.study.plan import SearchPlan
from nas_agg.study.records.consistency import check_best
from nas_agg.study.records.network_files import restore_files
from nas_agg.study.records.progress import print_result
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.records.run_status import record_failure
from nas_agg.study.samplers.initial_points import resolve_settings
from nas_agg.study.scheduling.constraints import make_rungs
from nas_agg.study.scheduling.memory_plan import make_memory_plan


def run_search(plan: SearchPlan, folder: RunFolder | None = None, show: bool = False) -> SearchResult:
    """Run a search, or resume it.

    Args:
        plan: The plan of the search.
        folder: The run folder; without one the search is kept in memory.
        show: Whether to print progress and the result.

    Raises:
        InputError: The run in the folder is of another search, or the data set is unavailable.
        NasAggError: The search failed, or no network has a result.
    """
    if folder is not None and not folder.new:
        check_same_search(plan, folder)
        extend_run(plan, folder)
        change_weights(folder, plan.settings.weights)
        if folder.run["status"] == "finished" and folder.metrics(tested=plan.tests) is not None:
            return _finished_result(plan, folder, show)
    search = _prepare(plan, folder, show)
    with record_failure(folder):
        result = search.run()
    if show:
        print_result(result)
    return result


def _finished_result(plan: SearchPlan, folder: RunFolder, show: bool) -> SearchResult:
    """The result of a finished run, from its record alone."""
    record = open_record(plan, folder)
    run = folder.run
    images = Images(run.get("input"), run.get("classes"), run.get("data"))
    proposer = make_proposer(plan, plan.settings, record, images)
    check_best(folder.path, folder.metrics(plan.tests), record.trials)
    restore_files(folder, record.trials, proposer.genotype)
    result = search_result(plan, folder, record, proposer, run.get("reason", ""))
    if show:
        print(f"{folder.path} is finished:")
        print_result(result)
    return result


def _prepare(plan: SearchPlan, folder: RunFolder | None, show: bool) -> ActiveSearch:
    """Load what the search needs and, if it is new, begin its run.

    Raises:
        InputError: A setting is wrong; then no run has begun.
    """
    if not plan.trains:
        plan.screener(None)  # a proxy that needs images is refused
    settings, task = plan.settings, None
    if isinstance(plan.space, Space):
        task = plan.setup.open_task(settings, plan.space) if plan.trains else None
        input, classes = (task.input, task.classes) if task else (None, None)
        settings = resolve_settings(settings, plan.space, input, classes)
    rungs = make_rungs(settings, plan.objectives)
    if folder is not None and folder.new:
        begin_run(plan, settings, folder, task)
    elif folder is not None and task is not None:
        check_unchanged(folder.run, folder.path, task.dataset)
    memory = make_memory_plan(folder, settings, task) if folder is not None and task is not None else None
    return ActiveSearch(plan, settings, folder, task, rungs, memory, show)
