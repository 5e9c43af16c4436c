"""Optuna's samplers in searches of several objectives, where trials may be stopped early."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from nas_agg.study.trial import OWN

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class Whole(BaseSampler):
    """A sampler to which a trial of several objectives that was stopped is complete, with what it had then.

    Optuna's own know of no such trials: they fail on them, or pass them over.

    Args:
        sampler: Optuna's.
    """

    def __init__(self, sampler: BaseSampler):
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The sampler's."""
        return self._sampler.infer_relative_search_space(_seen_whole(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's."""
        return self._sampler.sample_relative(_seen_whole(study), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """The sampler's."""
        return self._sampler.sample_independent(_seen_whole(study), trial, name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The sampler's."""
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """The sampler's."""
        self._sampler.after_trial(study, trial, state, values)


class _View:
    """A study as its samplers shall see it."""

    def __init__(self, study: Study):
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [_completed(trial) for trial in self._study.get_trials(deepcopy=False)]
        return [trial for trial in trials if states is None or trial.state in states]

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)


def _seen_whole(study: Study) -> Study:
    return cast("Study", _View(study)) if len(study.directions) > 1 else study


def _completed(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED:
        return trial
    trial = copy.copy(trial)
    trial.intermediate_values = {}
    if values := trial.user_attrs.get(OWN + "values"):
        trial.values, trial.state = values, TrialState.COMPLETE
    return trial
