"""Begins a run in its folder, or checks, extends and reopens an earlier one."""

from __future__ import annotations

import secrets

from nas_agg.common.errors import InputError
from nas_agg.common.urls import without_password
from nas_agg.search_space.space import Space
from nas_agg.study.coordinator import TIMEOUT_REACHED
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task
from nas_agg.study.engine.components import open_record
from nas_agg.study.plan import SearchPlan
from nas_agg.study.records.provenance import describe_space
from nas_agg.study.records.run_folder import RunFolder, encodable
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.stored_runs import all_studies, equal_runs
from nas_agg.study.records.study_record import StudyRecord


def check_same_search(plan: SearchPlan, folder: RunFolder) -> None:
    """Refuse a folder that another search has begun."""
    difference = plan.settings.difference(folder.run["settings"])
    if "study" not in folder.run:
        difference = "it is not a search"
    if not difference and folder.run.get("evaluate") != (not plan.trains):
        difference = "networks are trained in one, and evaluated by a function or a table in the other"
    if not difference and folder.run.get("space") != plan.space_digest():
        difference = f"the space {plan.space.name} has changed since"
    if difference:
        raise InputError(f"{folder.path}: a run with other settings: {difference}; choose another --out")


def extend_run(plan: SearchPlan, folder: RunFolder) -> None:
    """Reopen a run with a larger budget, or whose timeout was reached with a longer one; its best is kept aside."""
    settings, earlier = plan.settings, folder.run["settings"]
    budget = int(earlier.get("budget", 0))
    timeout = earlier.get("timeout") if folder.run.get("reason") == TIMEOUT_REACHED else None
    is_longer = timeout is not None and (settings.timeout is None or settings.timeout > timeout)
    if settings.budget < budget:
        raise InputError(f"{folder.path}: budget: the run has a budget of {budget} networks; specify as many or more")
    if settings.budget > budget or is_longer:
        open_record(plan, folder)  # a storage that lost trials is refused before anything is moved
        former_best = f"best-of-{budget}" if settings.budget > budget else f"best-after-{timeout:g}s"
        folder.extend(former_best, budget=settings.budget, timeout=settings.timeout)


def begin_run(plan: SearchPlan, settings: Settings, folder: RunFolder, task: Task | None) -> None:
    """Begin a run in a new folder.

    Args:
        plan: The plan of the search.
        settings: Its settings, with the space's defaults.
        folder: The folder.
        task: The data set and devices, if networks are trained.
    """
    if plan.settings.storage is not None:
        _check_new_study(plan, folder)
    folder.begin(
        plan.settings.stored(),
        limits={name: getattr(settings, name) for name in ("epochs", "max_params", "max_macs")},
        study=f"{encodable(folder.path.resolve().name)}-{secrets.token_hex(3)}",
        space=plan.space_digest(),
        origin={
            "title": plan.space.name,
            "about": describe_space(plan.space) if isinstance(plan.space, Space) else "",
        },
        evaluate=not plan.trains,
        named=plan.is_named,
        **(task.as_dict() if task else {}),
    )


def _check_new_study(plan: SearchPlan, folder: RunFolder) -> None:
    """Refuse a storage that cannot be opened, or that has the study of the same search already.

    Raises:
        InputError: The message names the study.
    """
    url, name = plan.settings.storage or "", folder.path.resolve().name
    studies = all_studies(open_storage(url, folder.path), url)
    if same := [study for study, folder_name in equal_runs(studies, plan.settings).items() if folder_name == name]:
        raise InputError(
            f"{url}: it has the study {same[0]} of this search, whose run folder is not here; resume it with: nas_agg "
            f"search --storage '{without_password(url)}' --study {same[0]} --out {folder.path}; or choose another --out"
        )


def mark_running(folder: RunFolder | None, record: StudyRecord) -> int:
    """Mark a run as running.

    Returns:
        Number of trials whose failures are forgiven, because the search failed and is tried again.
    """
    if folder is None:
        return 0
    failed = len(record.trials) if folder.run["status"] == "failed" else 0
    forgiven = max(failed, int(folder.run.get("forgiven", 0)))
    folder.update(status="running", forgiven=forgiven)  # from now on the storage must have the study
    return forgiven
