"""Metrics of classification, with one label per image or several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas_agg.training.metrics.metric import TrainedMetric

_BOTH = ("classification", "multilabel")


def predicted(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The predicted class of each image (ties: the lower one), or its classes of probability 1/2 and more."""
    return scores.argmax(1) if targets.ndim == 1 else (scores >= 0.5).astype(targets.dtype)


class Accuracy(TrainedMetric):
    """Share of the images whose predicted labels are right, all of them with several per image."""

    name = attribute = "accuracy"
    tasks = _BOTH

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        right = predicted(scores, targets) == targets
        return float((right if targets.ndim == 1 else right.all(1)).mean())


class Top5Accuracy(TrainedMetric):
    """Share of the images whose class is among the five of the highest probabilities."""

    name, attribute = "top5", "top5_accuracy"
    tasks = ("classification",)

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        highest = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        return float((highest == targets[:, None]).any(1).mean())


class BalancedAccuracy(TrainedMetric):
    """Mean over the classes of the share of their images that is right (recall)."""

    name, attribute = "balanced-accuracy", "balanced_accuracy"
    tasks = ("classification",)

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        right = scores.argmax(1) == targets
        return float(np.mean([right[targets == label].mean() for label in np.unique(targets)]))


class MacroF1(TrainedMetric):
    """Mean over the classes of the harmonic mean of precision and recall; 0 where neither is defined."""

    name, attribute = "macro-f1", "macro_f1"
    tasks = _BOTH

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        from sklearn.metrics import f1_score

        labels = np.arange(scores.shape[1])
        return float(f1_score(targets, predicted(scores, targets), labels=labels, average="macro", zero_division=0.0))


class Auroc(TrainedMetric):
    """Area under the receiver operating characteristic, each class against the others; mean over classes.

    Classes without an image, or with all of them, have none and are left out.
    """

    name = attribute = "auroc"
    tasks = _BOTH

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        from sklearn.metrics import roc_auc_score

        return _mean_over_classes(roc_auc_score, scores, targets)


class MeanAveragePrecision(TrainedMetric):
    """Average precision, each class against the others; mean over classes, without those of no image."""

    name, attribute = "map", "mean_average_precision"
    tasks = _BOTH

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        from sklearn.metrics import average_precision_score

        return _mean_over_classes(average_precision_score, scores, targets)


def _mean_over_classes(metric: Callable[..., float], scores: np.ndarray, targets: np.ndarray) -> float:
    """The mean of a metric of one class against the others, over the classes that have both."""
    members = targets == 1 if targets.ndim == 2 else targets[:, None] == np.arange(scores.shape[1])
    values = [
        metric(members[:, label], scores[:, label])
        for label in range(scores.shape[1])
        if members[:, label].any() and not members[:, label].all()
    ]
    return float(np.mean(values)) if values else 0.0


CLASSIFICATION = (Accuracy(), Top5Accuracy(), BalancedAccuracy(), MacroF1(), Auroc(), MeanAveragePrecision())
