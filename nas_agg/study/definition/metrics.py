"""The metrics of a network: one name, one attribute, one unit and one direction each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas_agg.common.console import format_bytes

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


#: Metrics of networks that this package trains, by their names.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", "fraction", "maximize"),
        Metric("loss", "loss"),
        Metric("latency", "latency_ms", "ms", source="measurement"),
        Metric("params", "params", "params", source="arithmetic"),
        Metric("macs", "macs", "MACs", source="arithmetic"),
        Metric("activations", "activation_bytes", "bytes", source="arithmetic"),
    )
}
VALUE = Metric("value", "value", direction="maximize")  # returned by a user's function
SCORE = Metric("score", "value", "score", "maximize")  # of accuracy and latency together
