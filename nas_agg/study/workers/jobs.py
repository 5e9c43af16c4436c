"""The job of a worker that trains a trial, and what it shares with the final training."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nas_agg.common.chained_lines import read_json_lines
from nas_agg.common.errors import is_out_of_memory, one_line
from nas_agg.common.files import write_atomic, write_errors
from nas_agg.common.manifest import MANIFEST, read_manifest, write_manifest
from nas_agg.common.sealed_json import read_sealed, sealed
from nas_agg.compiler import Network, compile
from nas_agg.compiler.fine_tuning import load_pretrained
from nas_agg.language.genotype import Genotype
from nas_agg.study.scheduling.constraints import latency_rejection, latency_reward
from nas_agg.study.workers.messages import FinalJob, TrialJob, TrialOutcome
from nas_agg.training import loop
from nas_agg.training.checkpoints import DamagedCheckpoint, remove_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.evaluation import find_metric
from nas_agg.training.latency import measure
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.recipes import Recipe
from nas_agg.training.steps.processes import ONE_PROCESS, Processes
from nas_agg.training.steps.target_scaling import target_scaling

LATENCY = "latency.json"  # the measured latency, in a trial's folder
HALVED = "batch-size.txt"  # the reduced batch size, in a trial's folder

#: Takes an epoch and a value; returns whether to stop.
Report = Callable[[int, float], bool]


def compile_network(job: TrialJob | FinalJob, recipe: Recipe, data: Data | None = None) -> Network:
    """The network of a job with the weights that its training starts from.

    Args:
        job: The job.
        recipe: Its recipe.
        data: The data set that it is trained on, to whose targets a pretrained last layer is adapted.
    """
    genotype = Genotype.model_validate(job.genotype)
    network = compile(genotype, job.seed, memory=job.memory, **recipe.compile_options)
    if isinstance(job, FinalJob) and job.weights is not None:
        anew = load_pretrained(network, genotype, job.weights)
        if data is not None and not anew and (scaling := target_scaling(network, data)) is not None:
            scaling.standardize(network)
    return network


def _latency(job: TrialJob, model: Network, data: Data, processes: Processes) -> float | None:
    """A trial's latency in milliseconds, if requested; measured once, by the first process, and stored."""
    if not job.measure_latency:
        return None
    measured = _stored_latency(job, model, data) if processes.is_first else None
    return None if (latency := processes.share(measured)) is None else float(latency)


def _stored_latency(job: TrialJob, model: Network, data: Data) -> float:
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
    return with_batch_that_fits(job, lambda job: train_at_batch_size(job, data, report))


def with_batch_that_fits(job: TrialJob, train: Callable[[TrialJob], TrialOutcome]) -> TrialOutcome:
    """Train a trial; if memory runs out, again with half the recipe's batch size, which is kept with the trial.

    Args:
        job: The job.
        train: Trains with the batch size of a job's recipe.
    """
    recipe, out = job.recipe, Path(job.out)
    with write_errors(out):
        out.mkdir(exist_ok=True)  # without its parents: the run folder may have been removed
    half = recipe.model_copy(update={"batch_size": max(2, recipe.batch_size // 2)})
    if not (out / HALVED).exists():
        try:
            return train(job)
        except (loop.TrainingFailed, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the handler, in which the error still references what was allocated.
        _free_memory(job.device)
        remove_checkpoint(out)
        write_atomic(out / HALVED, f"{half.batch_size}\n")
    try:
        outcome = train(job.model_copy(update={"recipe": half}))
        return outcome.model_copy(update={"batch_size": half.batch_size})
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


def train_at_batch_size(job: TrialJob, data: Data, report: Report, processes: Processes = ONE_PROCESS) -> TrialOutcome:
    """Train or resume a trial with the batch size of its recipe, by one process or together with others.

    Args:
        job: The job.
        data: The data set.
        report: Called by the first process.
        processes: The processes that train the network together; the first one's outcome is the trial's.

    Raises:
        TrainingFailed: The training diverged, or memory ran out.
    """
    model = compile_network(job, job.recipe)
    latency = _latency(job, model, data, processes)
    if reason := latency_rejection(latency, job.max_latency):
        return TrialOutcome(metrics={} if latency is None else {"latency_ms": latency}, infeasible=reason)
    try:
        return _train_or_resume(job, model, latency, data, report, processes)
    except DamagedCheckpoint as error:  # which the first process reads, before it tells the others of it
        print(f"{str(error).partition(';')[0]}; training anew", file=sys.stderr, flush=True)
        remove_checkpoint(Path(job.out))
        return _train_or_resume(job, compile_network(job, job.recipe), latency, data, report, processes)


def _train_or_resume(
    job: TrialJob, model: Network, latency: float | None, data: Data, report: Report, processes: Processes
) -> TrialOutcome:
    out, reported, stop = Path(job.out), 0, False
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
        job.recipe,
        seed=job.seed,
        device=job.device,
        epochs=job.epochs,
        out=out,
        resume=True,
        report=after_epoch,
        pause_after=job.pause_at,
        metrics=(job.reported, *job.metrics),
        processes=processes,
        sync_batch_norm=job.sync_batch_norm,
    )
    report_new(result.history)
    last = result.history[reported - 1] if result.best_epoch is None else result.metrics
    trained = [metric.attribute for metric in TRAINED_METRICS.values()]
    metrics: dict[str, float] = {} if latency is None else {"latency_ms": latency}
    metrics |= {"value": value(last)} | {a: last[f"validation_{a}"] for a in trained if f"validation_{a}" in last}
    paused = result.stopped == "paused"
    if processes.is_first:
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
