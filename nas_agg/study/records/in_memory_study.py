"""An Optuna study in memory, read and written trial by trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import FrozenTrial, Trial

from nas_agg.study.records.storages import silence_optuna

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner


class InMemoryStudy:
    """An Optuna study whose trials are addressed by number.

    Optuna's public classes can neither set a parameter of a trial that has been asked for nor remove its reports, so
    this class, and no other, uses the storage behind the study.

    Args:
        directions: One for each objective.
        pruner: Decides which trials are stopped early.

    Attributes:
        study: The Optuna study.
    """

    def __init__(self, directions: Sequence[Literal["minimize", "maximize"]], pruner: BasePruner):
        with silence_optuna():
            self.study = optuna.create_study(study_name="search", directions=directions, pruner=pruner)
        self._storage = self.study._storage

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def ask(self) -> Trial:
        """Create a trial; `Study.ask` would first look through all trials for one that was enqueued."""
        self.study._thread_local.cached_all_trials = None
        return Trial(self.study, self._storage.create_new_trial(self.study._study_id))

    def trial(self, number: int) -> Trial:
        """The trial of this number, as an objective function receives it."""
        return Trial(self.study, self._id(number))

    def frozen_trial(self, number: int) -> FrozenTrial:
        """The state of a trial; not a copy, so do not modify it."""
        return self._storage.get_trial(self._id(number))

    def set_param(self, number: int, name: str, value: Any, distribution: BaseDistribution) -> None:
        """Set a parameter of a running trial."""
        self._storage.set_trial_param(self._id(number), name, distribution.to_internal_repr(value), distribution)

    def set_attr(self, number: int, key: str, value: Any) -> None:
        """Set a user attribute of a running trial."""
        self._storage.set_trial_user_attr(self._id(number), key, value)

    def set_report(self, number: int, step: int, value: float) -> None:
        """Set the reported value of a step; unlike `Trial.report`, also of several objectives."""
        self._storage.set_trial_intermediate_value(self._id(number), step, value)

    def clear_reports(self, number: int) -> None:
        """Remove all reported values of a trial."""
        self.frozen_trial(number).intermediate_values.clear()
