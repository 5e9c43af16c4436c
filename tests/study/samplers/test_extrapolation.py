"""Extrapolated scores of paused trials, and both kinds of searchers that receive them."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.trial import OWN
from nas_agg.study.samplers.extrapolation import LearningCurveExtrapolator
from nas_agg.study.samplers.paused_trials import PausedTrialsSampler
from nas_agg.study.samplers.point_searcher import observations

NUMBERS = itertools.count()
BOTH = Objectives([METRICS["accuracy"], METRICS["macs"]])


def trial(rungs, end=None, state=TrialState.RUNNING, number=0, **attrs):
    """A trial that paused at rungs with (accuracy, MACs) at each; complete if it has values at the end."""
    own = {"rungs": {str(epoch): list(values) for epoch, values in rungs.items()}, **attrs} if rungs else attrs
    extrapolator = create_trial(
        state=TrialState.COMPLETE if end else state,
        values=end,
        params={"x": number},
        distributions={"x": IntDistribution(0, 9)},
        user_attrs={OWN + name: attr for name, attr in own.items()},
    )
    extrapolator.number = next(NUMBERS)
    return extrapolator


def test_scores_follow_the_line_of_completed_trials():
    completed = [trial({4: (x, 10 * x)}, (0.5 + 0.5 * x, 10 * x)) for x in (0.2, 0.4, 0.8)]
    paused, stopped = trial({4: (0.6, 7.0)}), trial({4: (0.1, 3.0)}, state=TrialState.PRUNED)
    extrapolator = LearningCurveExtrapolator([*completed, paused, stopped], BOTH)
    assert extrapolator.predict(paused) == pytest.approx((0.8, -7.0))
    assert extrapolator.predict(stopped) == pytest.approx((0.55, -3.0))
    assert extrapolator.predict(completed[0]) == pytest.approx((0.6, -2.0)), (
        "the scores of a completed trial are unchanged"
    )


def test_the_median_gain_of_two_completed_trials_is_added_and_nothing_without_any():
    paused = trial({4: (0.3, 7.0)})
    assert LearningCurveExtrapolator([paused], BOTH).predict(paused) == pytest.approx((0.3, -7.0))
    completed = [trial({4: (0.5, 1.0)}, (0.6, 1.0)), trial({4: (0.4, 1.0)}, (0.7, 1.0))]
    assert LearningCurveExtrapolator([*completed, paused], BOTH).predict(paused) == pytest.approx((0.5, -7.0))


def test_several_rungs_are_extrapolated_one_by_one():
    completed = [trial({1: (x, 1.0), 3: (x + 0.1, 1.0)}, (x + 0.3, 1.0)) for x in (0.1, 0.2, 0.5)]
    low, high = trial({1: (0.3, 1.0)}), trial({1: (0.0, 1.0), 3: (0.4, 1.0)})
    extrapolator = LearningCurveExtrapolator([*completed, low, high], BOTH)
    # The first line is steeper than 1 nowhere, but one network gained more than the others there.
    assert extrapolator.predict(high) == pytest.approx((0.6, -1.0))
    assert 0.5 < extrapolator.predict(low)[0] < 0.75


def test_trials_without_scores_have_no_prediction():
    running = trial({}, state=TrialState.RUNNING)
    over = trial({4: (0.9, 1.0)}, state=TrialState.PRUNED)
    over.set_constraint("accuracy", 0.1)
    extrapolator = LearningCurveExtrapolator([running, over], BOTH)
    assert extrapolator.predict(running) is None and extrapolator.predict(over) is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8), st.lists(st.floats(0, 1), min_size=2, max_size=6)
)
def test_order_is_kept_leads_do_not_grow_and_costs_are_unchanged(pairs, paused_scores):
    completed = [trial({4: (before, 5.0)}, (after, 5.0)) for before, after in pairs]
    paused = [trial({4: (before, 100.0 + place)}) for place, before in enumerate(paused_scores)]
    extrapolator = LearningCurveExtrapolator([*completed, *paused], BOTH)
    predicted = np.array([extrapolator.predict(one) for one in paused])
    assert predicted[:, 1] == pytest.approx([-100.0 - place for place in range(len(paused))])
    order = np.argsort(paused_scores, kind="stable")
    steps = np.diff(predicted[order, 0])
    assert (steps >= -1e-9).all() and (steps <= np.diff(np.array(paused_scores)[order]) + 1e-9).all()
    assert all(math.isfinite(value) for value in predicted.ravel())


def study_with_a_paused_trial(objectives):
    """A study of two completed networks and a paused one, whose extrapolated accuracy is 0.65."""
    study, width = optuna.create_study(directions=objectives.directions), len(objectives)
    for number, (before, after) in enumerate([((0.2, 2.0), (0.6, 2.0)), ((0.4, 4.0), (0.7, 4.0)), ((0.3, 9.0), None)]):
        study.add_trial(trial({4: before[:width]}, after and after[:width], number=number))
    return study


EXPECTED = ((0.6, 2.0), (0.7, 4.0), (0.65, 9.0))


def test_observations_have_extrapolated_scores():
    space = SimpleNamespace(names=["x"], values=dict)
    assert [one.scores for one in observations(study_with_a_paused_trial(BOTH), space, BOTH)] == [
        pytest.approx(BOTH.scores(values)) for values in EXPECTED
    ]


@pytest.mark.parametrize("objectives", [Objectives([METRICS["accuracy"]]), BOTH])
def test_optuna_samplers_see_paused_trials_as_complete(objectives):
    class Spy(optuna.samplers.RandomSampler):
        def sample_relative(self, study, trial, search_space):
            self.saw = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            return {}

    study = study_with_a_paused_trial(objectives)
    spy = Spy()
    PausedTrialsSampler(spy, objectives).sample_relative(study, study.trials[-1], {})
    assert [one.values for one in spy.saw] == [pytest.approx(values[: len(objectives)]) for values in EXPECTED]
    assert study.trials[-1].state == TrialState.RUNNING, "the study itself is unchanged"
