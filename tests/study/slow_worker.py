"""A worker for which a network's latency is half its width in milliseconds, and its accuracy rises with it."""

from __future__ import annotations

import json
from pathlib import Path

from nas_agg.study.scheduling.constraints import latency_rejection, latency_reward
from nas_agg.study.workers.process import serve


def prepare(setup):
    def work(job, report):
        if job["final"]:
            out = Path(job["out"])
            out.mkdir()
            tested = {"trial": job["trial"], "test_accuracy": 0.5, "correct": 5, "images": 10}
            tested |= {"validation_accuracy": job["value"], **job["cost"]}
            (out / "metrics.json").write_text(json.dumps(tested))
            out.rename(job["best"])
            return {}
        width = job["genotype"]["let"]["width"] // 2
        latency = width / 2
        if refused := latency_rejection(latency, job["max_latency"]):
            return {"infeasible": refused, "latency_ms": latency}
        with (Path(setup["data"]["notes"]) / "trained.txt").open("a") as file:
            file.write(f"{Path(job['out']).name}\n")
        accuracy = 0.5 + width / 100 + job["genotype"]["let"]["deep"] / 10
        target = job["latency_target"]
        told = {} if target is None else {"accuracy": accuracy}
        return {"value": latency_reward(accuracy, latency, target), "seconds": 0.0, "latency_ms": latency, **told}

    return work


if __name__ == "__main__":
    serve(prepare)
