"""Values from Python code: JSON values, or refused in one line."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([1, 2]), [1, 2]),
        ([torch.tensor(0.5)], [0.5]),
        (range(1, 4), [1, 2, 3]),
        (Fraction(1, 4), 0.25),
        (np.longdouble(1.5), 1.5),
        (np.array([1, None], dtype=object), [1, None]),
        ({np.str_("x"): np.uint64(2**63)}, {"x": 2**63}),
    ],
)
def test_other_numbers_and_sequences_become_json_values(value, expected):
    converted = json_values(value)
    assert json.loads(json.dumps(converted)) == expected
    assert all(type(key) is str for key in converted) if isinstance(converted, dict) else True


@pytest.mark.parametrize("value", [Decimal(1), 1j, b"a", {1, 2}, len, np.datetime64("2020-01-01"), iter([1])])
def test_values_that_json_lacks_are_refused_in_one_line(value):
    with pytest.raises(GenotypeError, match=r"^a\[0\]: a value of type \w+; use numbers, strings, lists and objects$"):
        json_values({"a": [value]})
    with pytest.raises(InputError, match=r"space: a\[0\]: a value of type"):
        nas_agg.search({"a": [value]}, lambda values, trial: 1.0, budget=2)


@pytest.mark.parametrize("key", [1, None, ("a",), b"a"])
def test_keys_are_strings(key):
    with pytest.raises(GenotypeError, match=r"let\.a\[0\]: keys must be strings, not "):
        nas_agg.load({"input": [3, 8, 8], "classes": 5, "let": {"a": [{key: 1}]}, "net": ["gap"]})


def test_a_long_range_is_refused():
    with pytest.raises(GenotypeError, match="a: a range of 1,000,000,000 values; the limit is 10,000"):
        json_values({"a": range(10**9)})


@pytest.mark.parametrize("source", [None, 3, ["densenet/121"], b"densenet/121", len])
def test_what_is_no_reference_to_a_genotype_is_refused(source):
    with pytest.raises(InputError, match="genotype: expected a file, a point, a run or JSON values, not "):
        nas_agg.load(source)


def test_a_seed_may_be_an_integer_of_numpy():
    text = {"input": [3, 8, 8], "classes": 5, "net": [{"conv": 3, "out": 4}, "gap", {"linear": "classes"}]}
    states = [nas_agg.compile(nas_agg.load(text), seed=seed).state_dict() for seed in (3, np.int64(3))]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
