"""Successive halving and Hyperband: pauses, promotions, and trainings that are the same with and without a pause."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
from dying import Killed, dying_after
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import search
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.pareto import nondomination_ranks
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.scheduling.constraints import make_rungs
from nas_agg.study.scheduling.successive_halving import SuccessiveHalving
from nas_agg.study.tables.results_table import TabularSpace


def trial(number, rungs, state="paused"):
    return TrialRecord(number, state, None, None, {}, 1, 1, str(number), None, 0, rungs=rungs)


def test_rungs_are_a_factor_apart_and_below_the_last_epoch():
    assert SuccessiveHalving(1, 3, 27).epochs == (1, 3, 9)
    assert SuccessiveHalving(1, 3, 28).epochs == (1, 3, 9, 27)
    assert SuccessiveHalving(2, 2, 12).epochs == (2, 4, 8)
    assert SuccessiveHalving(1, 3, 2).epochs == (1,)
    halving = SuccessiveHalving(1, 3, 12)
    assert [
        halving.next_rung(trial(0, dict.fromkeys(reached, (0.0,)))) for reached in ((), (1,), (1, 3), (1, 3, 9))
    ] == [
        1,
        3,
        9,
        12,
    ]


def test_the_best_of_each_rung_are_promoted():
    halving = SuccessiveHalving(1, 3, 9)
    first = [trial(number, {1: (value,)}) for number, value in enumerate((0.1, 0.5, 0.3))]
    assert halving.next_promotion(first[:2]) is None
    assert halving.next_promotion(first).number == 1
    promoted_trials = [first[0], trial(1, {1: (0.5,)}, "running"), first[2]]
    assert halving.next_promotion(promoted_trials) is None
    later = [*promoted_trials, *(trial(number, {1: (0.2,)}) for number in (3, 4, 5))]
    assert halving.next_promotion(later).number == 2
    # Higher rungs come first: their networks are closer to a result.
    higher = [trial(number, {1: (0.9,), 3: (0.9 + number / 100,)}) for number in (6, 7, 8)]
    assert halving.next_promotion([*later, *higher]).number == 8


SCORES = st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 0)), min_size=3, max_size=12)


@given(SCORES, st.permutations(["accuracy", "macs"]))
def test_a_promoted_trial_is_nondominated_among_the_waiting_ones(scores, names):
    halving = SuccessiveHalving(1, 3, 9, objectives=Objectives([METRICS[name] for name in names]))
    trials = [trial(number, {1: score}) for number, score in enumerate(scores)]
    promotions = 0
    while (promoted := halving.next_promotion(trials)) is not None:
        waiting = [one for one in trials if one.state == "paused"]
        order = nondomination_ranks(np.array([one.rungs[1] for one in waiting]))
        assert order[[one.number for one in waiting].index(promoted.number)] == 0
        trials[promoted.number] = trial(promoted.number, promoted.rungs, "running")
        promotions += 1
    assert promotions == len(scores) // 3


@pytest.mark.parametrize("names", [["accuracy", "macs"], ["accuracy", "params", "macs"]])
def test_a_promoted_trial_adds_most_hypervolume_to_the_promoted_ones(names):
    halving = SuccessiveHalving(1, 2, 9, objectives=Objectives([METRICS[name] for name in names]))
    # Cheap and bad, expensive and good, one next to it, one in between; the others fill the lower half.
    points = [(0.1, 1), (0.9, 9), (0.89, 8.9), (0.7, 4), (0.2, 9), (0.2, 9), (0.2, 9), (0.2, 9)]
    trials = [
        trial(number, {1: (accuracy, *[-cost] * (len(names) - 1))}) for number, (accuracy, cost) in enumerate(points)
    ]
    promotions = []
    while (promoted := halving.next_promotion(trials)) is not None:
        promotions.append(promoted.number)
        trials[promoted.number] = trial(promoted.number, promoted.rungs, "running")
    assert promotions[0] == 3 and set(promotions[:3]) == {1, 2, 3}, "the cheap network without accuracy comes last"
    assert len(promotions) == 4


def test_the_first_rung_is_a_third_of_the_epochs_by_default():
    def epochs(**settings):
        return make_rungs(Settings.parse(space="tiny", pruner="halving", **settings), Objectives()).epochs

    assert epochs(epochs=12) == (4,)
    assert epochs(epochs=10) == (4,)
    assert epochs(epochs=2) == (1,)
    assert epochs(epochs=40, reduction_factor=2) == (14, 28)
    assert epochs(epochs=40, min_epochs=1) == (1, 3, 9, 27)


def test_brackets_alternate_and_the_last_trains_in_full():
    halving = SuccessiveHalving(1, 3, 9, brackets=True)
    rungs_of_trials = [halving.rungs(number) for number in range(200)]
    assert set(rungs_of_trials) == {(1, 3), (3,), ()}
    counts = [rungs_of_trials.count(kind) for kind in ((1, 3), (3,), ())]
    assert counts[0] > counts[1] >= counts[2] > 0
    assert set(rungs_of_trials[:12]) == set(rungs_of_trials)
    assert halving.next_rung(trial(next(n for n in range(99) if rungs_of_trials[n] == ()), {})) == 9


def test_a_search_with_successive_halving(tabled):
    rungs = {"pruner": "halving", "min_epochs": 1, "reduction_factor": 3}
    result = search(tabled, searcher="random", budget=27, **rungs, out=tabled._folder / "run")
    uninterrupted = [trial for trial in result.trials if trial.state == "complete"]
    stopped = [trial for trial in result.trials if trial.state == "pruned"]
    assert len(uninterrupted) + len(stopped) == 27
    assert not [trial for trial in result.trials if trial.state in ("paused", "running")]
    assert all(set(trial.rungs) == {1, 3} for trial in uninterrupted)
    assert 3 <= len(uninterrupted) <= 6
    space = TabularSpace(tabled)
    for one in result.trials:
        row = space.row(tabled.values(one.labels))
        assert one.value == (row.value if one.state == "complete" else row.curve[max(one.rungs) - 1])
    reached = [one for one in result.trials if 3 in one.rungs]
    assert min(one.rungs[1] for one in reached) >= sorted(one.rungs[1] for one in result.trials)[27 - len(reached) - 4]


@pytest.mark.parametrize("objective", ["accuracy", "accuracy,macs"])
@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_a_resumed_search_equals_an_uninterrupted_one(tabled, tmp_path, monkeypatch, pruner, objective):
    from nas_agg.study.workers.table_lookup import TableLookupBackend

    settings = {"searcher": "random", "pruner": pruner, "objective": objective, "budget": 20, "seed": 1}
    uninterrupted = search(tabled, out=tmp_path / "whole", **settings)
    started, start = [], TableLookupBackend.submit

    def killed(self, job, *more):
        started.append(job.number)
        if len(started) in (7, 15, 22):
            raise KeyboardInterrupt
        start(self, job, *more)

    monkeypatch.setattr(TableLookupBackend, "submit", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(tabled, out=tmp_path / "broken", **settings)
    resumed = search(tabled, out=tmp_path / "broken", **settings)
    values = [(one.number, one.state, one.values, one.rungs) for one in uninterrupted.trials]
    assert [(one.number, one.state, one.values, one.rungs) for one in resumed.trials] == values


@pytest.mark.parametrize("objective", ["accuracy", "accuracy,macs"])
def test_a_search_may_be_killed_in_the_middle_of_any_write(tabled, tmp_path, monkeypatch, objective):
    settings = {"searcher": "random", "pruner": "halving", "min_epochs": 3, "reduction_factor": 2, "budget": 8}
    settings |= {"objective": objective}

    def values(result):
        return [(one.number, one.state, one.values, one.scores, one.rungs, one.seconds) for one in result.trials]

    uninterrupted = values(search(tabled, out=tmp_path / "whole", **settings))
    assert {state for _, state, *_ in uninterrupted} >= {"complete", "pruned"}
    for writes in itertools.count(2):
        with monkeypatch.context() as patch:
            dying_after(patch, writes)
            try:
                search(tabled, out=tmp_path / f"{writes}", **settings)
                break
            except Killed:
                pass
        assert values(search(tabled, out=tmp_path / f"{writes}", **settings)) == uninterrupted, (
            f"killed at write {writes}"
        )
    assert writes > 50


def test_a_finished_search_is_extended(tabled, tmp_path):
    settings = {"searcher": "random", "pruner": "halving", "min_epochs": 1, "out": tmp_path / "run"}
    before = search(tabled, budget=20, **settings)
    after = search(tabled, budget=40, **settings)
    earlier = [(one.number, one.state, one.values) for one in before.trials]
    assert [(one.number, one.state, one.values) for one in after.trials[: len(earlier)]] == earlier
    new = after.trials[len(earlier) :]
    assert sum(3 in one.rungs for one in new) >= 5
    assert any(one.state == "complete" for one in new)


def test_a_paused_trial_that_exceeds_a_limit_is_not_the_best(tabled, tmp_path):
    settings = {"searcher": "random", "pruner": "halving", "min_epochs": 1, "min_accuracy": 0.97, "budget": 27}
    with pytest.raises(NasAggError, match="no network has a result"):
        search(tabled, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run/best").exists()


@pytest.mark.parametrize("searcher", ["random", "local"])
def test_a_search_exhausts_a_small_space(tabled, tmp_path, searcher):
    result = search(tabled, searcher=searcher, pruner="halving", min_epochs=1, budget=60, out=tmp_path / "run")
    assert sum(one.consumes_budget for one in result.trials) == 48
    assert result.reason == "no other network of the space is within the limits"


def test_open_trials_are_closed_with_the_values_of_their_last_rung(tabled):
    record = StudyRecord(optuna.pruners.NopPruner(), InMemoryStorage())
    for width in (2, 3, 4):
        labels = tabled.labels({"width": width, "kernel": 1, "end": "relu"})
        next(record.draws(optuna.samplers.RandomSampler(), tabled.distributions))
        record.create_trial(labels, tabled.distributions, {"hash": str(width), "params": 1, "macs": 1, "seed": 0})
    record.pause(0, 1, (0.5,))
    record.pause(1, 1, (0.9,), {"accuracy": 0.2})
    assert [one.state for one in record.trials] == ["paused", "paused", "running"]
    assert [one.scores for one in record.trials] == [(0.5,), None, None]
    record.promote(0)
    assert record.trials[0].state == "running" and not record.trials[0].consumes_budget
    interrupted = record.close_open_trials("timeout reached")
    assert [(one.number, one.state, one.reason) for one in interrupted] == [
        (0, "pruned", ""),
        (2, "interrupted", "timeout reached"),
    ]
    assert [one.state for one in record.trials] == ["pruned", "pruned", "interrupted"]
    assert [one.values for one in record.trials] == [(0.5,), (0.9,), None]
    assert [one.scores for one in record.trials] == [(0.5,), None, None]


def test_a_duplicate_of_a_pruned_trial_has_its_scores_and_is_at_no_rung(tabled):
    record = StudyRecord(optuna.pruners.NopPruner(), InMemoryStorage())
    names, attrs = {"kernel": 1, "end": "relu"}, {"hash": "one", "params": 1, "macs": 1, "seed": 0}

    def draw(width):
        next(record.draws(optuna.samplers.RandomSampler(), tabled.distributions))
        return tabled.labels({"width": width, **names}), tabled.distributions, attrs

    record.create_trial(*draw(2))
    record.pause(0, 1, (0.5,))
    record.close_open_trials("budget exhausted")
    record.create_duplicate(*draw(3), duplicate_of=0)
    assert (record.trials[1].state, record.trials[1].scores) == ("duplicate", (0.5,))
    waiting = [trial(number, {1: (0.1,)}) for number in (2, 3, 4)]
    assert SuccessiveHalving(1, 3, 9).next_promotion([record.trials[1], *waiting[:2]]) is None, (
        "two networks are too few"
    )
    assert SuccessiveHalving(1, 3, 9).next_promotion([record.trials[1], *waiting]).number == 2, (
        "the duplicate was not promoted"
    )


def test_invalid_rungs_are_rejected(tabled, tiny, tmp_path):
    for settings, pruners in (
        ({"min_epochs": 2}, "halving, hyperband and freeze-thaw"),
        ({"reduction_factor": 3, "pruner": "median"}, "halving and hyperband"),
        ({"reduction_factor": 3, "pruner": "freeze-thaw", "searcher": "predictor"}, "halving and hyperband"),
    ):
        with pytest.raises(InputError, match=f"only for the pruners {pruners}; leave it out, or choose one"):
            search(tabled, out=tmp_path / "run", **settings)
    with pytest.raises(InputError, match="min_epochs: 9 must be less than the 9 epochs of a full training"):
        search(tabled, pruner="halving", min_epochs=9, out=tmp_path / "run")
    with pytest.raises(InputError, match="pruner: applies to trained networks only"):
        search(tiny, lambda genotype, trial: 1.0, pruner="halving")


def test_a_training_that_pauses_equals_an_uninterrupted_one(tabled, tmp_path):
    import torch

    from nas_agg.compiler import compile
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import train
    from nas_agg.training.recipes import open_recipe

    data, recipe = load_data("digits"), open_recipe("search")
    space = tabled
    genotype = space.genotype({"width": 4, "kernel": 3, "end": ["bn", "relu"]})
    uninterrupted, parts = compile(genotype, 0), compile(genotype, 0)
    reference = train(uninterrupted, data, recipe, seed=0, epochs=3, out=tmp_path / "whole")
    paused = train(parts, data, recipe, seed=0, epochs=3, out=tmp_path / "parts", pause_after=2)
    assert (paused.stopped, paused.epochs) == ("paused", 2)
    parts = compile(genotype, 0)
    ended = train(parts, data, recipe, seed=0, epochs=3, out=tmp_path / "parts", resume=True)
    assert ended.stopped is None
    accuracies = [epoch["validation_accuracy"] for epoch in ended.history]
    assert accuracies == [epoch["validation_accuracy"] for epoch in reference.history]
    assert all(
        torch.equal(a, b) for a, b in zip(uninterrupted.state_dict().values(), parts.state_dict().values(), strict=True)
    )


def test_a_violation_at_a_rung_counts_when_the_search_ends(tabled):
    settings = {"searcher": "random", "pruner": "halving", "min_accuracy": 0.5, "budget": 27, "min_epochs": 1}
    result = search(tabled, out=tabled._folder / "run", **settings)
    stopped = [one for one in result.trials if one.state == "pruned"]
    assert {one.scores is None for one in stopped} == {True, False}
    assert all((one.scores is None) == (one.value < 0.5) for one in stopped)
