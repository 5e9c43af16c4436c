"""The loop of a search: one process asks, hands out, listens and records."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.trial import MEASURED, RecordState, TrialRecord
from nas_agg.study.proposer import Candidate, Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.scheduling.constraints import constraint_violations
from nas_agg.study.workers.pool import Evaluator, Event, Job

if TYPE_CHECKING:
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.scheduling.successive_halving import SuccessiveHalving

FAILURES_IN_A_ROW = 10
TIME_IS_UP = "the time is up"
TICK = 0.2  # seconds between two looks at the clock
SLICE = 0.05  # seconds to draw before those who are training are heard again


class SearchFailed(NasAggError):
    """Trial after trial failed."""


class SearchCallback(Protocol):
    """Who is told how a search goes."""

    def trial(self, trial: TrialRecord) -> None:
        """A trial has a result, failed, or repeats another."""

    def say(self, line: str) -> None:
        """Something else happened."""

    def tick(self) -> None:
        """Time has passed."""


class Clock:
    """The time of a search, without that of the final training.

    Args:
        spent: Seconds that earlier parts of the search took.
    """

    def __init__(self, spent: float = 0.0):
        self._spent, self._begun = spent, time.monotonic()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """How long the search has taken so far, or took in all."""
        return self._spent + (self._ended or time.monotonic()) - self._begun

    def stop(self) -> None:
        """The search has ended."""
        self._ended = time.monotonic()


@dataclass
class Coordinator:
    """Asks for trials until the budget is spent, and records what becomes of them.

    Attributes:
        settings: Budget, times and retries.
        record: The trials.
        proposer: Gives the next trial.
        evaluator: Evaluates them.
        job: Makes a trial's job.
        watcher: Is told.
        clock: Is stopped when the search ends.
        last_epoch: The epoch at which a trial is done and no longer stopped.
        rungs: Where trials pause, if they do.
        forgiven: Trials of lower numbers do not count as failures in a row.
    """

    settings: Settings
    record: StudyRecord
    proposer: Proposer
    evaluator: Evaluator
    job: Callable[[TrialRecord, Candidate], Job]
    watcher: SearchCallback
    clock: Clock
    last_epoch: int = 0
    rungs: SuccessiveHalving | None = None
    forgiven: int = 0

    def run(self) -> str:
        """Search; gives why it ended. Nothing is evaluated any more then.

        Raises:
            SearchFailed: Ten trials in a row failed, or none gave a result.
        """
        try:
            return self._run()
        finally:
            self.clock.stop()
            self.evaluator.close()

    def _run(self) -> str:
        self._jobs: dict[int, Job] = {}
        self._losses: dict[int, int] = {}
        self._drawing = False
        self._waiting = [trial for trial in self.record.trials if trial.state == RecordState.RUNNING]
        ended, why, free = True, "", 0
        while True:
            self._check_failures()
            if self._time_is_up():
                return TIME_IS_UP  # whoever asked for the search settles what runs
            # What could not be had before may be had now; and a worker may have joined.
            if ended or self._drawing or self.evaluator.free() > free:
                why = self._hand_out()
            if not self._jobs and not self._drawing and (why or self._spent()):
                return why or "the budget is spent"
            free = self.evaluator.free()
            running = len(self._jobs)
            for event in self.evaluator.events(0 if self._drawing else TICK):
                self._hear(event)
            ended = len(self._jobs) < running
            self.watcher.tick()

    def _time_is_up(self) -> bool:
        return self.settings.timeout is not None and self.clock.seconds >= self.settings.timeout

    # ---- handing out

    def _hand_out(self) -> str:
        """Give every free worker a trial; gives why there is none for it, if there is none to be had.

        When drawing takes its time, it is left in the middle.
        """
        self._drawing = False
        while self.evaluator.free():
            if self._waiting:
                trial = self._waiting.pop(0)
                network = self.proposer.judge(trial.labels)
                if isinstance(network, str) or network.hash != trial.hash:
                    raise NasAggError(f"trial {trial.number} is another network now; the space or nas_agg has changed")
                self._start(self.job(trial, network))
                continue
            if self.rungs is not None and (paused := self.rungs.next_promotion(self.record.trials)) is not None:
                self._waiting.append(self.record.promote(paused.number))
                continue
            if self._spent():
                return ""
            known = self.record.next_number
            proposed = self.proposer.propose(SLICE)
            for repeat in self.record.trials[known:]:
                if repeat.state == RecordState.DUPLICATE:
                    self.watcher.trial(repeat)
            if proposed is None:
                self._drawing = True
                return ""
            if isinstance(proposed, str):
                return proposed
            number, network = proposed
            self._start(self.job(self.record.trials[number], network))
        return ""

    def _start(self, job: Job) -> None:
        self._jobs[job.number] = job
        self.evaluator.start(job)

    def _spent(self) -> bool:
        """Whether the trials that have a result and those that run are the budget."""
        return sum(trial.consumes_budget for trial in self.record.trials) + len(self._jobs) >= self.settings.budget

    # ---- listening

    def _hear(self, event: Event) -> None:
        number = event.number
        if event.kind == "report":
            assert event.value is not None
            worse = self.record.report(number, event.step, event.value)
            self.evaluator.answer(number, worse and event.step < self.last_epoch)
            self.record.store_report(number, event.step, event.value)
            return
        if event.kind == "left" or (event.kind == "lost" and self._losses.get(number, 0) < self.settings.retries):
            self._losses[number] = self._losses.get(number, 0) + (event.kind == "lost")
            self.watcher.say(f"trial {number}: {event.reason}; trained again")
            self.record.clear_reports(number)
            self.evaluator.start(self._jobs[number])
            return
        del self._jobs[number]
        seconds = round(event.result.get("seconds", event.seconds), 3)  # a worker knows of the parts before a kill
        told = {name: event.result[name] for name in MEASURED if event.result.get(name) is not None}
        limits = constraint_violations(self.settings, told)
        if event.result.get("infeasible"):
            limits = {name: much for name, much in limits.items() if much > 0} or {"resources": 1.0}
            trial = self.record.mark_infeasible(number, event.result["infeasible"], limits, seconds=seconds, **told)
        elif event.kind == "done" and event.result.get("paused"):
            values = self._values(number, event.result)
            trial = self.record.pause(number, event.result["paused"], values, limits, seconds=seconds, **told)
        elif event.kind == "done":
            trial = self.record.complete(number, self._values(number, event.result), limits, seconds=seconds, **told)
        elif event.kind == "stopped":
            trial = self.record.prune(number, violations=limits, seconds=seconds, **told)
        else:
            retried = self._losses.get(number, 0)
            reason = event.reason + (f", {retried} times trained again" if retried else "")
            trial = self.record.fail(number, reason, seconds=seconds)
        self.watcher.trial(trial)

    def _values(self, number: int, result: dict[str, Any]) -> tuple[float, ...]:
        trial = self.record.trials[number]
        known = {name: getattr(trial, name) for name in ("params", "macs", "activation_bytes")}
        return self.record.objectives.values({**known, **result})

    def _check_failures(self) -> None:
        ended = [
            t
            for t in self.record.trials
            if t.number >= self.forgiven and (t.consumes_budget or t.state == RecordState.FAILED)
        ]
        last = ended[-FAILURES_IN_A_ROW:]
        if len(last) == FAILURES_IN_A_ROW and not any(trial.consumes_budget for trial in last):
            reasons = dict.fromkeys(trial.reason for trial in last)
            raise SearchFailed(f"{FAILURES_IN_A_ROW} trials in a row failed: {'; '.join(reasons)}")
