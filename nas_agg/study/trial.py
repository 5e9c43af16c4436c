"""A trial as people read it, and how a storage says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Labels = dict[str, Any]
OWN = "nas_agg:"  # before the names of this package's attributes, which lie beside those of a user's function
MEASURED = ("accuracy", "latency_ms")  # what a worker may tell of a network beside its value


@dataclass(frozen=True)
class TrialRecord:
    """One trial as people read it.

    Attributes:
        number: Its number in the study, from 0.
        state: ``running``, ``complete``, ``pruned``, ``failed``, ``repeat``, ``infeasible`` (its network is slower than
            the limit, and was not trained) or ``stopped`` (when the search ended; it says nothing of its network).
        value: What it scored (of a pruned one, when it was stopped).
        labels: The values of the space's open names, as Optuna stores them.
        params, macs, hash: What its network costs and is.
        seconds: How long it was trained.
        seed: The seed of its training.
        reason: Why it failed or was stopped, else empty.
        twin: The number of the trial it repeats.
        refused: Draws refused before it was drawn.
        memory: What it was trained with.
        accuracy: On the validation images, where the value is another.
        latency_ms: Milliseconds of a forward pass of one image, where they were measured.
    """

    number: int
    state: str
    value: float | None
    labels: Labels
    params: int
    macs: int
    hash: str
    seconds: float | None
    seed: int
    reason: str = ""
    twin: int | None = None
    refused: int = 0
    memory: str = "plain"
    accuracy: float | None = None
    latency_ms: float | None = None

    @property
    def counts(self) -> bool:
        """Whether the trial is one of the budget: a network with a result of its own."""
        return self.state in ("complete", "pruned")


_STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def as_record(trial: FrozenTrial) -> TrialRecord:
    """What a trial of the study says."""
    attrs = {key.removeprefix(OWN): value for key, value in trial.user_attrs.items() if key.startswith(OWN)}
    twin = attrs.get("repeat_of")
    state = next((word for word in ("stopped", "infeasible") if attrs.get(word)), _STATES[trial.state])
    return TrialRecord(
        number=trial.number,
        state="repeat" if twin is not None else state,
        value=trial.value,
        labels=trial.params,
        params=attrs.get("params", 0),
        macs=attrs.get("macs", 0),
        hash=attrs.get("hash", ""),
        seconds=attrs.get("seconds"),
        seed=attrs.get("seed", 0),
        reason=attrs.get("reason", ""),
        twin=twin,
        refused=attrs.get("refused", 0),
        memory=attrs.get("memory", "plain"),
        accuracy=attrs.get("accuracy"),
        latency_ms=attrs.get("latency_ms"),
    )
