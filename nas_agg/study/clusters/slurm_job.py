"""What the backend `slurm` runs in a job: a trial, which leaves its reports and its outcome in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from nas_agg.common.files import write_atomic
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.connection import do_job
from nas_agg.study.workers.messages import Job, Message, Progress, WorkerMessage
from nas_agg.study.workers.process import Trainer
from nas_agg.study.workers.protocol import version_difference

ORDER, STARTED, REPORTS, STOP, OUTCOME = "order.json", "started", "reports.jsonl", "stop", "outcome.json"


class SlurmOrder(Message):
    """What a job is to do.

    Attributes:
        job: The job of a trial, or of the final training.
        config: The data set, and the threads of the training.
        versions: Versions that the node must have.
    """

    job: Job
    config: WorkerConfig
    versions: dict[str, str]


@dataclass
class SlurmTrial:
    """A trial as submitit runs it.

    Attributes:
        folder: Where its order is, and where its reports and its outcome go.
        trainer: Does the job.
    """

    folder: Path
    trainer: Trainer

    def __call__(self) -> None:
        """Do the job; the result that submitit keeps is empty."""
        order = SlurmOrder.model_validate_json((self.folder / ORDER).read_text(encoding="utf-8"))
        write_atomic(self.folder / OUTCOME, self._run(order).model_dump_json() + "\n")

    def _run(self, order: SlurmOrder) -> WorkerMessage:
        if reason := version_difference(order.versions):
            return WorkerMessage(kind=Progress.UNUSABLE, reason=reason)
        self.trainer.limit_threads(order.config.threads)
        stopped = False
        # A job that was requeued reports from the first epoch on again; whoever reads skips what it has read.
        with (self.folder / REPORTS).open("w", encoding="utf-8") as file:

            def report(step: int, value: float) -> bool:
                nonlocal stopped
                file.write(json.dumps([step, value]) + "\n")
                file.flush()
                stopped = (self.folder / STOP).exists()
                return stopped

            def work() -> Any:
                data = self.trainer.load(order.config)
                (self.folder / STARTED).touch()
                return self.trainer.train(order.job, data, report)

            message = do_job(work, order.job.device)
        return message.model_copy(update={"stopped": stopped})

    def checkpoint(self) -> DelayedSubmission:
        """What submitit submits again before a job is preempted or reaches its time limit: the training resumes."""
        return DelayedSubmission(self)
