"""The backend `local`: worker processes on this machine."""

from __future__ import annotations

from typing import Self

from nas_agg.common.errors import InputError
from nas_agg.study.workers.backend import BackendContext
from nas_agg.study.workers.pool import WorkerPool


class LocalBackend(WorkerPool):
    """Trains in processes on this machine, one per device of the task."""

    @classmethod
    def open(cls, context: BackendContext) -> Self:
        settings = context.settings
        if settings.workers == 0:
            raise InputError("workers: backend local needs at least 1; with 0, workers join through --backend storage")
        configs, log = context.task.worker_configs(), context.folder / "log.txt"
        return cls(configs, log, settings.trial_timeout, context.worker_command)
