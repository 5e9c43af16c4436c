"""The metrics of a network: one name, one attribute, one unit and one direction each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nas_agg.common.console import format_accuracy, format_bytes
from nas_agg.common.errors import one_line
from nas_agg.training.metrics import TRAINED_METRICS

Direction = Literal["minimize", "maximize"]
Source = Literal["arithmetic", "measurement", "training"]


@dataclass(frozen=True)
class Metric:
    """A metric of a network, which a search may limit or optimize.

    Attributes:
        name: Name in settings, options and messages.
        attribute: Name wherever values are stored: attributes of costs, trials and outcomes, columns of tables and of
            trials.csv, keys of JSON files and of storages.
        unit: Unit of the stored values; ``""`` if unknown.
        direction: Whether a smaller or a larger value is better.
        source: What determines a value: ``arithmetic`` on the genotype, a ``measurement`` of the untrained network, or
            its ``training``.
    """

    name: str
    attribute: str
    unit: str = ""
    direction: Direction = "minimize"
    source: Source = "training"

    @property
    def known_a_priori(self) -> bool:
        """Whether arithmetic on the genotype gives the value."""
        return self.source == "arithmetic"

    @property
    def depends_on_training(self) -> bool:
        """Whether training changes the value."""
        return self.source == "training"

    def score(self, value: float) -> float:
        """Value with its sign such that more is better."""
        return value if self.direction == "maximize" else -value

    def format(self, value: float) -> str:
        """Format a value with its unit."""
        match self.unit:
            case "fraction":
                return f"{100 * value:.2f} %"
            case "bytes":
                return format_bytes(int(value))
            case "ms":
                return f"{value:.4g} ms"
            case "params" | "MACs":
                return f"{int(value):,} {self.unit}"
            case "score":
                return f"score {value:.4f}"
        return f"{value:.6g}" if self.attribute == "value" else f"{self.name} {value:.6g}"


def _trained(name: str) -> Metric:
    """The metric of trained networks of a name."""
    metric = TRAINED_METRICS[name]
    return Metric(metric.name, metric.attribute, metric.unit, metric.direction)


#: Metrics of networks that this package trains, by their names.
METRICS = {
    metric.name: metric
    for metric in (
        *(_trained(name) for name in ("accuracy", "loss")),
        Metric("latency", "latency_ms", "ms", source="measurement"),
        Metric("params", "params", "params", source="arithmetic"),
        Metric("macs", "macs", "MACs", source="arithmetic"),
        Metric("activations", "activation_bytes", "bytes", source="arithmetic"),
        *(_trained(name) for name in TRAINED_METRICS if name not in ("accuracy", "loss")),
    )
}
#: Attributes of trained metrics that only some searches compute.
FURTHER = tuple(metric.attribute for metric in TRAINED_METRICS.values() if metric.name not in ("accuracy", "loss"))
VALUE = Metric("value", "value", direction="maximize")  # returned by a user's function
SCORE = Metric("score", "value", "score", "maximize")  # of accuracy and latency together


def format_evaluation(metrics: Mapping[str, Any], prefix: str = "") -> str:
    """Format the metrics of an evaluated network: ``accuracy 97.77 % (351 of 359 images), top-5 99.72 %``.

    Args:
        metrics: Metrics by their attributes, such as those of best/metrics.json.
        prefix: What attributes begin with, such as ``test_``.
    """
    if "untested" in metrics:
        return f"not tested: {metrics['untested']}"
    if "correct" in metrics:
        accuracy, top5 = metrics[f"{prefix}accuracy"], metrics.get(f"{prefix}top5_accuracy")
        return f"accuracy {format_accuracy(accuracy, metrics['correct'], metrics['images'], top5)}"
    known = [(metric, metrics.get(f"{prefix}{metric.attribute}")) for metric in METRICS.values()]
    texts = [_named(metric, value) for metric, value in known if value is not None and metric.name != "loss"]
    return f"{', '.join(texts)} ({metrics['images']:,} images)"


def _named(metric: Metric, value: float) -> str:
    text = metric.format(value)
    return text if text.startswith(metric.name) else f"{metric.name} {text}"


def imbalance_note(metrics: Mapping[str, Any], prefix: str = "") -> str:
    """A line about a class that is missed though the accuracy is high; empty if there is none.

    Args:
        metrics: Metrics by their attributes, with the report per class.
        prefix: What attributes begin with, such as ``test_``.
    """
    balanced, rows = metrics.get(f"{prefix}balanced_accuracy"), metrics.get("per_class")
    if balanced is None or not rows or metrics[f"{prefix}accuracy"] - balanced < 0.05:
        return ""
    worst = min((row for row in rows if row["images"]), key=lambda row: row["recall"])
    found = round(worst["recall"] * worst["images"])
    return (
        f"balanced accuracy {100 * balanced:.2f} %: {found:,} of {worst['images']:,} images of class "
        f"'{one_line(worst['class'])}' are found; see per_class in best/metrics.json"
    )
