"""A search from its first word to its last: settings, folder, trials, the final network."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.errors import InputError, NasAggError
from nas_agg.files import canonical, write_atomic
from nas_agg.space import Space, list_spaces, open_space
from nas_agg.study.coordinator import Clock, Coordinator
from nas_agg.study.ending import Interrupted, failing, stopping
from nas_agg.study.final import train_best
from nas_agg.study.folder import RunFolder, how_to_go_on, how_to_join, plain, read_run, writing
from nas_agg.study.lookup import Lookup
from nas_agg.study.means import Means, means_of
from nas_agg.study.objectives import OBJECTIVES, TRAINED, objectives_of
from nas_agg.study.origin import about_space, add_code_or_say_why_not, origin_of_run
from nas_agg.study.pool import WORKER, Evaluator, InProcess, Job, Pool
from nas_agg.study.progress import Display, print_result
from nas_agg.study.proposer import Candidate, Proposer
from nas_agg.study.record import Record
from nas_agg.study.remote import Remote, Several, dismiss
from nas_agg.study.result import SearchResult, ranked
from nas_agg.study.rungs import Rungs
from nas_agg.study.scoring import pruner_of, rungs_of
from nas_agg.study.screening import Screen
from nas_agg.study.searcher import Searcher, find_searcher, make_searcher
from nas_agg.study.settings import FREE, Settings, shown
from nas_agg.study.starts import start_values, with_room
from nas_agg.study.storages import open_storage
from nas_agg.study.table import Tabled
from nas_agg.study.task import Task, absolute, open_task
from nas_agg.study.trial import TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

    from nas_agg.genotype import Genotype

__all__ = ["Interrupted", "resume", "search"]

Evaluate = Callable[["Genotype", "Trial"], float | Sequence[float]]


def search(
    space: str | os.PathLike[str] | Space,
    evaluate: Evaluate | None = None,
    searcher: str | type[Searcher] = "tpe",
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
        space: A space's name, a space file, or a space.
        evaluate: ``evaluate(genotype, trial) -> float``, or a tuple of several where ``objective`` names several that
            arithmetic does not know; ``trial`` is an Optuna trial, to report scores to and to raise
            ``optuna.TrialPruned`` by. An exception is a failed trial.
        searcher: A searcher's name, or a class of one.
        budget: Networks to evaluate.
        seed: Of everything random in the search.
        out: The run folder; ``runs/SPACE-DATASET-SEED`` unless told, when networks are trained.
        show: Whether to print how it goes.
        **settings: Further fields of :class:`~nas_agg.study.settings.Settings`, such as ``dataset="cifar10"``,
            ``max_params="1M"``, ``workers=2``, ``timeout="2h"``; ``objective="accuracy,macs"``, of an own function also
            names of its own such as ``"error:min,macs"``; ``start``: the first networks, each a point's name, a
            genotype of the space as `nas_agg.load` takes it, or values.

    Raises:
        InputError: A setting is wrong, or ``out`` is a run with other settings.
        NasAggError: Ten networks in a row failed, or none gave a result.
        Interrupted: SIGINT or SIGTERM came and the run was kept.
    """
    if not isinstance(searcher, str) and not (isinstance(searcher, type) and issubclass(searcher, Searcher)):
        raise InputError(f"searcher: a name or a subclass of Searcher, not {shown(searcher)}")
    if evaluate is not None and not callable(evaluate):
        raise InputError(f"evaluate: a function, not {shown(evaluate)}")
    found, name = _opened(space)
    looked_up = evaluate is None and found.table is not None and settings.get("dataset") is None
    if looked_up:
        found = Tabled(found)
        settings |= _of_table(found, settings)
    if settings.get("start"):
        settings["start"] = start_values(found, settings["start"])
    kind = searcher if isinstance(searcher, str) else f"{searcher.__module__}.{searcher.__qualname__}"
    wanted = _wanted(evaluate, {"space": name, "searcher": kind, "budget": budget, "seed": seed, **settings}, looked_up)
    proposes = find_searcher(searcher) if isinstance(searcher, str) else searcher
    if out is None and evaluate is None:
        on = Path(wanted.dataset).stem.replace(":", "-") if wanted.dataset else wanted.searcher
        out = Path("runs") / f"{found.name}-{on}-{seed}"
    if out is None and wanted.storage is not None:
        raise InputError("storage: give out as well, a folder for the run")
    run = _Run(found, wanted, proposes, evaluate, show)
    named = evaluate is None and not isinstance(space, Space) and isinstance(searcher, str)
    if out is None:
        return run.search(None, named)
    folder = RunFolder(out)
    try:
        with stopping(folder):
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
    for name in changes.keys() - FREE:
        raise InputError(f"{name}: cannot change when a search goes on; {', '.join(sorted(FREE))} can")
    if "study" not in run:
        raise InputError(f"{path}: the folder of a training, not of a search")
    if not run.get("named"):
        raise InputError(f"{path}: a part of this search is a Python object; go on {how_to_go_on(run, path)}")
    settings = dict(run["settings"]) | changes
    return search(settings.pop("space"), out=path, show=show, **settings)


def _of_table(space: Tabled, settings: dict[str, Any]) -> dict[str, Any]:
    """What a search of a table adds to its settings.

    Raises:
        InputError: One of them is of trainings.
    """
    trained = {"recipe": None, "image_size": None, "compile": False, "latency_target": None, "workers": None}
    for name, none in trained.items():
        if settings.get(name, none) != none:
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
        for key in {
            "pruner",
            "memory",
            "compile",
            "max_latency",
            "latency_target",
            "min_accuracy",
            "max_loss",
        } & settings.keys():
            raise InputError(f"{key}: for networks that are trained here, not scored by evaluate; leave it out")
    wanted = Settings.of(**settings)
    if evaluate is None and wanted.dataset is None and not table:
        raise InputError("dataset: name one, or give an evaluate function")
    return wanted.model_copy(update={"dataset": wanted.dataset and absolute(wanted.dataset)})


def _opened(space: str | os.PathLike[str] | Space) -> tuple[Space, str]:
    """A space, and what run.json calls it: a file by its absolute path."""
    if isinstance(space, Space):
        return space, space.name
    if not isinstance(space, str | os.PathLike):
        raise InputError(f"space: a name, a file or a Space, not {shown(space)}")
    name = os.fspath(space)
    return open_space(name), name if name in list_spaces() else str(Path(name).resolve())


class _Run:
    """One search of one space."""

    def __init__(
        self, space: Space, settings: Settings, searcher: type[Searcher], evaluate: Evaluate | None, show: bool
    ):
        self.space, self.settings, self.evaluate, self.show = space, settings, evaluate, show
        self.objectives = objectives_of(settings, evaluate is not None)
        self.searcher = make_searcher(searcher, space, settings.seed, self.objectives)
        self.rungs: Rungs | None = None
        self.command: Sequence[str] = WORKER
        self.means: Means | None = None

    @property
    def trains(self) -> bool:
        """Whether networks are trained, and not scored by a function or a table."""
        return self.evaluate is None and not isinstance(self.space, Tabled)

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
        self.settings = with_room(said, self.space, *images)
        self.rungs = rungs_of(self.settings)
        if folder is not None and folder.new:
            if said.storage is not None:
                open_storage(said.storage, folder.path)  # a wrong one is refused before there is a run
            filled = ("epochs", "max_params", "max_macs")
            folder.begin(
                said.model_dump(mode="json"),
                limits={name: getattr(self.settings, name) for name in filled},
                study=f"{plain(folder.path.resolve().name)}-{secrets.token_hex(3)}",
                space=_digest(self.space),
                origin={"title": self.space.name, "about": about_space(self.space)},
                evaluate=not self.trains,
                named=named,
                **(task.as_dict() if task else {}),
            )
        if folder is not None and task is not None:
            self.means = means_of(folder, self.settings, task)
        with failing(folder):
            record = self._record(folder)
            result = self._go(folder, task, record, self._proposer(record, task))
        if self.show:
            print_result(result)
        return result

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
        """A run that is to evaluate more networks than before goes on; its final network so far is kept aside."""
        before = int(folder.run["settings"].get("budget", 0))
        if self.settings.budget < before:
            raise InputError(f"{folder.path}: budget: {before} networks were asked for there; give as many or more")
        if self.settings.budget > before:
            folder.extend(before, self.settings.budget)

    # ---- the parts of a search

    def _record(self, folder: RunFolder | None) -> Record:
        pruner = pruner_of(self.settings, self.objectives)
        if folder is None:
            return Record(pruner, objectives=self.objectives)
        storage = open_storage(self.settings.storage, folder.path)
        return Record(pruner, storage, folder.run["study"], _begun(folder), self.objectives)

    def _proposer(self, record: Record, task: Task | dict[str, Any] | None) -> Proposer:
        of = task.as_dict() if isinstance(task, Task) else task or {}
        return Proposer(
            self.space,
            self.searcher,
            record,
            start=self.settings.start or (),
            limits={
                "params": self.settings.max_params or 0,
                "macs": self.settings.max_macs or 0,
                "activation_bytes_train": self.settings.max_activations or 0,
            },
            activations="activations" in self.objectives.names,
            input=of.get("input"),
            classes=of.get("classes"),
            cost=self.space.network if isinstance(self.space, Tabled) else None,
            memory=self.means.of_trial if self.means else None,
            screen=self._screen(of.get("data")),
            measured=self.settings.max_latency is not None,
        )

    def _screen(self, data: dict[str, Any] | None) -> Screen | None:
        if self.settings.proxy is None:
            return None
        return Screen(self.settings.proxy, self.settings.candidates, data, self.settings.seed)

    def _evaluator(self, folder: RunFolder | None, task: Task | None, record: Record) -> Evaluator:
        if isinstance(self.space, Tabled):
            return Lookup(self.space)
        if self.evaluate is not None:
            asked = [objective.figure for objective in self.objectives if not objective.known]
            return InProcess(self.evaluate, record.trial, asked)
        assert task is not None and folder is not None
        here = task.setups() if self.settings.workers != 0 else []
        pool = Pool(here, folder.path / "log.txt", self.settings.trial_timeout, self.command)
        told = {"data": task.data, "images": task.images, "about": task.about, "trial_timeout": pool.trial_timeout}
        return Several(pool, Remote(record, {**told, "folder": str(folder.path.resolve())}))

    def _display(self, folder: RunFolder | None, record: Record, clock: Clock) -> Display:
        def keep() -> None:
            if folder is not None:
                folder.write_trials(record.trials)
                folder.update(seconds=round(clock.seconds, 1))

        return Display(
            self.settings.budget,
            lambda: record.trials,
            folder.log if folder is not None else (lambda line: None),
            keep,
            show=self.show,
            objectives=self.objectives,
            timeout=self.settings.timeout,
            spent=clock.seconds,
        )

    def _go(self, folder: RunFolder | None, task: Task | None, record: Record, proposer: Proposer) -> SearchResult:
        """Search, then train the best in full, then close the record."""
        forgiven = _reopen(folder, record)
        clock = Clock(float(folder.run.get("seconds", 0)) if folder is not None else 0.0)
        with self._display(folder, record, clock) as display:
            display.say(self._first_line(folder, task, record))
            if task is not None and folder is not None and (self.settings.storage or self.settings.workers == 0):
                display.say(f"workers may join: {how_to_join(folder.run, folder.path)}")
            coordinator = Coordinator(
                settings=self.settings,
                record=record,
                proposer=proposer,
                evaluator=self._evaluator(folder, task, record),
                job=lambda trial, network: self._job(folder, trial, network),
                watcher=display,
                clock=clock,
                last_epoch=self.settings.epochs or 0,
                rungs=self.rungs,
                forgiven=forgiven,
            )
            if self._final(folder) is not None:  # it was killed at its very end: nothing is searched anew
                clock.stop()
                reason = folder.run.get("reason", "") if folder else ""
            else:
                reason = coordinator.run()
            dismiss(record, reason)
            best = self._best(record, reason)
            if folder is not None:
                folder.update(reason=reason, seconds=round(clock.seconds, 1))
                if self._final(folder) is None:
                    genotype = proposer.genotype(best.labels)
                    if self.means is not None and task is not None:
                        memory = self.means.of_final(genotype)
                        train_best(folder, task, self.settings, best, genotype, display, self.command, memory)
                    else:
                        _write_best(folder, best, genotype)
            for trial in record.settle(reason):
                display.trial(trial)
        if folder is not None:
            folder.finish()
        return self._result(folder, record, proposer, reason)

    def _first_line(self, folder: RunFolder | None, task: Task | None, record: Record) -> str:
        on = f" on {task.about}" if task else ""
        into = f", into {folder.path}" if folder is not None else ""
        done = sum(trial.counts for trial in record.trials)
        said = {name: getattr(self.settings, f"max_{name}") for name in ("params", "macs", "activations", "latency")}
        bounds = [OBJECTIVES[name].shown(limit) for name, limit in said.items() if limit]
        under = " and ".join(bounds)
        verb = f"going on, {done} of {self.settings.budget} networks done:" if record.trials else "searching"
        up_to = f", networks of up to {under}" if under else ""
        return f"{verb} {self.space.name}{on} with {self.settings.searcher}{up_to}{into}"

    def _job(self, folder: RunFolder | None, trial: TrialRecord, network: Candidate) -> Job:
        order: dict[str, Any] = {}
        if folder is not None:
            path = folder.trial(trial.number)
            text = network.genotype.text()
            write_atomic(path / "genotype.json", network.genotype.to_json() + "\n")
            order = {
                "final": False,
                "genotype": text,
                "seed": trial.seed,
                "recipe": self.settings.recipe or "search",
                "epochs": self.settings.epochs,
                "out": str(path.resolve()),
                "memory": trial.memory,
                "reported": "loss" if {*self.objectives.names} & {*TRAINED} == {"loss"} else "accuracy",
                "latency": self._needs_latency,
                "max_latency": self.settings.max_latency,
                "latency_target": self.settings.latency_target,
            }
        order["until"] = self.rungs.until(trial) if self.rungs else None
        return Job(trial.number, network.genotype, order)

    @property
    def _needs_latency(self) -> bool:
        said = (self.settings.max_latency, self.settings.latency_target)
        return said != (None, None) or "latency" in self.objectives.names

    def _best(self, record: Record, reason: str) -> TrialRecord:
        best = ranked(record.trials)
        if not best:
            failed = [trial.reason for trial in record.trials if trial.state == "failed"]
            last = f"; the last failure: {failed[-1]}" if failed else ""
            raise NasAggError(f"no network has a result: {reason}{last}")
        return best[0]

    def _result(self, folder: RunFolder | None, record: Record, proposer: Proposer, reason: str) -> SearchResult:
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


def _reopen(folder: RunFolder | None, record: Record) -> int:
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


def _write_best(folder: RunFolder, best: TrialRecord, genotype: Genotype) -> None:
    beside = folder.path / "best.tmp"
    with writing(beside):
        beside.mkdir(exist_ok=True)
    write_atomic(beside / "genotype.json", genotype.to_json() + "\n")
    metrics = {"trial": best.number, "value": best.value, "params": best.params, "macs": best.macs, "hash": best.hash}
    write_atomic(beside / "metrics.json", canonical(metrics) + "\n")
    add_code_or_say_why_not(beside, genotype, *origin_of_run(folder.run, folder.path, best.number))
    with writing(folder.best):
        os.rename(beside, folder.best)


def _digest(space: Space) -> str:
    """What a space is, in a few characters: its text, its open names and its defaults for a search."""
    from optuna.distributions import distribution_to_json

    distributions: dict[str, BaseDistribution] = dict(space.distributions)
    names = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
    text = canonical({"template": space.template.text(), "open": names, "search": space.search_text})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
