"""The job of a worker that trains the final network in full and tests it, or the best of several."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas_agg.common.durable import rename_durably
from nas_agg.common.files import read_document, write_atomic, write_errors
from nas_agg.common.manifest import write_manifest
from nas_agg.compiler import Network
from nas_agg.compiler.network import memory_of
from nas_agg.compiler.weights import load_weights, save_weights
from nas_agg.language.genotype import Genotype
from nas_agg.study.records.provenance import add_code_or_warn, describe_training
from nas_agg.study.records.run_folder import GENOTYPE_FILE, METRICS_FILE, WEIGHTS_FILE
from nas_agg.study.workers.jobs import Report, compile_network
from nas_agg.study.workers.messages import FinalJob
from nas_agg.training import loop
from nas_agg.training.checkpoints import remove_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.evaluation import find_metric, main_metric
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.steps.processes import ONE_PROCESS, Processes

CANDIDATE = "candidate.json"  # how the training of one of several candidates ended, in its folder

#: Called with the number of an epoch and its metrics.
EpochCallback = Callable[[int, dict[str, Any]], object]


@dataclass(frozen=True)
class _Trained:
    """A trained network.

    Attributes:
        job: Its job.
        model: The network.
        about: Entries of metrics.json about its training.
    """

    job: FinalJob
    model: Network
    about: dict[str, Any]


def train_final(
    job: FinalJob,
    data: Data,
    report: Report,
    callback: EpochCallback | None = None,
    processes: Processes = ONE_PROCESS,
) -> dict[str, Any]:
    """Train a network with the full recipe, resuming an interrupted training, and test it.

    If the job has rivals, all of them are trained without the validation images, and the best on these is tested.
    ``job.best`` appears only once it is complete.

    Args:
        job: The job.
        data: The data set.
        report: Called after each epoch with its number and the accuracy on the training images, or the loss on them
            where an image has no single label.
        callback: Called after each epoch.
        processes: The processes that train each network together; the first one tests the best.

    Returns:
        Contents of its metrics.json; nothing in processes but the first.

    Raises:
        TrainingFailed: The loss is not finite, or memory ran out.
    """
    if job.rivals:
        trained = _train_rivals([job, *job.rivals], data, report, processes)
        return {} if trained is None else _finish(trained, data)
    model, result = _train(job, data, report, callback, Path(job.out), bool(job.recipe.patience), processes)
    if not processes.is_first:
        return {}
    return _finish(_Trained(job, model, _training_entries(job, model, result)), data)


def _train(
    job: FinalJob,
    data: Data,
    report: Report,
    callback: EpochCallback | None,
    out: Path,
    validated: bool,
    processes: Processes = ONE_PROCESS,
) -> tuple[Network, loop.TrainingOutcome]:
    def after_epoch(epoch: int, line: dict[str, Any]) -> bool:
        if callback is not None:
            callback(epoch, dict(line))
        return report(epoch, line["train_accuracy" if "train_accuracy" in line else "train_loss"])

    model = compile_network(job, job.recipe, data)
    result = loop.train(
        model,
        data,
        job.recipe,
        seed=job.seed,
        device=job.device,
        epochs=job.epochs,
        on="train" if validated else "train+validation",
        out=out,
        resume=True,
        report=after_epoch,
        metrics=job.metrics,
        compile=job.compile,
        processes=processes,
        sync_batch_norm=job.sync_batch_norm,
    )
    return model, result


def _train_rivals(jobs: Sequence[FinalJob], data: Data, report: Report, processes: Processes) -> _Trained | None:
    """Train several networks without the validation images; returns the best on these, in the first process."""
    metric = find_metric(jobs[0].metrics[0] if jobs[0].metrics else main_metric(data.task), data.task)
    out, ends, epochs = Path(jobs[0].out), [], 0
    with write_errors(out):
        out.mkdir(exist_ok=True)
    for job in jobs:
        folder = out / f"trial-{job.trial}"
        if not processes.share((folder / CANDIDATE).is_file()):
            end = _train_candidate(job, data, _later(report, epochs), folder, processes)
            if processes.is_first:
                write_atomic(folder / CANDIDATE, json.dumps(end) + "\n")
        if processes.is_first:
            ends.append(read_document(folder / CANDIDATE))
        epochs += job.epochs or job.recipe.epochs
    if not processes.is_first:
        return None
    name, sign = f"validation_{metric.attribute}", 1.0 if metric.direction == "maximize" else -1.0
    scores = {index: sign * float(end["metrics"][name]) for index, end in enumerate(ends) if "metrics" in end}
    if not scores:
        raise loop.TrainingFailed(ends[0]["failed"])
    best = max(scores, key=lambda index: (scores[index], -index))
    job, folder = jobs[best], out / f"trial-{jobs[best].trial}"
    model = compile_network(job, job.recipe)
    load_weights(model, folder / WEIGHTS_FILE)
    shutil.copyfile(folder / loop.METRICS, out / loop.METRICS)
    values = [sign * scores[index] if index in scores else None for index in range(len(jobs))]
    candidates = [{"trial": job.trial, name: value} for job, value in zip(jobs, values, strict=True)]
    return _Trained(job.model_copy(update={"out": str(out)}), model, ends[best]["about"] | {"candidates": candidates})


def _later(report: Report, epochs: int) -> Report:
    """A report of epochs that follow others."""
    return lambda epoch, value: report(epochs + epoch, value)


def _train_candidate(job: FinalJob, data: Data, report: Report, folder: Path, processes: Processes) -> dict[str, Any]:
    """Train one of several networks; returns how that ended."""
    try:
        model, result = _train(job, data, report, None, folder, True, processes)
    except loop.TrainingFailed as error:
        if processes.count > 1 and error.reason.startswith("out of memory"):
            raise  # in this process alone
        return {"failed": error.reason}
    if processes.is_first:
        save_weights(model, folder / WEIGHTS_FILE)
    return {"about": _training_entries(job, model, result), "metrics": result.metrics}


def _training_entries(job: FinalJob, model: Network, result: loop.TrainingOutcome) -> dict[str, Any]:
    return {
        "epochs": result.epochs,
        "recipe": job.recipe.name,
        "seconds": result.seconds,
        "memory": memory_of(model),
        "compiled": job.compile and not result.compile_error,
        **({"uncompiled": result.compile_error} if result.compile_error else {}),
        **({"best_epoch": result.best_epoch} if result.best_epoch is not None else {}),
    }


def _finish(trained: _Trained, data: Data) -> dict[str, Any]:
    """Test a trained network, once, if there are test images, and write its folder."""
    job, model, out = trained.job, trained.model, Path(trained.job.out)
    test = _test(job, model, data, "test") if len(data.test) else {}
    if not test:
        _test(job, model, data, "train")
    metrics: dict[str, Any] = {
        "trial": job.trial,
        **(_test_metrics(test) if test else {"untested": "no test images"}),
        "validation_accuracy": job.validation_accuracy,
        **{f"validation_{name}": value for name, value in job.validation.items()},
        **trained.about,
        **job.cost,
        "mean": list(data.mean),  # per channel, of pixels divided by 255
        "std": list(data.std),
        "class_names": list(data.class_names),
        "preprocessing": data.preprocessing_dict(),
        **({"task": data.task} if data.task != "classification" else {}),
        **{name: test[name] for name in ("per_class", "confusion_matrix") if name in test},
    }
    genotype = Genotype.model_validate(job.genotype)
    save_weights(model, out / WEIGHTS_FILE)
    write_atomic(out / GENOTYPE_FILE, json.dumps(genotype.to_dict(), indent=2) + "\n")
    write_atomic(out / METRICS_FILE, _json(metrics))
    add_code_or_warn(out, genotype, job.title, f"{job.about} {describe_training(metrics, data.name)}")
    remove_checkpoint(out)
    for folder in out.glob("trial-*"):
        shutil.rmtree(folder)
    write_manifest(out)
    rename_durably(out, Path(job.best))
    return metrics


def _test(job: FinalJob, model: Network, data: Data, split: Literal["train", "test"]) -> dict[str, Any]:
    """Evaluate a trained network.

    Raises:
        TrainingFailed: The loss is not finite.
    """
    further = ("balanced-accuracy", "macro-f1") if data.task == "classification" else ()
    result = loop.evaluate(model, data.splits[split], data, job.device, metrics=(*further, *job.metrics), report=True)
    if not math.isfinite(result["loss"]):
        raise loop.TrainingFailed(f"diverged: the {split} loss of the trained network is not finite")
    return result


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
