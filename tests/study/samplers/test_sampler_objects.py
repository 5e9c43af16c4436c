"""Optuna's sampler objects as searchers."""

from __future__ import annotations

import optuna
import pytest

import nas_agg
from nas_agg.common.errors import InputError

OPEN = {"rate": {"from": 1, "to": 90}, "how": ["sum", "concat"], "depth": {"from": 1, "to": 90}}


def score(values, trial):
    return -abs(values["rate"] - 33) - values["depth"] - (values["how"] == "sum")


def points(sampler, budget=14, **options):
    result = nas_agg.search(OPEN, score, sampler, budget, **options)
    return [tuple(sorted(trial.labels.items())) for trial in result.trials]


@pytest.mark.parametrize(
    "sampler",
    [optuna.samplers.TPESampler(n_startup_trials=5, multivariate=True), optuna.samplers.RandomSampler(seed=7)],
    ids=["tpe", "random"],
)
def test_a_sampler_proposes_by_the_seed_of_the_search(sampler, tmp_path):
    first = points(sampler)
    assert points(sampler) == first != points(sampler, seed=1)
    assert points(sampler, 6, out=tmp_path / "run") == first[:6]
    assert points(sampler, 14, out=tmp_path / "run") == first  # resumed with a larger budget


def test_what_is_no_searcher():
    with pytest.raises(InputError, match="expected a name, a subclass of Searcher or a sampler of Optuna, not 3"):
        nas_agg.search(OPEN, score, 3)
