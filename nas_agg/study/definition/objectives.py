"""The objectives of a search: the metric that it optimizes, or several that it trades off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.study.definition.metrics import METRICS, SCORE, VALUE, Direction, Metric

if TYPE_CHECKING:
    from nas_agg.study.definition.settings import Settings


class Objectives(Sequence[Metric]):
    """The objectives of a search, in the order of a trial's values.

    Args:
        metrics: One or more.
    """

    def __init__(self, metrics: Sequence[Metric] = (VALUE,)):
        self._metrics = tuple(metrics)

    def __getitem__(self, index: Any) -> Any:
        return self._metrics[index]

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        return f"Objectives({', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objectives."""
        return tuple(metric.name for metric in self)

    @property
    def is_multi_objective(self) -> bool:
        """Whether there are several objectives: then there is no best network but a Pareto front."""
        return len(self) > 1

    @property
    def directions(self) -> list[Direction]:
        """Optuna's directions."""
        return [metric.direction for metric in self]

    def scores(self, values: Sequence[float]) -> tuple[float, ...]:
        """A trial's values with their signs such that more is better."""
        return tuple(metric.score(value) for metric, value in zip(self, values, strict=True))

    def values(self, results: Mapping[str, Any]) -> tuple[float, ...]:
        """A trial's values.

        Args:
            results: Metrics of a network by their attributes; ``value`` is that of a single objective.
        """
        if not self.is_multi_objective and results.get("value") is not None:
            return (float(results["value"]),)
        return tuple(float(results[metric.attribute]) for metric in self)


def objectives_of(settings: Settings, evaluated: bool) -> Objectives:
    """The objectives that settings name.

    Args:
        settings: Settings of a search.
        evaluated: Whether a user's function returns the values of those that arithmetic does not know, in their order.

    Raises:
        InputError: One is unknown or named twice, or no objective requires training or evaluation.
    """
    names = settings.objective
    if names is not None and len(names) > 1 and settings.pruner == "median":
        raise InputError("pruner: median takes a single objective; use halving, hyperband or none")
    metric = _reported_metric(settings, evaluated)
    if names is None:
        return Objectives((VALUE if evaluated else metric if settings.latency_target is None else SCORE,))
    if settings.latency_target is not None:
        raise InputError("latency_target: it defines the objective; omit objective or latency_target")
    if not names:
        raise InputError(f"objective: no metric specified; choose from {', '.join(METRICS)}")
    objectives = Objectives([_metric(name, evaluated) for name in names])
    _check_objectives(objectives, evaluated)
    return objectives


def _reported_metric(settings: Settings, evaluated: bool) -> Metric:
    """The metric of trained networks, which is the objective if none is named.

    Raises:
        InputError: It is unknown, does not depend on training, or other settings exclude it.
    """
    if settings.metric is not None and (settings.objective is not None or evaluated):
        other = "an evaluate function" if evaluated else "objective"
        raise InputError(f"metric: excludes {other}; omit one of them")
    metric = METRICS["accuracy"] if settings.metric is None else _metric(settings.metric, False, "metric")
    if not metric.depends_on_training:
        raise InputError(f"metric: {metric.name} does not depend on training; name it as an objective")
    if settings.latency_target is not None and metric.direction == "minimize":
        raise InputError(f"latency_target: weighs a metric that is maximized, not {metric.name}")
    return metric


def _check_objectives(objectives: Objectives, evaluated: bool) -> None:
    """Refuse duplicates, and objectives for which no network would be trained or evaluated."""
    for name in objectives.names:
        if objectives.names.count(name) > 1:
            raise InputError(f"objective: duplicate metric {name}")
    if all(metric.known_a_priori for metric in objectives):
        raise InputError("objective: none of these depends on training; add accuracy or loss")
    if not evaluated and not any(metric.depends_on_training for metric in objectives):
        raise InputError("objective: networks are trained for accuracy or loss; add one of them")


def _metric(name: str, evaluated: bool, setting: str = "objective") -> Metric:
    """The metric of a name such as ``accuracy`` or, for a user's function, ``error:min`` or ``speed:max``."""
    if not evaluated:
        if name not in METRICS:
            raise InputError(
                f"{setting}: unknown metric {name!r}{did_you_mean(name, METRICS)}; choose from {', '.join(METRICS)}"
            )
        return METRICS[name]
    own, colon, direction = name.partition(":")
    if colon and direction not in ("min", "max"):
        raise InputError(f"objective: {name!r}: write {own}:min or {own}:max")
    if not own or not own.isidentifier():
        raise InputError(f"objective: {name!r} is not a valid name; write for example error:min")
    if colon or own not in METRICS:
        return Metric(own, own, direction="minimize" if direction == "min" else "maximize")
    return METRICS[own]
