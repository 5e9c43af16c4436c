"""The trials of a search, in memory for the sampler and the pruner and in a storage to resume from.

Optuna's own ``ask`` writes a trial in many steps, and a kill between two of them would leave a trial without all of
its values, which could not be drawn again. Therefore sampler and pruner work on a study in memory, and the storage is
written only in whole steps: a trial is created with all its values at once, and its result is written last. The
storage thus always holds a state that the search was in, and loading it restores that state.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_agg.common.errors import NasAggError, one_line
from nas_agg.study.definition.leaders import Leaders
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.trial import ATTEMPT, MEASURED, OWN, REMOTE, Labels, RecordState, TrialRecord, as_record
from nas_agg.study.records.in_memory_study import InMemoryStudy
from nas_agg.study.records.journal import RunJournal
from nas_agg.study.records.storages import find_or_create_study, storage_errors, store_differences, stored_trials
from nas_agg.study.samplers.draws import draw_labels, searcher_errors

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study


class StudyRecord:
    """A study in memory and its copy in a storage.

    Args:
        pruner: Decides which trials are stopped early.
        storage: Where trials are stored; ``None`` holds them in memory only.
        name: The study's name in the storage.
        must_exist: Whether the storage must hold the study already.
        objectives: The objectives of the search.
        storage_name: The storage's name in error messages.

    Attributes:
        searcher: The searcher's name in error messages.
        objectives: The objectives of the search.
        leaders: The best of the trials, and the number of evaluated networks.
        storage: Where trials are stored.
        study_id: The study's ID in the storage.

    Raises:
        InputError: The study is missing, incomplete, or has trials that nas_agg did not create.
    """

    def __init__(
        self,
        pruner: BasePruner,
        storage: BaseStorage | None = None,
        name: str = "search",
        must_exist: bool = False,
        objectives: Objectives | None = None,
        storage_name: str = "the storage",
    ):
        self.searcher = "of this search"
        self.objectives = objectives or Objectives()
        self.leaders = Leaders(self.objectives)
        self._memory = InMemoryStudy(self.objectives.directions, pruner)
        self.storage = storage
        self._storage_ids: list[int] = []
        self._records: list[TrialRecord] = []
        self._attempts: dict[int, int] = {}
        self._by_hash: dict[str, int] = {}
        self._next_trial: Trial | None = None  # asked for, but not created yet
        if storage is not None:
            self.study_id = find_or_create_study(storage, name, must_exist, self.objectives, storage_name)
            self._load(storage, storage_name)

    def _load(self, storage: BaseStorage, storage_name: str) -> None:
        """Copy all trials of the storage into memory."""
        for trial in stored_trials(storage, self.study_id, storage_name):
            self._storage_ids.append(trial._trial_id)
            if trial.state == TrialState.RUNNING:
                self._attempts[trial.number] = trial.user_attrs.get(ATTEMPT, 1)
            trial.user_attrs = {key: attr for key, attr in trial.user_attrs.items() if not key.startswith(REMOTE)}
            if trial.state == TrialState.RUNNING:  # it is trained again, and reports again
                trial.intermediate_values = {}
            self.study.add_trial(trial)
            self._update_record(trial)

    def _update_record(self, trial: FrozenTrial) -> None:
        record = as_record(trial, self.objectives)
        if record.number < len(self._records):
            self.leaders.update(record, self._records[record.number])
            self._records[record.number] = record
        else:
            self.leaders.update(record)
            self._records.append(record)
        if record.state == RecordState.INTERRUPTED:
            if self._by_hash.get(record.hash) == record.number:
                del self._by_hash[record.hash]
        elif record.duplicate_of is None:
            self._by_hash[record.hash] = record.number

    # ---- reading

    @property
    def study(self) -> Study:
        """The Optuna study in memory."""
        return self._memory.study

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        return self._records

    def find_by_hash(self, hash: str) -> TrialRecord | None:
        """The trial of the network with this hash, whatever its state; not one that the end of a search stopped."""
        number = self._by_hash.get(hash)
        return None if number is None else self._records[number]

    def optuna_trial(self, number: int) -> Trial:
        """The Optuna trial in memory."""
        return self._memory.trial(number)

    def reports(self, number: int) -> dict[int, float]:
        """The values that a trial has reported, by step."""
        return dict(self._memory.frozen_trial(number).intermediate_values)

    def storage_trial_id(self, number: int) -> int:
        """The trial's ID in the storage."""
        return self._storage_ids[number]

    def flush(self) -> None:
        """Wait until all that was recorded is on the disk; databases wait themselves."""
        if isinstance(self.storage, RunJournal):
            self.storage.flush()

    # ---- creating trials

    @property
    def next_number(self) -> int:
        """The number of the next trial."""
        return len(self._records)

    def draws(self, sampler: BaseSampler, distributions: Mapping[str, BaseDistribution]) -> Iterator[Labels]:
        """Values that a sampler proposes for the next trial: endlessly many draws, none of which is recorded.

        Args:
            sampler: The sampler.
            distributions: The search variables.

        Raises:
            NasAggError: The sampler failed.
        """
        with self.searcher_errors(self.next_number):
            self.study.sampler = sampler
            if self._next_trial is None:
                self._next_trial = self._memory.ask()
        trial = self._memory.frozen_trial(self._next_trial.number)
        return draw_labels(self.study, sampler, trial, distributions, self.searcher)

    def searcher_errors(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Convert any exception of the searcher into an error of one line.

        Args:
            number: The trial that the searcher works on.
        """
        return searcher_errors(self.searcher, number)

    def create_trial(self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict[str, Any]) -> int:
        """Create the next trial with its values and attributes, in one step.

        Returns:
            Its number.
        """
        number = self._fill_next_trial(labels, distributions, attrs)
        self._store_new_trial(number)
        return number

    def create_duplicate(
        self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict[str, Any], duplicate_of: int
    ) -> int:
        """Create the next trial with the result of an earlier trial of an equal network, in one step.

        Returns:
            Its number.
        """
        original = self._memory.frozen_trial(duplicate_of)
        keys = (*MEASURED, "values", "rungs")
        result = {key: original.user_attrs[OWN + key] for key in keys if OWN + key in original.user_attrs}
        number = self._fill_next_trial(labels, distributions, {**attrs, **result, "duplicate_of": duplicate_of})
        for step, value in original.intermediate_values.items():
            self._memory.set_report(number, step, value)
        self._set_constraints(number, original.constraints)
        values = original.values if original.state == TrialState.COMPLETE else None
        try:
            with self.searcher_errors(number):
                self.study.tell(number, values, original.state)
        except NasAggError:
            self._store_new_trial(number)  # the searcher failed after the trial had its result
            raise
        self._store_new_trial(number)
        return number

    def _fill_next_trial(
        self, labels: Labels, distributions: Mapping[str, BaseDistribution], attrs: dict[str, Any]
    ) -> int:
        assert self._next_trial is not None, "a trial begins with a draw"
        number = self._next_trial.number
        self._next_trial = None
        for name, distribution in distributions.items():
            self._memory.set_param(number, name, labels[name], distribution)
        self._set_attrs(number, attrs)
        return number

    def _set_attrs(self, number: int, attrs: Mapping[str, Any]) -> None:
        for key, attr in attrs.items():
            self._memory.set_attr(number, OWN + key, attr)

    def _store_new_trial(self, number: int) -> None:
        trial = self._memory.frozen_trial(number)
        if self.storage is not None:
            with storage_errors("cannot be written"):
                self._storage_ids.append(self.storage.create_new_trial(self.study_id, trial))
                stored_number = self.storage.get_trial_number_from_id(self._storage_ids[-1])
            if stored_number != number:
                raise NasAggError("another process is writing to this study; use a separate study for each search")
        self._update_record(trial)

    def begin_attempt(self, number: int) -> int:
        """Begin the next attempt of a trial, which no earlier part of the search has begun.

        Returns:
            Its number, from 1. The storage has it before a backend does; without it, it has been 1 at most.
        """
        attempt = self._attempts[number] = self._attempts.get(number, 0) + 1
        if attempt > 1 and self.storage is not None:
            with storage_errors("cannot be written"):
                self.storage.set_trial_user_attr(self._storage_ids[number], ATTEMPT, attempt)
        return attempt

    # ---- recording results

    def report(self, number: int, step: int, value: float) -> bool:
        """Record the value of a step in memory.

        Returns:
            Whether the pruner would stop the trial at this step.
        """
        self._memory.set_report(number, step, value)
        return not self.objectives.is_multi_objective and bool(self.optuna_trial(number).should_prune())

    def clear_reports(self, number: int) -> None:
        """Remove a trial's reports from memory, as it is trained again."""
        self._memory.clear_reports(number)

    def store_report(self, number: int, step: int, value: float) -> None:
        """Write a reported value to the storage, for dashboards."""
        if self.storage is not None:
            with storage_errors("cannot be written"):
                self.storage.set_trial_intermediate_value(self._storage_ids[number], step, value)

    def complete(
        self, number: int, values: float | Sequence[float], violations: Mapping[str, float] | None = None, **attrs: Any
    ) -> TrialRecord:
        """Record a trial's result.

        Args:
            number: The trial's number.
            values: One for each objective.
            violations: By how much the network exceeds each limit; 0 or less is within it.
            **attrs: Further attributes, such as ``seconds``.
        """
        self._set_constraints(number, violations or {})
        values = [values] if isinstance(values, int | float) else list(values)
        return self._finish(number, TrialState.COMPLETE, values, attrs)

    def prune(
        self,
        number: int,
        values: Sequence[float] | None = None,
        violations: Mapping[str, float] | None = None,
        **attrs: Any,
    ) -> TrialRecord:
        """Record that a trial was stopped early.

        Args:
            number: The trial's number.
            values: Its values at that time; ``None`` takes its last report, if that is a value.
            violations: As for :meth:`complete`.
            **attrs: Further attributes.
        """
        reports = self._memory.frozen_trial(number).intermediate_values
        if reports and not math.isfinite(reports[max(reports)]):
            return self.fail(number, "diverged: the last report is not finite", **attrs)
        self._set_constraints(number, violations or {})
        if values is not None:
            attrs["values"] = list(values)
        return self._finish(number, TrialState.PRUNED, None, attrs)

    def pause(
        self,
        number: int,
        epoch: int,
        values: Sequence[float],
        violations: Mapping[str, float] | None = None,
        **attrs: Any,
    ) -> TrialRecord:
        """Record a trial's values at a rung, where it pauses; its violations count if it is not promoted.

        The rung is written last: after a kill before that, the trial is still on its way to it.
        """
        rungs = self._memory.frozen_trial(number).user_attrs.get(OWN + "rungs", {}) | {str(epoch): list(values)}
        return self._store_attrs(number, {**attrs, **self._violation_attrs(number, violations or {}), "rungs": rungs})

    def promote(self, number: int) -> TrialRecord:
        """Record that a paused trial continues from its last rung."""
        return self._store_attrs(number, {"promoted": max(self._records[number].rungs)})

    def _store_attrs(self, number: int, attrs: Mapping[str, Any]) -> TrialRecord:
        for key, attr in attrs.items():
            self._memory.set_attr(number, OWN + key, attr)
            if self.storage is not None:
                with storage_errors("cannot be written"):
                    self.storage.set_trial_user_attr(self._storage_ids[number], OWN + key, attr)
        self._update_record(self._memory.frozen_trial(number))
        return self._records[number]

    def fail(self, number: int, reason: str, **attrs: Any) -> TrialRecord:
        """Record that a trial failed, and the reason."""
        return self._finish(number, TrialState.FAIL, None, {**attrs, "reason": one_line(reason)})

    def mark_infeasible(self, number: int, reason: str, violations: Mapping[str, float], **attrs: Any) -> TrialRecord:
        """Record that a trial's network exceeds a limit that is only measured once it runs; it has no result.

        Samplers learn of it through Optuna's constraints; they would ignore a failed trial.
        """
        self._set_constraints(number, violations)
        return self._finish(number, TrialState.PRUNED, None, {**attrs, "reason": one_line(reason), "infeasible": True})

    def _set_constraints(self, number: int, violations: Mapping[str, float]) -> None:
        trial = self.optuna_trial(number)
        for name, violation in violations.items():
            trial.set_constraint(name, violation)
        self._set_attrs(number, self._violation_attrs(number, violations))

    def _violation_attrs(self, number: int, violations: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """The violations as an attribute, which dashboards show; empty ones replace those of an earlier rung."""
        earlier = OWN + "violations" in self._memory.frozen_trial(number).user_attrs
        return {"violations": dict(violations)} if violations or earlier else {}

    def close_open_trials(self, reason: str) -> list[TrialRecord]:
        """Close the trials that are still open when the search ends.

        A trial that reached a rung has its values there. Any other is neither a failure nor a known network: a later
        search may train it.

        Args:
            reason: Why the search ended.

        Returns:
            The trials that were running.
        """
        open_trials = [trial for trial in self._records if trial.state in (RecordState.PAUSED, RecordState.RUNNING)]
        for trial in open_trials:
            if trial.rungs:
                violations = self._memory.frozen_trial(trial.number).user_attrs.get(OWN + "violations", {})
                self._set_constraints(trial.number, violations)
                self._finish(trial.number, TrialState.PRUNED, None, {})
            else:
                self._finish(trial.number, TrialState.FAIL, None, {"reason": reason, "interrupted": True})
        return [self._records[trial.number] for trial in open_trials if trial.state == RecordState.RUNNING]

    def _finish(
        self, number: int, state: TrialState, values: list[float] | None, attrs: Mapping[str, Any]
    ) -> TrialRecord:
        self._set_attrs(number, attrs)
        searcher_error = None
        try:
            with self.searcher_errors(number):
                self.study.tell(number, values, state)
        except NasAggError as error:
            searcher_error = error  # the result is in memory, and is stored before the error is raised
        trial = self._memory.frozen_trial(number)
        if self.storage is not None:
            with storage_errors("cannot be written"):
                store_differences(self.storage, self._storage_ids[number], trial)
                self.storage.set_trial_state_values(self._storage_ids[number], state, trial.values)
        self._update_record(trial)
        if searcher_error is not None:
            raise searcher_error
        return self._records[number]
