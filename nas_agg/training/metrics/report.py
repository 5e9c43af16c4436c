"""The report per class of a tested network, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas_agg.training.metrics.classification import predicted


def class_report(scores: np.ndarray, targets: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Precision, recall and F1 of each class, and the confusion matrix.

    Args:
        scores: Probabilities of the classes, float64, (N, classes).
        targets: One label per image, int64 (N,), or several: zeros and ones, (N, classes).
        class_names: Names of the classes.

    Returns:
        ``per_class``: for each class its name, ``precision``, ``recall`` and ``f1`` (0 where undefined) and ``images``;
        with one label per image also ``confusion_matrix``: for each true class the number of images predicted as each.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, guessed = np.arange(scores.shape[1]), predicted(scores, targets)
    columns = precision_recall_fscore_support(targets, guessed, labels=labels, zero_division=0.0)
    names = list(class_names) + [str(label) for label in labels[len(class_names) :]]
    rows = [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    ]
    report: dict[str, Any] = {"per_class": rows}
    if targets.ndim == 1:
        report["confusion_matrix"] = confusion_matrix(targets, guessed, labels=labels).tolist()
    return report
