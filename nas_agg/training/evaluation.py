"""Evaluation of a model on a split of a data set, and of each epoch of a training on the validation images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nas_agg.common.errors import InputError
from nas_agg.training.augment import normalise
from nas_agg.training.batch_norm_statistics import StatisticsImages, batch_norms, fresh_statistics
from nas_agg.training.data import Data, Split
from nas_agg.training.recipes import Augmentation

Metrics = dict[str, Any]


def batch_size(data: Data, device: torch.device | str) -> int:
    """Images per batch of an evaluation: fixed for a type of device and a size of images."""
    values_at_once = 2**18 if torch.device(device).type == "cpu" else 2**22
    return max(16, min(1024, values_at_once // math.prod(data.input)))


def evaluate(model: nn.Module, split: Split, data: Data, device: torch.device | str = "cpu") -> Metrics:
    """Evaluate a model in float32, in batches whose size depends on the type of device and the image size alone.

    Args:
        model: The model; moved to the device, its mode is restored.
        split: A split, for instance ``data.test``.
        data: The data set of the split, for its mean and standard deviation.
        device: The device.

    Returns:
        ``accuracy`` (0 to 1), ``loss`` (mean cross entropy), ``correct`` and ``images`` (counts); for more than 5
        classes also ``top5_accuracy`` (0 to 1), the share of images whose class is among the five highest logits. Ties
        are resolved in favour of the lower class, as in ``accuracy``.

    Raises:
        InputError: The shape of the model's output is not (N, classes).
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
            for positions in torch.arange(len(split), device=device).split(size):
                images, labels = on_device.rows(positions).to(device), on_device.labels[positions]
                logits = model(normalise(images, data.mean, data.std)).float()
                if logits.shape != (len(images), data.classes):
                    raise InputError(
                        f"the network's output has shape {tuple(logits.shape[1:])} per image; {data.name} has "
                        f"{data.classes} classes"
                    )
                correct += (logits.argmax(1) == labels).sum()
                if data.classes > 5:
                    highest = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
                    among_five += (highest == labels[:, None]).sum()
                loss += functional.cross_entropy(logits, labels, reduction="sum")
    finally:
        model.train(training)
    count, correct_count = len(split), int(correct)
    metrics = {
        "accuracy": correct_count / count,
        "loss": float(loss) / count,
        "correct": correct_count,
        "images": count,
    }
    return metrics | ({"top5_accuracy": int(among_five) / count} if data.classes > 5 else {})


class Validation:
    """Validation metrics of a training's epochs.

    Args:
        data: The data set, split.
        train: The training images; some are used for batch-norm statistics.
        augmentation: The training's augmentation.
        seed: Seed of the choice and the augmentation of these images.
        device: The device.
    """

    def __init__(self, data: Data, train: Split, augmentation: Augmentation, seed: int, device: torch.device):
        self.data, self.device, self.split = data, device, data.validation.to(device)
        size = batch_size(data, device)
        self.images = StatisticsImages(train, torch.device(device), size, augmentation, data.mean, data.std, seed)

    def metrics(self, model: nn.Module, recompute: bool) -> Metrics:
        """``validation_loss`` and ``validation_accuracy``; the model is not changed.

        For a model with batch norm also ``validation_loss_running_statistics`` and
        ``validation_accuracy_running_statistics``, computed with running averages as the saved weights will be.

        Args:
            model: The model being trained.
            recompute: Whether the first two use batch-norm statistics of the current weights.
        """
        metrics = self._evaluate(model)
        if not batch_norms(model):
            return metrics
        running = {f"{name}_running_statistics": value for name, value in metrics.items()}
        if recompute:
            with fresh_statistics(model, self.images):
                recomputed = self._evaluate(model)
            if math.isfinite(recomputed["validation_loss"]):  # not if a channel has zero variance in these images
                metrics = recomputed
        return metrics | running

    def _evaluate(self, model: nn.Module) -> Metrics:
        metrics = evaluate(model, self.split, self.data, self.device)
        return {"validation_loss": metrics["loss"], "validation_accuracy": metrics["accuracy"]}
