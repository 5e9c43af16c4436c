"""Trains the best network of a search in full, on train + validation, and tests it once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import write_errors
from nas_agg.study.records.provenance import describe_run
from nas_agg.study.records.run_folder import RunFolder, resume_instructions
from nas_agg.study.samplers.searcher import derive_seed
from nas_agg.study.workers.backend import Assignment, Backend, Resources
from nas_agg.study.workers.messages import EventKind, FinalJob, FinalOutcome

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.definition.task import Task
    from nas_agg.study.definition.trial import TrialRecord
    from nas_agg.study.records.progress import ProgressReporter
    from nas_agg.training.memory import MemoryChoice
    from nas_agg.training.recipes import Recipe

UNFINISHED = "best.tmp"  # the folder of the final training until it is complete


@dataclass(frozen=True)
class Finalist:
    """A network to train in full.

    Attributes:
        trial: Its trial.
        genotype: The network.
        recipe: Its recipe.
        memory: The memory mode.
    """

    trial: TrialRecord
    genotype: Genotype
    recipe: Recipe
    memory: MemoryChoice


def train_best(
    folder: RunFolder,
    task: Task,
    settings: Settings,
    finalists: Sequence[Finalist],
    progress: ProgressReporter,
    backend: Backend,
) -> None:
    """Let a backend train the best network of a search in full and test it, which creates ``best/``.

    Several networks are trained without the validation images, and the best of them on these is tested.

    Args:
        folder: The run folder.
        task: The data set and the devices.
        settings: The settings of the search.
        finalists: The best networks, best first.
        progress: Receives the progress.
        backend: Runs the training; it is closed afterwards.

    Raises:
        NasAggError: The training failed, or the weights that it should start from do not fit; resuming the search
            tries again.
    """
    from nas_agg.study.records.progress import training_length

    if settings.weights is not None:
        _check_weights(folder, settings.weights, finalists)

    recipe, best = finalists[0].recipe, finalists[0].trial
    epochs = settings.final_epochs or recipe.epochs
    on = "train + validation" if len(finalists) == 1 and not recipe.patience else "train"
    numbers = ", ".join(str(finalist.trial.number) for finalist in finalists)
    who = f"the best (trial {numbers})" if len(finalists) == 1 else f"the best {len(finalists)} (trials {numbers})"
    length = training_length(epochs, bool(settings.compile))
    start = f", starting from {settings.weights}" if settings.weights is not None else ""
    progress.message(f"training {who} on {on}: {length}, recipe {recipe.name}{start}")
    for message in dict.fromkeys(finalist.memory.message for finalist in finalists if finalist.memory.message):
        progress.message(message)
    jobs = [_final_job(folder, settings, finalist) for finalist in finalists]
    job = jobs[0].model_copy(update={"rivals": tuple(jobs[1:])})
    total = epochs * len(finalists)
    assignment, resources, retries = Assignment(best.number, job=job), Resources.of(settings), 0
    try:
        for number in backend.adopt():  # of an earlier part of the search
            backend.cancel(number)
        backend.submit(assignment, 1, resources)
        while True:
            for event in backend.poll(1.0):
                if event.kind == EventKind.REPORT:
                    backend.proceed(event.number)
                    progress.step("training the best", event.step, total, event.value, task.kind)
                elif isinstance(event.outcome, FinalOutcome):
                    if reason := event.outcome.uncompiled:
                        progress.message(f"torch.compile failed ({reason}): trained without it")
                    return
                elif event.kind in (EventKind.WORKER_DIED, EventKind.RELEASED) and retries < settings.retries:
                    retries += 1
                    progress.message(f"the final training: {event.reason}; resuming it")
                    backend.submit(assignment, 1 + retries, resources)
                else:
                    remedy = f"to train another network: nas_agg train {folder.path}:TRIAL"
                    raise NasAggError(f"the final training failed: {event.reason}; {remedy}")
    finally:
        backend.close()


def change_weights(folder: RunFolder, weights: str | None) -> None:
    """Record the weights that the final training of a resumed run starts from; an unfinished one begins anew.

    Args:
        folder: The run folder.
        weights: The weights as specified now.

    Raises:
        InputError: They are others than before, and the final network is trained already.
    """
    former = folder.run["settings"].get("weights")
    if weights == former:
        return
    if os.path.lexists(folder.best):
        what = "initial weights" if former is None else former
        raise InputError(f"{folder.path}: weights: the final network is trained, from {what}; choose another --out")
    unfinished = folder.path / UNFINISHED
    if unfinished.is_dir():
        with write_errors(unfinished):
            shutil.rmtree(unfinished)
    folder.update(settings=folder.run["settings"] | {"weights": weights})


def _check_weights(folder: RunFolder, weights: str, finalists: Sequence[Finalist]) -> None:
    """Check that weights fit the networks that are trained in full.

    Raises:
        NasAggError: They do not fit one of them; the message says how to do without.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.fine_tuning import freeze, load_pretrained

    for finalist in finalists:
        network = compile(finalist.genotype, 0)
        try:
            load_pretrained(network, finalist.genotype, weights)
            freeze(network, finalist.recipe.freeze)
        except InputError as error:
            remedy = f"{resume_instructions(folder.run, folder.path)} and other weights, or none (--weights none)"
            raise NasAggError(
                f"the final training cannot start from the weights on trial {finalist.trial.number}: {error}; resume "
                f"{remedy}"
            ) from None


def _final_job(folder: RunFolder, settings: Settings, finalist: Finalist) -> FinalJob:
    best = finalist.trial
    title, about = describe_run(folder.run, folder.path, best.number)
    cost: dict[str, Any] = {"params": best.params, "macs": best.macs, "hash": best.network_hash}
    if best.latency_ms is not None:
        cost["latency_ms"] = best.latency_ms
    if settings.latency_target is not None:
        cost["score"] = best.value
    return FinalJob(
        genotype=finalist.genotype.to_dict(),
        seed=derive_seed(settings.seed, best.number, "final"),
        recipe=finalist.recipe,
        epochs=settings.final_epochs,
        out=str((folder.path / UNFINISHED).resolve()),
        best=str(folder.best.resolve()),
        trial=best.number,
        validation_accuracy=best.accuracy,
        validation=best.further,
        metrics=settings.trained_metrics([settings.main_metric]),
        cost=cost,
        memory=finalist.memory.mode,
        compile=bool(settings.compile),
        weights=settings.weights,
        processes=settings.processes_per_trial,
        sync_batch_norm=settings.sync_bn,
        title=title,
        about=about,
    )
