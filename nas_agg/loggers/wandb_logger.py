"""Logs a search to Weights & Biases: a run per trial, in a group; offline with ``WANDB_MODE=offline``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_agg.loggers.contents import drawing_of, final_results, finite, hyperparameters, trial_results
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.trial import RecordState, TrialRecord

PROJECT = "nas_agg"


class WandbLogger(Callback):
    """Writes settings, metrics by epoch, hyperparameters, results, and the drawing of the best network.

    The project is that of ``WANDB_PROJECT``, by default ``nas_agg``.
    """

    def __init__(self) -> None:
        self._runs: dict[int, Any] = {}
        self._settings: dict[str, Any] = {}
        self._folder: Path | None = None

    def on_start(self, settings: Mapping[str, Any], folder: Path | None) -> None:
        self._settings, self._folder = dict(settings), folder

    def _start(self, name: str, kind: str) -> Any:
        import os

        import wandb

        group = self._folder.resolve().name if self._folder is not None else str(self._settings.get("space"))
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            group=group,
            job_type=kind,
            config=dict(self._settings),
            dir=None if self._folder is None else str(self._folder),
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

    def _run_of(self, trial: int) -> Any:
        if trial not in self._runs:
            self._runs[trial] = self._start(f"trial {trial}", "trial")
        return self._runs[trial]

    def on_epoch(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        self._run_of(trial).log(finite(metrics), step=epoch)

    def on_trial(self, trial: TrialRecord) -> None:
        run = self._run_of(trial.number)
        if trial.state == RecordState.PAUSED:
            return
        run.config.update(hyperparameters(trial), allow_val_change=True)
        run.summary.update(trial_results(trial) | {"state": str(trial.state), "reason": trial.reason})
        run.finish(exit_code=1 if trial.state == RecordState.FAILED else 0)
        del self._runs[trial.number]

    def on_end(self, result: SearchResult) -> None:
        for run in self._runs.values():
            run.finish()
        import wandb

        run = self._start("final network", "final")
        run.summary.update(final_results(result))
        if (svg := drawing_of(result)) is not None:
            run.log({"network": wandb.Html(svg)})
        run.finish()
