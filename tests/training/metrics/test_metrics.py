"""Metrics of trained networks: scikit-learn's values on made scores, and the report per class."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from nas_agg.training.metrics import TRAINED_METRICS, class_report

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(7, size=300)
SCORES = RANDOM.dirichlet(np.ones(7), 300) + 0.15 * np.eye(7)[LABELS]
SCORES /= SCORES.sum(1, keepdims=True)
SEVERAL = (RANDOM.random((300, 5)) < 0.3).astype(np.uint8)
CHANCES = np.clip(RANDOM.random((300, 5)) * 0.6 + 0.4 * SEVERAL, 0, 1)
NUMBERS = RANDOM.normal(size=(300, 2)) * [1, 30]
GUESSES = NUMBERS + RANDOM.normal(size=(300, 2)) * [0.5, 10]
GUESSED = SCORES.argmax(1)


def compute(name, scores, targets):
    return TRAINED_METRICS[name].compute(scores, targets)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("accuracy", sklearn.accuracy_score(LABELS, GUESSED)),
        ("top5", sklearn.top_k_accuracy_score(LABELS, SCORES, k=5)),
        ("balanced-accuracy", sklearn.balanced_accuracy_score(LABELS, GUESSED)),
        ("macro-f1", sklearn.f1_score(LABELS, GUESSED, average="macro")),
        ("auroc", sklearn.roc_auc_score(LABELS, SCORES, multi_class="ovr", average="macro")),
        ("map", sklearn.average_precision_score(np.eye(7)[LABELS], SCORES, average="macro")),
    ],
)
def test_one_label(name, wanted):
    assert compute(name, SCORES, LABELS) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("accuracy", sklearn.accuracy_score(SEVERAL, CHANCES >= 0.5)),
        ("macro-f1", sklearn.f1_score(SEVERAL, CHANCES >= 0.5, average="macro")),
        ("auroc", sklearn.roc_auc_score(SEVERAL, CHANCES, average="macro")),
        ("map", sklearn.average_precision_score(SEVERAL, CHANCES, average="macro")),
    ],
)
def test_several_labels(name, wanted):
    assert compute(name, CHANCES, SEVERAL) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("mae", sklearn.mean_absolute_error(NUMBERS, GUESSES)),
        ("rmse", sklearn.root_mean_squared_error(NUMBERS, GUESSES)),
        ("r2", sklearn.r2_score(NUMBERS, GUESSES)),
    ],
)
def test_regression(name, wanted):
    assert compute(name, GUESSES, NUMBERS) == pytest.approx(wanted, rel=1e-12)


def test_binary_auroc_is_that_of_either_class():
    labels, scores = (LABELS > 2).astype(int), np.stack([SCORES[:, :3].sum(1), SCORES[:, 3:].sum(1)], 1)
    assert compute("auroc", scores, labels) == pytest.approx(sklearn.roc_auc_score(labels, scores[:, 1]))


def test_classes_without_images_are_left_out_where_undefined():
    few = LABELS < 5
    for name in ("auroc", "map", "balanced-accuracy", "macro-f1"):
        assert np.isfinite(compute(name, SCORES[few], LABELS[few]))
    assert compute("auroc", SCORES[:1], LABELS[:1]) == 0.5 or compute("auroc", SCORES[:1], LABELS[:1]) == 0.0


def test_the_report_shows_a_rare_class_that_is_missed():
    labels = np.array([0] * 1000 + [1] * 10)
    scores = np.tile([0.9, 0.1], (1010, 1))
    assert compute("accuracy", scores, labels) > 0.99
    assert compute("balanced-accuracy", scores, labels) == 0.5
    report = class_report(scores, labels, ["common", "rare"])
    assert report["per_class"][1] == {"class": "rare", "precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 10}
    assert report["confusion_matrix"] == [[1000, 0], [10, 0]]


def test_the_report_is_scikit_learns():
    rows = class_report(SCORES, LABELS, "abcdefg")["per_class"]
    wanted = sklearn.classification_report(LABELS, GUESSED, output_dict=True)
    for label, row in enumerate(rows):
        own = wanted[str(label)]
        assert (row["precision"], row["recall"], row["f1"], row["images"]) == pytest.approx(
            (own["precision"], own["recall"], own["f1-score"], own["support"])
        )
    several = class_report(CHANCES, SEVERAL, "abcde")
    assert (
        "confusion_matrix" not in several and [row["images"] for row in several["per_class"]] == SEVERAL.sum(0).tolist()
    )
