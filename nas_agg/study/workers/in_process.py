"""The backend that calls a function in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import NasAggError
from nas_agg.study.samplers.searcher import describe_exception
from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.messages import EventKind, TrialOutcome

if TYPE_CHECKING:
    from optuna.trial import Trial


class InProcessBackend(Backend):
    """Calls a function in this process, one trial after another.

    Args:
        evaluate: Returns a genotype's value, or several; may report to the trial and raise ``optuna.TrialPruned``.
        optuna_trial: Returns the Optuna trial of a number.
        attributes: Attributes of the metrics that the values are.
    """

    def __init__(
        self,
        evaluate: Callable[[Any, Trial], Any],
        optuna_trial: Callable[[int], Trial],
        attributes: Sequence[str] = ("value",),
    ):
        self._evaluate, self._optuna_trial, self._attributes = evaluate, optuna_trial, tuple(attributes)
        self._assignment: Assignment | None = None
        self._attempt = 0

    def capacity(self) -> int:
        return 1

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        self._assignment, self._attempt = assignment, attempt

    def poll(self, timeout: float) -> list[Event]:
        import optuna

        if self._assignment is None:
            return []
        assignment, self._assignment = self._assignment, None
        number, attempt, started = assignment.number, self._attempt, time.monotonic()

        def event(kind: EventKind, reason: str = "", outcome: TrialOutcome | None = None) -> list[Event]:
            return [Event(number, attempt, kind, seconds=time.monotonic() - started, reason=reason, outcome=outcome)]

        try:
            result: Any = self._evaluate(assignment.genotype, self._optuna_trial(number))
        except optuna.TrialPruned:
            return event(EventKind.PRUNED)
        except Exception as error:  # the caller's function: its exceptions are failed trials
            return event(EventKind.FAILED, reason=_own_reason(error) or describe_exception(error))
        values = _numbers(result, len(self._attributes))
        if isinstance(values, str):
            return event(EventKind.FAILED, reason=values)
        metrics = dict(zip(self._attributes, values, strict=True))
        return event(EventKind.COMPLETED, outcome=TrialOutcome(metrics=metrics))

    def stop(self, number: int) -> None:
        raise AssertionError("a function reports to its trial")

    def cancel(self, number: int) -> None:
        self._assignment = None

    def close(self, leave_running: bool = False) -> None:
        self._assignment = None


def _numbers(result: Any, count: int) -> list[float] | str:
    """A function's values, or the reason they are invalid."""
    expected = "a number" if count == 1 else f"{count} numbers"
    items = [result] if count == 1 else result.tolist() if hasattr(result, "tolist") else result  # of an array
    if not isinstance(items, tuple | list) or len(items) != count:
        return f"evaluate returned a value of type {type(result).__name__}, not {expected}"
    numbers = []
    for item in items:
        try:
            number = None if isinstance(item, str | bytes | bytearray) else float(item)
        except Exception:  # whatever its type raises
            number = None
        if number is None:
            return f"evaluate returned a value of type {type(item).__name__}, not {expected}"
        if not math.isfinite(number):
            return f"diverged: the value is {'NaN' if number != number else 'infinite'}"
        numbers.append(number)
    return numbers


def _own_reason(error: Exception) -> str:
    """The reason that this package's own errors carry."""
    return str(getattr(error, "reason", "")) if isinstance(error, NasAggError) else ""
