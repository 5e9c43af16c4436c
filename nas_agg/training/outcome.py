"""How a training ends: its outcome, or its failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas_agg.common.errors import NasAggError

Metrics = dict[str, Any]


class TrainingFailed(NasAggError):
    """A training diverged or ran out of memory.

    Attributes:
        reason: ``"diverged: ..."`` or ``"out of memory: ..."``.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)

    def __reduce__(self) -> tuple:
        return TrainingFailed, (self.reason,)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a training that did not fail.

    Attributes:
        epochs: Epochs done.
        history: Each epoch's metrics, as in ``metrics.jsonl``.
        stopped: ``"pruned"`` if ``report`` ended it before its last epoch, ``"paused"`` if ``pause_after`` did,
            ``"early"`` if the recipe's patience was exhausted, else None.
        seconds: Duration of the epochs, including those before a resumption.
        compile_error: Why a training that was to be compiled ran without ``torch.compile``; else empty.
        best_epoch: The epoch that the weights are from, with early stopping; None if they are the last one's.
    """

    epochs: int
    history: tuple[Metrics, ...]
    stopped: str | None
    seconds: float
    compile_error: str = ""
    best_epoch: int | None = None

    @property
    def metrics(self) -> Metrics:
        """The metrics of the weights: the last epoch's, or the best one's with early stopping."""
        return self.history[-1 if self.best_epoch is None else self.best_epoch - 1]
