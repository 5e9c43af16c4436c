"""A worker that scores the tiny space's networks by arithmetic, and misbehaves as its configuration says."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from nas_agg.common.manifest import write_manifest
from nas_agg.study.workers.messages import FinalJob, FinalOutcome, TrialOutcome
from nas_agg.study.workers.process import serve
from nas_agg.training.recipes import open_recipe


def prepare(config):
    ways = config.data

    def work(job, report):
        let = job.genotype["let"]
        if isinstance(job, FinalJob):
            assert open_recipe(job.recipe)
            time.sleep(ways.get("final_sleep", 0))
            out = Path(job.out)
            out.mkdir(exist_ok=True)
            (out / "metrics.json").write_text(
                json.dumps({"trial": job.trial, "test_accuracy": 0.5, "test_loss": 1.0, "correct": 5, "images": 10})
            )
            write_manifest(out)
            out.rename(job.best)
            return FinalOutcome()
        width, deep = let["width"] // 2, let["deep"]
        with (Path(ways["notes"]) / "trained.txt").open("a") as file:
            file.write(f"{Path(job.out).name} {job.seed} {os.getpid()}\n")
        time.sleep(ways.get("sleep", 0))
        (Path(job.out) / "checkpoint.pt").touch()
        if width in ways.get("raises", ()):
            raise ValueError(f"width {width} is odd\nand more")
        if width in ways.get("hangs", ()):
            time.sleep(60)
        mark = Path(ways["notes"]) / f"died-{width}-{deep}"
        deaths = len(list(mark.parent.glob(mark.name + "*")))
        if width in ways.get("dies", ()) and deaths < ways.get("times", 1):
            report(1, 0.9)
            (mark.parent / f"{mark.name}-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        top = (1 / (1 + abs(width - 4)) + deep / 10) / 2
        for step in range(1, job.epochs + 1):
            if report(step, top * step / job.epochs):
                break
        return TrialOutcome(metrics={"value": top * step / job.epochs}, seconds=ways.get("seconds", 0.0))

    return work


if __name__ == "__main__":
    serve(prepare)
