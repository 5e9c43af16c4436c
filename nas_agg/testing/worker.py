"""Jobs of the conformance check of backends: their genotypes say what to do, and nothing is trained."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.messages import AnyJob, TrialJob, TrialOutcome
from nas_agg.study.workers.process import serve

if TYPE_CHECKING:
    from nas_agg.study.workers.connection import Work
    from nas_agg.study.workers.jobs import Report

SECONDS = 0.05  # of an epoch
CHECKPOINT = "checkpoint.txt"  # the epochs that a trial has done, in its folder


def value_of(seed: int, epoch: int) -> float:
    """What a job reports after an epoch."""
    return seed + epoch / 8


def limit_threads(threads: int) -> None:
    """Nothing is computed."""


def load(config: WorkerConfig) -> dict[str, Any]:
    """The configuration itself."""
    return config.data


def train(job: AnyJob, data: dict[str, Any], report: Report) -> TrialOutcome:
    """Do what the genotype says: ``count`` epochs; or ``raise``, ``die`` (once) or ``hang`` in the second.

    A trial that has begun elsewhere resumes after the epochs of its checkpoint, and reports those before again.
    """
    assert isinstance(job, TrialJob)
    act, out = job.genotype["act"], Path(job.out)
    out.mkdir(exist_ok=True)
    path = out / CHECKPOINT
    done = int(path.read_text()) if path.exists() else 0
    last = min(job.pause_at or job.epochs, job.epochs)
    beats = Path(data["notes"]) / f"beats-{job.seed}"
    for epoch in range(1, last + 1):
        if epoch > done:
            time.sleep(SECONDS)
            path.write_text(str(epoch))
            with beats.open("a") as file:
                file.write(f"{epoch}\n")
        if epoch == 2 and act == "raise":
            raise ValueError("as it was told\nand more")
        if epoch == 2 and act == "die" and not done:
            os.kill(os.getpid(), signal.SIGKILL)
        while epoch == 2 and act == "hang":
            time.sleep(SECONDS)
            with beats.open("a") as file:
                file.write("hangs\n")
        if report(epoch, value_of(job.seed, epoch)):
            break
    paused = epoch if epoch == job.pause_at and epoch < job.epochs else None
    return TrialOutcome(metrics={"value": value_of(job.seed, epoch)}, seconds=1.0, paused_at=paused)


def prepare(config: WorkerConfig) -> Work:
    """What a worker process does."""
    return lambda job, report: train(job, load(config), report)


if __name__ == "__main__":
    serve(prepare)
