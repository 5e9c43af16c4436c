"""Interface of the executors that evaluate trials, and the executor that calls a function in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nas_agg.common.errors import NasAggError
from nas_agg.study.samplers.searcher import describe_exception
from nas_agg.study.workers.messages import EventKind, FinalJob, FinalOutcome, TrialJob, TrialOutcome

if TYPE_CHECKING:
    from optuna.trial import Trial

    from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class Assignment:
    """A trial that an executor is to evaluate.

    Attributes:
        number: Number of the trial.
        genotype: Its network, for executors in this process.
        job: Its job, for executors that train.
        pause_at: Epoch at which the evaluation pauses, if it does.
    """

    number: int
    genotype: Genotype | None = None
    job: TrialJob | FinalJob | None = None
    pause_at: int | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial.

    Attributes:
        number: Number of the trial.
        kind: What happened.
        step, value: A report.
        seconds: Seconds since the job began.
        reason: Why it failed, or its worker died or left.
        outcome: The result, if it has one.
    """

    number: int
    kind: EventKind
    step: int = 0
    value: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    outcome: TrialOutcome | FinalOutcome | None = None


class TrialExecutor(Protocol):
    """Evaluates trials."""

    def free_slots(self) -> int:
        """Number of further trials that may be started now."""

    def start(self, assignment: Assignment) -> None:
        """Start a trial; only while there are free slots."""

    def poll(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to ``timeout`` seconds for the first."""

    def reply(self, number: int, stop: bool) -> None:
        """Reply to a report: stop the trial early, or let it continue."""

    def close(self) -> None:
        """Stop all that run."""


class InProcessExecutor:
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

    def free_slots(self) -> int:
        return 0 if self._assignment else 1

    def start(self, assignment: Assignment) -> None:
        self._assignment = assignment

    def poll(self, timeout: float) -> list[Event]:
        import optuna

        if self._assignment is None:
            return []
        assignment, self._assignment = self._assignment, None
        number, started = assignment.number, time.monotonic()

        def event(kind: EventKind, reason: str = "", outcome: TrialOutcome | None = None) -> list[Event]:
            return [Event(number, kind, seconds=time.monotonic() - started, reason=reason, outcome=outcome)]

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

    def reply(self, number: int, stop: bool) -> None:
        raise AssertionError("a function reports to its trial")

    def close(self) -> None:
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
