"""Searches of the network together with its training."""

from __future__ import annotations

import json
import math

import pytest

from nas_agg.common.errors import InputError
from nas_agg.search_space.joint_space import JointSpace
from nas_agg.study.api import resume, search
from nas_agg.study.records.saved_run import read_saved_run

WIDTH = {"input": [1, 8, 8], "classes": 10, "open": {"width": {"from": 1, "to": 8}}}
WIDTH |= {"net": [{"conv": 3, "out": "width"}, "bn", "relu", "gap", {"linear": "classes"}]}


def score(genotype, trial):
    """Wide networks are better, with the rate that suits them."""
    rate = float(json.loads(trial.params.get("recipe.lr", "0.1")))
    width = genotype.let["width"]
    return width / 8 - abs(math.log(rate * width / 0.1))


@pytest.mark.parametrize("searcher", ["predictor", "tpe", "evolution", "random"])
def test_every_searcher_finds_the_rate_of_the_network(searcher):
    alone = search(WIDTH, score, searcher, budget=8)
    joint = search(WIDTH, score, searcher, budget=30, tune="lr=0.01:0.1:log")
    assert joint.value > alone.value
    assert joint.values.keys() == {"width", "recipe.lr"}
    hashes = [trial.hash for trial in joint.trials if trial.consumes_budget]
    assert len(set(hashes)) == 30 > len({trial.network_hash for trial in joint.trials})


def test_the_best_of_a_joint_search_without_a_final_training_is_that_of_its_record(tmp_path):
    first = search(WIDTH, score, budget=4, tune="lr=0.01:0.1:log", out=tmp_path)
    assert read_saved_run(tmp_path).metrics["hash"] == max(first.trials, key=lambda t: t.value or -9).network_hash
    again = search(WIDTH, score, budget=6, tune="lr=0.01:0.1:log", out=tmp_path)
    assert again.value >= first.value


def test_a_space_with_hyperparameters(tiny):
    space = JointSpace(tiny, {"lr": [0.01, 0.1, 1.0], "flip": [False, True]}, {"lr": 0.09, "flip": None})
    values = {"width": 4, "deep": 1, "kernel": 3, "end": "relu"}
    point = space.validate(values)
    assert space.hyperparameters(point) == {"lr": 0.1, "flip": False}
    assert space.size() == tiny.size() * 6 and space.values(space.labels(point)) == point
    assert space.genotype(point) == tiny.genotype(values) and space.values_of(tiny.genotype(values)) == point
    other = point | {"recipe.lr": 1.0}
    assert space.genotype(other) == space.genotype(point)
    assert (
        space.trial_hash("abc", point) != space.trial_hash("abc", other)
        and space.trial_hash("abc", point)[:4] == "abc-"
    )


def test_trials_and_the_final_network_are_trained_by_their_own_recipe(tiny_file, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("like: search\nepochs: 1\nopen: {label_smoothing: [0.1, 0.2]}\n")
    settings = {"searcher": "random", "budget": 2, "epochs": 1, "workers": 1, "recipe": recipe, "tune": "lr=0.01|0.1"}
    result = search(tiny_file, out=tmp_path / "run", **settings)
    best = max(result.trials, key=lambda trial: trial.value or 0)
    tuned = {name: json.loads(best.labels[f"recipe.{name}"]) for name in ("label_smoothing", "lr")}
    assert result.test["recipe"] == f"mine with label_smoothing={tuned['label_smoothing']}, lr={tuned['lr']}"
    assert result.test["hash"] == best.network_hash and result.test["trial"] == best.number
    rates = [
        json.loads((tmp_path / f"run/trials/{t.number}/metrics.jsonl").read_text().splitlines()[0])
        for t in result.trials
    ]
    assert len(rates) == 2
    again = resume(tmp_path / "run")
    assert (again.value, again.values) == (result.value, result.values)
    header = (tmp_path / "run/trials.csv").read_text().splitlines()[0]
    assert "recipe.lr" in header and "recipe.label_smoothing" in header


@pytest.mark.parametrize(
    "space, more, message",
    [
        ("agg-bench", {}, "tune: agg-bench has a table of results"),
        ({"rate": [1, 2]}, {"evaluate": lambda values, trial: 1.0}, "tune: requires a space of networks"),
        (WIDTH, {"evaluate": score, "tune": "lr=3"}, "specify at least two values"),
    ],
)
def test_what_cannot_be_tuned_is_refused(space, more, message):
    with pytest.raises(InputError, match=message):
        search(space, **{"tune": "lr", "budget": 2, **more})
