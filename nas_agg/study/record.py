"""The trials of a search: in memory for the sampler and the pruner, in a storage for whoever comes after a kill.

Optuna's own ``ask`` writes a trial in many steps, and a kill between two of them would leave a trial without all of
its values, which nobody could draw again. So every question is asked of a study in memory, and the storage is told
only when the answer is whole: a trial is created with all its values in one step, and its result is told last. What
the storage says is then always a state of the search as it was, and reading it brings that state back.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_agg.errors import InputError, NasAggError, one_line
from nas_agg.study.searcher import reason_of
from nas_agg.study.stopping import shielded
from nas_agg.study.trial import MEASURED, OWN, Labels, TrialRecord, as_record

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

JOURNAL = "study.journal"
_MAXIMIZE = optuna.study.StudyDirection.MAXIMIZE


class Record:
    """The study, asked in memory and kept in a storage.

    Args:
        pruner: Decides which trials are stopped early.
        storage: Where trials are kept; ``None`` keeps them in memory only.
        name: The study's name in the storage.
        begun: Whether the study must be there already.

    Attributes:
        searcher: What errors call the searcher.

    Raises:
        InputError: The study holds trials of somebody else, or is gone.
    """

    def __init__(
        self, pruner: BasePruner, storage: BaseStorage | None = None, name: str = "search", begun: bool = False
    ):
        self.searcher = "of this search"
        with _quiet():
            self.study = optuna.create_study(direction="maximize", pruner=pruner)
        self._storage = storage
        self._ids: list[int] = []
        self._records: list[TrialRecord] = []
        self._by_hash: dict[str, int] = {}
        self._open: Trial | None = None
        if storage is not None:
            self._study_id = _study_id(storage, name, begun)
            for trial in sorted(storage.get_all_trials(self._study_id), key=lambda trial: trial.number):
                self._load(trial)

    def _load(self, trial: FrozenTrial) -> None:
        if trial.state == TrialState.WAITING or OWN + "hash" not in trial.user_attrs:
            raise InputError(f"the study holds a trial that no search of nas_agg made (number {trial.number})")
        self._ids.append(trial._trial_id)
        if trial.state == TrialState.RUNNING:  # it is trained again, and reports again
            trial.intermediate_values = {}
        self.study.add_trial(trial)
        self._note(trial)

    def _note(self, trial: FrozenTrial) -> None:
        record = as_record(trial)
        if record.number < len(self._records):
            self._records[record.number] = record
        else:
            self._records.append(record)
        if record.state == "stopped":
            if self._by_hash.get(record.hash) == record.number:
                del self._by_hash[record.hash]
        elif record.twin is None:
            self._by_hash[record.hash] = record.number

    # ---- reading

    @property
    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return self._records

    def known(self, hash: str) -> TrialRecord | None:
        """The trial that trained, or trains, or failed to train, the network of this hash."""
        number = self._by_hash.get(hash)
        return None if number is None else self._records[number]

    def trial(self, number: int) -> Trial:
        """The Optuna trial of a number, in memory."""
        return Trial(self.study, self._id(number))

    def _id(self, number: int) -> int:
        return self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study._storage.get_trial(self._id(number))

    # ---- asking

    @property
    def next_number(self) -> int:
        """The number of the trial that is asked for next."""
        return len(self._records)

    def draws(self, sampler: BaseSampler, distributions: Mapping[str, BaseDistribution]) -> Iterator[Labels]:
        """What a sampler proposes for the next trial: its draw, and as many more as are asked for.

        Nothing of it is kept until :meth:`begin`.
        """
        with self.searching(self.next_number):
            self.study.sampler = sampler
            if self._open is None:
                self._open = self.study.ask()
        return self._drawn(sampler, self._frozen(self._open.number), distributions)

    def _drawn(
        self, sampler: BaseSampler, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]
    ) -> Iterator[Labels]:
        study = self.study
        while True:
            with self.searching(trial.number):
                joint = sampler.infer_relative_search_space(study, trial)
                drawn = sampler.sample_relative(study, trial, joint)
                labels = {
                    name: drawn[name] if name in drawn else sampler.sample_independent(study, trial, name, distribution)
                    for name, distribution in distributions.items()
                }
                for name, distribution in distributions.items():
                    if not distribution._contains(distribution.to_internal_repr(labels[name])):
                        raise ValueError(f"{name} cannot be {labels[name]!r}")
            yield labels

    @contextlib.contextmanager
    def searching(self, number: int) -> Iterator[None]:
        """Whatever a searcher raises, as one line."""
        try:
            yield
        except Exception as error:  # a searcher is a plug-in
            raise NasAggError(f"searcher {self.searcher} failed at trial {number}: {reason_of(error)}") from error

    def begin(self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict[str, Any]) -> int:
        """Create the trial that was asked for, with its values and attributes, in one step; gives its number."""
        number = self._fill(labels, distributions, attrs)
        self._save(number)
        return number

    def repeat(self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict, twin: int) -> int:
        """Create the trial that was asked for, with the result of an equal network, in one step; gives its number."""
        equal = self._frozen(twin)
        found = {name: equal.user_attrs[OWN + name] for name in MEASURED if OWN + name in equal.user_attrs}
        number = self._fill(labels, distributions, {**attrs, **found, "repeat_of": twin})
        for step, value in equal.intermediate_values.items():
            self.study._storage.set_trial_intermediate_value(self._id(number), step, value)
        complete = equal.state == TrialState.COMPLETE
        try:
            with self.searching(number):
                self.study.tell(number, equal.value if complete else None, equal.state)
        except NasAggError:
            self._save(number)  # the searcher failed after the trial had its result
            raise
        self._save(number)
        return number

    def _fill(self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict[str, Any]) -> int:
        assert self._open is not None, "a trial begins with a draw"
        number, memory = self._open.number, self.study._storage
        self._open = None
        for name, distribution in distributions.items():
            value = distribution.to_internal_repr(labels[name])
            memory.set_trial_param(self._id(number), name, value, distribution)
        for key, value in attrs.items():
            memory.set_trial_user_attr(self._id(number), OWN + key, value)
        return number

    def _save(self, number: int) -> None:
        trial = self._frozen(number)
        if self._storage is not None:
            with _said("cannot be written"):
                self._ids.append(self._storage.create_new_trial(self._study_id, trial))
                kept = self._storage.get_trial_number_from_id(self._ids[-1])
            if kept != number:
                raise NasAggError("somebody else writes into this study; give each search one of its own")
        self._note(trial)

    # ---- telling

    def report(self, number: int, step: int, value: float) -> bool:
        """Note a trial's score after a step; gives whether the pruner would stop it here."""
        self.study._storage.set_trial_intermediate_value(self._id(number), step, value)
        return bool(self.trial(number).should_prune())

    def forget_reports(self, number: int) -> None:
        """Make a trial one that has not reported: it is trained again."""
        self._frozen(number).intermediate_values.clear()

    def keep_report(self, number: int, step: int, value: float) -> None:
        """Write a reported score to the storage, for those who look on."""
        if self._storage is not None:
            with _said("cannot be written"):
                self._storage.set_trial_intermediate_value(self._ids[number], step, value)

    def complete(self, number: int, value: float, **attrs: Any) -> TrialRecord:
        """Record a trial's result."""
        return self._tell(number, TrialState.COMPLETE, value, attrs)

    def prune(self, number: int, **attrs: Any) -> TrialRecord:
        """Record that a trial was stopped early; its last report is its value, if it can be one."""
        reports = self._frozen(number).intermediate_values
        if reports and not math.isfinite(reports[max(reports)]):
            return self.fail(number, "diverged: the last report is not finite", **attrs)
        return self._tell(number, TrialState.PRUNED, None, attrs)

    def fail(self, number: int, reason: str, **attrs: Any) -> TrialRecord:
        """Record that a trial failed, and why."""
        return self._tell(number, TrialState.FAIL, None, {**attrs, "reason": one_line(reason)})

    def refuse(self, number: int, reason: str, **attrs: Any) -> TrialRecord:
        """Record that a trial's network is over a limit that was measured; it counts for nothing."""
        return self._tell(number, TrialState.FAIL, None, {**attrs, "reason": reason, "infeasible": True})

    def settle(self, reason: str) -> list[TrialRecord]:
        """Record that the search has ended without the trials that are still open; gives them.

        They are neither failures nor known networks: a later search may train them.
        """
        open = [trial.number for trial in self._records if trial.state == "running"]
        return [self._tell(number, TrialState.FAIL, None, {"reason": reason, "stopped": True}) for number in open]

    def _tell(self, number: int, state: TrialState, value: float | None, attrs: dict[str, Any]) -> TrialRecord:
        for key, attr in attrs.items():
            self.study._storage.set_trial_user_attr(self._id(number), OWN + key, attr)
        failure = None
        try:
            with self.searching(number):
                self.study.tell(number, value, state)
        except NasAggError as error:
            failure = error  # the searcher's; the result is in memory, and is kept first
        trial = self._frozen(number)
        if self._storage is not None:
            with _said("cannot be written"):
                self._keep(self._storage, self._ids[number], trial)
                self._storage.set_trial_state_values(self._ids[number], state, trial.values)
        self._note(trial)
        if failure is not None:
            raise failure
        return self._records[number]

    @staticmethod
    def _keep(storage: BaseStorage, id: int, trial: FrozenTrial) -> None:
        """Write what the storage does not have yet of a trial, whoever put it there: reports and attributes."""
        kept = storage.get_trial(id)
        for step, value in trial.intermediate_values.items():
            if kept.intermediate_values.get(step) != value:
                storage.set_trial_intermediate_value(id, step, value)
        for key, attr in trial.user_attrs.items():
            if kept.user_attrs.get(key) != attr:
                storage.set_trial_user_attr(id, key, attr)
        for key, attr in trial.system_attrs.items():
            if kept.system_attrs.get(key) != attr:
                storage.set_trial_system_attr(id, key, attr)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage of a URL, else the journal file of a run folder, whose lock the caller holds.

    Raises:
        InputError: The URL is no storage that can be opened, or the journal cannot be read.
    """
    if url is not None:
        with _said("cannot be opened", url, InputError), _quiet():
            return optuna.storages.get_storage(url)
    path = folder / JOURNAL
    with _said("cannot be read", str(path), InputError):
        _mend(path)
        return JournalStorage(JournalFileBackend(str(path)))


def _mend(path: Path) -> None:
    """Undo what a kill may leave of a journal: half a last line, and the lock of the dead."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def _study_id(storage: BaseStorage, name: str, begun: bool) -> int:
    with _quiet(), _said("cannot be used"):
        try:
            return storage.get_study_id_from_name(name)
        except KeyError:
            if begun:
                raise InputError(f"{JOURNAL} is missing or empty; restore it or choose another --out") from None
            return storage.create_new_study([_MAXIMIZE], name)


@contextlib.contextmanager
def _said(what: str, name: str = "the storage", kind: type[NasAggError] = NasAggError) -> Iterator[None]:
    """Whatever a storage raises, as one line; a signal waits until it is done."""
    try:
        with shielded():
            yield
    except NasAggError:
        raise
    except Exception as error:  # a storage is a plug-in of Optuna's and raises what its driver raises
        raise kind(f"{name} {what}: {reason_of(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's remarks on standard error."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
