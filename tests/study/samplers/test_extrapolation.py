"""What paused networks may be expected to have at the end, and that searchers of either kind are told so."""

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
    """A trial that paused at rungs, with (accuracy, MACs) at each; complete with what it has at the end."""
    own = {"rungs": {str(epoch): list(values) for epoch, values in rungs.items()}, **attrs} if rungs else attrs
    found = create_trial(
        state=TrialState.COMPLETE if end else state,
        values=end,
        params={"x": number},
        distributions={"x": IntDistribution(0, 9)},
        user_attrs={OWN + name: attr for name, attr in own.items()},
    )
    found.number = next(NUMBERS)
    return found


def test_scores_are_carried_along_the_line_of_those_that_went_on():
    went = [trial({4: (x, 10 * x)}, (0.5 + 0.5 * x, 10 * x)) for x in (0.2, 0.4, 0.8)]
    waits, left = trial({4: (0.6, 7.0)}), trial({4: (0.1, 3.0)}, state=TrialState.PRUNED)
    found = LearningCurveExtrapolator([*went, waits, left], BOTH)
    assert found.predict(waits) == pytest.approx((0.8, -7.0))
    assert found.predict(left) == pytest.approx((0.55, -3.0))
    assert found.predict(went[0]) == pytest.approx((0.6, -2.0)), "what is whole has what it has"


def test_of_two_that_went_on_the_middle_gain_counts_and_of_none_nothing_does():
    waits = trial({4: (0.3, 7.0)})
    assert LearningCurveExtrapolator([waits], BOTH).predict(waits) == pytest.approx((0.3, -7.0))
    went = [trial({4: (0.5, 1.0)}, (0.6, 1.0)), trial({4: (0.4, 1.0)}, (0.7, 1.0))]
    assert LearningCurveExtrapolator([*went, waits], BOTH).predict(waits) == pytest.approx((0.5, -7.0))


def test_several_rungs_are_climbed_one_by_one():
    whole = [trial({1: (x, 1.0), 3: (x + 0.1, 1.0)}, (x + 0.3, 1.0)) for x in (0.1, 0.2, 0.5)]
    low, high = trial({1: (0.3, 1.0)}), trial({1: (0.0, 1.0), 3: (0.4, 1.0)})
    found = LearningCurveExtrapolator([*whole, low, high], BOTH)
    # The first line is steeper than 1 nowhere, but one network gained more than the others there.
    assert found.predict(high) == pytest.approx((0.6, -1.0))
    assert 0.5 < found.predict(low)[0] < 0.75


def test_what_has_no_scores_has_no_prospects():
    running = trial({}, state=TrialState.RUNNING)
    over = trial({4: (0.9, 1.0)}, state=TrialState.PRUNED)
    over.set_constraint("accuracy", 0.1)
    found = LearningCurveExtrapolator([running, over], BOTH)
    assert found.predict(running) is None and found.predict(over) is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8), st.lists(st.floats(0, 1), min_size=2, max_size=6)
)
def test_order_is_kept_leads_do_not_grow_and_known_costs_stay(went, waiting):
    whole = [trial({4: (before, 5.0)}, (after, 5.0)) for before, after in went]
    paused = [trial({4: (before, 100.0 + place)}) for place, before in enumerate(waiting)]
    found = LearningCurveExtrapolator([*whole, *paused], BOTH)
    carried = np.array([found.predict(one) for one in paused])
    assert carried[:, 1] == pytest.approx([-100.0 - place for place in range(len(paused))])
    order = np.argsort(waiting, kind="stable")
    steps = np.diff(carried[order, 0])
    assert (steps >= -1e-9).all() and (steps <= np.diff(np.array(waiting)[order]) + 1e-9).all()
    assert all(math.isfinite(value) for value in carried.ravel())


def a_study(objectives):
    """A study of two networks that went on and one that waits, which may be expected to have 0.65."""
    study, width = optuna.create_study(directions=objectives.directions), len(objectives)
    for number, (before, after) in enumerate([((0.2, 2.0), (0.6, 2.0)), ((0.4, 4.0), (0.7, 4.0)), ((0.3, 9.0), None)]):
        study.add_trial(trial({4: before[:width]}, after and after[:width], number=number))
    return study


EXPECTED = ((0.6, 2.0), (0.7, 4.0), (0.65, 9.0))


def test_searchers_of_our_own_see_what_is_expected():
    space = SimpleNamespace(names=["x"], values=dict)
    assert [one.scores for one in observations(a_study(BOTH), space, BOTH)] == [
        pytest.approx(BOTH.scores(values)) for values in EXPECTED
    ]


@pytest.mark.parametrize("objectives", [Objectives([METRICS["accuracy"]]), BOTH])
def test_samplers_of_optuna_see_paused_trials_as_complete(objectives):
    class Spy(optuna.samplers.RandomSampler):
        def sample_relative(self, study, trial, search_space):
            self.saw = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            return {}

    study = a_study(objectives)
    spy = Spy()
    PausedTrialsSampler(spy, objectives).sample_relative(study, study.trials[-1], {})
    assert [one.values for one in spy.saw] == [pytest.approx(values[: len(objectives)]) for values in EXPECTED]
    assert study.trials[-1].state == TrialState.RUNNING, "the study itself is as it was"
