"""What the final network of a run predicts for the test images: confusions, and the most confident mistakes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.report.runs.summary import network_of
from nas_agg.study.records.run_folder import WEIGHTS_FILE, dataset_arguments
from nas_agg.study.records.saved_run import SavedRun

if TYPE_CHECKING:
    from torch import Tensor

    from nas_agg.training.data import Split

MAX_MACS = 2 * 10**11  # of all test images together: some seconds on a CPU
MAX_PICTURES = 24


@dataclass(frozen=True)
class Mistake:
    """A test image that was classified wrongly.

    Attributes:
        index: Its place in the test split.
        label: Its class.
        predicted: The predicted class.
        confidence: The probability of the predicted class.
        png: The image as the network received it, as a PNG file.
    """

    index: int
    label: int
    predicted: int
    confidence: float
    png: bytes


@dataclass(frozen=True)
class Predictions:
    """Predictions for the test split.

    Attributes:
        class_names: Names of the classes.
        confusion: Counts, ``(classes, classes)``: images of each class (row) by predicted class (column).
        mistakes: The most confident mistakes, most confident first.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    mistakes: Sequence[Mistake]

    @property
    def accuracy(self) -> float:
        """Share of correctly classified images."""
        return float(np.trace(self.confusion) / self.confusion.sum())


@dataclass(frozen=True)
class ClassMetrics:
    """Precision, recall and F1 of a class, 0 to 1; precision is None if the class was never predicted."""

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_metrics(predictions: Predictions) -> list[ClassMetrics]:
    """Metrics of each class, from the confusion matrix."""
    confusion, result = predictions.confusion, []
    for k, name in enumerate(predictions.class_names):
        hits, images, predicted = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        f1 = 2 * hits / (images + predicted) if images + predicted else None
        precision, recall = hits / predicted if predicted else None, hits / images if images else None
        result.append(ClassMetrics(name, images, precision, recall, f1))
    return result


def recorded_predictions(run: SavedRun) -> Predictions | None:
    """The confusion matrix in the metrics of a run's final network, without mistakes; None if there is none."""
    metrics = run.metrics or {}
    matrix, names = metrics.get("confusion_matrix"), metrics.get("class_names")
    if not isinstance(matrix, list) or not isinstance(names, list):
        return None
    confusion = np.array(matrix, int)
    names = [*map(str, names), *map(str, range(len(names), len(confusion)))]
    return Predictions(tuple(names), confusion, ()) if confusion.shape == (len(names), len(names)) else None


def predict_test_split(run: SavedRun) -> Predictions | None:
    """Classify the test images by a run's final network.

    Returns:
        None if the run has no trained network, its data set is not available, or there would be more than ``MAX_MACS``
        multiply-adds.
    """
    weights = run.path / "best" / WEIGHTS_FILE
    if not run.is_tested or not weights.is_file():
        return None
    try:
        return _predict(run)
    except (NasAggError, OSError):  # the data set has moved, or the network is damaged: the page does without
        return None


def _predict(run: SavedRun) -> Predictions | None:
    import torch

    from nas_agg.compiler import compile
    from nas_agg.expansion.costs import cost
    from nas_agg.training.augment import normalise
    from nas_agg.training.data import load_data
    from nas_agg.training.evaluation import batch_size

    genotype = network_of(run)
    if genotype is None:
        return None
    images = int((run.metrics or {}).get("images", 0))
    if images * cost(genotype).macs > MAX_MACS:
        return None
    data = load_data(**dataset_arguments(dict(run.run), run.path))
    if data.task != "classification":
        return None
    model = compile(genotype, weights=run.path / "best" / WEIGHTS_FILE).eval()
    probabilities = []
    with torch.inference_mode():
        for positions in torch.arange(len(data.test)).split(batch_size(data, "cpu")):
            batch = normalise(data.test.rows(positions), data.mean, data.std)
            probabilities.append(model(batch).float().softmax(1))
    return _summarize(torch.cat(probabilities), data.test, data.class_names)


def _summarize(probabilities: Tensor, test: Split, class_names: tuple[str, ...]) -> Predictions:
    import torch

    if probabilities.shape[1] != len(class_names):
        raise InputError("the network has another number of classes than the data set")
    predicted, labels = probabilities.argmax(1), test.labels
    confusion = np.zeros((len(class_names), len(class_names)), int)
    np.add.at(confusion, (labels.numpy(), predicted.numpy()), 1)
    confidence = probabilities.gather(1, predicted[:, None])[:, 0].numpy()
    wrong = np.flatnonzero((predicted != labels).numpy())
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_PICTURES]
    pictures = list(test.rows(torch.from_numpy(order)).to(torch.uint8).numpy()) if len(order) else []
    mistakes = [
        Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i]), png(picture))
        for i, picture in zip(order, pictures, strict=True)
    ]
    return Predictions(class_names, confusion, mistakes)


def png(image: np.ndarray) -> bytes:
    """An image as a PNG file: of 3 or more channels the first 3 as colours, else the first as grey.

    Args:
        image: uint8, ``(C, H, W)``.
    """
    from PIL import Image

    shown = image[:3].transpose(1, 2, 0) if len(image) >= 3 else image[0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(file, "PNG", optimize=True)
    return file.getvalue()
