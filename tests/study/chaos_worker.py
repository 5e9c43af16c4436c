"""A worker whose trials take a moment; some raise, exhaust the memory or never end, as its configuration says.

Started as ``chaos_worker.py join STORAGE RUN NOTES WAYS`` it is a whole machine that joins a search from elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from nas_agg.common.manifest import write_manifest
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.messages import FinalJob, FinalOutcome, TrialOutcome
from nas_agg.study.workers.process import serve


def value_of(let: dict) -> float:
    """What a network scores: a number of its own."""
    text = json.dumps([let[name] for name in ("width", "deep", "kernel", "end")])
    return 0.1 + sum(map(ord, text)) % 97 / 100 + let["width"] / 10**4


def prepare(config):
    ways = config.data
    notes = Path(ways["notes"])
    (notes / f"pid-{os.getpid()}").touch()

    def work(job, report):
        if isinstance(job, FinalJob):
            out = Path(job.out)
            out.mkdir(exist_ok=True)
            metrics = {"trial": job.trial, "test_accuracy": 0.5, "test_loss": 1.0, "correct": 5, "images": 10}
            (out / "metrics.json").write_text(json.dumps(metrics))
            write_manifest(out)
            out.rename(job.best)
            return FinalOutcome()
        number = int(Path(job.out).name.partition("-")[0])
        with (notes / "trained.txt").open("a") as file:
            file.write(f"{number} {os.getpid()} {job.out}\n")
        if number in ways.get("raises", ()):
            raise ValueError("it is odd")
        if number in ways.get("exhausts", ()):
            return TrialOutcome(infeasible="out of memory: at batch size 96 and 48")
        if number in ways.get("hangs", ()):
            time.sleep(600)
        value, until = value_of(job.genotype["let"]), job.pause_at
        checkpoint = Path(job.out) / "checkpoint.txt"
        begun = int(checkpoint.read_text()) if until and checkpoint.exists() else 0
        for epoch in range(begun + 1, (until or job.epochs) + 1):
            time.sleep(ways["sleep"] / job.epochs)
            reached = value * epoch / job.epochs
            if report(epoch, reached):
                break
            checkpoint.write_text(str(epoch))
        metrics = {"value": reached, "accuracy": reached, "loss": 1 - reached}
        paused_at = until if until and until < job.epochs else None
        return TrialOutcome(metrics=metrics, seconds=ways["sleep"], paused_at=paused_at)

    return work


def join(storage: str, run: str, notes: str, ways: str) -> None:
    """Be a machine with one process."""
    from nas_agg.study.definition.signals import stoppable
    from nas_agg.study.remote.agent import WorkerAgent
    from nas_agg.study.remote.join import locate_study

    found = locate_study(run=run, wait=60) if storage == "-" else locate_study(storage, Path(run).name, wait=60)
    config = WorkerConfig(data={**json.loads(ways), "notes": notes})
    with stoppable():
        WorkerAgent(
            found, [config], print_line=lambda line: print(line, flush=True), command=(sys.executable, __file__)
        ).run()


if __name__ == "__main__":
    if sys.argv[1] == "join":
        join(*sys.argv[2:])
    else:
        serve(prepare)
