"""A worker for which a network's latency is half its width in milliseconds, and its accuracy rises with it."""

from __future__ import annotations

import json
from pathlib import Path

from nas_agg.common.manifest import write_manifest
from nas_agg.study.scheduling.constraints import latency_rejection, latency_reward
from nas_agg.study.workers.messages import FinalJob, FinalOutcome, TrialOutcome
from nas_agg.study.workers.process import serve


def prepare(config):
    def work(job, report):
        if isinstance(job, FinalJob):
            out = Path(job.out)
            out.mkdir()
            tested = {"trial": job.trial, "test_accuracy": 0.5, "test_loss": 1.0, "correct": 5, "images": 10}
            tested |= {"validation_accuracy": job.validation_accuracy, **job.cost}
            (out / "metrics.json").write_text(json.dumps(tested))
            write_manifest(out)
            out.rename(job.best)
            return FinalOutcome()
        width = job.genotype["let"]["width"] // 2
        latency = width / 2
        if refused := latency_rejection(latency, job.max_latency):
            return TrialOutcome(metrics={"latency_ms": latency}, infeasible=refused)
        with (Path(config.data["notes"]) / "trained.txt").open("a") as file:
            file.write(f"{Path(job.out).name}\n")
        accuracy = 0.5 + width / 100 + job.genotype["let"]["deep"] / 10
        target = job.latency_target
        metrics = {"value": latency_reward(accuracy, latency, target), "latency_ms": latency}
        metrics |= {} if target is None else {"accuracy": accuracy}
        return TrialOutcome(metrics=metrics, seconds=0.0)

    return work


if __name__ == "__main__":
    serve(prepare)
