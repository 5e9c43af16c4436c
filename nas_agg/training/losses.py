"""Losses of the tasks: cross entropy of one label, binary cross entropy of several, errors of a regression."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.common.errors import InputError
from nas_agg.training.data import Data, Split
from nas_agg.training.recipes import Recipe

Reduction = Literal["mean", "sum", "none"]


class Loss:
    """A loss of outputs and targets.

    Attributes:
        name: Its name in recipes.
        tasks: The tasks that it suits; it is the default of the first.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def __call__(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """The loss, a mean over classes or targets.

        Args:
            outputs: float32, (N, classes or targets).
            targets: Those of the task.
            reduction: Over images; ``none`` returns (N,).
        """
        losses = self.losses(outputs, targets)
        return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each image: (N,)."""
        raise NotImplementedError

    def of_guessing(self, targets: Tensor, classes: int) -> float:
        """The loss of a constant output."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Cross entropy of one label per image, or of a distribution over classes (N, classes)."""

    name = "cross-entropy"
    tasks = ("classification",)

    def __call__(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing, reduction=reduction)

    def of_guessing(self, targets: Tensor, classes: int) -> float:
        return math.log(classes)


class BinaryCrossEntropy(Loss):
    """Binary cross entropy of each class, for several labels per image: (N, classes) from 0 to 1."""

    name = "binary-cross-entropy"
    tasks = ("multilabel",)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smoothed = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(outputs, smoothed, reduction="none").mean(1)

    def of_guessing(self, targets: Tensor, classes: int) -> float:
        return math.log(2)


class _Error(Loss):
    """An error of a regression, whose targets are (N, targets)."""

    tasks = ("regression",)

    def of_guessing(self, targets: Tensor, classes: int) -> float:
        return float(self(targets.mean(0).expand_as(targets), targets))


class MeanSquaredError(_Error):
    """Squared error."""

    name = "mse"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, targets, reduction="none").mean(1)


class MeanAbsoluteError(_Error):
    """Absolute error."""

    name = "mae"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.l1_loss(outputs, targets, reduction="none").mean(1)


class Huber(_Error):
    """Huber's loss: squared for errors below 1, absolute above."""

    name = "huber"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.huber_loss(outputs, targets, reduction="none").mean(1)


LOSSES: dict[str, type[Loss]] = {
    loss.name: loss for loss in (CrossEntropy, BinaryCrossEntropy, MeanSquaredError, MeanAbsoluteError, Huber)
}


def loss_of_task(task: str, name: str = "auto", label_smoothing: float = 0.0) -> Loss:
    """A task's loss.

    Args:
        task: classification, multilabel or regression.
        name: The loss; ``auto`` for the task's default.
        label_smoothing: Share of the target that is spread over the classes; a regression has none.

    Raises:
        InputError: The loss is of another task.
    """
    suitable = [kind for kind in LOSSES.values() if task in kind.tasks]
    kind = suitable[0] if name == "auto" else LOSSES[name]
    if kind not in suitable:
        names = ", ".join(kind.name for kind in suitable)
        raise InputError(f"loss: {name} is for {kind.tasks[0]}; the data set's task is {task}: use {names}")
    return kind(label_smoothing)


class TrainingLoss:
    """The loss of a training, with weights of classes.

    Args:
        recipe: The recipe.
        data: The data set.
        split: The training images.

    Raises:
        InputError: The loss or the weights do not suit the data set.
    """

    def __init__(self, recipe: Recipe, data: Data, split: Split):
        self.loss = loss_of_task(data.task, recipe.loss, recipe.label_smoothing)
        self.guess = self.loss.of_guessing(split.labels, data.classes)
        self.class_weights = class_weights(recipe, data, split)

    def __call__(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean loss, weighted where there are weights.

        Args:
            outputs: float32, (N, classes or targets).
            targets: Those of the task; for one label also distributions over classes, (N, classes).
            weights: Weight of each image, (N,), or None.
        """
        weights = self.weights(targets, weights)
        if weights is None:
            return self.loss(outputs, targets)
        return (self.loss(outputs, targets, "none") * weights).sum() / weights.sum().clamp(min=1e-12)

    def weights(self, targets: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """The weight of each image: its own times that of its class; None if there are none."""
        if self.class_weights is None:
            return weights
        if targets.ndim == 1:
            of_classes = self.class_weights[targets]
        else:  # a distribution, or several labels: the mean over them
            of_classes = targets.float() @ self.class_weights / targets.sum(1).clamp(min=1e-12)
        return of_classes if weights is None else of_classes * weights


def class_weights(recipe: Recipe, data: Data, split: Split) -> Tensor | None:
    """The weight of each class in the loss, float32 (classes,), on the device of the labels; None if there are none."""
    if recipe.class_weights == "none":
        return None
    if data.task == "regression":
        raise InputError("class_weights: a regression has no classes")
    if recipe.class_weights != "balanced":
        if len(recipe.class_weights) != data.classes:
            raise InputError(f"class_weights: {len(recipe.class_weights)} numbers for {data.classes} classes")
        return torch.tensor(recipe.class_weights, dtype=torch.float32, device=split.labels.device)
    counts = class_counts(split.labels, data.classes)
    return (counts.sum() / (data.classes * counts.clamp(min=1))).float()


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """The number of images of each class: float64, (classes,)."""
    if labels.ndim == 1:
        return torch.bincount(labels, minlength=classes).double()
    return labels.sum(0, dtype=torch.float64)


def sampling_weights(recipe: Recipe, data: Data, split: Split) -> Tensor | None:
    """Probabilities of images in balanced sampling, up to a factor: float64, (N,), on the CPU; None for shuffling."""
    if recipe.sampling == "shuffle":
        return None
    if data.task == "regression":
        raise InputError("sampling: balanced requires classes, which a regression has not")
    labels = split.labels.cpu()
    inverse = 1 / class_counts(labels, data.classes).clamp(min=1)
    if labels.ndim == 1:
        return inverse[labels]
    return (labels.double() @ inverse).clamp(min=float(inverse.min()))  # images without a label are drawn as well
