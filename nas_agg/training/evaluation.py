"""Evaluation of a model on a part of a data set, and of each epoch of a training on the validation images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_agg.common.errors import InputError
from nas_agg.training.augment import normalise
from nas_agg.training.batch_norm_statistics import StatisticsImages, batch_norms, fresh_statistics
from nas_agg.training.data import Data, Split
from nas_agg.training.recipes import Augmentation

Metrics = dict[str, Any]


def batch_size(data: Data, device: torch.device | str) -> int:
    """Images per batch of a forward pass without gradients: a fixed number for a kind of device and image."""
    room = 2**18 if torch.device(device).type == "cpu" else 2**22
    return max(16, min(1024, room // math.prod(data.input)))


def evaluate(model: nn.Module, split: Split, data: Data, device: torch.device | str = "cpu") -> Metrics:
    """Count what a model gets right, in float32 and in batches of a fixed size for a kind of device and image.

    Args:
        model: Moved to the device; left in the mode it was in.
        split: For instance ``data.test``.
        data: The data set it belongs to, for its mean and standard deviation.
        device: Where to work.

    Returns:
        ``accuracy`` (0 to 1), ``loss`` (mean cross entropy), ``correct`` and ``images`` (whole numbers); of
        more than 5 classes also ``top5_accuracy`` (0 to 1), the share of images whose class is among the five with the
        highest logits. Of equal logits the lower class comes first, as in ``accuracy``.

    Raises:
        InputError: The model's output is not (N, classes).
    """
    training = model.training
    model.to(device).eval()
    on_device = split.to(device)
    size = batch_size(data, device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    among_five = torch.zeros_like(correct)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    try:
        with torch.inference_mode():
            for images, labels in zip(on_device.images.split(size), on_device.labels.split(size), strict=True):
                logits = model(normalise(images, data.mean, data.std)).float()
                if logits.shape != (len(images), data.classes):
                    raise InputError(
                        f"the network gives {tuple(logits.shape[1:])} values an image, {data.name} has {data.classes} "
                        "classes"
                    )
                correct += (logits.argmax(1) == labels).sum()
                if data.classes > 5:
                    highest = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
                    among_five += (highest == labels[:, None]).sum()
                loss += functional.cross_entropy(logits, labels, reduction="sum")
    finally:
        model.train(training)
    images_seen, right = len(split), int(correct)
    scored = {
        "accuracy": right / images_seen,
        "loss": float(loss) / images_seen,
        "correct": right,
        "images": images_seen,
    }
    return scored | ({"top5_accuracy": int(among_five) / images_seen} if data.classes > 5 else {})


class Validation:
    """The validation metrics of a training's epochs.

    Args:
        data: The data set, split.
        images: The training images, uint8, (N, C, H, W), on the device; batch-norm statistics are taken from some.
        augmentation: How the training varies them.
        seed: Of the choice and the augmentation of those images.
        device: Where to work.
    """

    def __init__(self, data: Data, images: Tensor, augmentation: Augmentation, seed: int, device: torch.device):
        self.data, self.device, self.split = data, device, data.validation.to(device)
        size = batch_size(data, device)
        self.images = StatisticsImages(images, size, augmentation, data.mean, data.std, seed)

    def metrics(self, model: nn.Module, fresh: bool) -> Metrics:
        """``validation_loss`` and ``validation_accuracy``; the model is left as it was, bit for bit.

        Of a model with batch norm also ``validation_loss_running_statistics`` and
        ``validation_accuracy_running_statistics``: with running averages, as saved weights are evaluated.

        Args:
            model: As it is trained.
            fresh: Whether the first two are with batch-norm statistics of the current weights.
        """
        metrics = self._evaluate(model)
        if not batch_norms(model):
            return metrics
        running = {f"{name}_running_statistics": value for name, value in metrics.items()}
        if fresh:
            with fresh_statistics(model, self.images):
                found = self._evaluate(model)
            if math.isfinite(found["validation_loss"]):  # not so where a channel has no variance in these images alone
                metrics = found
        return metrics | running

    def _evaluate(self, model: nn.Module) -> Metrics:
        found = evaluate(model, self.split, self.data, self.device)
        return {"validation_loss": found["loss"], "validation_accuracy": found["accuracy"]}
