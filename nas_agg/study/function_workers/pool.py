"""A pool of worker processes that call a function of the caller."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.language.genotype import Genotype
from nas_agg.study.definition.task import WorkerConfig, cores
from nas_agg.study.workers.backend import Assignment, Event, Resources
from nas_agg.study.workers.functions import FunctionReference
from nas_agg.study.workers.messages import FunctionJob, TrialOutcome
from nas_agg.study.workers.pool import WorkerPool

if TYPE_CHECKING:
    from optuna.trial import Trial

FUNCTION_COMMAND = (sys.executable, "-P", "-m", "nas_agg.study.function_workers.process")


class FunctionPool(WorkerPool):
    """Calls a function in several processes of this machine.

    Args:
        function: The function, which each process imports once.
        optuna_trial: Returns the Optuna trial of a number.
        attributes: Attributes of the metrics that the function's values are.
        workers: Number of processes; they share the cores.
        log: As for `WorkerPool`.
        trial_timeout: As for `WorkerPool`.
    """

    def __init__(
        self,
        function: FunctionReference,
        optuna_trial: Callable[[int], Trial],
        attributes: Sequence[str],
        workers: int,
        log: Path | None = None,
        trial_timeout: float | None = None,
    ):
        config = WorkerConfig(data=function.model_dump(), threads=max(1, cores() // workers))
        super().__init__([config] * workers, log, trial_timeout, FUNCTION_COMMAND)
        self._optuna_trial, self._attributes = optuna_trial, tuple(attributes)

    def submit(self, assignment: Assignment, attempt: int, resources: Resources | None = None) -> None:
        argument: Any = assignment.genotype
        job = FunctionJob(
            number=assignment.number,
            genotype=argument.to_dict() if isinstance(argument, Genotype) else None,
            values=dict(argument) if isinstance(argument, Mapping) else None,
            params=self._optuna_trial(assignment.number).params,
            attributes=self._attributes,
        )
        super().submit(replace(assignment, job=job), attempt, resources)

    def poll(self, timeout: float) -> list[Event]:
        events = super().poll(timeout)
        for event in events:
            if isinstance(event.outcome, TrialOutcome) and event.outcome.user_attrs:
                trial = self._optuna_trial(event.number)
                for name, value in event.outcome.user_attrs.items():
                    trial.set_user_attr(name, value)
        return events

    def stop(self, number: int) -> None:
        """Answer a report by the advice to prune; the function decides, and may go on."""
        for worker in self._workers_with(number):
            worker.is_stopped = True
            self._answer(worker)
            worker.is_stopped = False
