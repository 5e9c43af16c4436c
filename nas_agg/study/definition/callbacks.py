"""The interface of callbacks, which receive what happens in a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from nas_agg.study.definition.result import SearchResult
    from nas_agg.study.definition.trial import TrialRecord


class Callback:
    """Receives what happens in a search; a subclass overrides what it needs.

    Methods are called in the process of the search, one at a time, and should return soon. One that raises an exception
    ends its callback, not the search.
    """

    def on_start(self, settings: Mapping[str, Any], folder: Path | None) -> None:
        """The search begins, or continues after an interruption.

        Args:
            settings: The settings of the search, as JSON values.
            folder: The run folder, if there is one.
        """

    def on_epoch(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch of a trial has ended.

        Args:
            trial: The trial's number.
            epoch: The epoch, from 1; for a function that evaluates networks, the step that it reported.
            metrics: ``value``, which the trial reported, and what the training measured: ``train_loss``,
                ``validation_accuracy`` and others of the trial's ``metrics.jsonl``.
        """

    def on_trial(self, trial: TrialRecord) -> None:
        """A trial has a result, failed, paused at a rung, or has the network of an earlier trial.

        Args:
            trial: The trial, as it is recorded.
        """

    def on_end(self, result: SearchResult) -> None:
        """The search has ended, and its final network is trained.

        Args:
            result: The result of the search.
        """
