"""Freeze-thaw: the searcher decides which paused trainings continue."""

from __future__ import annotations

import pytest

from nas_agg.common.errors import InputError
from nas_agg.study.api import search
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.scheduling.constraints import make_rungs

SETTINGS = {"searcher": "predictor", "pruner": "freeze-thaw", "budget": 24, "seed": 1}


def trial(*rungs: int) -> TrialRecord:
    return TrialRecord(0, "paused", None, None, {}, 1, 1, "0", None, 0, rungs=dict.fromkeys(rungs, (0.0,)))


def test_trainings_pause_at_each_quarter_by_default():
    def rungs(**settings):
        return make_rungs(Settings.parse(space="tiny", pruner="freeze-thaw", **settings), Objectives())

    schedule = rungs(epochs=10)
    assert [schedule.next_rung(trial(*reached)) for reached in ((), (3,), (3, 6), (3, 6, 9))] == [3, 6, 9, 10]
    assert rungs(epochs=40, min_epochs=15).next_rung(trial(15, 30)) == 40
    assert schedule.next_promotion([trial(3)] * 20) is None


@pytest.mark.parametrize("objective", ["accuracy", "accuracy,macs"])
def test_the_searcher_continues_what_is_promising(tabled, tmp_path, objective):
    result = search(tabled, **SETTINGS, objective=objective, out=tmp_path / "run")
    assert result.reason == "budget exhausted"
    evaluated = [one for one in result.trials if one.consumes_budget]
    assert len(evaluated) == 24
    complete = [one for one in evaluated if one.state == "complete"]
    stopped = [one for one in evaluated if one.state == "pruned"]
    assert len(complete) + len(stopped) == 24
    assert complete and stopped
    assert all(set(one.rungs) == {3, 6} for one in complete)
    if objective == "accuracy":
        # The widest networks are the best, though narrow ones lead at the first rung.
        assert max(evaluated, key=lambda one: one.scores).labels["width"] == "9"


@pytest.mark.parametrize("objective", ["accuracy", "accuracy,macs"])
def test_a_resumed_search_equals_an_uninterrupted_one(tabled, tmp_path, monkeypatch, objective):
    from nas_agg.study.workers.table_lookup import TableLookupBackend

    settings = {**SETTINGS, "budget": 16, "objective": objective}
    uninterrupted = search(tabled, out=tmp_path / "whole", **settings)
    started, start = [], TableLookupBackend.submit

    def killed(self, job, *more):
        started.append(job.number)
        if len(started) in (7, 16, 22):
            raise KeyboardInterrupt
        start(self, job, *more)

    monkeypatch.setattr(TableLookupBackend, "submit", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(tabled, out=tmp_path / "broken", **settings)
    resumed = search(tabled, out=tmp_path / "broken", **settings)
    values = [(one.number, one.state, one.values, one.rungs) for one in uninterrupted.trials]
    assert [(one.number, one.state, one.values, one.rungs) for one in resumed.trials] == values


def test_a_small_space_is_trained_to_its_end(tabled, tmp_path):
    result = search(tabled, **(SETTINGS | {"budget": 60, "max_params": 9}), out=tmp_path / "run")
    assert [one.state for one in result.trials if one.consumes_budget] == ["complete"] * 16
    assert result.reason == "no other network of the space is within the limits"


def test_what_cannot_decide_is_refused(tabled, tmp_path):
    with pytest.raises(InputError, match="freeze-thaw needs a searcher that models learning curves, and random does"):
        search(tabled, **(SETTINGS | {"searcher": "random"}), out=tmp_path / "run")
    with pytest.raises(InputError, match="freeze-thaw cannot be combined with a proxy; leave out one of them"):
        search(tabled, **SETTINGS, proxy="naswot", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
