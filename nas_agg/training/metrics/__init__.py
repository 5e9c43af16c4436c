"""Metrics of trained networks by name, and reports per class, from scores and targets; scikit-learn computes them.

``metric.py`` has what a metric is, ``classification.py`` and ``regression.py`` the metrics, ``report.py`` the report
per class. Nothing here needs torch. Imports ``common`` alone.
"""

from nas_agg.training.metrics.classification import CLASSIFICATION
from nas_agg.training.metrics.metric import Loss, TrainedMetric
from nas_agg.training.metrics.regression import REGRESSION
from nas_agg.training.metrics.report import class_report

#: Metrics of trained networks by name.
TRAINED_METRICS: dict[str, TrainedMetric] = {metric.name: metric for metric in (*CLASSIFICATION, Loss(), *REGRESSION)}

__all__ = ["TRAINED_METRICS", "TrainedMetric", "class_report"]
