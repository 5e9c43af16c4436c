"""One search of one space, from its folder to its final network: the parts, put together."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import canonical_json, write_atomic, write_errors
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.study.coordinator import TIMEOUT_REACHED, Coordinator, Stopwatch
from nas_agg.study.definition.objectives import objectives_of
from nas_agg.study.definition.result import SearchResult, ranked
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task, open_task
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.final_training import train_best
from nas_agg.study.proposer import Candidate, Proposer
from nas_agg.study.records.progress import ProgressReporter, print_result
from nas_agg.study.records.provenance import add_code_or_warn, describe_run, describe_space
from nas_agg.study.records.run_folder import GENOTYPE, METRICS, RunFolder, encodable, join_command
from nas_agg.study.records.run_status import record_failure
from nas_agg.study.records.storages import JOURNAL, open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.initial_points import resolve_settings
from nas_agg.study.samplers.screening import ProxyScreener
from nas_agg.study.samplers.searcher import Searcher, make_searcher
from nas_agg.study.scheduling.constraints import make_pruner, make_successive_halving
from nas_agg.study.scheduling.feasible_share import format_limits
from nas_agg.study.scheduling.memory_plan import MemoryPlan, make_memory_plan
from nas_agg.study.scheduling.successive_halving import SuccessiveHalving
from nas_agg.study.tables.bare_parameters import ParameterSpace
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.workers.executor import Assignment, InProcessExecutor, TrialExecutor
from nas_agg.study.workers.messages import TrialJob
from nas_agg.study.workers.pool import WORKER_COMMAND, WorkerPool
from nas_agg.study.workers.protocol import LeaseSettings
from nas_agg.study.workers.remote import CombinedExecutor, RemoteExecutor, announce_finished
from nas_agg.study.workers.table_lookup import TableLookupExecutor

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

    from nas_agg.search_space.parameters import Values

LEASE = LeaseSettings()

Evaluate = Callable[["Genotype | Values", "Trial"], float | Sequence[float]]


class Engine:
    """One search of one space.

    Args:
        space: The space; one that has its table with it is looked up.
        settings: What was said.
        searcher: Who proposes.
        evaluate: Scores networks in the place of training.
        show: Whether to print how it goes.
    """

    def __init__(
        self,
        space: Space | ParameterSpace,
        settings: Settings,
        searcher: type[Searcher],
        evaluate: Evaluate | None,
        show: bool,
    ):
        # Searchers and the proposer ask nothing of a space that plain names have not.
        self.space = cast(Any, space)
        self.settings, self.evaluate, self.show = settings, evaluate, show
        self.objectives = objectives_of(settings, evaluate is not None)
        if isinstance(space, TabularSpace):
            space.check_objectives(self.objectives, settings.pruner in ("halving", "hyperband"))
        self.searcher = make_searcher(searcher, self.space, settings.seed, self.objectives)
        self.rungs: SuccessiveHalving | None = None
        self.command: Sequence[str] = WORKER_COMMAND
        self.means: MemoryPlan | None = None

    @property
    def trains(self) -> bool:
        """Whether networks are trained, and not scored by a function or a table."""
        return self.evaluate is None and not isinstance(self.space, TabularSpace)

    def search(self, folder: RunFolder | None, named: bool) -> SearchResult:
        """Search in a folder, or in memory.

        Args:
            folder: The run's.
            named: Whether the settings say all that the search is made of.
        """
        if folder is not None and not folder.new:
            self._check_same(folder)
            self._extend(folder)
            if folder.run["status"] == "finished" and self._final(folder) is not None:
                return self._finished(folder)
        if not self.trains:
            self._screen(None)  # what takes images is refused before there is a folder
        task = open_task(self.settings, self.space) if self.trains else None
        said = self.settings
        images = (task.input, task.classes) if task else (None, None)
        if isinstance(self.space, Space):
            self.settings = resolve_settings(said, self.space, *images)
        self.rungs = make_successive_halving(self.settings, self.objectives)
        if folder is not None and folder.new:
            if said.storage is not None:
                open_storage(said.storage, folder.path)  # a wrong one is refused before there is a run
            filled = ("epochs", "max_params", "max_macs")
            folder.begin(
                said.model_dump(mode="json"),
                limits={name: getattr(self.settings, name) for name in filled},
                study=f"{encodable(folder.path.resolve().name)}-{secrets.token_hex(3)}",
                space=_digest(self.space),
                origin={"title": self.space.name, "about": self._about},
                evaluate=not self.trains,
                named=named,
                **(task.as_dict() if task else {}),
            )
        if folder is not None and task is not None:
            self.means = make_memory_plan(folder, self.settings, task)
        with record_failure(folder):
            record = self._record(folder)
            result = self._go(folder, task, record, self._proposer(record, task))
        if self.show:
            print_result(result)
        return result

    @property
    def _about(self) -> str:
        return describe_space(self.space) if isinstance(self.space, Space) else ""

    def _finished(self, folder: RunFolder) -> SearchResult:
        """What a finished run found; nothing is loaded but its record."""
        record = self._record(folder)
        result = self._result(folder, record, self._proposer(record, folder.run), folder.run.get("reason", ""))
        if self.show:
            print(f"{folder.path} is finished:")
            print_result(result)
        return result

    def _check_same(self, folder: RunFolder) -> None:
        """Refuse a folder that another search has begun."""
        difference = self.settings.difference(folder.run["settings"])
        if "study" not in folder.run:
            difference = "it is no search"
        if not difference and folder.run.get("evaluate") != (not self.trains):
            difference = "networks are trained in one, and evaluated by a function or a table in the other"
        if not difference and folder.run.get("space") != _digest(self.space):
            difference = f"the space {self.space.name} has changed since"
        if difference:
            raise InputError(f"{folder.path}: a run with other settings: {difference}; choose another --out")

    def _extend(self, folder: RunFolder) -> None:
        """A run goes on that is to evaluate more networks or, if its time was up, has more; its best is kept aside."""
        before = int(folder.run["settings"].get("budget", 0))
        ended = folder.run["settings"].get("timeout") if folder.run.get("reason") == TIMEOUT_REACHED else None
        longer = ended is not None and (self.settings.timeout is None or self.settings.timeout > ended)
        if self.settings.budget < before:
            raise InputError(f"{folder.path}: budget: {before} networks were asked for there; give as many or more")
        if self.settings.budget > before or longer:
            self._record(folder)  # a storage that lost trials is refused before anything is moved
            aside = f"best-of-{before}" if self.settings.budget > before else f"best-after-{ended:g}s"
            folder.extend(aside, budget=self.settings.budget, timeout=self.settings.timeout)

    # ---- the parts of a search

    def _record(self, folder: RunFolder | None) -> StudyRecord:
        pruner = make_pruner(self.settings, self.objectives)
        if folder is None:
            return StudyRecord(pruner, objectives=self.objectives)
        url, begun = self.settings.storage, _begun(folder)
        storage = open_storage(url, folder.path, begun)
        where = url or str(folder.path / JOURNAL)
        record = StudyRecord(pruner, storage, folder.run["study"], begun, self.objectives, where)
        if (known := folder.count_written_trials()) > len(record.trials):
            found = f"{len(record.trials)} trials, where trials.csv has {known}"
            raise InputError(f"{where}: {found}; restore it, or choose another --out")
        return record

    def _proposer(self, record: StudyRecord, task: Task | dict[str, Any] | None) -> Proposer:
        of = task.as_dict() if isinstance(task, Task) else task or {}
        return Proposer(
            self.space,
            self.searcher,
            record,
            start=self.settings.start or (),
            limits={
                "params": self.settings.max_params or 0,
                "macs": self.settings.max_macs or 0,
                "activation_bytes": self.settings.max_activations or 0,
            },
            activations="activations" in self.objectives.names,
            input=of.get("input"),
            classes=of.get("classes"),
            cost=getattr(self.space, "network", None),  # a table, or plain names, know more
            memory=self.means.for_trial if self.means else None,
            screen=self._screen(of.get("data")),
            measured=self.trains,
        )

    def _screen(self, data: dict[str, Any] | None) -> ProxyScreener | None:
        if self.settings.proxy is None:
            return None
        return ProxyScreener(self.settings.proxy, self.settings.proxy_candidates, data, self.settings.seed)

    def _executor(self, folder: RunFolder | None, task: Task | None, record: StudyRecord) -> TrialExecutor:
        if isinstance(self.space, TabularSpace):
            return TableLookupExecutor(self.space)
        if self.evaluate is not None:
            asked = [metric.attribute for metric in self.objectives if not metric.known_a_priori]
            return InProcessExecutor(self.evaluate, record.optuna_trial, asked)
        assert task is not None and folder is not None
        configs = task.worker_configs() if self.settings.workers != 0 else []
        pool = WorkerPool(configs, folder.path / "log.txt", self.settings.trial_timeout, self.command)
        told = {
            "data": task.data,
            "dataset_digest": task.dataset_digest,
            "about": task.about,
            "trial_timeout": pool.trial_timeout,
        }
        return CombinedExecutor(pool, RemoteExecutor(record, {**told, "folder": str(folder.path.resolve())}, LEASE))

    def _display(self, folder: RunFolder | None, record: StudyRecord, stopwatch: Stopwatch) -> ProgressReporter:
        def keep() -> None:
            if folder is not None:
                folder.write_trials(record.trials)
                folder.update(seconds=round(stopwatch.seconds, 1))

        return ProgressReporter(
            self.settings.budget,
            lambda: record.trials,
            folder.log if folder is not None else (lambda line: None),
            keep,
            show=self.show,
            objectives=self.objectives,
            timeout=self.settings.timeout,
            seconds_before=stopwatch.seconds,
        )

    def _go(self, folder: RunFolder | None, task: Task | None, record: StudyRecord, proposer: Proposer) -> SearchResult:
        """Search, close the record, then train the best in full."""
        forgiven = _reopen(folder, record)
        stopwatch = Stopwatch(float(folder.run.get("seconds", 0)) if folder is not None else 0.0)
        with self._display(folder, record, stopwatch) as display:
            display.say(self._first_line(folder, task, record))
            if line := self._share(folder, proposer):
                display.say(line)
            if task is not None and folder is not None and (self.settings.storage or self.settings.workers == 0):
                display.say(f"workers may join: {join_command(folder.run, folder.path)}")
            coordinator = Coordinator(
                settings=self.settings,
                record=record,
                proposer=proposer,
                executor=self._executor(folder, task, record),
                assign=lambda trial, candidate: self._assignment(folder, trial, candidate),
                callback=display,
                stopwatch=stopwatch,
                last_epoch=self.settings.epochs or 0,
                rungs=self.rungs,
                forgiven=forgiven,
            )
            if self._final(folder) is not None:  # it was killed at its very end: nothing is searched anew
                stopwatch.stop()
                reason = folder.run.get("reason", "") if folder else ""
            else:
                reason = coordinator.run()
            announce_finished(record, reason)
            # Of a search without any result, what the time cut off goes on when there is more of it.
            if any(trial.scores is not None or trial.rungs for trial in record.trials):
                for trial in record.close_open_trials(reason):
                    display.trial(trial)
            best = self._best(record, reason)
            if folder is not None:
                folder.update(reason=reason, seconds=round(stopwatch.seconds, 1))
                if self._final(folder) is None:
                    genotype = proposer.genotype(best.labels)
                    if self.means is not None and task is not None:
                        memory = self.means.for_final_training(genotype)
                        train_best(folder, task, self.settings, best, genotype, display, self.command, memory)
                    else:
                        _write_best(folder, best, genotype)
        if folder is not None:
            folder.finish()
        return self._result(folder, record, proposer, reason)

    def _first_line(self, folder: RunFolder | None, task: Task | None, record: StudyRecord) -> str:
        on = f" on {task.about}" if task else ""
        on = f", a table of {self.space.network_count:,} networks," if isinstance(self.space, TabularSpace) else on
        into = f", into {folder.path}" if folder is not None else ""
        done = sum(trial.consumes_budget for trial in record.trials)
        under = self._limits("params", "macs", "activations", "latency")
        verb = f"going on, {done} of {self.settings.budget} networks done:" if record.trials else "searching"
        up_to = f", networks of up to {under}" if under else ""
        return f"{verb} {self.space.name}{on} with {self.settings.searcher}{up_to}{into}"

    def _limits(self, *names: str) -> str:
        return format_limits({name: getattr(self.settings, f"max_{name}") for name in names})

    def _share(self, folder: RunFolder | None, proposer: Proposer) -> str:
        """How much of the space the limits leave, as a line; kept with the run. Empty if nobody would read it."""
        share = proposer.feasible_share() if folder is not None or self.show else None
        if share is None:
            return ""
        if folder is not None:
            folder.update(share=asdict(share))
        return share.line(self._limits("params", "macs", "activations"))

    def _assignment(self, folder: RunFolder | None, trial: TrialRecord, candidate: Candidate) -> Assignment:
        pause_at = self.rungs.next_rung(trial) if self.rungs else None
        if folder is None:
            return Assignment(trial.number, candidate.genotype, pause_at=pause_at)
        path = folder.trial_folder(trial.number)
        _write(path, candidate.genotype)
        if not self.trains:
            return Assignment(trial.number, candidate.genotype, pause_at=pause_at)
        assert self.settings.epochs is not None
        trained = [metric.name for metric in self.objectives if metric.depends_on_training]
        job = TrialJob(
            genotype=candidate.genotype.text(),
            seed=trial.seed,
            recipe=self.settings.recipe or "search",
            epochs=self.settings.epochs,
            out=str(path.resolve()),
            memory=trial.memory,
            reported="loss" if trained == ["loss"] else "accuracy",
            measure_latency=self._needs_latency,
            max_latency=self.settings.max_latency,
            latency_target=self.settings.latency_target,
            pause_at=pause_at,
        )
        return Assignment(trial.number, candidate.genotype, job, pause_at)

    @property
    def _needs_latency(self) -> bool:
        said = (self.settings.max_latency, self.settings.latency_target)
        return said != (None, None) or "latency" in self.objectives.names

    def _best(self, record: StudyRecord, reason: str) -> TrialRecord:
        best = ranked(record.trials)
        if not best:
            failed = [trial.reason for trial in record.trials if trial.state == RecordState.FAILED]
            last = f"; the last failure: {failed[-1]}" if failed else ""
            raise NasAggError(f"no network has a result: {reason}{last}")
        return best[0]

    def _result(self, folder: RunFolder | None, record: StudyRecord, proposer: Proposer, reason: str) -> SearchResult:
        best = self._best(record, reason)
        assert best.value is not None
        return SearchResult(
            best=proposer.genotype(best.labels),
            values=self.space.values(best.labels),
            value=best.value,
            trials=tuple(record.trials),
            reason=reason,
            path=folder.path if folder else None,
            test=self._final(folder) if self.trains else None,
            objectives=self.objectives,
        )

    def _final(self, folder: RunFolder | None) -> dict[str, Any] | None:
        """What is known of the final network, if there is one."""
        return None if folder is None else folder.metrics(tested=self.trains)


def _reopen(folder: RunFolder | None, record: StudyRecord) -> int:
    """Mark a run as running; gives the trial before which failures are forgiven, as a failed search is tried again."""
    if folder is None:
        return 0
    failed = len(record.trials) if folder.run["status"] == "failed" else 0
    forgiven = max(failed, int(folder.run.get("forgiven", 0)))
    folder.update(status="running", forgiven=forgiven)
    return forgiven


def _begun(folder: RunFolder) -> bool:
    """Whether a run has had its study: `_reopen` says so as soon as there is one."""
    return "forgiven" in folder.run


def _write(folder: Path, genotype: Genotype | Values) -> None:
    """Write a network's genotype; or the values of names that make none."""
    if isinstance(genotype, Genotype):
        write_atomic(folder / GENOTYPE, genotype.to_json() + "\n")
    else:
        write_atomic(folder / "values.json", canonical_json(genotype) + "\n")


def _write_best(folder: RunFolder, best: TrialRecord, genotype: Genotype | Values) -> None:
    beside = folder.path / "best.tmp"
    with write_errors(beside):
        beside.mkdir(exist_ok=True)
    _write(beside, genotype)
    metrics = {"trial": best.number, "value": best.value, "params": best.params, "macs": best.macs, "hash": best.hash}
    write_atomic(beside / METRICS, canonical_json(metrics) + "\n")
    if isinstance(genotype, Genotype):
        add_code_or_warn(beside, genotype, *describe_run(folder.run, folder.path, best.number))
    with write_errors(folder.best):
        os.rename(beside, folder.best)


def _digest(space: Space | ParameterSpace) -> str:
    """What a space is, in a few characters: its text, its open names and its defaults for a search."""
    from optuna.distributions import distribution_to_json

    distributions: dict[str, BaseDistribution] = dict(space.distributions)
    names = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
    said: dict[str, Any] = {"open": names}
    if isinstance(space, Space):
        said |= {"template": space.template.text(), "search": space.search_text}
    if isinstance(space, TabularSpace):
        said |= {"table": space.table and space.table[1]}  # a table that has grown would make another search of it
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()[:16]
