"""The last training: a search's best network, on all images but the test's, then tested once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.errors import InputError, NasAggError
from nas_agg.files import read, write_atomic
from nas_agg.study.folder import RunFolder, read_run
from nas_agg.study.pool import Job, Pool
from nas_agg.study.searcher import derive_seed

if TYPE_CHECKING:
    from nas_agg.genotype import Genotype
    from nas_agg.study.progress import Display
    from nas_agg.study.record import TrialRecord
    from nas_agg.study.settings import Settings
    from nas_agg.study.task import Task
    from nas_agg.study.worker import Report
    from nas_agg.training.data import Data

GENOTYPE, WEIGHTS, METRICS = "genotype.json", "weights.safetensors", "metrics.json"


def train_best(
    folder: RunFolder,
    task: Task,
    settings: Settings,
    best: TrialRecord,
    genotype: Genotype,
    display: Display,
    command: Sequence[str],
) -> None:
    """Have a worker train a search's best network in full and test it; ``best/`` is there afterwards.

    Raises:
        NasAggError: The training failed; the search may be resumed and tries again.
    """
    from nas_agg.training.recipes import get_recipe

    recipe = get_recipe(settings.recipe or "final")
    what = f"training the best (trial {best.number}) on train + validation"
    display.say(f"{what}: {recipe.epochs} epochs, recipe {recipe.name}")
    order = {
        "final": True,
        "genotype": genotype.text(),
        "seed": derive_seed(settings.seed, best.number, "final"),
        "recipe": recipe.name,
        "out": str((folder.path / "best.tmp").resolve()),
        "best": str(folder.best.resolve()),
        "trial": best.number,
        "value": best.value,
        "cost": {"params": best.params, "macs": best.macs, "hash": best.hash},
    }
    pool = Pool([task.final_setup(best.macs)], folder.path / "log.txt", command=command)
    lost = 0
    try:
        pool.start(Job(best.number, genotype, order))
        while True:
            for event in pool.events(1.0):
                if event.kind == "report":
                    pool.answer(event.number, stop=False)
                    display.step("training the best", event.step, recipe.epochs, event.value or 0.0)
                elif event.kind == "done":
                    return
                elif event.kind == "lost" and lost < settings.retries:
                    lost += 1
                    display.say(f"the final training: {event.reason}; it goes on")
                    pool.start(Job(best.number, genotype, order))
                else:
                    raise NasAggError(
                        f"the final training failed: {event.reason}; another network: nas_agg train {folder.path}:TRIAL"
                    )
    finally:
        pool.close()


def train_final(job: dict[str, Any], data: Data, report: Report) -> dict[str, Any]:
    """Train a network with the full recipe, test it, and leave it in ``job["best"]``; goes on where it was killed.

    The folder appears whole, under its name, only when everything is in it.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.weights import save_weights
    from nas_agg.genotype import Genotype
    from nas_agg.training.checkpoints import remove_checkpoint
    from nas_agg.training.loop import evaluate, train
    from nas_agg.training.recipes import get_recipe

    best, out = Path(job["best"]), Path(job["out"])
    genotype = Genotype.model_validate(job["genotype"])
    model = compile(genotype, seed=job["seed"])
    result = train(
        model,
        data,
        get_recipe(job["recipe"]),
        seed=job["seed"],
        device=job["device"],
        epochs=job.get("epochs"),
        on="train+validation",
        out=out,
        resume=True,
        report=lambda epoch, metrics: report(epoch, metrics["train_accuracy"]),
    )
    test = evaluate(model, data.test, data, job["device"])
    metrics = {
        "trial": job["trial"],
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "correct": test["correct"],
        "images": test["images"],
        "validation_accuracy": job["value"],
        "epochs": result.epochs,
        "recipe": job["recipe"],
        "seconds": result.seconds,
        **job["cost"],
    }
    save_weights(model, out / WEIGHTS)
    write_atomic(out / GENOTYPE, json.dumps(genotype.text(), indent=2) + "\n")
    write_atomic(out / METRICS, json.dumps(metrics, indent=2) + "\n")
    remove_checkpoint(out)
    os.rename(out, best)
    return metrics


def evaluate_run(path: str | os.PathLike[str], device: str = "auto") -> dict[str, Any]:
    """Test a run's final network again, from its saved weights, on the run's own test split.

    Args:
        path: A finished run's folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        ``accuracy`` (0 to 1), ``loss``, ``correct`` and ``images``.

    Raises:
        InputError: The folder is no run's, or the run has no final network.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.weights import load_weights
    from nas_agg.genotype import Genotype
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import evaluate, pick_device

    run = read_run(path)
    best = Path(path) / "best"
    if not (best / WEIGHTS).is_file():
        raise InputError(f"{path}: no final network; finish the search with: nas_agg search --resume {path}")
    data = load_data(**run["data"])
    model = compile(Genotype.model_validate(read(best / GENOTYPE)))
    load_weights(model, best / WEIGHTS)
    return evaluate(model, data.test, data, pick_device(device))
