"""Searches that learn from earlier runs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from nas_agg import search
from nas_agg.common.errors import InputError
from nas_agg.search_space.domains import Choice, IntRange
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.parameters import SearchVariables
from nas_agg.study import resume
from nas_agg.study.definition.metrics import METRICS, VALUE
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.earlier_results import read_earlier_runs
from nas_agg.study.samplers.earlier_runs import FIRST_NETWORKS, EarlierRun, EarlierRuns
from nas_agg.study.samplers.features import FeatureExtractor

SPACE = SearchVariables({"a": Choice(("x", "y", "z")), "n": IntRange(1, 9), "new": Choice((1, 2))})
VALUES = Objectives((VALUE,))


def run_of(networks: list[tuple[dict, float]], metric: str = "value") -> dict:
    return {
        "run": "earlier",
        "networks": [{"values": values, "metrics": {metric: score}} for values, score in networks],
    }


def all_networks(**further: object) -> dict:
    """A run whose scores follow from ``n`` alone."""
    return run_of([({"a": a, "n": n, **further}, float(n)) for a in "xyz" for n in range(1, 10)])


def test_networks_are_compared_by_the_variables_that_both_spaces_have():
    networks = [({"a": "x", "n": n, "other": 5}, float(n)) for n in (3, 9, 1)]
    run = EarlierRun(SPACE, VALUES, run_of([*networks, ({"a": "w", "n": 2, "other": 5}, 99.0), ({"a": "x"}, 98.0)]))
    assert run.variables == [0, 1] and run.scores.tolist() == [[3], [9], [1]]
    assert run.best().tolist() == [[0, 8], [0, 2], [0, 0]]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (run_of([({"b": 1}, 1.0)] * 4), "earlier: no network has a search variable of this space"),
        (run_of([({"a": "x"}, 1.0), ({"a": "w"}, 1.0)]), "earlier: 1 networks have values"),
        (run_of([({"a": "x"}, 1.0)] * 4, "loss"), "earlier: no network has the objective value"),
    ],
)
def test_runs_that_say_nothing_are_refused(run, message):
    with pytest.raises(InputError, match=message):
        EarlierRuns(SPACE, VALUES, [run])


def test_the_first_networks_are_the_best_of_each_run_in_turn():
    runs = [run_of([({"a": a, "n": n, "new": 2}, float(n)) for n in (4, 5, 6)]) for a in "xy"]
    points = EarlierRuns(SPACE, VALUES, runs).first_points(np.random.default_rng(0))
    assert [(point["a"], point["n"]) for point in points] == [("x", 6), ("y", 6), ("x", 5), ("y", 5), ("x", 4)]
    assert len(points) == FIRST_NETWORKS and all(point["new"] == 2 for point in points)
    drawn = EarlierRuns(SPACE, VALUES, [all_networks()]).first_points(np.random.default_rng(0))
    assert {point["new"] for point in drawn} == {1, 2}  # not a variable of the earlier run


@pytest.mark.parametrize("objectives", [VALUES, Objectives([METRICS["accuracy"], METRICS["macs"]])])
def test_the_runs_predict_scores_of_networks_that_they_do_not_have(objectives):
    metric = objectives[0].attribute
    known = run_of([({"a": a, "n": n}, float(n)) for a in "xy" for n in range(1, 10)], metric)
    runs, extractor = EarlierRuns(SPACE, objectives, [known, known]), FeatureExtractor(SPACE)
    rows = Encoding(SPACE).encode_many([{"a": "z", "n": n, "new": 1} for n in range(1, 10)])
    means = runs.posterior_means(extractor, rows)
    assert means.shape == (9, 2) and np.corrcoef(means[:, 0], np.arange(9))[0, 1] > 0.8
    extractor.predictions = lambda points, exact: runs.posterior_means(extractor, points, exact)
    (group,) = extractor.features(rows)
    assert (group == means).all()


def test_a_search_begins_with_the_best_of_an_earlier_run_and_is_resumed_without_it(tmp_path):
    first = search("agg-bench", budget=16, out=tmp_path / "first")
    settings = {"seed": 5, "learn": tmp_path / "first"}
    whole = search("agg-bench", budget=16, out=tmp_path / "whole", **settings)
    best = sorted(first.trials, key=lambda trial: -(trial.value or 0))
    assert [trial.hash for trial in whole.trials[:5]] == [trial.hash for trial in best[:5]]
    search("agg-bench", budget=13, out=tmp_path / "second", **settings)
    shutil.rmtree(tmp_path / "first")
    resumed = resume(tmp_path / "second", budget=16)
    assert [trial.labels for trial in resumed.trials] == [trial.labels for trial in whole.trials]


def test_reading_of_runs(tmp_path):
    space = {"n": {"from": 1, "to": 9}, "a": ["x", {"window": 2}]}
    search(space, lambda values, trial: -float(values["n"]), budget=6, out=tmp_path / "run", searcher="random")
    (run,) = read_earlier_runs(tmp_path / "run")
    assert all(network["metrics"]["value"] == -network["values"]["n"] for network in run["networks"])
    assert {str(network["values"]["a"]) for network in run["networks"]} == {"x", "{'window': 2}"}
    assert read_earlier_runs([run]) == [run]
    for source, message in ((tmp_path, "learn: .*not a run folder"), (5, "expected run folders"), ([5], "not 5")):
        with pytest.raises(InputError, match=message):
            read_earlier_runs(source)
