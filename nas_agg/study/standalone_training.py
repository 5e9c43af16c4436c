"""Trains and tests a single network without a search, in a run folder like that of a search."""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nas_agg.common.console import format_accuracy
from nas_agg.common.errors import InputError, NasAggError, did_you_mean
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.search_space.references import open_genotype
from nas_agg.search_space.space import SUFFIXES
from nas_agg.study.definition.settings import SEED_LIMIT, short_repr
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.definition.task import absolute, check_unchanged, data_arguments
from nas_agg.study.records.progress import epoch_line, is_logged_epoch, training_length
from nas_agg.study.records.provenance import describe_run, describe_source
from nas_agg.study.records.run_folder import (
    WEIGHTS_FILE,
    RunFolder,
    check_best,
    check_finished,
    dataset_arguments,
    read_run,
    resume_instructions,
)
from nas_agg.study.records.run_status import Interrupted
from nas_agg.study.scheduling.memory_plan import standalone_memory_choice
from nas_agg.study.workers.messages import FinalJob
from nas_agg.training.recipes import RecipeSource, open_recipe
from nas_agg.training.recipes.files import reference

if TYPE_CHECKING:
    import os

    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data


def train_genotype(
    genotype: Genotype,
    *,
    name: str = "genotype",
    dataset: str = "digits",
    recipe: RecipeSource = "final",
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    image_size: int | str | None = None,
    resize: str = "crop",
    skip_unreadable: bool = False,
    memory: RequestedMemoryMode = "auto",
    compile: bool = False,
    show: bool = False,
) -> dict[str, Any]:
    """Train a network on train + validation and test it once; ``OUT/best`` receives it.

    Args:
        genotype: The network; its input and classes are replaced by the data set's.
        name: The name of the run.
        dataset: See `nas_agg.training.data.load_data`.
        recipe: Name, file or content of the recipe (`nas_agg.training.recipes.open_recipe`).
        epochs: Replaces the recipe's epochs.
        device: auto, cpu, cuda or cuda:N.
        seed: Seed of the weights, of the order of images and of augmentation.
        out: The folder; by default ``runs/train-NAME-DATASET-SEED``. An unfinished training there is resumed.
        image_size: Side in pixels that images are scaled to, or height and width such as ``64x48``.
        resize: How images of another shape are made to fit: ``crop``, ``squash`` or ``pad``.
        skip_unreadable: Leave out images that cannot be read.
        memory: The memory mode: plain, lean or leanest; auto is the first that fits the device.
        compile: Run the training under ``torch.compile``, which takes minutes before the first epoch.
        show: Print progress.

    Returns:
        The contents of ``best/metrics.json``.

    Raises:
        InputError: A setting is invalid, or the folder holds something else.
        TrainingFailed: The loss diverged, or memory ran out.
    """
    from nas_agg.expansion.costs import cost
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import pick_device
    from nas_agg.training.optimizers import check_recipe
    from nas_agg.training.torch_compile import check_compiler

    _check_arguments(memory, seed)
    recipe = open_recipe(recipe)
    check_recipe(recipe)
    epochs, device = epochs or recipe.epochs, str(pick_device(device))
    if compile:
        check_compiler(device)
    settings = {
        "genotype": genotype.to_dict(),
        "dataset": absolute(dataset),
        "recipe": reference(recipe),
        "epochs": epochs,
        "seed": seed,
        "image_size": image_size,
    }
    arguments = data_arguments(absolute(dataset), seed, image_size, resize, skip_unreadable)
    settings |= {name: arguments[name] for name in ("resize", "skip_unreadable") if name in arguments}
    data = load_data(**arguments)
    genotype = genotype.with_task(data.input, data.classes)
    costs = cost(genotype)  # an invalid network raises before the folder is created
    folder = RunFolder(_default_folder(name, dataset, seed) if out is None else out)
    try:
        _begin(folder, settings, name, data=arguments, dataset=data.description(), device=device)
        if folder.metrics() is None:
            _run(folder, name, genotype, costs, data, device=device, memory=memory, compile=compile, show=show)
        metrics = folder.metrics()
    finally:
        folder.close()
    assert metrics is not None
    if show:
        _print_test(folder, metrics)
    return metrics


def _check_arguments(memory: str, seed: int) -> None:
    if memory not in (modes := get_args(RequestedMemoryMode)):
        raise InputError(
            f"memory: must be one of {', '.join(modes)}, not {short_repr(memory)}{did_you_mean(str(memory), modes)}"
        )
    if not 0 <= seed < SEED_LIMIT:
        raise InputError(f"seed: must be a whole number from 0 to 2**63 - 1, not {short_repr(seed)}")


def _print_test(folder: RunFolder, metrics: dict[str, Any]) -> None:
    """Print the test accuracy and the next command."""
    top5 = metrics.get("test_top5_accuracy")
    accuracy = format_accuracy(metrics["test_accuracy"], metrics["correct"], metrics["images"], top5)
    print(f"test accuracy {accuracy}; the network is in {folder.best}")
    print(f"next: nas_agg compile {folder.path} --out {folder.path.name}-model")


def _default_folder(name: str, dataset: str, seed: int) -> Path:
    stems = [Path(text).stem if Path(text).suffix in (*SUFFIXES, ".npz") else text for text in (name, dataset)]
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.") for stem in stems]
    return Path("runs") / f"train-{'-'.join(words)}-{seed}"


def _begin(folder: RunFolder, settings: dict[str, Any], name: str, **more: Any) -> None:
    """Begin a run, or check that the run in the folder has the same settings."""
    if folder.new:
        title, about = describe_source(name)
        folder.begin(settings, kind="train", origin={"title": title, "about": about}, **more)
    elif folder.run["settings"] != settings:
        earlier = folder.run["settings"]
        keys = [key for key in {**settings, **earlier} if settings.get(key) != earlier.get(key)]
        raise InputError(f"{folder.path}: the run has a different value of {keys[0]}; choose another --out")
    else:
        check_unchanged(folder.run, folder.path, more["dataset"])


def _run(
    folder: RunFolder,
    name: str,
    genotype: Genotype,
    costs: Cost,
    data: Data,
    *,
    device: str,
    memory: RequestedMemoryMode,
    compile: bool,
    show: bool,
) -> None:
    """Choose the memory mode and train.

    Args:
        folder: The run folder; the run has begun.
        name: The name of the run.
        genotype: The network, for the images and classes of the data set.
        costs: Its costs.
        data: The data set.
        device: The device.
        memory: The requested memory mode.
        compile: Run the training under ``torch.compile``.
        show: Print progress.
    """
    settings = folder.run["settings"]
    recipe = open_recipe(settings["recipe"])
    if show:
        size = f"{costs.params:,} params, {costs.macs:,} MACs"
        length = f"{training_length(settings['epochs'], compile)}, recipe {recipe.name}"
        print(f"training {name} ({size}) on {data.name}: {length}", flush=True)
    for note in data.notes:
        _log(folder, f"data: {note}", show)
    choice = standalone_memory_choice(folder, memory, costs, recipe.batch_size, device, data.nbytes)
    if choice.message:
        _log(folder, choice.message, show)
    title, about = describe_run(folder.run, folder.path)
    job = FinalJob(
        genotype=genotype.to_dict(),
        seed=settings["seed"],
        recipe=recipe,
        epochs=settings["epochs"],
        device=device,
        out=str(folder.path / "best.tmp"),
        best=str(folder.best),
        cost={"params": costs.params, "macs": costs.macs, "hash": costs.hash},
        memory=choice.mode,
        compile=compile,
        title=title,
        about=about,
    )
    _train(folder, job, data, show)


def _log(folder: RunFolder, line: str, show: bool) -> None:
    folder.log(line)
    if show:
        print(line, flush=True)


def _train(folder: RunFolder, job: FinalJob, data: Data, show: bool) -> None:
    """Train, and record the status of the run."""
    from nas_agg.study.workers.jobs import train_final
    from nas_agg.training.loop import TrainingFailed

    folder.run.pop("reason", None)
    folder.update(status="running")
    try:
        with stoppable():
            metrics = train_final(job, data, _progress(folder, show, folder.run["settings"]["epochs"]))
            if "uncompiled" in metrics:
                _log(folder, f"torch.compile failed ({metrics['uncompiled']}): trained without it", show)
    except Stopped as stopped:
        folder.update(status="stopped")
        raise Interrupted(folder, stopped.status) from None
    except TrainingFailed as error:
        folder.update(status="failed", reason=str(error))
        raise
    folder.finish()


def _progress(folder: RunFolder, show: bool, epochs: int) -> Callable[[int, float], bool]:
    """A function that reports each epoch: on one live line of a terminal, else about ten lines of a training."""
    live = show and sys.stdout.isatty()

    def report(epoch: int, accuracy: float) -> bool:
        line = epoch_line(epoch, epochs, accuracy)
        if is_logged_epoch(epoch, epochs):
            folder.log(line)
        if live:
            print(f"\r{line}", end="\n" if epoch == epochs else "", flush=True)
        elif show and is_logged_epoch(epoch, epochs):
            print(line, flush=True)
        return False

    return report


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def evaluate_genotype(
    source: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    device: str = "auto",
    image_size: int | str | None = None,
    download: bool = False,
    warn: Callable[[str], None] = _warn,
) -> dict[str, Any]:
    """Test a network with saved weights on the test split of a data set.

    Args:
        source: A run folder, with its own weights and data set by default, or any source that `nas_agg.load` takes.
        weights: As for `nas_agg.compile`.
        dataset: See `nas_agg.training.data.load_data`.
        device: auto, cpu, cuda or cuda:N.
        image_size: Side in pixels that images are scaled to, or height and width.
        download: Download named weights that are not cached.
        warn: Receives a line if the run's data set has changed.

    Returns:
        ``accuracy`` (0 to 1), ``loss``, ``correct``, ``images`` and, for more than 5 classes, ``top5_accuracy``.

    Raises:
        InputError: Something is missing, or the weights do not belong to the network.
    """
    is_run = Path(source).is_dir()
    if is_run and weights is None and dataset is None and image_size is None:
        return evaluate_run(source, device, warn)
    genotype = open_genotype(source)
    if not is_run and (weights is None or dataset is None):
        missing = "--weights" if weights is None else "--dataset"
        raise InputError(f"{missing}: '{source}' is not a run folder, so specify weights and a data set")
    from nas_agg.compiler import compile
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import evaluate, pick_device

    arguments: dict[str, Any] = (
        {"spec": dataset} if dataset is not None else dataset_arguments(read_run(source), source)
    )
    if image_size is not None:
        arguments["image_size"] = image_size
    data = load_data(**arguments)
    try:
        model = compile(
            genotype.with_task(data.input, data.classes),
            weights=weights or Path(source) / "best" / WEIGHTS_FILE,
            download=download,
        )
    except InputError as error:
        difference = _task_difference(genotype, data)
        if not difference:
            raise
        line = f"{source}: {difference}" if weights is None else f"{error} ({source}: {difference})"
        raise InputError(line) from None
    return _finite(evaluate(model, data.test, data, pick_device(device)))


def _task_difference(genotype: Genotype, data: Data) -> str:
    """Why weights of a network do not fit a data set; empty if channels and classes are equal."""
    if genotype.input[0] != data.input[0]:
        kinds = {1: "grey images", 3: "colour images"}
        own, other = (
            kinds.get(channels, f"images of {channels} channels") for channels in (genotype.input[0], data.input[0])
        )
        return f"the network is for {own}, {data.name} has {other}"
    if genotype.classes != data.classes:
        return f"the network is for {genotype.classes} classes, {data.name} has {data.classes}"
    return ""


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    if not math.isfinite(metrics["loss"]):
        raise NasAggError("the loss is not finite: the weights are damaged, or do not belong to the network")
    return metrics


def finish_instructions(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """How to obtain the final network that a run does not have yet, as the end of a sentence.

    Args:
        run: The contents of its run.json.
        path: Its folder.
    """
    if run.get("evaluate"):
        return "its networks were evaluated by a function, not trained"
    if run["status"] == "finished":
        remedy = f"restore it, or remove {path}/best and train again {resume_instructions(run, path)}"
        return f"best/{WEIGHTS_FILE} is missing; {remedy}"
    return f"finish it {resume_instructions(run, path)}"


def evaluate_run(
    path: str | os.PathLike[str], device: str = "auto", warn: Callable[[str], None] = _warn
) -> dict[str, Any]:
    """Test a run's final network again, with its saved weights, on the run's own test split.

    Args:
        path: A finished run's folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        warn: Receives a line if the data set has changed since the run began.

    Returns:
        ``accuracy`` (0 to 1), ``loss``, ``correct``, ``images`` and, for more than 5 classes, ``top5_accuracy``.

    Raises:
        InputError: The folder is not a run folder, or the run has no final network.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.weights import load_weights
    from nas_agg.training.data import load_data
    from nas_agg.training.data.dataset import differences
    from nas_agg.training.loop import evaluate, pick_device

    run = read_run(path)
    best = Path(path) / "best"
    if not (best / WEIGHTS_FILE).is_file():
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    check_finished(path, run)
    check_best(best, WEIGHTS_FILE)
    data = load_data(**dataset_arguments(run, path))
    if run.get("dataset") and (changes := differences(run["dataset"], data.description())):
        warn(f"{data.name} has changed since the run began: {changes}")
    model = compile(open_genotype(str(path)))
    load_weights(model, best / WEIGHTS_FILE)
    return _finite(evaluate(model, data.test, data, pick_device(device)))
