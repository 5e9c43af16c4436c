"""A trial as callers see it, and how it is read from an Optuna trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from nas_agg.study.definition.metrics import FURTHER, METRICS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nas_agg.study.definition.objectives import Objectives

Labels = dict[str, Any]
OWN = "nas_agg:"  # prefix of this package's attributes, which a user's function may add its own to
REMOTE = f"{OWN}remote:"  # prefix of the attributes that the coordinator and remote workers exchange
ATTEMPT = f"{REMOTE}attempt"  # the last attempt, if there has been more than one
#: Attributes that measuring or training determines.
MEASURED = (*(metric.attribute for metric in METRICS.values() if not metric.known_a_priori), "batch_size")


class RecordState(StrEnum):
    """State of a trial; more are distinguished than by Optuna's ``TrialState``."""

    RUNNING = "running"
    WAITING = "waiting"
    #: Waits at a rung for promotion.
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    #: Its network equals that of an earlier trial, whose result it has.
    DUPLICATE = "duplicate"
    #: Its network exceeds a measured limit, or did not fit the memory.
    INFEASIBLE = "infeasible"
    #: Running when the search ended; nothing is known of its network.
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a search.

    Attributes:
        number: Number in the study, from 0.
        state: Its state.
        values: Value of each objective; of a pruned trial, when it was pruned.
        scores: The values with their signs such that more is better; None if a limit is exceeded.
        labels: Values of the search variables as Optuna stores them.
        params, macs, hash: Cost and canonical hash of its network.
        activation_bytes: Bytes per image kept for backward, if the search needs them.
        seconds: Training time.
        seed: Seed of its training.
        rungs: Scores at each epoch at which it paused.
        reason: Why it failed, was infeasible or was interrupted, else empty.
        duplicate_of: Number of the earlier trial with the same network.
        rejected_draws: Draws that were rejected before its own.
        memory: Memory mode of its training.
        accuracy: Validation accuracy (0 to 1).
        loss: Validation loss.
        latency_ms: Milliseconds of a forward pass of one image, if measured.
        batch_size: Batch size of its training, if the recipe's did not fit the memory.
        further: Other metrics of the validation images by their attributes, which a record has as well:
            ``record.macro_f1``; None if unknown.
    """

    number: int
    state: RecordState
    values: tuple[float, ...] | None
    scores: tuple[float, ...] | None
    labels: Labels
    params: int
    macs: int
    hash: str
    seconds: float | None
    seed: int
    rungs: dict[int, tuple[float, ...]] = field(default_factory=dict)
    reason: str = ""
    duplicate_of: int | None = None
    rejected_draws: int = 0
    memory: str = "plain"
    accuracy: float | None = None
    activation_bytes: int | None = None
    loss: float | None = None
    latency_ms: float | None = None
    batch_size: int | None = None
    further: dict[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name in FURTHER:
            return self.further.get(name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    @property
    def value(self) -> float | None:
        """Value of the first objective."""
        return self.values[0] if self.values else None

    @property
    def network_hash(self) -> str:
        """Canonical hash of its network, without the hyperparameters of a joint search."""
        return self.hash.partition("-")[0]

    @property
    def consumes_budget(self) -> bool:
        """Whether it is one of the budget's networks: it has a result of its own."""
        return self.is_final or self.state == RecordState.PAUSED

    @property
    def is_final(self) -> bool:
        """Whether its result will not change."""
        return self.state in (RecordState.COMPLETE, RecordState.PRUNED)


def scores_of(trial: FrozenTrial, objectives: Objectives) -> tuple[float, ...] | None:
    """A trial's scores, of which more is better; None if it has no values or exceeds a limit."""
    values = last_values(trial)
    has_result = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or is_paused(trial)
    if not has_result or not values or violation_of(trial) > 0:
        return None
    return objectives.scores(values)


def last_values(trial: FrozenTrial) -> Sequence[float] | None:
    """A trial's values of the objectives: final, when it was pruned, or at its last rung."""
    rungs = trial.user_attrs.get(OWN + "rungs", {})
    return trial.values or trial.user_attrs.get(OWN + "values") or (rungs[max(rungs, key=int)] if rungs else None)


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung: one beyond that from which it was last promoted."""
    rungs = map(int, trial.user_attrs.get(OWN + "rungs", {}))
    return trial.state == TrialState.RUNNING and max(rungs, default=0) > trial.user_attrs.get(OWN + "promoted", 0)


def violation_of(trial: FrozenTrial) -> float:
    """Sum of the amounts by which a trial exceeds its limits; 0 if it exceeds none."""
    return sum(max(0.0, excess) for excess in trial.constraints.values())


_STATES = {
    TrialState.RUNNING: RecordState.RUNNING,
    TrialState.WAITING: RecordState.WAITING,
    TrialState.COMPLETE: RecordState.COMPLETE,
    TrialState.PRUNED: RecordState.PRUNED,
    TrialState.FAIL: RecordState.FAILED,
}


def as_record(trial: FrozenTrial, objectives: Objectives) -> TrialRecord:
    """Read a trial of a study."""
    attrs = {key.removeprefix(OWN): value for key, value in trial.user_attrs.items() if key.startswith(OWN)}
    scores, state = scores_of(trial, objectives), _STATES[trial.state]
    if is_paused(trial):
        state = RecordState.PAUSED
        if any(excess > 0 for excess in attrs.get("violations", {}).values()):  # a constraint only once it is final
            scores = None
    elif attrs.get("interrupted"):
        state = RecordState.INTERRUPTED
    elif attrs.get("infeasible"):
        state = RecordState.INFEASIBLE
    if attrs.get("duplicate_of") is not None:
        state = RecordState.DUPLICATE
    return TrialRecord(
        number=trial.number,
        state=state,
        values=tuple(values) if (values := last_values(trial)) else None,
        scores=scores,
        labels=trial.params,
        params=attrs.get("params", 0),
        macs=attrs.get("macs", 0),
        hash=attrs.get("hash", ""),
        activation_bytes=attrs.get("activation_bytes"),
        seconds=attrs.get("seconds"),
        seed=attrs.get("seed", 0),
        rungs={int(epoch): objectives.scores(values) for epoch, values in attrs.get("rungs", {}).items()},
        reason=attrs.get("reason", ""),
        duplicate_of=attrs.get("duplicate_of"),
        rejected_draws=attrs.get("rejected_draws", 0),
        memory=attrs.get("memory", "plain"),
        further={name: attrs[name] for name in FURTHER if attrs.get(name) is not None},
        **{name: attrs.get(name) for name in MEASURED if name not in FURTHER},
    )
