"""A worker process that calls a function of the caller; see `nas_agg.study.workers.process`."""

from __future__ import annotations

import json
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from optuna.trial import FixedTrial

from nas_agg.language.genotype import Genotype
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.functions import EvaluationFailed, FunctionReference, call_function, import_function
from nas_agg.study.workers.messages import FinalJob, FunctionJob, TrialJob, TrialOutcome
from nas_agg.study.workers.process import serve

if TYPE_CHECKING:
    from nas_agg.study.workers.connection import Work


class WorkerTrial(FixedTrial):
    """A trial as a function in a worker process sees it: its reports go to the search, whose pruner answers.

    Args:
        job: The job.
        report: Sends a step and a value; returns whether the trial should be pruned.
    """

    def __init__(self, job: FunctionJob, report: Callable[[int, float], bool]):
        super().__init__(job.params, job.number)
        self._job, self._send, self._should_prune = job, report, False
        self._steps: set[int] = set()

    @property
    def params(self) -> dict[str, Any]:
        """The values of the trial's search variables, as Optuna knows them."""
        return dict(self._job.params)

    def report(self, value: float, step: int) -> None:
        """Report a value of a step, as `optuna.Trial.report` does."""
        self._check_single()
        value, step = float(value), int(step)
        if step < 0:
            raise ValueError(f"The `step` argument is {step} but cannot be negative.")
        if step in self._steps:
            warnings.warn(f"The reported value is ignored because step {step} is already reported.", stacklevel=2)
            return
        self._steps.add(step)
        self._should_prune = self._send(step, value)

    def should_prune(self) -> bool:
        """Whether the search's pruner would end the trial after its last report."""
        self._check_single()
        return self._should_prune

    def set_user_attr(self, key: str, value: Any) -> None:
        """Set a user attribute, which must be a JSON value."""
        json.dumps(value)
        super().set_user_attr(key, value)

    def _check_single(self) -> None:
        if len(self._job.attributes) > 1:
            raise NotImplementedError(
                "Trial.report and should_prune are not supported for multi-objective optimization."
            )


def prepare(config: WorkerConfig) -> Work:
    """Import the function; returns what calls it."""
    function = import_function(FunctionReference.model_validate(config.data))

    def work(job: TrialJob | FinalJob | FunctionJob, report: Callable[[int, float], bool]) -> TrialOutcome:
        assert isinstance(job, FunctionJob)
        trial = WorkerTrial(job, report)
        argument = job.values if job.genotype is None else Genotype.from_dict(job.genotype)
        try:
            outcome = call_function(function, argument, trial, job.attributes)
        except EvaluationFailed:
            traceback.print_exc()
            raise
        return outcome.model_copy(update={"user_attrs": trial.user_attrs})

    return work


if __name__ == "__main__":
    serve(prepare)
