"""The backend that calls a function in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.functions import EvaluationFailed, call_function
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
        if self._assignment is None:
            return []
        assignment, self._assignment = self._assignment, None
        number, attempt, started = assignment.number, self._attempt, time.monotonic()

        def event(kind: EventKind, reason: str = "", outcome: TrialOutcome | None = None) -> list[Event]:
            return [Event(number, attempt, kind, seconds=time.monotonic() - started, reason=reason, outcome=outcome)]

        try:
            trial = self._optuna_trial(number)
            outcome = call_function(self._evaluate, assignment.genotype, trial, self._attributes)
        except EvaluationFailed as error:
            return event(EventKind.FAILED, reason=str(error))
        return event(outcome.event_kind(), outcome=outcome)

    def stop(self, number: int) -> None:
        raise AssertionError("a function reports to its trial")

    def cancel(self, number: int) -> None:
        self._assignment = None

    def close(self, leave_running: bool = False) -> None:
        self._assignment = None
