"""Values from Python code: NumPy's become Python's, numbers that JSON lacks are refused, nesting is bounded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import nas_agg
from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.common.values import MAX_NESTING, json_values


def test_numpy_values_become_json_values():
    values = {"a": np.arange(3), "b": [np.float32(0.5), np.bool_(True), np.str_("x")], "c": ({"d": np.int64(7)},)}
    assert json.loads(json.dumps(json_values(values))) == {"a": [0, 1, 2], "b": [0.5, True, "x"], "c": [{"d": 7}]}


@pytest.mark.parametrize("value", [math.nan, np.nan, -math.inf, np.array([1.0, np.inf])])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(GenotypeError, match=r"a\[1\].*is not a finite number"):
        json_values({"a": [1, value]})


def test_nesting_is_bounded():
    deep: list = []
    deep.append(deep)
    deep.append(deep)
    with pytest.raises(GenotypeError, match=f"net: nested more than {MAX_NESTING} levels deep"):
        json_values({"net": deep})


def test_genotypes_and_search_variables_take_numpy_values():
    text = {"input": np.array([3, 8, 8]), "classes": np.int64(5), "net": [{"conv": 3, "out": np.int32(8)}, "gap"]}
    genotype = nas_agg.load({**text, "net": [*text["net"], {"linear": "classes"}]})
    assert genotype.to_dict()["input"] == [3, 8, 8]
    result = nas_agg.search({"a": np.arange(1, 4)}, lambda values, trial: np.float64(values["a"]), budget=3)
    assert result.value == 3 and result.values == {"a": 3}
    with pytest.raises(InputError, match="nan is not a finite number"):
        nas_agg.search({"a": [math.nan, 1.0]}, lambda values, trial: 1.0, budget=2)


def test_an_array_is_one_value_per_objective():
    def evaluate(values, trial):
        return np.array([values["a"], -1.0])

    result = nas_agg.search({"a": [1, 2, 3]}, evaluate, budget=3, objective="quality:max,effort:min")
    assert max(trial.values[0] for trial in result.trials) == 3
