"""Trainings of other tasks: several labels per image and regression, with weights of images and classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler.weights import save_weights
from nas_agg.training.augment import normalise
from nas_agg.training.data import load_data
from nas_agg.training.evaluation import evaluate
from nas_agg.training.loop import train
from nas_agg.training.losses import LOSSES, loss_of_task
from nas_agg.training.recipes import Augmentation, open_recipe
from nas_agg.training.steps.target_scaling import target_scaling

RECIPE = open_recipe("search", {"epochs": 4, "lr": 0.05, "crop": 0})


class Flat(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(64, outputs)

    def forward(self, x):
        return self.line(x.flatten(1))


def with_targets(targets, task, names):
    """Digits with other targets: a function of images and labels."""
    data = load_data("digits")
    splits = {
        name: replace(split, labels=targets(split.images.float() / 255, split.labels))
        for name, split in data.splits.items()
    }
    return replace(data, **splits, task=task, classes=len(names), class_names=tuple(names), augmentation=Augmentation())


@pytest.fixture(scope="module")
def several():
    """Whether a digit is even, below 5, or a multiple of 3."""
    return with_targets(
        lambda _, y: torch.stack([y % 2 == 0, y < 5, y % 3 == 0], 1).to(torch.uint8), "multilabel", "abc"
    )


@pytest.fixture(scope="module")
def numbers():
    """The mean brightness of the upper and of the lower half."""
    return with_targets(
        lambda x, _: torch.stack([x[:, :, :4].mean((1, 2, 3)), x[:, :, 4:].mean((1, 2, 3))], 1), "regression", "ab"
    )


def test_several_labels_are_learnt(several):
    model = Flat(3)
    before = evaluate(model, several.test, several)
    result = train(model, several, RECIPE, seed=0, metrics=["auroc"])
    after = evaluate(model, several.test, several, metrics=["auroc"], report=True)
    assert after["mean_average_precision"] > 0.85 > before["mean_average_precision"]
    assert result.history[-1].keys() >= {"validation_auroc", "validation_macro_f1", "validation_loss", "train_loss"}
    assert "train_accuracy" not in result.history[-1] and "confusion_matrix" not in after
    with torch.no_grad():
        outputs = model(normalise(several.test.images, several.mean, several.std))
    wanted = functional.binary_cross_entropy_with_logits(outputs, several.test.labels.float())
    assert after["loss"] == pytest.approx(float(wanted), rel=1e-5)
    assert [row["class"] for row in after["per_class"]] == ["a", "b", "c"]


def test_numbers_are_learnt(numbers):
    model = Flat(2)
    train(model, numbers, RECIPE, seed=0)
    metrics = evaluate(model, numbers.test, numbers)
    assert metrics["r2"] > 0.5 and metrics.keys() == {"loss", "images", "mae", "rmse", "r2"}


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_each_loss_of_a_regression_has_an_effect(numbers, loss):
    models = [Flat(2), Flat(2)]
    for model, name in zip(models, (loss, "huber" if loss != "huber" else "mse"), strict=True):
        train(model, numbers, open_recipe(RECIPE, {"loss": name}), seed=0, epochs=1)
    assert not torch.equal(models[0].line.weight, models[1].line.weight)


def test_mixup_and_micro_batches_of_other_tasks(several, numbers):
    recipe = open_recipe(RECIPE, {"mixup": 0.4, "cutmix": 1.0, "micro_batches": 3, "ema": 0.9})
    for data, outputs in ((several, 3), (numbers, 2)):
        result = train(Flat(outputs), data, recipe, seed=0)
        assert result.history[-1]["validation_loss"] < result.history[0]["validation_loss"]


def test_weights_of_images_are_those_of_the_loss():
    data = load_data("digits")
    few = replace(data.train, labels=data.train.labels[:40], pixels=data.train.images[:40], index=None)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(0))
    data = replace(data, train=replace(few, weights=weights), augmentation=Augmentation())
    recipe = open_recipe(
        {
            "epochs": 1,
            "batch_size": 40,
            "lr": 0.5,
            "momentum": 0,
            "schedule": "constant",
            "class_weights": list(range(1, 11)),
        }
    )
    model = Flat(10)
    start = model.line.weight.detach().clone()
    train(model, data, recipe, seed=0)
    reference = Flat(10)
    outputs = reference(normalise(few.images, data.mean, data.std))
    losses = functional.cross_entropy(outputs, few.labels, reduction="none")
    both = weights * torch.arange(1.0, 11)[few.labels]
    ((losses * both).sum() / both.sum()).backward()
    torch.testing.assert_close(model.line.weight, start - 0.5 * reference.line.weight.grad, rtol=1e-4, atol=1e-6)


def test_balanced_weights_and_sampling_find_a_rare_class():
    data = load_data("digits")

    def rare(split):
        keep = torch.cat([(split.labels == 3).nonzero()[:, 0], (split.labels == 8).nonzero()[:3, 0]])
        labels = (split.labels[keep] == 8).long()
        return replace(split, pixels=split.images[keep], labels=labels, index=None)

    data = replace(
        data, **{name: rare(split) for name, split in data.splits.items()}, classes=2, class_names=("3", "8")
    )
    for fields in ({"class_weights": "balanced"}, {"sampling": "balanced"}):
        losses = []
        for changes in ({}, fields):
            model = Flat(2)
            train(model, data, open_recipe(RECIPE, {"epochs": 2, **changes}), seed=0)
            logits = model(normalise(data.train.images, data.mean, data.std))
            losses.append(
                float(functional.cross_entropy(logits[data.train.labels == 1], torch.ones(3, dtype=torch.int64)))
            )
        assert losses[1] < losses[0]


def test_losses_are_registered_by_task():
    assert {name: loss.tasks[0] for name, loss in LOSSES.items()} == {
        "cross-entropy": "classification", "binary-cross-entropy": "multilabel", "mse": "regression",
        "mae": "regression", "huber": "regression",
    }  # fmt: skip
    with pytest.raises(
        InputError, match="loss: cross-entropy is for classification; the data set's task is regression"
    ):
        loss_of_task("regression", "cross-entropy")


def test_a_metric_of_another_task_is_refused(numbers):
    with pytest.raises(
        InputError, match="metric: accuracy is no metric of regression; choose from loss, mae, rmse, r2"
    ):
        evaluate(Flat(2), numbers.test, numbers, metrics=["accuracy"])
    with pytest.raises(InputError, match="unknown metric 'rsme'; did you mean 'rmse'"):
        evaluate(Flat(2), numbers.test, numbers, metrics=["rsme"])
    with pytest.raises(InputError, match=r"output has shape \(3,\) per image; digits has 2 targets"):
        evaluate(Flat(3), numbers.test, numbers)


NET = {"input": [1, 8, 8], "classes": 2, "net": [{"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": "classes"}]}


@pytest.fixture(scope="module")
def large(numbers):
    """The same targets in other units: of mean 5,000, and a constant one."""

    def scaled(split):
        return replace(split, labels=torch.stack([5000 + 300 * split.labels[:, 0], 7 + 0 * split.labels[:, 1]], 1))

    return replace(numbers, **{name: scaled(split) for name, split in numbers.splits.items()})


def test_targets_of_any_size_are_learnt(numbers, large):
    """The same network is learnt whatever the units, and its validation metrics are in those of the targets."""
    results = {}
    for name, data in (("small", numbers), ("large", large)):
        model = nas_agg.compile(NET, seed=0)
        history = train(model, data, open_recipe("final", {"epochs": 3, "crop": 0}), seed=0).history
        results[name] = (evaluate(model, data.validation, data), history, model)
    metrics, history, model = results["large"]
    for name in ("rmse", "mae"):
        assert metrics[name] == pytest.approx(history[-1][f"validation_{name}_running_statistics"], rel=1e-3)
    with torch.no_grad():
        outputs = [
            found(normalise(numbers.test.images, numbers.mean, numbers.std))[:, 0]
            for found in (results["small"][2].eval(), model.eval())
        ]
    spread = numbers.test.labels[:, 0].std()
    assert ((outputs[1] - 5000) / 300 - outputs[0]).abs().max() < 0.3 * spread  # both learn the other target as well
    assert metrics["rmse"] < 300 * spread
    assert history[0]["train_loss"] < 5


def test_a_trained_regression_is_continued_where_it_was(large, tmp_path):
    model = nas_agg.compile(NET, seed=0)
    train(model, large, open_recipe("search", {"epochs": 3, "crop": 0}), seed=0)
    before = evaluate(model, large.train, large)["loss"]
    save_weights(model, tmp_path / "weights.safetensors")
    recipe = open_recipe("search", {"epochs": 1, "crop": 0, "lr": 1e-9})
    result = nas_agg.train(NET, large, recipe, weights=tmp_path / "weights.safetensors", device="cpu")
    again = evaluate(result.network, large.train, large)["loss"]
    assert again == pytest.approx(before, rel=0.1)


def test_only_networks_that_end_in_a_linear_layer_are_rescaled(large, numbers):
    assert target_scaling(nas_agg.compile(NET), load_data("digits")) is None
    assert target_scaling(Flat(2), large) is None
    for end in ([{"conv": 1, "out": 2}, "gap"], [{"linear": 2}, "relu"]):
        assert (
            target_scaling(
                nas_agg.compile({**NET, "net": [*NET["net"][:3], "gap" if end[-1] == "relu" else "relu", *end]}), large
            )
            is None
        )
    scaling = target_scaling(nas_agg.compile(NET), large)
    assert scaling.std[1] == 1 and scaling.mean[1] == 7
    model = nas_agg.compile(NET, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scaling.rescale(model)
    scaling.standardize(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-4, atol=1e-4)
