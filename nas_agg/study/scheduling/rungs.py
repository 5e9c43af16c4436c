"""What every schedule decides whose trainings pause at rungs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nas_agg.study.definition.trial import TrialRecord


class Rungs(Protocol):
    """Where trainings pause, and which of them continues."""

    def next_rung(self, trial: TrialRecord) -> int:
        """The epoch at which a training pauses next, or ends."""

    def next_promotion(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The paused trial to promote next; None if there is none, or if the searcher decides."""
