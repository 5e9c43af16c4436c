"""A search while it runs, from its first trial to its final network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas_agg.study.coordinator import Coordinator, Stopwatch
from nas_agg.study.definition.metrics import METRICS, SCORE
from nas_agg.study.definition.proposals import Candidate
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.engine.components import Images, make_proposer, open_record
from nas_agg.study.engine.outcome import best_trial, finalists, search_result
from nas_agg.study.engine.run_start import mark_running
from nas_agg.study.final_training import Finalist, train_best
from nas_agg.study.function_workers.pool import FunctionPool
from nas_agg.study.notifier import Notifier
from nas_agg.study.plan import SearchPlan, limits_text
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.consistency import check_best
from nas_agg.study.records.network_files import restore_files, write_best, write_trial
from nas_agg.study.records.progress import ProgressReporter
from nas_agg.study.records.run_folder import RunFolder, join_command
from nas_agg.study.records.stored_runs import store_run
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.remote.executor import announce_finished
from nas_agg.study.scheduling.memory_plan import MemoryPlan
from nas_agg.study.scheduling.rungs import Rungs
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.workers.backend import Assignment, Backend, BackendContext, Resources
from nas_agg.study.workers.in_process import InProcessBackend
from nas_agg.study.workers.messages import TrialJob
from nas_agg.study.workers.pool import WorkerPool
from nas_agg.study.workers.registry import find_backend
from nas_agg.study.workers.table_lookup import TableLookupBackend

SECONDS_INTERVAL = 10.0  # between two writes of the duration of a search


@dataclass(frozen=True)
class ActiveSearch:
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
    rungs: Rungs | None
    memory: MemoryPlan | None
    show: bool

    def run(self) -> SearchResult:
        """Search, close the record, then train the best network in full."""
        folder, record = self.folder, open_record(self.plan, self.folder)
        images = Images(self.task.input, self.task.classes, self.task.data) if self.task else Images()
        proposer = make_proposer(self.plan, self.settings, record, images, self.memory)
        if folder is not None and record.trials:
            folder.table.begin(record.trials)
            restore_files(folder, record.trials, proposer.genotype)
            check_best(folder.path, folder.metrics(self.plan.tests), record.trials)
        forgiven = mark_running(folder, record)
        if folder is not None and self.settings.storage is not None and record.storage is not None:
            store_run(record.storage, record.study_id, folder.run, folder.path)
        stopwatch = Stopwatch(float(folder.run.get("seconds", 0)) if folder is not None else 0.0)
        with self._reporter(record, stopwatch) as reporter:
            notifier = self._notifier(record, reporter)
            for line in self._first_lines(record, proposer):
                reporter.message(line)
            notifier.start(self._announced_settings())
            if folder is not None and self._has_final_network:  # interrupted after the final training
                stopwatch.stop()
                reason = folder.run.get("reason", "")
            else:
                reason = self._run_trials(record, proposer, notifier, stopwatch, forgiven)
            self._close(record, notifier, reason)
            best = best_trial(record, reason)
            if folder is not None:
                folder.update(reason=reason, seconds=round(stopwatch.seconds, 1))
                if not self._has_final_network:
                    self._make_final_network(folder, best, proposer, reporter)
        if folder is not None:
            record.flush()
            folder.finish()
        result = search_result(self.plan, folder, record, proposer, reason)
        notifier.end(result)
        return result

    def _run_trials(
        self, record: StudyRecord, proposer: Proposer, notifier: Notifier, stopwatch: Stopwatch, forgiven: int
    ) -> str:
        """Run trials until the search ends, and return the reason."""
        coordinator = Coordinator(
            settings=self.settings,
            record=record,
            proposer=proposer,
            backend=self._backend(record),
            assign=self._assign,
            callback=notifier,
            stopwatch=stopwatch,
            last_epoch=(self.settings.epochs or 0) if self.plan.evaluate is None else sys.maxsize,
            rungs=self.rungs,
            forgiven=forgiven,
            resources=Resources.of(self.settings),
        )
        return coordinator.run()

    def _close(self, record: StudyRecord, notifier: Notifier, reason: str) -> None:
        """Send remote workers away, and close the trials that are open."""
        announce_finished(record, reason)
        # Without any result, trials that the timeout interrupted continue once there is more time.
        if any(trial.scores is not None or trial.rungs for trial in record.trials):
            for trial in record.close_open_trials(reason):
                notifier.trial(trial)

    def _announced_settings(self) -> dict[str, Any]:
        """The settings that callbacks receive; of runs that the search learns from, their names alone."""
        learned = [run["run"] for run in self.settings.learn or ()]
        return self.settings.model_dump(mode="json") | ({"learn": learned} if learned else {})

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
        chosen = []
        for trial in finalists(self.plan, proposer.record):
            genotype = proposer.genotype(trial.labels)
            recipe = self.plan.with_tuned_fields(self.settings.final_recipe, trial.labels)
            chosen.append(Finalist(trial, genotype, recipe, self.memory.for_final_training(genotype)))
        backend = self._final_backend(proposer.record, best.macs)
        train_best(folder, self.task, self.settings, chosen, reporter, backend)

    def _backend(self, record: StudyRecord) -> Backend:
        plan, settings = self.plan, self.settings
        if isinstance(plan.space, TabularSpace):
            return TableLookupBackend(plan.space)
        if plan.evaluate is not None:
            attributes = [metric.attribute for metric in plan.objectives if not metric.known_a_priori]
            if plan.function is None:
                return InProcessBackend(plan.evaluate, record.optuna_trial, attributes)
            log = None if self.folder is None else self.folder.path / "log.txt"
            return FunctionPool(
                plan.function, record.optuna_trial, attributes, settings.workers or 1, log, settings.trial_timeout
            )
        if settings.backend_name != "storage":  # workers of an earlier part of the search leave
            announce_finished(record, f"the search uses the backend {settings.backend_name} now")
        return find_backend(settings.backend_name).open(self._context(record))

    def _context(self, record: StudyRecord) -> BackendContext:
        setup = self.plan.setup
        assert self.task is not None and self.folder is not None
        where = (self.folder.path, setup.worker_command, setup.lease, setup.trainer)
        return BackendContext(self.settings, record, self.task, *where)

    def _final_backend(self, record: StudyRecord, macs: int) -> Backend:
        """Where the final network is trained: where the trials are, or in a process beside this one.

        Other machines may lack a file of weights that the training starts from.
        """
        assert self.task is not None and self.folder is not None
        kind = find_backend(self.settings.backend_name)
        if kind.trains_final_networks and self.settings.weights is None:
            unlimited = self.settings.model_copy(update={"trial_timeout": None})
            return kind.open(replace(self._context(record), settings=unlimited))
        config, log = self.task.final_worker_config(macs), self.folder.path / "log.txt"
        return WorkerPool([config], log, command=self.plan.setup.worker_command)

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
            processes=settings.processes_per_trial,
            sync_batch_norm=settings.sync_bn,
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
