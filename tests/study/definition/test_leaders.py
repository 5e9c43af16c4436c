"""The best trials are those that a look at all trials finds."""

from __future__ import annotations

import random

import pytest

from nas_agg.study.definition.leaders import Leaders
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.result import pareto_front, ranked
from nas_agg.study.definition.trial import RecordState, TrialRecord

STATES = [state for state in RecordState if state not in (RecordState.RUNNING, RecordState.WAITING)]


@pytest.mark.parametrize("names", [("accuracy",), ("accuracy", "macs"), ("accuracy", "macs", "params")])
def test_they_follow_trials_that_end_pause_go_on_and_get_worse(names):
    draw, objectives = random.Random(len(names)), Objectives([METRICS[name] for name in names])
    leaders, trials = Leaders(objectives), []
    for step in range(400):
        if trials and draw.random() < 0.3 and (paused := [t for t in trials if t.state == RecordState.PAUSED]):
            previous = draw.choice(paused)
            number = previous.number
        else:
            previous, number = None, len(trials)
        scores = tuple(draw.randint(0, 9) / 10 for _ in names) if draw.random() < 0.9 else None
        state = draw.choice(STATES)
        trial = TrialRecord(number, state, scores, scores, {}, draw.randint(1, 3), 1, "", 1.0, 0)
        trials[number:] = [trial, *trials[number + 1 :]]
        leaders.update(trial, previous)
        assert leaders.evaluated == sum(t.consumes_budget for t in trials), step
        if len(names) == 1:
            assert leaders.best == next(iter(ranked(trials)), None), step
        else:
            assert leaders.front_size == len(pareto_front(trials)), step
