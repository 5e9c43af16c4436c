"""Metrics of a regression: means over its targets."""

from __future__ import annotations

import numpy as np

from nas_agg.training.metrics.metric import TrainedMetric

_TASKS = ("regression",)


class MeanAbsoluteError(TrainedMetric):
    """Mean absolute error, in the unit of the targets."""

    name = attribute = "mae"
    unit = ""
    direction = "minimize"
    tasks = _TASKS

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        return float(np.abs(scores - targets).mean())


class RootMeanSquaredError(TrainedMetric):
    """Root of the mean squared error, in the unit of the targets; mean over the targets."""

    name = attribute = "rmse"
    unit = ""
    direction = "minimize"
    tasks = _TASKS

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        return float(np.sqrt(((scores - targets) ** 2).mean(0)).mean())


class R2(TrainedMetric):
    """Coefficient of determination: the share of the targets' variance that is explained; mean over the targets."""

    name = attribute = "r2"
    unit = ""
    tasks = _TASKS

    def compute(self, scores: np.ndarray, targets: np.ndarray) -> float:
        from sklearn.metrics import r2_score

        return float(r2_score(targets, scores)) if len(targets) > 1 else 0.0


REGRESSION = (MeanAbsoluteError(), RootMeanSquaredError(), R2())
