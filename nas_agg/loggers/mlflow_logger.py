"""Logs a search to MLflow: a run of the search, and below it one per trial, at ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_agg.loggers.contents import drawing_of, final_results, finite, hyperparameters, trial_results
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.trial import RecordState, TrialRecord

EXPERIMENT = "nas_agg"
_STATUS = {RecordState.FAILED: "FAILED", RecordState.INTERRUPTED: "KILLED"}


class MlflowLogger(Callback):
    """Writes settings, metrics by epoch, hyperparameters, results, and the drawing of the best network."""

    def __init__(self) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._runs: dict[int, str] = {}

    def on_start(self, settings: Mapping[str, Any], folder: Path | None) -> None:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        name = folder.resolve().name if folder is not None else str(settings.get("space"))
        self._search = self._create(name, {})
        for setting, value in settings.items():
            if value is not None:
                self._client.log_param(self._search, setting, str(value)[:500])

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def _run_of(self, trial: int) -> str:
        if trial not in self._runs:
            self._runs[trial] = self._create(f"trial {trial}", {"mlflow.parentRunId": self._search})
        return self._runs[trial]

    def _log(self, run: str, metrics: Mapping[str, float], step: int = 0) -> None:
        for name, value in metrics.items():
            self._client.log_metric(run, name, value, timestamp=int(1000 * time.time()), step=step)

    def on_epoch(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        self._log(self._run_of(trial), finite(metrics), epoch)

    def on_trial(self, trial: TrialRecord) -> None:
        run = self._run_of(trial.number)
        if trial.state == RecordState.PAUSED:
            return
        for name, value in hyperparameters(trial).items():
            self._client.log_param(run, name, str(value)[:500])
        self._log(run, {f"result.{name}": value for name, value in trial_results(trial).items()})
        self._client.set_tag(run, "state", str(trial.state))
        if trial.reason:
            self._client.set_tag(run, "reason", trial.reason)
        self._client.set_terminated(run, _STATUS.get(trial.state, "FINISHED"))
        del self._runs[trial.number]

    def on_end(self, result: SearchResult) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run)
        self._log(self._search, {f"final.{name}": value for name, value in final_results(result).items()})
        if (svg := drawing_of(result)) is not None:
            self._client.log_text(self._search, svg, "network.svg")
        self._client.set_terminated(self._search)
