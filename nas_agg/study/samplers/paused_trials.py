"""Presents paused trials, and pruned trials of several objectives, to Optuna samplers as completed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from nas_agg.study.definition.trial import OWN, is_paused, last_values
from nas_agg.study.samplers.extrapolation import LearningCurveExtrapolator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from nas_agg.study.definition.objectives import Objectives


class PausedTrialsSampler(BaseSampler):
    """Wraps an Optuna sampler, which sees a `CompletedStudyView` of the study.

    Optuna's samplers have no notion of paused trials and ignore pruned trials of several objectives, or fail on them.

    Args:
        sampler: The Optuna sampler.
        objectives: The objectives of the search.
    """

    def __init__(self, sampler: BaseSampler, objectives: Objectives):
        self._sampler, self._objectives = sampler, objectives
        self._view: Study | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The wrapped sampler's relative search space."""
        return self._sampler.infer_relative_search_space(self._view_of(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample by the wrapped sampler."""
        return self._sampler.sample_relative(self._view_of(study), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Sample by the wrapped sampler."""
        return self._sampler.sample_independent(self._view_of(study), trial, name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Call the wrapped sampler's hook."""
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Call the wrapped sampler's hook."""
        self._sampler.after_trial(study, trial, state, values)

    def _view_of(self, study: Study) -> Study:
        if self._view is None:  # a sampler serves one trial, and keeps to the trials before it
            paused = any(OWN + "rungs" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
            needed = paused or self._objectives.is_multi_objective  # otherwise Optuna handles all trials itself
            self._view = cast("Study", CompletedStudyView(study, self._objectives)) if needed else study
        return self._view


class CompletedStudyView:
    """A study in which paused trials are complete, with extrapolated values.

    Of several objectives, pruned trials are complete as well, with their last values. The study itself is not changed.

    Args:
        study: The study.
        objectives: The objectives of the search.
    """

    def __init__(self, study: Study, objectives: Objectives):
        self._study, self._objectives = study, objectives
        self._trials: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if self._trials is None:
            trials = self._study.get_trials(deepcopy=False)
            extrapolator = LearningCurveExtrapolator(trials, self._objectives)
            self._trials = [self._completed(trial, extrapolator) for trial in trials]
        return [trial for trial in self._trials if states is None or trial.state in states]

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials, filtered by states."""
        return self._get_trials(deepcopy, states)

    def _completed(self, trial: FrozenTrial, extrapolator: LearningCurveExtrapolator) -> FrozenTrial:
        paused = OWN + "rungs" in trial.user_attrs and (trial.state == TrialState.PRUNED or is_paused(trial))
        if not paused and not (self._objectives.is_multi_objective and trial.state == TrialState.PRUNED):
            return trial
        trial = copy.copy(trial)
        trial.intermediate_values = {}
        scores = extrapolator.predict(trial)
        # `scores` is its own inverse: it changes the sign of minimized objectives. Trials over a limit have no scores.
        values = last_values(trial) if scores is None else self._objectives.scores(scores)
        if values:
            trial.values, trial.state = list(values), TrialState.COMPLETE
        return trial
