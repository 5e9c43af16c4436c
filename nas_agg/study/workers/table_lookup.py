"""Evaluates trials by looking their networks up in a table of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.messages import TrialOutcome

if TYPE_CHECKING:
    from nas_agg.study.tables.results_table import TabularSpace


class TableLookupBackend(Backend):
    """A backend that looks results up: a trial is complete as soon as it has started.

    Args:
        space: The space with its table.
    """

    def __init__(self, space: TabularSpace):
        self._space = space
        self._events: list[Event] = []

    def capacity(self) -> int:
        return 1

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        assert assignment.genotype is not None
        row, epochs = self._space.network(assignment.genotype), self._space.epochs
        epoch = min(assignment.pause_at or epochs, epochs)
        is_complete = epoch == epochs
        seconds = row.extra_metrics.get("seconds", 0.0) * epoch / epochs
        metrics = {"accuracy": row.value if is_complete else row.curve[epoch - 1]}
        metrics |= {name: row.extra_metrics[name] for name in ("loss", "latency_ms") if name in row.extra_metrics}
        if not is_complete:
            metrics.pop("loss", None)  # tables have the final loss only
        outcome = TrialOutcome(metrics=metrics, seconds=seconds, paused_at=None if is_complete else epoch)
        self._events = [Event(assignment.number, attempt, outcome.event_kind(), seconds=seconds, outcome=outcome)]

    def poll(self, timeout: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def stop(self, number: int) -> None:
        raise AssertionError("a table reports nothing")

    def cancel(self, number: int) -> None:
        self._events = []

    def close(self, leave_running: bool = False) -> None:
        self._events = []
