"""The loop of a search: it proposes trials, submits them to a backend, and records their results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.proposals import Candidate, NoProposal, Promotion, Rejection
from nas_agg.study.definition.signals import check_stopped
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.proposer import BUDGET_EXHAUSTED, Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.scheduling.constraints import constraint_violations
from nas_agg.study.workers.backend import Assignment, Backend, Event, Resources
from nas_agg.study.workers.messages import EventKind, TrialOutcome

if TYPE_CHECKING:
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.scheduling.rungs import Rungs

MAX_FAILURES = 10  # in a row
TIMEOUT_REACHED = "timeout reached"
POLL_SECONDS = 0.2  # between two looks at the clock
DRAW_SECONDS = 0.05  # to draw before events of running trials are handled again


class SearchFailed(NasAggError):
    """Too many consecutive trials failed."""


class SearchCallback(Protocol):
    """Receives progress events of a search."""

    def trial(self, trial: TrialRecord) -> None:
        """A trial has a result, failed, or duplicates another."""

    def epoch(self, number: int, step: int, value: float) -> None:
        """A trial reported its value after an epoch."""

    def message(self, line: str) -> None:
        """Any other event, described in one line."""

    def tick(self) -> None:
        """Time has passed."""

    def restarted(self, number: int) -> None:
        """A trial begins anew, and will report its epochs again."""


class Stopwatch:
    """The time of a search, without that of the final training.

    Args:
        spent: Seconds that earlier parts of the search took.
    """

    def __init__(self, spent: float = 0.0):
        self._spent, self._started = spent, time.monotonic()
        self._stopped: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of the search so far, or in total once it is stopped."""
        return self._spent + (self._stopped or time.monotonic()) - self._started

    def stop(self) -> None:
        """Stop at the end of the search."""
        self._stopped = time.monotonic()


@dataclass
class Coordinator:
    """Runs trials until the budget is exhausted, and records their results.

    Attributes:
        settings: Budget, timeout, retries and limits.
        record: The trials.
        proposer: Creates the next trial.
        backend: Evaluates trials.
        assign: Makes the assignment of a trial and its network.
        callback: Receives progress events.
        stopwatch: Stopped when the search ends.
        last_epoch: Epoch at which a trial is complete and no longer pruned.
        rungs: Where trials pause, if they do.
        forgiven: Failures of trials with lower numbers do not end the search.
        resources: What each trial needs.
    """

    settings: Settings
    record: StudyRecord
    proposer: Proposer
    backend: Backend
    assign: Callable[[TrialRecord, Candidate], Assignment]
    callback: SearchCallback
    stopwatch: Stopwatch
    last_epoch: int = 0
    rungs: Rungs | None = None
    forgiven: int = 0
    resources: Resources = field(default_factory=Resources)

    def run(self) -> str:
        """Search until the end, when no trial runs any more.

        Returns:
            Why it ended.

        Raises:
            SearchFailed: Ten trials in a row failed.
        """
        is_over = False
        try:
            reason = self._run()
            is_over = True
            return reason
        finally:
            self.stopwatch.stop()
            self.backend.close(leave_running=not is_over)

    def _run(self) -> str:
        self._running: dict[int, Assignment] = {}
        self._attempts: dict[int, int] = {}  # the current attempt of each trial that runs
        self._restarts: dict[int, int] = {}
        self._is_drawing = False
        self._to_start = [trial for trial in self.record.trials if trial.state == RecordState.RUNNING]
        self._adopt()
        trial_ended, reason, free_slots = True, "", 0
        while True:
            check_stopped()
            self._check_failures()
            if self._is_timeout_reached():
                return TIMEOUT_REACHED  # the caller closes the running trials
            # A trial that ended may allow a proposal that was impossible before, and a worker may have joined.
            if trial_ended or self._is_drawing or self._free_slots() > free_slots:
                reason = self.dispatch()
            if not self._running and not self._is_drawing and (reason or self._is_budget_allotted()):
                return reason or BUDGET_EXHAUSTED
            free_slots, running = self._free_slots(), len(self._running)
            for event in self.backend.poll(0 if self._is_drawing else POLL_SECONDS):
                self.handle_event(event)
            trial_ended = len(self._running) < running
            self.callback.tick()

    def _is_timeout_reached(self) -> bool:
        return self.settings.timeout is not None and self.stopwatch.seconds >= self.settings.timeout

    def _is_budget_allotted(self) -> bool:
        """Whether the trials with a result and those that run make up the budget."""
        return self.record.leaders.evaluated + len(self._running) >= self.settings.budget

    def _free_slots(self) -> int:
        return self.backend.capacity() - len(self._running)

    # ---- dispatching

    def _adopt(self) -> None:
        """Take over the trials that have continued without a coordinator."""
        for number, attempt in self.backend.adopt().items():
            trial = next((trial for trial in self._to_start if trial.number == number), None)
            if trial is None:
                self.backend.cancel(number)
                continue
            self._to_start.remove(trial)
            self._running[number], self._attempts[number] = self._assignment(trial), attempt

    def dispatch(self) -> str:
        """Start a trial in every free slot; a proposal that takes long is left unfinished.

        Returns:
            Why there is no trial to start; empty if there may be one.
        """
        self._is_drawing = False
        while self._free_slots() > 0:
            if self._to_start:
                self._restart(self._to_start.pop(0))
                continue
            if self.rungs is not None and (paused := self.rungs.next_promotion(self.record.trials)) is not None:
                self._to_start.append(self.record.promote(paused.number))
                continue
            may_create = not self._is_budget_allotted()
            if not may_create and not self.proposer.continues_trials:
                return ""
            next_number = self.record.next_number
            proposal = self.proposer.propose(DRAW_SECONDS, may_create)
            for trial in self.record.trials[next_number:]:
                if trial.state == RecordState.DUPLICATE:
                    self.callback.trial(trial)
            if proposal is None:
                self._is_drawing = True
                return ""
            if isinstance(proposal, NoProposal):
                return proposal.reason
            if isinstance(proposal, Promotion):
                self._to_start.append(self.record.promote(proposal.number))
                continue
            self._start(self.assign(self.record.trials[proposal.number], proposal.candidate))
        return ""

    def _restart(self, trial: TrialRecord) -> None:
        """Start a trial that an earlier part of the search created, or one that was promoted."""
        self._start(self._assignment(trial))

    def _assignment(self, trial: TrialRecord) -> Assignment:
        """The assignment of a trial that an earlier part of the search created."""
        candidate = self.proposer.check(trial.labels)
        if isinstance(candidate, Rejection) or candidate.hash != trial.hash:
            raise NasAggError(
                f"trial {trial.number} describes a different network now; the space or nas_agg has changed"
            )
        return self.assign(trial, candidate)

    def _start(self, assignment: Assignment) -> None:
        """Submit the next attempt of a trial."""
        number = assignment.number
        self._running[number], self._attempts[number] = assignment, self.record.begin_attempt(number)
        self.backend.submit(assignment, self._attempts[number], self.resources)

    # ---- events

    def handle_event(self, event: Event) -> None:
        """Record an event of the backend, and stop a trial or restart one whose worker is gone."""
        number = event.number
        if event.attempt != self._attempts.get(number):
            return  # of an earlier attempt
        match event.kind:
            case EventKind.REPORT:
                should_prune = self.record.report(number, event.step, event.value) and event.step < self.last_epoch
                (self.backend.stop if should_prune else self.backend.proceed)(number)
                self.record.store_report(number, event.step, event.value)
                self.callback.epoch(number, event.step, event.value)
            case EventKind.RELEASED:
                self._retry(event)
            case EventKind.WORKER_DIED if self._restarts.get(number, 0) < self.settings.retries:
                self._restarts[number] = self._restarts.get(number, 0) + 1
                self._retry(event)
            case _:
                del self._running[number], self._attempts[number]
                self.callback.trial(self._record_end(event))

    def _retry(self, event: Event) -> None:
        self.callback.message(f"trial {event.number}: {event.reason}; restarting")
        self.record.clear_reports(event.number)
        self.callback.restarted(event.number)
        self._start(self._running[event.number])

    def _record_end(self, event: Event) -> TrialRecord:
        """Record how a trial ended or paused."""
        number, outcome = event.number, event.outcome or TrialOutcome()
        assert isinstance(outcome, TrialOutcome)
        # A worker knows the time of the parts before an interruption.
        seconds = round(event.seconds if outcome.seconds is None else outcome.seconds, 3)
        measured = outcome.measured()
        violations = constraint_violations(self.settings, measured)
        match event.kind:
            case EventKind.COMPLETED:
                values = self._values(number, outcome)
                return self.record.complete(number, values, violations, seconds=seconds, **measured)
            case EventKind.PAUSED:
                assert outcome.paused_at is not None
                values = self._values(number, outcome)
                return self.record.pause(number, outcome.paused_at, values, violations, seconds=seconds, **measured)
            case EventKind.PRUNED:
                return self.record.prune(number, violations=violations, seconds=seconds, **measured)
            case EventKind.INFEASIBLE:
                exceeded = {name: excess for name, excess in violations.items() if excess > 0} or {"resources": 1.0}
                reason = outcome.infeasible
                return self.record.mark_infeasible(number, reason, exceeded, seconds=seconds, **measured)
        restarts = self._restarts.get(number, 0)
        reason = f"{event.reason} (attempt {restarts + 1})" if restarts else event.reason
        return self.record.fail(number, reason, seconds=seconds)

    def _values(self, number: int, outcome: TrialOutcome) -> tuple[float, ...]:
        trial = self.record.trials[number]
        a_priori = [metric.attribute for metric in METRICS.values() if metric.known_a_priori]
        cost = {attribute: getattr(trial, attribute) for attribute in a_priori}
        return self.record.objectives.values({**cost, **outcome.metrics})

    def _check_failures(self) -> None:
        last: list[TrialRecord] = []
        for trial in reversed(self.record.trials):
            if trial.number < self.forgiven or trial.consumes_budget:
                return
            if trial.state == RecordState.FAILED:
                last.append(trial)
            if len(last) == MAX_FAILURES:
                break
        if len(last) == MAX_FAILURES:
            reasons = dict.fromkeys(trial.reason for trial in reversed(last))
            raise SearchFailed(f"{MAX_FAILURES} trials in a row failed: {'; '.join(reasons)}")
