"""Every field of a recipe affects a training, and a training with all of them resumes exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import compile
from nas_agg.training.data import Split, load_data
from nas_agg.training.loop import evaluate, train
from nas_agg.training.recipes import Augmentation, Recipe, open_recipe
from nas_agg.training.recipes.recipe import DESCRIPTION

NETWORK = {
    "input": [3, 8, 8],
    "classes": 4,
    "let": {
        "block": {
            "nodes": 2,
            "reads": {"pattern": "dense", "operator": "sum", "weight": True},
            "shortcut": {"pattern": "previous"},
            "unit": ["bn", "relu", {"conv": 3, "out": 8}, "join"],
        }
    },
    "net": [{"conv": 3, "out": 8}, "block", "bn", "relu", "gap", {"linear": "classes"}],
}
BASE = {"epochs": 3, "batch_size": 24, "lr": 0.05, "weight_decay": 1e-3, "warmup_epochs": 1}

#: A value of each field that differs from the base, with what it requires.
FIELDS = {
    "epochs": {"epochs": 2},
    "batch_size": {"batch_size": 16},
    "lr": {"lr": 0.04},
    "lr_backbone": {"lr_backbone": 0.01},
    "freeze": {"freeze": ["conv"]},
    "schedule": {"schedule": "linear"},
    "milestones": {"schedule": "step", "milestones": [1]},
    "decay": {"schedule": "step", "milestones": [1], "decay": 0.5},
    "warmup_epochs": {"warmup_epochs": 2},
    "optimizer": {"optimizer": "AdamW"},
    "optimizer_options": {"optimizer_options": {"dampening": 0.1}, "nesterov": False},
    "momentum": {"momentum": 0.8},
    "nesterov": {"nesterov": False},
    "weight_decay": {"weight_decay": 0.1},
    "decay_vectors": {"decay_vectors": False},
    "decay_aggregation": {"decay_aggregation": False},
    "micro_batches": {"micro_batches": 2},
    "precision": {"precision": "bf16"},
    "clip": {"clip": 0.01},
    "ema": {"ema": 0.9},
    "patience": {"patience": 1, "lr": 1e-9},
    "loss": None,  # of other tasks: tests/training/test_tasks.py
    "label_smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": [1, 2, 3, 4]},
    "sampling": {"sampling": "balanced"},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "dropout": {"dropout": 0.5},
    "drop_path": {"drop_path": 0.5},
    "zero_branches": {"zero_branches": True},
    "classifier_init": {"classifier_init": "glorot"},
    "conv_init": {"conv_init": "fan_out_uniform"},
    "crop": {"crop": 2},
    "flip": {"flip": True},
    "resized_crop": {"resized_crop": True},
    "color_jitter": {"color_jitter": 0.4},
    "autoaugment": {"autoaugment": "cifar10"},
    "randaugment": {"randaugment": 2},
    "randaugment_magnitude": {"randaugment": 2, "randaugment_magnitude": 20},
    "trivialaugment": {"trivialaugment": True},
    "lighting": {"lighting": 0.5},
    "cutout": {"cutout": 3},
    "erasing": {"erasing": 0.9},
    # No effect on weights, or none on a CPU: steps/test_device_options.py, steps/test_cuda_graphs.py
    "evaluation_precision": {},
    "tf32": {},
    "cudnn_benchmark": {},
    "cuda_graphs": {},
}
#: What a value is compared with, where it requires more than the base.
WITHOUT = {
    "decay": {"schedule": "step", "milestones": [1]},
    "optimizer_options": {"nesterov": False},
    "patience": {"lr": 1e-9},
    "randaugment_magnitude": {"randaugment": 2},
}


@pytest.fixture(scope="module")
def colours():
    """100 images of 4 classes, the first of them rare."""
    digits = load_data("digits")
    labels = torch.randint(1, 4, (100,), generator=torch.Generator().manual_seed(0))
    labels[:10] = 0
    pixels = digits.train.images[:300].view(100, 3, 8, 8)
    split = Split(pixels, labels)
    return replace(digits, input=(3, 8, 8), classes=4, class_names=tuple("abcd"), augmentation=Augmentation(),
                   train=split, validation=split, mean=(0.3,) * 3, std=(0.4,) * 3)  # fmt: skip


def trained(data, fields, epochs=None, **more):
    recipe = open_recipe(BASE | fields)
    model = compile(nas_agg.load(NETWORK), 5, **recipe.compile_options)
    result = train(model, data, recipe, seed=1, epochs=epochs, **more)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, result


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_every_field_has_a_test():
    assert FIELDS.keys() == Recipe.model_fields.keys() - set(DESCRIPTION)


@pytest.mark.parametrize("field", [field for field, fields in FIELDS.items() if fields])
def test_a_field_changes_the_trained_weights(colours, field):
    fields = FIELDS[field]
    assert fields.get(field) is not None
    (one, _), (other, _) = trained(colours, WITHOUT.get(field, {})), trained(colours, fields)
    assert not same(one, other)


ALL = {
    "optimizer": "AdamW", "lr": 0.01, "ema": 0.9, "micro_batches": 2, "mixup": 0.2, "cutmix": 1.0, "dropout": 0.2,
    "drop_path": 0.2, "randaugment": 1, "erasing": 0.5, "sampling": "balanced", "class_weights": "balanced",
    "clip": 1.0, "label_smoothing": 0.1, "schedule": "one-cycle", "warmup_epochs": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "fields", [ALL, ALL | {"patience": 9}, {"precision": "fp16", "optimizer": "AdamW", "lr": 0.01}]
)
def test_a_training_with_all_of_them_resumes_to_the_bit(colours, tmp_path, fields):
    whole, uninterrupted = trained(colours, fields)
    paused = trained(colours, fields, out=tmp_path, pause_after=1)[1]
    assert paused.stopped == "paused"
    resumed, result = trained(colours, fields, out=tmp_path, resume=True)
    assert same(whole, resumed)
    drop = ("seconds", "images_per_second")
    lines = [[{k: v for k, v in line.items() if k not in drop} for line in r.history] for r in (uninterrupted, result)]
    assert lines[0] == lines[1]


def test_micro_batches_accumulate_the_gradient_of_the_batch(colours):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.line = nn.Linear(192, 4)

        def forward(self, x):
            return self.line(x.flatten(1))

    models = [Flat(), Flat()]
    for model, parts in zip(models, (1, 5), strict=True):
        train(model, colours, open_recipe(BASE, {"micro_batches": parts, "class_weights": "balanced"}), seed=0)
    torch.testing.assert_close(models[0].line.weight, models[1].line.weight, rtol=1e-4, atol=1e-6)


def test_the_average_of_the_weights_is_evaluated_and_saved(colours):
    _, plain = trained(colours, {})
    weights, averaged = trained(colours, {"ema": 0.99})
    assert plain.history[-1]["train_loss"] == averaged.history[-1]["train_loss"]  # training is the same
    model = compile(nas_agg.load(NETWORK), 5)
    model.load_state_dict(weights)
    assert evaluate(model, colours.validation, colours)["loss"] == pytest.approx(
        averaged.history[-1]["validation_loss_running_statistics"], rel=1e-6
    )


def test_early_stopping_keeps_the_best_epoch(colours):
    weights, result = trained(colours, {"patience": 2, "epochs": 30, "lr": 0.5})
    values = [line["validation_accuracy"] for line in result.history]
    assert result.stopped == "early" and result.epochs < 30
    assert result.best_epoch == values.index(max(values)) + 1 == result.epochs - 2
    assert result.metrics["validation_accuracy"] == max(values)
    model = compile(nas_agg.load(NETWORK), 5)
    model.load_state_dict(weights)
    accuracy = evaluate(model, colours.validation, colours)["accuracy"]
    assert accuracy == result.metrics["validation_accuracy_running_statistics"]


def test_regularization_does_not_change_parameters_or_evaluation():
    images = torch.randn(2, 3, 8, 8)
    plain, regular = (
        compile(nas_agg.load(NETWORK), 5, **fields).eval() for fields in ({}, {"dropout": 0.5, "drop_path": 0.5})
    )
    assert list(plain.state_dict()) == list(regular.state_dict()) and torch.equal(plain(images), regular(images))
    rates = [line.strip() for line in regular.source.splitlines() if "drop" in line]
    assert len(rates) == 3  # two branches and the classifier


@pytest.mark.parametrize("memory", ["lean", "leanest"])
def test_regularization_in_the_memory_modes(colours, memory):
    recipe = open_recipe(BASE, {"dropout": 0.5, "drop_path": 0.5, "ema": 0.9})
    models = [compile(nas_agg.load(NETWORK), 5, memory=mode, **recipe.compile_options) for mode in ("plain", memory)]
    for model in models:
        train(model, colours, recipe, seed=1)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"loss": "mse"}, "loss: mse is for regression; the data set's task is classification: use cross-entropy"),
        ({"class_weights": [1, 2]}, "class_weights: 2 numbers for 4 classes"),
        ({"autoaugment": "cifar10", "randaugment": 1}, "randaugment: excludes autoaugment; disable one of them"),
    ],
)
def test_a_mistake_is_one_line(colours, fields, message):
    with pytest.raises(InputError, match=message):
        trained(colours, fields)
