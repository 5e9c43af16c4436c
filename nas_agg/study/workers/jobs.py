"""What a worker does: it trains a trial, or the best network in full."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nas_agg.common.errors import is_out_of_memory, one_line
from nas_agg.common.files import write_atomic
from nas_agg.compiler import Network, compile
from nas_agg.compiler.network import memory_of
from nas_agg.compiler.weights import save_weights
from nas_agg.language.genotype import Genotype
from nas_agg.study.records.provenance import add_code_or_warn, describe_training
from nas_agg.study.records.run_folder import GENOTYPE, METRICS, WEIGHTS
from nas_agg.study.scheduling.constraints import latency_rejection, latency_reward
from nas_agg.training import loop
from nas_agg.training.checkpoints import remove_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.latency import measure
from nas_agg.training.recipes import Recipe, get_recipe

LATENCY = "latency.json"  # in a trial's folder, where it was measured
HALVED = "batch-size.txt"  # likewise, where the recipe's did not fit the memory

#: Takes a step and its value, and says whether to stop.
Report = Callable[[int, float], bool]


def _compiled(genotype: Genotype, job: dict[str, Any], recipe: Recipe) -> Network:
    return compile(
        genotype,
        job["seed"],
        memory=job.get("memory", "plain"),
        **recipe.init_options,
    )


def _latency(job: dict[str, Any], model: Network, data: Data) -> float | None:
    """A trial's latency, if it is asked for: measured once and kept with the trial."""
    if not job.get("latency"):
        return None
    path = Path(job["out"]) / LATENCY
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not measured yet, or spoilt
        return float(json.loads(path.read_text())["median_ms"])
    path.parent.mkdir(parents=True, exist_ok=True)
    found = measure(model, data.input, device=job["device"], seconds=1.0)
    write_atomic(path, json.dumps(found.as_dict()) + "\n")
    return found.median_ms


def train_trial(job: dict[str, Any], data: Data, report: Report) -> dict[str, Any]:
    """Train a trial on the training split, or train it on, and score it on the validation split after each epoch.

    What is reported is ``job["reported"]``: ``accuracy``, weighed by the latency if there is a target, or ``loss``. A
    network slower than ``job["max_latency"]`` is not trained. After ``job["until"]`` epochs it pauses. Where memory
    runs out, it is trained from the start with half the recipe's batch size; where that is too much, it is infeasible.
    """
    recipe, out = get_recipe(job["recipe"]), Path(job["out"])
    half = recipe.model_copy(update={"batch_size": max(2, recipe.batch_size // 2)})
    if not (out / HALVED).exists():
        try:
            return _train_trial(job, data, report, recipe)
        except (loop.TrainingFailed, RuntimeError, MemoryError) as error:
            if not _exhausted(error):
                raise
        # Here and not above, where the error still holds what was allocated.
        _free(job["device"])
        remove_checkpoint(out)
        write_atomic(out / HALVED, f"{half.batch_size}\n")
    try:
        return {**_train_trial(job, data, report, half), "batch_size": half.batch_size}
    except (loop.TrainingFailed, RuntimeError, MemoryError) as error:
        if not _exhausted(error):
            raise
        return {"infeasible": getattr(error, "reason", "") or f"out of memory: {one_line(str(error))[:160]}"}


def _exhausted(error: Exception) -> bool:
    return is_out_of_memory(error) or getattr(error, "reason", "").startswith("out of memory")


def _free(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _train_trial(job: dict[str, Any], data: Data, report: Report, recipe: Recipe) -> dict[str, Any]:
    out = Path(job["out"])
    model = _compiled(Genotype.model_validate(job["genotype"]), job, recipe)
    latency, target = _latency(job, model, data), job.get("latency_target")
    measured: dict[str, Any] = {} if latency is None else {"latency_ms": latency}
    if refused := latency_rejection(latency, job.get("max_latency")):
        return {"infeasible": refused, **measured}
    reported, stop = 0, False

    def value(epoch: dict[str, Any]) -> float:
        if job.get("reported") == "loss":
            return epoch["validation_loss"]
        return latency_reward(epoch["validation_accuracy"], latency, target)

    def catch_up(history: Sequence[dict[str, Any]]) -> bool:
        nonlocal reported, stop
        while reported < len(history) and not stop:
            stop = report(reported + 1, value(history[reported]))
            reported += 1
        return stop

    def after_epoch(epoch: int, metrics: dict[str, Any]) -> bool:
        history: list[dict[str, Any]] = [metrics] * epoch
        if reported < epoch - 1:  # it went on from a checkpoint: this search has not heard of the epochs behind it
            history = [json.loads(line) for line in (out / loop.METRICS).read_text().splitlines()]
        return catch_up(history)

    result = loop.train(
        model,
        data,
        recipe,
        seed=job["seed"],
        device=job["device"],
        epochs=job["epochs"],
        out=out,
        resume=True,
        report=after_epoch,
        pause_after=job.get("until"),
    )
    catch_up(result.history)
    last = result.history[reported - 1]
    measured |= {"accuracy": last["validation_accuracy"], "loss": last["validation_loss"]}
    if result.stopped == "paused":
        measured["paused"] = reported
    else:
        remove_checkpoint(out)
    return {"value": value(last), "seconds": result.seconds, **measured}


def train_in_full(job: dict[str, Any], data: Data, report: Report) -> dict[str, Any]:
    """Train a network with the full recipe, test it, and leave it in ``job["best"]``; goes on where it was killed.

    The folder appears whole, under its name, only when everything is in it.
    """
    best, out = Path(job["best"]), Path(job["out"])
    genotype = Genotype.model_validate(job["genotype"])
    recipe = get_recipe(job["recipe"])
    model = _compiled(genotype, job, recipe)
    result = loop.train(
        model,
        data,
        recipe,
        seed=job["seed"],
        device=job["device"],
        epochs=job.get("epochs"),
        on="train+validation",
        out=out,
        resume=True,
        report=lambda epoch, metrics: report(epoch, metrics["train_accuracy"]),
        compile=job.get("compile", False),
    )
    test = loop.evaluate(model, data.test, data, job["device"])
    if not math.isfinite(test["loss"]):
        raise loop.TrainingFailed("diverged: the test loss of the trained network is no number")
    metrics = {
        "trial": job["trial"],
        "test_accuracy": test["accuracy"],
        **({"test_top5_accuracy": test["top5_accuracy"]} if "top5_accuracy" in test else {}),
        "test_loss": test["loss"],
        "correct": test["correct"],
        "images": test["images"],
        "validation_accuracy": job["value"],
        "epochs": result.epochs,
        "recipe": job["recipe"],
        "seconds": result.seconds,
        "memory": memory_of(model),
        "compiled": job.get("compile", False) and not result.compile_error,
        **({"uncompiled": result.compile_error} if result.compile_error else {}),
        **job["cost"],
        "mean": list(data.mean),  # of x / 255, channel by channel: what images are scaled by
        "std": list(data.std),
        "class_names": list(data.class_names),
    }
    save_weights(model, out / WEIGHTS)
    write_atomic(out / GENOTYPE, json.dumps(genotype.text(), indent=2) + "\n")
    write_atomic(out / METRICS, json.dumps(metrics, indent=2) + "\n")
    add_code_or_warn(out, genotype, job["title"], f"{job['about']} {describe_training(metrics, data.name)}")
    remove_checkpoint(out)
    os.rename(out, best)
    return metrics
