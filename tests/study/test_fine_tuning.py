"""Fine-tuning: a training that starts from the weights of the same network, for other classes or with frozen parts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import compile, save_weights
from nas_agg.compiler.fine_tuning import classifier_parameters, load_pretrained
from nas_agg.training.data import load_data

NETWORK = {
    "input": [1, 8, 8],
    "classes": 10,
    "net": [{"conv": 3, "out": 6}, "bn", "relu", {"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": "classes"}],
}
SETTINGS = {"recipe": "search", "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def first(digits, tmp_path_factory):
    return nas_agg.train(NETWORK, digits, out=tmp_path_factory.mktemp("runs") / "first", **SETTINGS)


@pytest.fixture(scope="module")
def parity(digits):
    """Whether a digit is odd."""
    splits = {name: replace(split, labels=split.labels % 2) for name, split in digits.splits.items()}
    return replace(digits, **splits, classes=2, class_names=("even", "odd"))


@pytest.mark.parametrize("kind", ["run", "file"])
def test_weights_of_other_classes_keep_all_but_the_classifier(first, parity, kind):
    weights = first.path if kind == "run" else first.path / "best/weights.safetensors"
    recipe = {"like": "search", "lr_backbone": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    tuned = nas_agg.train(NETWORK, parity, recipe, epochs=1, device="cpu", weights=weights).network.state_dict()
    source = load_file(first.path / "best/weights.safetensors")
    kept = {
        name for name in source if source[name].shape == tuned[name].shape and torch.equal(source[name], tuned[name])
    }
    head = set(classifier_parameters(compile(nas_agg.load(NETWORK))))
    assert tuned["linear.weight"].shape == (2, 8) and head == {"linear.weight", "linear.bias"}
    assert set(dict(compile(nas_agg.load(NETWORK)).named_parameters())) - head <= kept


def test_frozen_parts_keep_weights_and_statistics(first, digits):
    recipe = {"like": "search", "freeze": ["conv1", "bn1"]}
    tuned = nas_agg.train(NETWORK, digits, recipe, epochs=1, device="cpu", weights=first.path).network.state_dict()
    source = load_file(first.path / "best/weights.safetensors")
    equal = {name.partition(".")[0] for name in source if torch.equal(source[name], tuned[name])}
    assert {"conv1", "bn1"} <= equal and "conv2" not in equal and "linear" not in equal


def test_equal_classes_keep_the_classifier(first, tmp_path):
    network = compile(nas_agg.load(NETWORK), 3)
    assert load_pretrained(network, nas_agg.load(NETWORK), first.path) == []
    assert torch.equal(network.linear.weight, load_file(first.path / "best/weights.safetensors")["linear.weight"])
    other = nas_agg.load({**NETWORK, "classes": 3})
    save_weights(compile(other, 0), tmp_path / "three.safetensors")
    assert load_pretrained(network, nas_agg.load(NETWORK), tmp_path / "three.safetensors") == [
        "linear.weight",
        "linear.bias",
    ]


def test_the_command_line(run, first, tmp_path):
    (tmp_path / "net.json").write_text(json.dumps(NETWORK))
    words = ["--weights", str(first.path), "--freeze", "conv1,bn1", "--lr-backbone", "0.001", "--epochs", "1"]
    status, _, err = run("train", "net.json", "--recipe", "search", "--device", "cpu", "--out", "tuned", *words)
    assert status == 0, err
    stored = json.loads((tmp_path / "tuned/run.json").read_text())["settings"]
    assert stored["weights"] == str(first.path) and stored["recipe"]["freeze"] == ["conv1", "bn1"]


@pytest.mark.parametrize(
    "recipe, weights, message",
    [
        (
            {"like": "search", "freeze": ["stem"]},
            "first",
            "freeze: the network has no part 'stem'; its parts are conv1, bn1",
        ),
        ({"like": "search", "freeze": ["conv1", "bn1", "conv2", "bn2", "linear"]}, "first", "no parameter"),
        ("search", "none.safetensors", "none.safetensors"),
    ],
)
def test_a_mistake_is_one_line(digits, first, tmp_path, recipe, weights, message):
    source = first.path if weights == "first" else weights
    with pytest.raises(InputError, match=message):
        nas_agg.train(NETWORK, digits, recipe, device="cpu", out=tmp_path / "run", weights=source)
    assert not (tmp_path / "run").exists()
