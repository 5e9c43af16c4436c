"""Evaluation of a model on a split of a data set, and of each epoch of a training on the validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.training.augment import normalise
from nas_agg.training.batch_norm_statistics import StatisticsImages, batch_norms, fresh_statistics
from nas_agg.training.data import Data, Split
from nas_agg.training.data.feed import gather_ahead
from nas_agg.training.losses import loss_of_task
from nas_agg.training.metrics import TRAINED_METRICS, TrainedMetric, class_report
from nas_agg.training.recipes import Augmentation
from nas_agg.training.steps.target_scaling import RescaledOutputs, TargetScaling

Metrics = dict[str, Any]
EvaluationPrecision = Literal["float32", "bf16"]


def batch_size(data: Data, device: torch.device | str) -> int:
    """Images per batch of an evaluation: fixed for a type of device and a size of images."""
    values_at_once = 2**18 if torch.device(device).type == "cpu" else 2**22
    return max(16, min(1024, values_at_once // math.prod(data.input)))


#: Metrics that every evaluation returns beside the loss, by task.
_DEFAULTS = {
    "classification": ("accuracy", "top5"),
    "multilabel": ("accuracy", "macro-f1", "map"),
    "regression": ("mae", "rmse", "r2"),
}


def main_metric(task: str) -> str:
    """The metric by which networks are compared, unless another is specified."""
    return {"classification": "accuracy", "multilabel": "map", "regression": "rmse"}[task]


def find_metric(name: str, task: str) -> TrainedMetric:
    """The metric of a name.

    Raises:
        InputError: There is no such metric, or not for this task.
    """
    suitable = [metric.name for metric in TRAINED_METRICS.values() if task in metric.tasks]
    if name not in suitable:
        hint = did_you_mean(name, suitable) or f"; choose from {', '.join(suitable)}"
        problem = f"{name} is no metric of {task}" if name in TRAINED_METRICS else f"unknown metric {name!r}"
        raise InputError(f"metric: {problem}{hint}")
    return TRAINED_METRICS[name]


def evaluate(
    model: nn.Module,
    split: Split,
    data: Data,
    device: torch.device | str = "cpu",
    *,
    metrics: Sequence[str] = (),
    report: bool = False,
    precision: EvaluationPrecision = "float32",
) -> Metrics:
    """Evaluate a model in batches whose size depends on the type of device and the image size alone.

    Args:
        model: The model; moved to the device, its mode is restored.
        split: A split, for instance ``data.test``.
        data: The data set of the split, for its mean and standard deviation.
        device: The device.
        metrics: Names of further metrics of `nas_agg.training.metrics`.
        report: Whether to add the report per class; see `nas_agg.training.metrics.class_report`.
        precision: Format of the forward pass; with bf16, it runs under autocast.

    Returns:
        ``loss`` (mean), ``images`` (their number) and metrics by their attributes. With one label per image:
        ``accuracy`` (0 to 1), ``correct`` (a count) and for more than 5 classes ``top5_accuracy``, the share of images
        whose class is among the five highest logits; ties are resolved in favour of the lower class. With several
        labels: ``accuracy``, ``macro_f1`` and ``mean_average_precision``. Of a regression: ``mae``, ``rmse``, ``r2``.

    Raises:
        InputError: The split is empty, the model's output is not of the shape (N, classes), or a metric or the
            precision is unknown.
    """
    if precision not in get_args(EvaluationPrecision):
        raise InputError(f"precision: must be one of {', '.join(get_args(EvaluationPrecision))}, not {precision!r}")
    if not len(split):
        raise InputError(f"{data.name}: no images to evaluate on")
    wanted = _metrics_of_outputs(data, metrics)
    outputs = _Outputs(data, keep=bool(wanted) or report)
    training, size = model.training, batch_size(data, device)
    device = torch.device(device)
    model.to(device).eval()
    on_device = split.to(device)
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            gathered = gather_ahead(on_device, torch.arange(len(split), device=on_device.place).split(size), device)
            for images, labels in zip(gathered, on_device.labels.split(size), strict=True):
                outputs.add(model(normalise(images, data.mean, data.std)).float(), labels)
    finally:
        model.train(training)
    result = outputs.result(len(split))
    if wanted or report:
        scores, targets = outputs.scores(), split.labels.cpu().numpy()
        finite = bool(np.isfinite(scores).all())
        result |= {metric.attribute: metric.compute(scores, targets) if finite else math.nan for metric in wanted}
        if report and finite and data.task != "regression":
            result |= class_report(scores, targets, data.class_names)
    return result


def _metrics_of_outputs(data: Data, names: Sequence[str]) -> list[TrainedMetric]:
    """The metrics that need all outputs: those of the task other than classification, and further ones.

    Raises:
        InputError: A metric is unknown, or does not suit the data set.
    """
    further = [find_metric(name, data.task) for name in names]
    counts = data.task == "classification"
    if counts and data.classes <= 5 and any(metric.name == "top5" for metric in further):
        raise InputError(f"metric: top5 requires more than 5 classes; {data.name} has {data.classes}")
    wanted = [] if counts else [TRAINED_METRICS[name] for name in _DEFAULTS[data.task]]
    return wanted + [metric for metric in further if metric.name not in (*_DEFAULTS[data.task], "loss")]


class _Outputs:
    """The outputs of an evaluation: counts and the loss, and where needed all of them.

    Args:
        data: The data set.
        keep: Whether outputs are kept.
    """

    def __init__(self, data: Data, keep: bool):
        self.data, self.keep = data, keep
        self.loss_of = loss_of_task(data.task)
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.among_five: Tensor | int = 0
        self.kept: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch."""
        if logits.shape != (len(labels), self.data.classes):
            kind = "targets" if self.data.task == "regression" else "classes"
            raise InputError(
                f"the network's output has shape {tuple(logits.shape[1:])} per image; {self.data.name} has "
                f"{self.data.classes} {kind}"
            )
        self.loss = self.loss + self.loss_of(logits, labels, "sum").double()
        if self.data.task == "classification":
            self.correct = self.correct + (logits.argmax(1) == labels).sum()
            if self.data.classes > 5:
                highest = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
                self.among_five = self.among_five + (highest == labels[:, None]).sum()
        if self.keep:
            self.kept.append(logits.cpu())

    def result(self, count: int) -> Metrics:
        """Counts and the mean loss of all batches."""
        if self.data.task != "classification":
            return {"loss": float(self.loss) / count, "images": count}
        correct = int(self.correct)
        metrics = {"accuracy": correct / count, "loss": float(self.loss) / count, "correct": correct, "images": count}
        return metrics | ({"top5_accuracy": int(self.among_five) / count} if self.data.classes > 5 else {})

    def scores(self) -> np.ndarray:
        """Probabilities, or the outputs of a regression: float64, (N, classes or targets)."""
        outputs = torch.cat(self.kept).double()
        if self.data.task == "regression":
            return outputs.numpy()
        return (outputs.softmax(1) if self.data.task == "classification" else outputs.sigmoid()).numpy()


class Validation:
    """Validation metrics of a training's epochs.

    Args:
        data: The data set, split.
        train: The training images; some are used for batch-norm statistics.
        augmentation: The training's augmentation.
        seed: Seed of the choice and the augmentation of these images.
        device: The device.
        metrics: Names of further metrics.
        precision: Format of the forward pass.
        scaling: The scaling of the targets of a regression on which the model is trained.
    """

    def __init__(
        self,
        data: Data,
        train: Split,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        metrics: Sequence[str] = (),
        precision: EvaluationPrecision = "float32",
        scaling: TargetScaling | None = None,
    ):
        self.precision: EvaluationPrecision = precision
        self.data, self.device, self.split = data, device, data.validation.to(device)
        self.scaling = scaling
        self.further = tuple(metrics)
        size = batch_size(data, device)
        self.images = StatisticsImages(train, torch.device(device), size, augmentation, data.mean, data.std, seed)

    def metrics(self, model: nn.Module, recompute: bool) -> Metrics:
        """``validation_loss``, ``validation_accuracy`` and further metrics; the model is not changed.

        For a model with batch norm also ``validation_loss_running_statistics`` and the like, computed with running
        averages as the saved weights will be.

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
        if self.scaling is not None:
            model = RescaledOutputs(model, self.scaling)
        metrics = evaluate(model, self.split, self.data, self.device, metrics=self.further, precision=self.precision)
        names = [name for name in metrics if name not in ("images", "correct", "top5_accuracy")]
        names += ["top5_accuracy"] * ("top5" in self.further)
        return {f"validation_{name}": metrics[name] for name in sorted(names, key=lambda name: name != "loss")}
