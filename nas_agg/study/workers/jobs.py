"""The jobs of a worker: train a trial, or train and test the final network."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nas_agg.common.chained_lines import read_json_lines
from nas_agg.common.durable import rename_durably
from nas_agg.common.errors import is_out_of_memory, one_line
from nas_agg.common.files import write_atomic, write_errors
from nas_agg.common.manifest import MANIFEST, read_manifest, write_manifest
from nas_agg.common.sealed_json import read_sealed, sealed
from nas_agg.compiler import Network, compile
from nas_agg.compiler.network import memory_of
from nas_agg.compiler.weights import save_weights
from nas_agg.language.genotype import Genotype
from nas_agg.study.records.provenance import add_code_or_warn, describe_training
from nas_agg.study.records.run_folder import GENOTYPE_FILE, METRICS_FILE, WEIGHTS_FILE
from nas_agg.study.scheduling.constraints import latency_rejection, latency_reward
from nas_agg.study.workers.messages import FinalJob, TrialJob, TrialOutcome
from nas_agg.training import loop
from nas_agg.training.checkpoints import DamagedCheckpoint, remove_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.evaluation import find_metric
from nas_agg.training.latency import measure
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.recipes import Recipe

LATENCY = "latency.json"  # the measured latency, in a trial's folder
HALVED = "batch-size.txt"  # the reduced batch size, in a trial's folder

#: Takes an epoch and a value; returns whether to stop.
Report = Callable[[int, float], bool]


def _compile(job: TrialJob | FinalJob, recipe: Recipe) -> Network:
    return compile(Genotype.model_validate(job.genotype), job.seed, memory=job.memory, **recipe.compile_options)


def _latency(job: TrialJob, model: Network, data: Data) -> float | None:
    """A trial's latency in milliseconds, if requested; measured once and stored with the trial."""
    if not job.measure_latency:
        return None
    path = Path(job.out) / LATENCY
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not measured yet, or damaged
        return float(read_sealed(path)["median_ms"])
    latency = measure(model, data.input, device=job.device, seconds=1.0)
    write_atomic(path, sealed(latency.as_dict()))
    return latency.median_ms


def train_trial(job: TrialJob, data: Data, report: Report) -> TrialOutcome:
    """Train or resume a trial on the training split, and report its validation score after each epoch.

    A damaged checkpoint is discarded: training anew takes longer, and has the same result. If memory runs out, the
    training restarts with half the recipe's batch size; if that is too large, the network is infeasible.
    """
    recipe, out = job.recipe, Path(job.out)
    with write_errors(out):
        out.mkdir(exist_ok=True)  # without its parents: the run folder may have been removed
    half = recipe.model_copy(update={"batch_size": max(2, recipe.batch_size // 2)})
    if not (out / HALVED).exists():
        try:
            return _train_trial(job, data, report, recipe)
        except (loop.TrainingFailed, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the handler, in which the error still references what was allocated.
        _free_memory(job.device)
        remove_checkpoint(out)
        write_atomic(out / HALVED, f"{half.batch_size}\n")
    try:
        return _train_trial(job, data, report, half).model_copy(update={"batch_size": half.batch_size})
    except (loop.TrainingFailed, RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = getattr(error, "reason", "") or f"out of memory: {one_line(str(error))[:160]}"
        return TrialOutcome(infeasible=reason)


def _is_out_of_memory(error: Exception) -> bool:
    return is_out_of_memory(error) or getattr(error, "reason", "").startswith("out of memory")


def _free_memory(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _train_trial(job: TrialJob, data: Data, report: Report, recipe: Recipe) -> TrialOutcome:
    try:
        return _train_or_resume_trial(job, data, report, recipe)
    except DamagedCheckpoint as error:
        print(f"{str(error).partition(';')[0]}; training anew", file=sys.stderr, flush=True)
        remove_checkpoint(Path(job.out))
        return _train_or_resume_trial(job, data, report, recipe)


def _train_or_resume_trial(job: TrialJob, data: Data, report: Report, recipe: Recipe) -> TrialOutcome:
    out, model = Path(job.out), _compile(job, recipe)
    latency = _latency(job, model, data)
    metrics = {} if latency is None else {"latency_ms": latency}
    if reason := latency_rejection(latency, job.max_latency):
        return TrialOutcome(metrics=metrics, infeasible=reason)
    reported, stop = 0, False
    reported_metric = find_metric(job.reported, data.task)

    def value(epoch: dict[str, Any]) -> float:
        return latency_reward(epoch[f"validation_{reported_metric.attribute}"], latency, job.latency_target)

    def report_new(history: Sequence[dict[str, Any]]) -> bool:
        nonlocal reported, stop
        while reported < len(history) and not stop:
            stop = report(reported + 1, value(history[reported]))
            reported += 1
        return stop

    def after_epoch(epoch: int, metrics: dict[str, Any]) -> bool:
        history: list[dict[str, Any]] = [metrics] * epoch
        if reported < epoch - 1:  # resumed from a checkpoint: the epochs before it have not been reported yet
            history = read_json_lines(out / loop.METRICS)
        return report_new(history)

    result = loop.train(
        model,
        data,
        recipe,
        seed=job.seed,
        device=job.device,
        epochs=job.epochs,
        out=out,
        resume=True,
        report=after_epoch,
        pause_after=job.pause_at,
        metrics=(job.reported, *job.metrics),
    )
    report_new(result.history)
    last = result.history[reported - 1] if result.best_epoch is None else result.metrics
    trained = [metric.attribute for metric in TRAINED_METRICS.values()]
    metrics |= {"value": value(last)} | {a: last[f"validation_{a}"] for a in trained if f"validation_{a}" in last}
    paused = result.stopped == "paused"
    if not paused:
        remove_checkpoint(out)
    _list_history(out)
    return TrialOutcome(metrics=metrics, seconds=result.seconds, paused_at=reported if paused else None)


def _list_history(out: Path) -> None:
    """Add the metrics of a trial's epochs to the manifest of its folder; a promoted trial will append to them."""
    if not (out / MANIFEST).exists():  # a folder of this worker's own, which will be removed
        return
    manifest = read_manifest(out)
    names = {*manifest.pop("files"), loop.METRICS}
    write_manifest(out, names, appended=[loop.METRICS], durable=False, **manifest)


def train_final(job: FinalJob, data: Data, report: Report) -> dict[str, Any]:
    """Train a network with the full recipe, resuming an interrupted training, and test it.

    ``job.best`` appears only once it is complete.

    Returns:
        Contents of its metrics.json.

    Raises:
        TrainingFailed: The loss is not finite, or memory ran out.
    """
    out, recipe = Path(job.out), job.recipe
    model = _compile(job, recipe)
    result = loop.train(
        model,
        data,
        recipe,
        seed=job.seed,
        device=job.device,
        epochs=job.epochs,
        on="train" if recipe.patience else "train+validation",
        out=out,
        resume=True,
        report=lambda epoch, line: report(epoch, line["train_accuracy" if "train_accuracy" in line else "train_loss"]),
        metrics=job.metrics,
        compile=job.compile,
    )
    further = ("balanced-accuracy", "macro-f1") if data.task == "classification" else ()
    test = loop.evaluate(model, data.test, data, job.device, metrics=(*further, *job.metrics), report=True)
    if not math.isfinite(test["loss"]):
        raise loop.TrainingFailed("diverged: the test loss of the trained network is not finite")
    metrics: dict[str, Any] = {
        "trial": job.trial,
        **_test_metrics(test),
        "validation_accuracy": job.validation_accuracy,
        **{f"validation_{name}": value for name, value in job.validation.items()},
        "epochs": result.epochs,
        "recipe": recipe.name,
        "seconds": result.seconds,
        "memory": memory_of(model),
        "compiled": job.compile and not result.compile_error,
        **({"uncompiled": result.compile_error} if result.compile_error else {}),
        **job.cost,
        "mean": list(data.mean),  # per channel, of pixels divided by 255
        "std": list(data.std),
        "class_names": list(data.class_names),
        **({"task": data.task} if data.task != "classification" else {}),
        **({"best_epoch": result.best_epoch} if result.best_epoch is not None else {}),
        **{name: test[name] for name in ("per_class", "confusion_matrix") if name in test},
    }
    genotype = Genotype.model_validate(job.genotype)
    save_weights(model, out / WEIGHTS_FILE)
    write_atomic(out / GENOTYPE_FILE, json.dumps(genotype.to_dict(), indent=2) + "\n")
    write_atomic(out / METRICS_FILE, _json(metrics))
    add_code_or_warn(out, genotype, job.title, f"{job.about} {describe_training(metrics, data.name)}")
    remove_checkpoint(out)
    write_manifest(out)
    rename_durably(out, Path(job.best))
    return metrics


def _test_metrics(test: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation as entries of metrics.json: those of the task first, then the counts."""
    names = [metric.attribute for metric in TRAINED_METRICS.values() if metric.attribute in test]
    names.sort(key=lambda name: name == "loss")
    metrics = {f"test_{name}": test[name] for name in names}
    return metrics | {name: test[name] for name in ("correct", "images") if name in test}


def _json(metrics: dict[str, Any]) -> str:
    """Contents of metrics.json: one entry per line, and one line per row of the report per class."""
    lines = []
    for name, value in metrics.items():
        if name in ("per_class", "confusion_matrix"):
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
        else:
            text = json.dumps(value, indent=2).replace("\n", "\n  ")
            lines.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
