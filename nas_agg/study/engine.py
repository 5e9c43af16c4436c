"""Runs a planned search, from its run folder to its final network."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.urls import without_password
from nas_agg.search_space.space import Space
from nas_agg.study.coordinator import TIMEOUT_REACHED, Coordinator, Stopwatch
from nas_agg.study.definition.metrics import METRICS, SCORE
from nas_agg.study.definition.result import SearchResult, ranked
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task, check_unchanged
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.final_training import Finalist, train_best
from nas_agg.study.notifier import Notifier
from nas_agg.study.plan import SearchPlan, limits_text
from nas_agg.study.proposer import Candidate, Proposer
from nas_agg.study.records.consistency import check_best, check_trials
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.network_files import restore_files, write_best, write_trial
from nas_agg.study.records.progress import ProgressReporter, print_result
from nas_agg.study.records.provenance import describe_space
from nas_agg.study.records.run_folder import RunFolder, encodable, join_command
from nas_agg.study.records.run_status import record_failure
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.stored_runs import all_studies, equal_runs, store_run
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.records.trials_table import read_trials_table
from nas_agg.study.remote.executor import announce_finished
from nas_agg.study.samplers.initial_points import resolve_settings
from nas_agg.study.scheduling.constraints import make_pruner, make_successive_halving
from nas_agg.study.scheduling.memory_plan import MemoryPlan, make_memory_plan
from nas_agg.study.scheduling.successive_halving import SuccessiveHalving
from nas_agg.study.tables.bare_parameters import ParameterSpace
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.tables.table_file import Row
from nas_agg.study.workers.backend import Assignment, Backend, BackendContext, Resources
from nas_agg.study.workers.in_process import InProcessBackend
from nas_agg.study.workers.messages import TrialJob
from nas_agg.study.workers.registry import find_backend
from nas_agg.study.workers.table_lookup import TableLookupBackend

SECONDS_INTERVAL = 10.0  # between two writes of the duration of a search


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
        _check_same_search(plan, folder)
        _extend(plan, folder)
        if folder.run["status"] == "finished" and folder.metrics(tested=plan.tests) is not None:
            return _finished_result(plan, folder, show)
    search = _prepare(plan, folder, show)
    with record_failure(folder):
        result = search.run()
    if show:
        print_result(result)
    return result


# ---- an earlier run


def _check_same_search(plan: SearchPlan, folder: RunFolder) -> None:
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


def _extend(plan: SearchPlan, folder: RunFolder) -> None:
    """Reopen a run with a larger budget, or whose timeout was reached with a longer one; its best is kept aside."""
    settings, earlier = plan.settings, folder.run["settings"]
    budget = int(earlier.get("budget", 0))
    timeout = earlier.get("timeout") if folder.run.get("reason") == TIMEOUT_REACHED else None
    is_longer = timeout is not None and (settings.timeout is None or settings.timeout > timeout)
    if settings.budget < budget:
        raise InputError(f"{folder.path}: budget: the run has a budget of {budget} networks; specify as many or more")
    if settings.budget > budget or is_longer:
        _open_record(plan, folder)  # a storage that lost trials is refused before anything is moved
        former_best = f"best-of-{budget}" if settings.budget > budget else f"best-after-{timeout:g}s"
        folder.extend(former_best, budget=settings.budget, timeout=settings.timeout)


def _finished_result(plan: SearchPlan, folder: RunFolder, show: bool) -> SearchResult:
    """The result of a finished run, from its record alone."""
    record = _open_record(plan, folder)
    run = folder.run
    images = _Images(run.get("input"), run.get("classes"), run.get("data"))
    proposer = _make_proposer(plan, plan.settings, record, images)
    check_best(folder.path, folder.metrics(plan.tests), record.trials)
    restore_files(folder, record.trials, proposer.genotype)
    result = _result(plan, folder, record, proposer, run.get("reason", ""))
    if show:
        print(f"{folder.path} is finished:")
        print_result(result)
    return result


# ---- the parts of a search


class _Images(NamedTuple):
    """The images that networks are made for; the space's own by default."""

    input: tuple[int, int, int] | None = None
    classes: int | None = None
    data: dict[str, Any] | None = None


def _open_record(plan: SearchPlan, folder: RunFolder | None) -> StudyRecord:
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


def _make_proposer(
    plan: SearchPlan,
    settings: Settings,
    record: StudyRecord,
    images: _Images,
    memory: MemoryPlan | None = None,
) -> Proposer:
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
    )


def _prepare(plan: SearchPlan, folder: RunFolder | None, show: bool) -> _Search:
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
    rungs = make_successive_halving(settings, plan.objectives)
    if folder is not None and folder.new:
        _begin_run(plan, settings, folder, task)
    elif folder is not None and task is not None:
        check_unchanged(folder.run, folder.path, task.dataset)
    memory = make_memory_plan(folder, settings, task) if folder is not None and task is not None else None
    return _Search(plan, settings, folder, task, rungs, memory, show)


def _begin_run(plan: SearchPlan, settings: Settings, folder: RunFolder, task: Task | None) -> None:
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


@dataclass(frozen=True)
class _Search:
    """A search that is ready to run.

    Attributes:
        plan: Its plan.
        settings: Its settings, with the space's defaults.
        folder: Its run folder, if it has one.
        task: The data set and devices, if networks are trained.
        rungs: Where trainings pause, if they do.
        memory: Memory modes of trainings.
        show: Whether to print progress.
    """

    plan: SearchPlan
    settings: Settings
    folder: RunFolder | None
    task: Task | None
    rungs: SuccessiveHalving | None
    memory: MemoryPlan | None
    show: bool

    def run(self) -> SearchResult:
        """Search, close the record, then train the best network in full."""
        folder, record = self.folder, _open_record(self.plan, self.folder)
        images = _Images(self.task.input, self.task.classes, self.task.data) if self.task else _Images()
        proposer = _make_proposer(self.plan, self.settings, record, images, self.memory)
        if folder is not None and record.trials:
            folder.table.begin(record.trials)
            restore_files(folder, record.trials, proposer.genotype)
            check_best(folder.path, folder.metrics(self.plan.tests), record.trials)
        forgiven = _mark_running(folder, record)
        if folder is not None and self.settings.storage is not None and record.storage is not None:
            store_run(record.storage, record.study_id, folder.run, folder.path)
        stopwatch = Stopwatch(float(folder.run.get("seconds", 0)) if folder is not None else 0.0)
        with self._reporter(record, stopwatch) as reporter:
            notifier = self._notifier(record, reporter)
            for line in self._first_lines(record, proposer):
                reporter.message(line)
            learned = [run["run"] for run in self.settings.learn or ()]
            notifier.start(self.settings.model_dump(mode="json") | ({"learn": learned} if learned else {}))
            coordinator = Coordinator(
                settings=self.settings,
                record=record,
                proposer=proposer,
                backend=self._backend(record),
                assign=self._assign,
                callback=notifier,
                stopwatch=stopwatch,
                last_epoch=self.settings.epochs or 0,
                rungs=self.rungs,
                forgiven=forgiven,
                resources=Resources.of(self.settings),
            )
            if (
                folder is not None and self._has_final_network
            ):  # interrupted after the final training: the search is complete
                stopwatch.stop()
                reason = folder.run.get("reason", "")
            else:
                reason = coordinator.run()
            announce_finished(record, reason)
            # Without any result, trials that the timeout interrupted continue once there is more time.
            if any(trial.scores is not None or trial.rungs for trial in record.trials):
                for trial in record.close_open_trials(reason):
                    notifier.trial(trial)
            best = _best(record, reason)
            if folder is not None:
                folder.update(reason=reason, seconds=round(stopwatch.seconds, 1))
                if not self._has_final_network:
                    self._make_final_network(folder, best, proposer, reporter)
        if folder is not None:
            record.flush()
            folder.finish()
        result = _result(self.plan, folder, record, proposer, reason)
        notifier.end(result)
        return result

    @property
    def _has_final_network(self) -> bool:
        return self.folder is not None and self.folder.metrics(tested=self.plan.tests) is not None

    def _notifier(self, record: StudyRecord, reporter: ProgressReporter) -> Notifier:
        path = self.folder.path if self.folder is not None else None
        return Notifier(reporter, self.plan.callbacks, record.reports, path)

    def _make_final_network(
        self, folder: RunFolder, best: TrialRecord, proposer: Proposer, reporter: ProgressReporter
    ) -> None:
        """Train the best network in full, or the best ones; without a final training, only write the best."""
        if self.memory is None or self.task is None or not self.plan.tests:
            write_best(folder, best, proposer.genotype(best.labels))
            return
        finalists = []
        for trial in _finalists(self.plan, proposer.record):
            genotype = proposer.genotype(trial.labels)
            recipe = self.plan.with_tuned_fields(self.settings.final_recipe, trial.labels)
            finalists.append(Finalist(trial, genotype, recipe, self.memory.for_final_training(genotype)))
        train_best(folder, self.task, self.settings, finalists, reporter, self.plan.setup.worker_command)

    def _backend(self, record: StudyRecord) -> Backend:
        plan, settings, setup = self.plan, self.settings, self.plan.setup
        if isinstance(plan.space, TabularSpace):
            return TableLookupBackend(plan.space)
        if plan.evaluate is not None:
            attributes = [metric.attribute for metric in plan.objectives if not metric.known_a_priori]
            return InProcessBackend(plan.evaluate, record.optuna_trial, attributes)
        assert self.task is not None and self.folder is not None
        if settings.backend_name != "storage":  # workers of an earlier part of the search leave
            announce_finished(record, f"the search uses the backend {settings.backend_name} now")
        where = (self.folder.path, setup.worker_command, setup.lease, setup.trainer)
        return find_backend(settings.backend_name).open(BackendContext(settings, record, self.task, *where))

    def _assign(self, trial: TrialRecord, candidate: Candidate) -> Assignment:
        """The assignment of a trial; its network is written to its folder."""
        pause_at = self.rungs.next_rung(trial) if self.rungs else None
        if self.folder is None:
            return Assignment(trial.number, candidate.genotype, pause_at=pause_at)
        path = write_trial(self.folder, trial, candidate.genotype)
        if not self.plan.trains:
            return Assignment(trial.number, candidate.genotype, pause_at=pause_at)
        settings = self.settings
        assert settings.epochs is not None
        job = TrialJob(
            genotype=candidate.genotype.to_dict(),
            seed=trial.seed,
            recipe=self.plan.with_tuned_fields(settings.trial_recipe, trial.labels),
            epochs=settings.epochs,
            out=str(path.resolve()),
            memory=trial.memory,
            reported=settings.main_metric,
            metrics=settings.trained_metrics(self.plan.objectives.names),
            measure_latency=self.plan.needs_latency,
            max_latency=settings.max_latency,
            latency_target=settings.latency_target,
            pause_at=pause_at,
        )
        return Assignment(trial.number, candidate.genotype, job, pause_at)

    def _reporter(self, record: StudyRecord, stopwatch: Stopwatch) -> ProgressReporter:
        def write_files(ended: Sequence[TrialRecord], closing: bool) -> None:
            if self.folder is None:
                return
            if closing:
                self.folder.table.write(record.trials)
            else:
                self.folder.table.append(ended)
            if closing or stopwatch.seconds - self.folder.run["seconds"] >= SECONDS_INTERVAL:
                self.folder.update(seconds=round(stopwatch.seconds, 1))

        return ProgressReporter(
            self.settings.budget,
            record.leaders,
            self.folder.log if self.folder is not None else (lambda line: None),
            write_files,
            show=self.show,
            objectives=self.plan.objectives,
            timeout=self.settings.timeout,
            seconds_before=stopwatch.seconds,
            epochs=(self.settings.epochs or 0) if self.task is not None else 0,
            reported=METRICS[self.settings.main_metric] if self.settings.latency_target is None else SCORE,
        )

    def _first_lines(self, record: StudyRecord, proposer: Proposer) -> Iterator[str]:
        """What is searched, how much of it is within the limits, and how workers may join."""
        space, settings, folder = self.plan.space, self.settings, self.folder
        on = f" on {self.task.about}" if self.task else ""
        on = f", a table of {space.network_count:,} networks," if isinstance(space, TabularSpace) else on
        into = f", into {folder.path}" if folder is not None else ""
        limits = limits_text(settings, "params", "macs", "activations", "latency")
        up_to = f", networks of up to {limits}" if limits else ""
        done = record.leaders.evaluated
        verb = f"resuming, {done} of {settings.budget} networks done:" if record.trials else "searching"
        yield f"{verb} {space.name}{on} with {settings.searcher}{up_to}{into}"
        yield from (f"data: {note}" for note in self.task.notes) if self.task else ()
        for run in self.plan.searcher.earlier.runs if self.plan.searcher.earlier else ():
            yield f"learning from {run.name}: {len(run.rows)} networks, {len(run.variables)} search variables in common"
        share = proposer.feasible_share() if folder is not None or self.show else None
        if share is not None:
            if folder is not None:
                folder.run["share"] = asdict(share)  # written with the next change: a disk takes its time
            yield share.line(limits_text(settings, "params", "macs", "activations"))
        if self.task is not None and folder is not None and settings.backend_name == "storage":
            yield f"workers may join: {join_command(folder.run, folder.path)}"


def _mark_running(folder: RunFolder | None, record: StudyRecord) -> int:
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


def _best(record: StudyRecord, reason: str) -> TrialRecord:
    best = ranked(record.trials)
    if not best:
        failed = [trial.reason for trial in record.trials if trial.state == RecordState.FAILED]
        last = f"; the last failure: {failed[-1]}" if failed else ""
        raise NasAggError(f"no network has a result: {reason}{last}")
    return best[0]


def _finalists(plan: SearchPlan, record: StudyRecord) -> list[TrialRecord]:
    """The trials whose networks are trained in full: the best ones, or those of the Pareto front, best first."""
    trials = ranked(record.trials)
    return trials[: max(1, plan.settings.final)]


def _result(
    plan: SearchPlan, folder: RunFolder | None, record: StudyRecord, proposer: Proposer, reason: str
) -> SearchResult:
    best = _best(record, reason)
    test = folder.metrics(tested=True) if folder is not None and plan.tests else None
    if test is not None and "candidates" in test:  # another one may have been the best after a training in full
        best = record.trials[test["trial"]]
    assert best.value is not None
    return SearchResult(
        best=proposer.genotype(best.labels),
        values=plan.space.values(best.labels),
        value=best.value,
        trials=tuple(record.trials),
        reason=reason,
        path=folder.path if folder else None,
        test=test,
        objectives=plan.objectives,
    )
