"""The trials of a search: in memory for the sampler and the pruner, in a storage for whoever comes after a kill.

Optuna's own ``ask`` writes a trial in many steps, and a kill between two of them would leave a trial without all of
its values, which nobody could draw again. So every question is asked of a study in memory, and the storage is told
only when the answer is whole: a trial is created with all its values in one step, and its result is told last. What
the storage says is then always a state of the search as it was, and reading it brings that state back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.trial import MEASURED, OWN, REMOTE, Labels, TrialRecord, as_record
from nas_agg.study.records.storages import silence_optuna, storage_errors
from nas_agg.study.samplers.searcher import describe_exception

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


class StudyRecord:
    """The study, asked in memory and kept in a storage.

    Args:
        pruner: Decides which trials are stopped early.
        storage: Where trials are kept; ``None`` keeps them in memory only.
        name: The study's name in the storage.
        must_exist: Whether the study must be there already.
        objectives: What the search aims at.
        where: What errors call the storage.

    Attributes:
        searcher: What errors call the searcher.
        objectives: What the search aims at.
        storage: Where trials are kept.
        study_id: The study's number there.

    Raises:
        InputError: The study holds trials of somebody else, or is gone, or part of it is.
    """

    def __init__(
        self,
        pruner: BasePruner,
        storage: BaseStorage | None = None,
        name: str = "search",
        must_exist: bool = False,
        objectives: Objectives | None = None,
        where: str = "the storage",
    ):
        self.searcher = "of this search"
        self.objectives = objectives or Objectives()
        with silence_optuna():
            self.study = optuna.create_study(study_name="search", directions=self.objectives.directions, pruner=pruner)
        self.storage = storage
        self._ids: list[int] = []
        self._records: list[TrialRecord] = []
        self._by_hash: dict[str, int] = {}
        self._open: Trial | None = None
        if storage is not None:
            self.study_id = _study_id(storage, name, must_exist, self.objectives, where)
            with storage_errors("cannot be read", where, InputError):
                trials = storage.get_all_trials(self.study_id)
            for trial in sorted(trials, key=lambda trial: trial.number):
                if trial.number != len(self._records):
                    raise InputError(
                        f"{where}: trial {len(self._records)} is missing; restore it, or choose another --out"
                    )
                self._load(trial)

    def _load(self, trial: FrozenTrial) -> None:
        if trial.state == TrialState.WAITING or OWN + "hash" not in trial.user_attrs:
            raise InputError(f"the study holds a trial that no search of nas_agg made (number {trial.number})")
        self._ids.append(trial._trial_id)
        trial.user_attrs = {key: attr for key, attr in trial.user_attrs.items() if not key.startswith(REMOTE)}
        if trial.state == TrialState.RUNNING:  # it is trained again, and reports again
            trial.intermediate_values = {}
        self.study.add_trial(trial)
        self._note(trial)

    def _note(self, trial: FrozenTrial) -> None:
        record = as_record(trial, self.objectives)
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

    def find_by_hash(self, hash: str) -> TrialRecord | None:
        """The trial that trained, or trains, or failed to train, the network of this hash."""
        number = self._by_hash.get(hash)
        return None if number is None else self._records[number]

    def trial(self, number: int) -> Trial:
        """The Optuna trial of a number, in memory."""
        return Trial(self.study, self._id(number))

    def storage_trial_id(self, number: int) -> int:
        """What the storage calls the trial of a number."""
        return self._ids[number]

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
        with self.searcher_errors(self.next_number):
            self.study.sampler = sampler
            if self._open is None:
                self._open = self.study.ask()
        return self._drawn(sampler, self._frozen(self._open.number), distributions)

    def _drawn(
        self, sampler: BaseSampler, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]
    ) -> Iterator[Labels]:
        study = self.study
        while True:
            with self.searcher_errors(trial.number):
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
    def searcher_errors(self, number: int) -> Iterator[None]:
        """Whatever a searcher raises, as one line."""
        try:
            yield
        except Exception as error:  # a searcher is a plug-in
            raise NasAggError(
                f"searcher {self.searcher} failed at trial {number}: {describe_exception(error)}"
            ) from error

    def create_trial(self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict[str, Any]) -> int:
        """Create the trial that was asked for, with its values and attributes, in one step; gives its number."""
        number = self._fill(labels, distributions, attrs)
        self._save(number)
        return number

    def create_duplicate(
        self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict, duplicate_of: int
    ) -> int:
        """Create the trial that was asked for, with the result of an equal network, in one step; gives its number."""
        equal = self._frozen(duplicate_of)
        names = (*MEASURED, "values", "rungs")
        found = {name: equal.user_attrs[OWN + name] for name in names if OWN + name in equal.user_attrs}
        number = self._fill(labels, distributions, {**attrs, **found, "repeat_of": duplicate_of})
        for step, value in equal.intermediate_values.items():
            self.study._storage.set_trial_intermediate_value(self._id(number), step, value)
        self._constrain(number, equal.constraints)
        complete = equal.state == TrialState.COMPLETE
        try:
            with self.searcher_errors(number):
                self.study.tell(number, equal.values if complete else None, equal.state)
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
        if self.storage is not None:
            with storage_errors("cannot be written"):
                self._ids.append(self.storage.create_new_trial(self.study_id, trial))
                kept = self.storage.get_trial_number_from_id(self._ids[-1])
            if kept != number:
                raise NasAggError("somebody else writes into this study; give each search one of its own")
        self._note(trial)

    # ---- telling

    def report(self, number: int, step: int, value: float) -> bool:
        """Note what a trial has after a step; gives whether the pruner would stop it here."""
        self.study._storage.set_trial_intermediate_value(self._id(number), step, value)
        return not self.objectives.is_multi_objective and bool(self.trial(number).should_prune())

    def clear_reports(self, number: int) -> None:
        """Make a trial one that has not reported: it is trained again."""
        self._frozen(number).intermediate_values.clear()

    def store_report(self, number: int, step: int, value: float) -> None:
        """Write a reported score to the storage, for those who look on."""
        if self.storage is not None:
            with storage_errors("cannot be written"):
                self.storage.set_trial_intermediate_value(self._ids[number], step, value)

    def complete(
        self, number: int, values: float | Sequence[float], over: Mapping[str, float] | None = None, **attrs: Any
    ) -> TrialRecord:
        """Record a trial's result.

        Args:
            number: The trial's.
            values: One for each objective.
            over: By how much it is over limits; more than 0 is over.
            **attrs: What else is known of it.
        """
        self._constrain(number, over or {})
        values = [values] if isinstance(values, int | float) else list(values)
        return self._tell(number, TrialState.COMPLETE, values, attrs)

    def prune(
        self,
        number: int,
        values: Sequence[float] | None = None,
        over: Mapping[str, float] | None = None,
        **attrs: Any,
    ) -> TrialRecord:
        """Record that a trial was stopped early.

        Args:
            number: The trial's.
            values: What it had then; unsaid, its last report, if it can be a value.
            over: By how much it was over limits.
            **attrs: What else is known of it.
        """
        reports = self._frozen(number).intermediate_values
        if reports and not math.isfinite(reports[max(reports)]):
            return self.fail(number, "diverged: the last report is not finite", **attrs)
        self._constrain(number, over or {})
        kept = {} if values is None else {"values": list(values)}
        return self._tell(number, TrialState.PRUNED, None, {**attrs, **kept})

    def pause(
        self, number: int, epoch: int, values: Sequence[float], over: Mapping[str, float] | None = None, **attrs: Any
    ) -> TrialRecord:
        """Record what a trial has at a rung, where it waits; what it is over counts if it goes no further.

        What is written last says that it came there; a kill before leaves a trial on its way.
        """
        rungs = self._frozen(number).user_attrs.get(OWN + "rungs", {}) | {str(epoch): list(values)}
        return self._set(number, {**attrs, **self._over(number, over or {}), "rungs": rungs})

    def promote(self, number: int) -> TrialRecord:
        """Record that a trial that waited goes on from its last rung."""
        return self._set(number, {"promoted": max(self._records[number].rungs)})

    def _set(self, number: int, attrs: Mapping[str, Any]) -> TrialRecord:
        for key, attr in attrs.items():
            self.study._storage.set_trial_user_attr(self._id(number), OWN + key, attr)
            if self.storage is not None:
                with storage_errors("cannot be written"):
                    self.storage.set_trial_user_attr(self._ids[number], OWN + key, attr)
        self._note(self._frozen(number))
        return self._records[number]

    def fail(self, number: int, reason: str, **attrs: Any) -> TrialRecord:
        """Record that a trial failed, and why."""
        return self._tell(number, TrialState.FAIL, None, {**attrs, "reason": one_line(reason)})

    def mark_infeasible(self, number: int, reason: str, over: Mapping[str, float], **attrs: Any) -> TrialRecord:
        """Record that a trial's network is over a limit that arithmetic does not know; it has no result.

        Samplers learn of it by Optuna's constraints; a failed trial they would not see.
        """
        self._constrain(number, over)
        return self._tell(number, TrialState.PRUNED, None, {**attrs, "reason": one_line(reason), "infeasible": True})

    def _constrain(self, number: int, over: Mapping[str, float]) -> None:
        trial = self.trial(number)
        for name, much in over.items():
            trial.set_constraint(name, much)
        for key, attr in self._over(number, over).items():
            self.study._storage.set_trial_user_attr(self._id(number), OWN + key, attr)

    def _over(self, number: int, over: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """What a trial is over, for dashboards, which show attributes; also where it is over less than at a rung."""
        return {"over": dict(over)} if over or OWN + "over" in self._frozen(number).user_attrs else {}

    def close_open_trials(self, reason: str) -> list[TrialRecord]:
        """Record that the search has ended without the trials that are still open; gives them.

        Those that came to a rung have what they had there. The others are neither failures nor known networks: a later
        search may train them.
        """
        open = [trial for trial in self._records if trial.state in ("paused", "running")]
        for trial in open:
            if trial.rungs:
                self._constrain(trial.number, self._frozen(trial.number).user_attrs.get(OWN + "over", {}))
                self._tell(trial.number, TrialState.PRUNED, None, {})
            else:
                self._tell(trial.number, TrialState.FAIL, None, {"reason": reason, "stopped": True})
        return [self._records[trial.number] for trial in open if trial.state == "running"]

    def _tell(self, number: int, state: TrialState, values: list[float] | None, attrs: dict[str, Any]) -> TrialRecord:
        for key, attr in attrs.items():
            self.study._storage.set_trial_user_attr(self._id(number), OWN + key, attr)
        failure = None
        try:
            with self.searcher_errors(number):
                self.study.tell(number, values, state)
        except NasAggError as error:
            failure = error  # the searcher's; the result is in memory, and is kept first
        trial = self._frozen(number)
        if self.storage is not None:
            with storage_errors("cannot be written"):
                self._keep(self.storage, self._ids[number], trial)
                self.storage.set_trial_state_values(self._ids[number], state, trial.values)
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


def _study_id(storage: BaseStorage, name: str, must_exist: bool, objectives: Objectives, where: str) -> int:
    with silence_optuna(), storage_errors("cannot be used", where):
        try:
            return storage.get_study_id_from_name(name)
        except KeyError:
            if must_exist:
                raise InputError(f"{where}: the study is gone; restore it, or choose another --out") from None
            study = optuna.create_study(study_name=name, storage=storage, directions=objectives.directions)
            study.set_metric_names(list(objectives.names))
            return storage.get_study_id_from_name(name)
