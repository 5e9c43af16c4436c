"""Searches of bare search variables, without networks."""

from __future__ import annotations

import json

import pytest

from nas_agg.common.errors import InputError
from nas_agg.study.api import search

NAMES = {"rate": {"from": 1, "to": 9}, "how": ["sum", "concat"], "deep": [1, 2, 4]}


def value(values, trial):
    return values["rate"] / 10 + (values["how"] == "concat") - values["deep"] / 100


@pytest.mark.parametrize("searcher", ["random", "tpe", "evolution", "local", "nsga2", "predictor"])
def test_a_function_of_the_values_is_maximized(searcher):
    result = search(NAMES, value, searcher=searcher, budget=54)
    assert result.value == max(trial.value for trial in result.trials if trial.consumes_budget)
    assert result.best == result.values
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert len({trial.hash for trial in counted}) == len(counted) == 54
    assert result.best == {"rate": 9, "how": "concat", "deep": 1}


def test_a_search_is_resumed_with_its_best(tmp_path):
    first = search(NAMES, value, searcher="evolution", budget=10, out=tmp_path / "run")
    again = search(NAMES, value, searcher="evolution", budget=10, out=tmp_path / "run")
    assert [trial.labels for trial in again.trials] == [trial.labels for trial in first.trials]
    assert json.loads((tmp_path / "run/best/values.json").read_text()) == first.values
    with pytest.raises(InputError, match="the space names has changed"):
        search({**NAMES, "deep": [1, 2]}, value, searcher="evolution", budget=10, out=tmp_path / "run")


def test_initial_points_are_values_of_the_variables():
    result = search(NAMES, value, budget=3, start=[{"rate": 5, "how": "sum", "deep": 4}])
    assert result.trials[0].value == pytest.approx(0.46)
    with pytest.raises(InputError, match="'resnet' is not a point: specify values"):
        search(NAMES, value, budget=3, start="resnet")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "space: no search variables"),
        ({"a": []}, "space: a: "),
        ({"a": {"from": 3, "to": 1}}, "space: a"),
        ({3: [1]}, "3 is not a name"),
    ],
)
def test_invalid_variables_are_rejected(names, message):
    with pytest.raises(InputError, match=message):
        search(names, value)


def test_bare_variables_need_a_function():
    with pytest.raises(InputError, match="specify an evaluate function"):
        search(NAMES)
