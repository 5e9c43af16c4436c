"""Freeze-thaw: trainings pause after every few epochs, and the searcher decides which of them continue.

A searcher that models learning curves compares what the rest of a paused training is expected to yield with what a new
network is (Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", 2014). It continues a trial by proposing its
point again, see `nas_agg.study.proposer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas_agg.study.definition.trial import TrialRecord


class FreezeThaw:
    """Rungs at equal distances.

    Args:
        step: Epochs from one rung to the next.
        max_epochs: Epochs of a full training.
    """

    def __init__(self, step: int, max_epochs: int):
        self.step, self.max_epochs = step, max_epochs

    def next_rung(self, trial: TrialRecord) -> int:
        """The epoch at which a training pauses next, or ends."""
        return min(max(trial.rungs, default=0) + self.step, self.max_epochs)

    def next_promotion(self, trials: Sequence[TrialRecord]) -> None:
        """None: the searcher decides."""
