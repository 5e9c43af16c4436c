"""A trial as people read it, and how a storage says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from nas_agg.study.definition.objectives import Objectives

Labels = dict[str, Any]
OWN = "nas_agg:"  # before the names of this package's attributes, which lie beside those of a user's function
REMOTE = f"{OWN}remote:"  # of what the coordinator and workers elsewhere say to each other
MEASURED = ("accuracy", "loss", "latency_ms", "batch_size")  # what a worker may tell of a network beside its value


@dataclass(frozen=True)
class TrialRecord:
    """One trial as people read it.

    Attributes:
        number: Its number in the study, from 0.
        state: ``running``, ``paused`` (at a rung), ``complete``, ``pruned``, ``failed``, ``repeat``, ``infeasible``
            (its network is slower than the limit, or did not fit the memory) or ``stopped`` (when the search ended; it
            says nothing of its network).
        values: What it has for each objective (of a pruned one, when it was stopped).
        scores: The same, so turned that more is better; None as well where a limit does not hold.
        labels: The values of the space's open names, as Optuna stores them.
        params, macs, hash: What its network costs and is.
        activation_bytes: What an image leaves for the backward pass, where the search asks for it.
        seconds: How long it was trained.
        seed: The seed of its training.
        rungs: The epochs at which it paused, and its scores then.
        reason: Why it failed or was stopped, else empty.
        twin: The number of the trial it repeats.
        refused: Draws refused before it was drawn.
        memory: What it was trained with.
        accuracy: On the validation images, where the value is another.
        loss: Likewise.
        latency_ms: Milliseconds of a forward pass of one image, where they were measured.
        batch_size: Of its training, where it is not the recipe's, which did not fit the memory.
    """

    number: int
    state: str
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
    twin: int | None = None
    refused: int = 0
    memory: str = "plain"
    accuracy: float | None = None
    activation_bytes: int | None = None
    loss: float | None = None
    latency_ms: float | None = None
    batch_size: int | None = None

    @property
    def value(self) -> float | None:
        """The first of its values."""
        return self.values[0] if self.values else None

    @property
    def counts(self) -> bool:
        """Whether the trial is one of the budget: a network with a result of its own."""
        return self.told or self.state == "paused"

    @property
    def told(self) -> bool:
        """Whether its result is its last."""
        return self.state in ("complete", "pruned")


def scores_of(trial: FrozenTrial, objectives: Objectives) -> tuple[float, ...] | None:
    """A trial's values, each so turned that more is better; None: it has none, or a limit does not hold."""
    values = last_values(trial)
    known = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or is_paused(trial)
    if not known or not values or violation_of(trial) > 0:
        return None
    return objectives.scores(values)


def last_values(trial: FrozenTrial) -> Sequence[float] | None:
    """What a trial has for each objective: at its end, when it was stopped, or at the last rung it came to."""
    rungs = trial.user_attrs.get(OWN + "rungs", {})
    return trial.values or trial.user_attrs.get(OWN + "values") or (rungs[max(rungs, key=int)] if rungs else None)


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung, with what it had there: it came further than it was told to go on from."""
    rungs = map(int, trial.user_attrs.get(OWN + "rungs", {}))
    return trial.state == TrialState.RUNNING and max(rungs, default=0) > trial.user_attrs.get(OWN + "promoted", 0)


def violation_of(trial: FrozenTrial) -> float:
    """By how much a trial is over its limits; 0: it is over none."""
    return sum(max(0.0, over) for over in trial.constraints.values())


_STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def as_record(trial: FrozenTrial, objectives: Objectives) -> TrialRecord:
    """What a trial of the study says."""
    attrs = {key.removeprefix(OWN): value for key, value in trial.user_attrs.items() if key.startswith(OWN)}
    twin = attrs.get("repeat_of")
    state = next((word for word in ("stopped", "infeasible") if attrs.get(word)), _STATES[trial.state])
    scores = scores_of(trial, objectives)
    if is_paused(trial):
        state = "paused"
        if any(much > 0 for much in attrs.get("over", {}).values()):  # it is told to samplers if it goes no further
            scores = None
    return TrialRecord(
        number=trial.number,
        state="repeat" if twin is not None else state,
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
        twin=twin,
        refused=attrs.get("refused", 0),
        memory=attrs.get("memory", "plain"),
        **{name: attrs.get(name) for name in MEASURED},
    )
