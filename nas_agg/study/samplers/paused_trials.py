"""Optuna's samplers in searches whose trials pause, or are stopped early though there are several objectives."""

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
    """A sampler to which trials that paused are complete, with what they may be expected to have at the end.

    So are trials of several objectives that were stopped, with what they had then. Optuna's own know of no such trials:
    they fail on them, or pass them over.

    Args:
        sampler: Optuna's.
        objectives: What the search aims at.
    """

    def __init__(self, sampler: BaseSampler, objectives: Objectives):
        self._sampler, self._objectives = sampler, objectives
        self._view: Study | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The sampler's."""
        return self._sampler.infer_relative_search_space(self._whole(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's."""
        return self._sampler.sample_relative(self._whole(study), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """The sampler's."""
        return self._sampler.sample_independent(self._whole(study), trial, name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The sampler's."""
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """The sampler's."""
        self._sampler.after_trial(study, trial, state, values)

    def _whole(self, study: Study) -> Study:
        if self._view is None:  # a sampler is of one trial, and draws for it from what was there when it began
            paused = any(OWN + "rungs" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
            seen = paused or self._objectives.is_multi_objective  # else Optuna knows what there is
            self._view = cast("Study", CompletedStudyView(study, self._objectives)) if seen else study
        return self._view


class CompletedStudyView:
    """A study as its samplers shall see it."""

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
            prospects = LearningCurveExtrapolator(trials, self._objectives)
            self._trials = [self._completed(trial, prospects) for trial in trials]
        return [trial for trial in self._trials if states is None or trial.state in states]

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _completed(self, trial: FrozenTrial, prospects: LearningCurveExtrapolator) -> FrozenTrial:
        paused = OWN + "rungs" in trial.user_attrs and (trial.state == TrialState.PRUNED or is_paused(trial))
        if not paused and not (self._objectives.is_multi_objective and trial.state == TrialState.PRUNED):
            return trial
        trial = copy.copy(trial)
        trial.intermediate_values = {}
        scores = prospects.of(trial)  # turned once more they are values; of what is over a limit there are none
        values = last_values(trial) if scores is None else self._objectives.scores(scores)
        if values:
            trial.values, trial.state = list(values), TrialState.COMPLETE
        return trial
