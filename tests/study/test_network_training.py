"""nas_agg.train and nas_agg.evaluate: the same trainings as on the command line, from Python."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.study.standalone_training import train_genotype
from nas_agg.training.data import load_data

SMALL = {
    "input": [3, 32, 32],
    "classes": 2,
    "net": [{"conv": 3, "out": 8, "stride": 2}, "bn", "relu", "gap", {"linear": "classes"}],
}
SETTINGS = {"recipe": {"like": "search", "lr": 0.05}, "epochs": 2, "device": "cpu", "seed": 3}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", seed=3)


@pytest.fixture(scope="module")
def trained(digits):
    seen = []
    result = nas_agg.train(SMALL, digits, **SETTINGS, metric="macro-f1", callback=lambda *args: seen.append(args))
    return result, seen


def test_a_data_set_and_its_name_give_the_same_training(trained, tmp_path):
    result, seen = trained
    assert result.path is None and len(result.history) == 2
    assert [(epoch, line["train_loss"]) for epoch, line in seen] == [
        (l["epoch"], l["train_loss"]) for l in result.history
    ]
    recipe = {"like": "search", "lr": 0.05}
    named = train_genotype(nas_agg.load(SMALL), out=tmp_path / "run", **SETTINGS | {"recipe": recipe})
    assert {k: v for k, v in named.items() if k != "seconds"} == {
        k: v for k, v in result.metrics.items() if k != "seconds"
    }
    again = nas_agg.load(tmp_path / "run")
    assert again == result.genotype and again.input == (1, 8, 8)


def test_the_network_has_the_metrics_that_the_result_says(trained, digits):
    result, _ = trained
    assert not result.network.training
    metrics = nas_agg.evaluate(result.network, digits, metrics=["auroc", "macro-f1"], report=True, device="cpu")
    assert metrics["correct"] == result.metrics["correct"] and metrics["macro_f1"] == result.metrics["test_macro_f1"]
    assert metrics["per_class"] == result.metrics["per_class"]
    assert 0 < metrics["auroc"] <= 1
    train = nas_agg.evaluate(result.network, digits, split="train", device="cpu")
    assert train["images"] == len(digits.train)


def test_a_run_with_a_data_set_is_resumed_but_not_with_another(digits, tmp_path):
    first = nas_agg.train(SMALL, digits, out=tmp_path / "run", **SETTINGS)
    assert nas_agg.train(SMALL, digits, out=tmp_path / "run", **SETTINGS).metrics == first.metrics
    assert first.path == tmp_path / "run" and "data" not in json.loads((first.path / "run.json").read_text())
    labels = digits.train.labels.roll(1)
    other = replace(digits, train=replace(digits.train, labels=labels))
    with pytest.raises(InputError, match="train"):
        nas_agg.train(SMALL, other, out=tmp_path / "run", **SETTINGS)


def test_a_regression_from_python(digits):
    targets = {
        name: replace(split, labels=torch.stack([split.images.float().mean((1, 2, 3)) / 255], 1))
        for name, split in digits.splits.items()
    }
    data = replace(digits, **targets, task="regression", classes=1, class_names=("brightness",))
    result = nas_agg.train(SMALL, data, **SETTINGS)
    assert result.metrics["test_rmse"] < 0.5 and "test_accuracy" not in result.metrics
    assert result.metrics["task"] == "regression" and result.genotype.classes == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: nas_agg.train(SMALL, 3), "data: expected the name of a data set or a Data, not a int"),
        (lambda data: nas_agg.train(SMALL, data, metric="rmse"), "rmse is no metric of classification"),
        (lambda data: nas_agg.evaluate(SMALL, data), "weights: a genotype has none"),
        (lambda data: nas_agg.evaluate(torch.nn.Flatten(), data, split="dev"), "split: must be one of train"),
        (lambda data: nas_agg.evaluate(torch.nn.Flatten(), data, device="cpu"), "output has shape"),
    ],
)
def test_a_mistake_is_one_line(digits, call, message):
    with pytest.raises(InputError, match=message):
        call(digits)


def test_the_image_size_is_that_of_the_trained_network():
    network = {"input": [1, 8, 8], "classes": 10, "net": [{"conv": 3, "out": 2}, "gap", {"linear": "classes"}]}
    result = nas_agg.train(network, "digits", "search", epochs=1, device="cpu", image_size="12x10")
    assert result.genotype.input == (1, 12, 10)
    with pytest.raises(InputError, match="image_size: a Data has its size"):
        nas_agg.train(network, load_data("digits"), image_size=12)
    with pytest.raises(InputError, match="image_size: invalid image size '12y'"):
        nas_agg.train(network, "digits", image_size="12y")
