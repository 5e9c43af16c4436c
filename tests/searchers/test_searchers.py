from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas_agg.common.errors import InputError
from nas_agg.study.samplers.searcher import derive_seed, find_searcher, installed_searchers

SPACE = {"a": IntDistribution(0, 20), "b": CategoricalDistribution(list("abcdefgh"))}


def ask(kind, study, number, seed=0):
    study.sampler = find_searcher(kind)(None, seed).sampler(number)
    return study.ask(SPACE)


def completed_study(kind, trials, seed=0):
    study = optuna.create_study(direction="maximize")
    for number in range(trials):
        trial = ask(kind, study, number, seed)
        study.tell(trial, -abs(trial.params["a"] - 5) - "abcdefgh".index(trial.params["b"]))
    return study


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_a_proposal_depends_only_on_the_study_the_seed_and_the_number(kind):
    study = completed_study(kind, 15)
    copy = optuna.create_study(direction="maximize")
    copy.add_trials(study.trials)
    assert ask(kind, study, 15).params == ask(kind, copy, 15).params
    different = [completed_study(kind, 15, seed=seed).trials[3].params for seed in range(5)]
    assert len({str(params) for params in different}) > 1


def test_tpe_is_better_than_random_search():
    values = sorted(trial.value for trial in completed_study("tpe", 60).trials)
    random_values = sorted(trial.value for trial in completed_study("random", 60).trials)
    assert sum(values[-30:]) > sum(random_values[-30:]) + 30
    assert values[-1] == 0


def test_derived_seeds_differ():
    seeds = {derive_seed(seed, number, purpose) for seed in range(5) for number in range(50) for purpose in ("a", "b")}
    assert len(seeds) == 500
    assert derive_seed(0, 0, "ask") == derive_seed(0, 0, "ask") < 2**32


def test_searchers_are_found_by_entry_point():
    assert {"random", "tpe"} <= set(installed_searchers())
    with pytest.raises(InputError, match="unknown searcher 'tpr'; did you mean 'tpe'"):
        find_searcher("tpr")


def test_an_entry_point_that_is_not_a_searcher_is_rejected(monkeypatch):
    from importlib.metadata import EntryPoint

    import nas_agg.study.samplers.searcher as module

    entries = [EntryPoint("odd", "json:dumps", module.GROUP), EntryPoint("gone", "no_such_module:X", module.GROUP)]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    with pytest.raises(InputError, match="is not a subclass"):
        find_searcher("odd")
    with pytest.raises(InputError, match="cannot be loaded"):
        find_searcher("gone")
