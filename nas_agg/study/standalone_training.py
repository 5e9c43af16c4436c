"""Trains and tests a single network without a search, in a run folder like that of a search."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.search_space.space import SUFFIXES
from nas_agg.study.definition.metrics import format_evaluation, imbalance_note
from nas_agg.study.definition.notations import SEED_LIMIT, short_repr
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.definition.task import absolute, check_unchanged, data_arguments
from nas_agg.study.records.progress import epoch_line, is_logged_epoch, training_length
from nas_agg.study.records.provenance import describe_run, describe_source
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.records.run_status import Interrupted
from nas_agg.study.scheduling.memory_plan import standalone_memory_choice
from nas_agg.study.workers.messages import FinalJob
from nas_agg.training.recipes import Recipe, RecipeSource, open_recipe
from nas_agg.training.recipes.files import reference

if TYPE_CHECKING:
    import os

    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.workers.final_jobs import EpochCallback
    from nas_agg.training.data import Data


def train_genotype(
    genotype: Genotype,
    *,
    name: str = "genotype",
    dataset: str | Data = "digits",
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
    metric: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    download: bool = False,
    callback: EpochCallback | None = None,
    show: bool = False,
) -> dict[str, Any]:
    """Train a network on train + validation and test it once; ``OUT/best`` receives it.

    Args:
        genotype: The network; its input and classes are replaced by the data set's.
        name: The name of the run.
        dataset: A specification, see `nas_agg.training.data.load_data`, or a data set.
        recipe: Name, file or content of the recipe (`nas_agg.training.recipes.open_recipe`).
        epochs: Replaces the recipe's epochs.
        device: auto, cpu, cuda or cuda:N.
        seed: Seed of the weights, of the order of images and of augmentation.
        out: The folder; by default ``runs/train-NAME-DATASET-SEED``. An unfinished training there is resumed.
        image_size: Side in pixels that images are scaled to, or height and width such as ``64x48``; by default image
            files are scaled to the genotype's own input, and arrays keep their size.
        resize: How images of another shape are made to fit: ``crop``, ``squash`` or ``pad``.
        skip_unreadable: Leave out images that cannot be read.
        memory: The memory mode: plain, lean or leanest; auto is the first that fits the device.
        compile: Run the training under ``torch.compile``, which takes minutes before the first epoch.
        metric: The metric that early stopping watches and the test reports beside those of the task.
        weights: What to start from: a run, a file of weights, or a torchvision name such as ``resnet50``. The
            classifier starts anew where the classes differ.
        download: Download named weights that are not cached.
        callback: Called after each epoch with its number and its metrics.
        show: Print progress.

    Returns:
        The contents of ``best/metrics.json``.

    Raises:
        InputError: A setting is invalid, or the folder holds something else.
        TrainingFailed: The loss diverged, or memory ran out.
    """
    from nas_agg.expansion.costs import cost
    from nas_agg.training.data import load_data
    from nas_agg.training.data.load import own_image_size
    from nas_agg.training.evaluation import find_metric, main_metric
    from nas_agg.training.loop import pick_device
    from nas_agg.training.optimizers import check_recipe
    from nas_agg.training.torch_compile import check_compiler

    _check_arguments(memory, seed)
    recipe = open_recipe(recipe)
    check_recipe(recipe)
    epochs, device = epochs or recipe.epochs, str(pick_device(device))
    if compile:
        check_compiler(device)
    if image_size is None and isinstance(dataset, str):
        image_size = own_image_size(dataset, genotype.input)
    settings: dict[str, Any] = {
        "genotype": genotype.to_dict(),
        "dataset": absolute(dataset) if isinstance(dataset, str) else dataset.name,
        "recipe": reference(recipe),
        "epochs": epochs,
        "seed": seed,
        "image_size": image_size,
    }
    if metric is not None:
        settings["metric"] = metric
    begun: dict[str, Any] = {}
    if isinstance(dataset, str):
        arguments = data_arguments(absolute(dataset), seed, image_size, resize, skip_unreadable)
        settings |= {name: arguments[name] for name in ("resize", "skip_unreadable") if name in arguments}
        data, begun["data"] = load_data(**arguments), arguments
    else:
        data = dataset
    find_metric(metric or main_metric(data.task), data.task)
    genotype = genotype.with_task(data.input, data.classes)
    costs = cost(genotype)  # an invalid network raises before the folder is created
    if weights is not None:
        settings["weights"] = _start(genotype, weights, download, recipe)
    folder = RunFolder(_default_folder(name, data.name, seed) if out is None else out)
    try:
        _begin(folder, settings, name, dataset=data.description(), device=device, **begun)
        if folder.metrics() is None:
            run = _StandaloneTraining(folder, name, data, device, memory, compile, show)
            run.train(genotype, costs, callback)
        metrics = folder.metrics()
    finally:
        folder.close()
    assert metrics is not None
    if show:
        _print_test(folder, metrics)
    return metrics


def _start(genotype: Genotype, weights: str | os.PathLike[str], download: bool, recipe: Recipe) -> str:
    """Check the weights that a training starts from; returns them with their path, if any, made absolute."""
    from nas_agg.compiler import compile
    from nas_agg.compiler.fine_tuning import freeze, load_pretrained

    network = compile(genotype, 0)
    load_pretrained(network, genotype, str(weights), download)
    freeze(network, recipe.freeze)
    return str(Path(weights).resolve()) if Path(weights).exists() else str(weights)


def _check_arguments(memory: str, seed: int) -> None:
    if memory not in (modes := get_args(RequestedMemoryMode)):
        raise InputError(
            f"memory: must be one of {', '.join(modes)}, not {short_repr(memory)}{did_you_mean(str(memory), modes)}"
        )
    if not 0 <= seed < SEED_LIMIT:
        raise InputError(f"seed: must be a whole number from 0 to 2**63 - 1, not {short_repr(seed)}")


def _print_test(folder: RunFolder, metrics: dict[str, Any]) -> None:
    """Print the test accuracy and the next command."""
    test = "" if "untested" in metrics else "test "
    print(f"{test}{format_evaluation(metrics, 'test_')}; the network is in {folder.best}")
    if note := imbalance_note(metrics, "test_"):
        print(note)
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


@dataclass(frozen=True)
class _StandaloneTraining:
    """A training whose run has begun.

    Attributes:
        folder: The run folder.
        name: The name of the run.
        data: The data set.
        device: The device.
        memory: The requested memory mode.
        compile: Run the training under ``torch.compile``.
        show: Print progress.
    """

    folder: RunFolder
    name: str
    data: Data
    device: str
    memory: RequestedMemoryMode
    compile: bool
    show: bool

    def train(self, genotype: Genotype, costs: Cost, callback: EpochCallback | None) -> None:
        """Choose the memory mode, train and test."""
        settings, folder = self.folder.run["settings"], self.folder
        recipe = open_recipe(settings["recipe"])
        if self.show:
            size = f"{costs.params:,} params, {costs.macs:,} MACs"
            length = f"{training_length(settings['epochs'], self.compile)}, recipe {recipe.name}"
            print(f"training {self.name} ({size}) on {self.data.name}: {length}", flush=True)
        for note in self.data.notes:
            _log(folder, f"data: {note}", self.show)
        batch, nbytes = recipe.batch_size, self.data.resident_bytes(self.device)
        choice = standalone_memory_choice(folder, self.memory, costs, batch, self.device, nbytes)
        if choice.message:
            _log(folder, choice.message, self.show)
        title, about = describe_run(folder.run, folder.path)
        job = FinalJob(
            genotype=genotype.to_dict(),
            seed=settings["seed"],
            recipe=recipe,
            epochs=settings["epochs"],
            device=self.device,
            out=str(folder.path / "best.tmp"),
            best=str(folder.best),
            metrics=(settings["metric"],) if "metric" in settings else (),
            cost={"params": costs.params, "macs": costs.macs, "hash": costs.hash},
            memory=choice.mode,
            compile=self.compile,
            weights=settings.get("weights"),
            title=title,
            about=about,
        )
        _train(folder, job, self.data, self.show, callback)


def _log(folder: RunFolder, line: str, show: bool) -> None:
    folder.log(line)
    if show:
        print(line, flush=True)


def _train(folder: RunFolder, job: FinalJob, data: Data, show: bool, callback: EpochCallback | None) -> None:
    """Train, and record the status of the run."""
    from nas_agg.study.workers.final_jobs import train_final
    from nas_agg.training.loop import TrainingFailed

    folder.run.pop("reason", None)
    folder.update(status="running")
    try:
        with stoppable():
            progress = _progress(folder, show, folder.run["settings"]["epochs"], data.task)
            metrics = train_final(job, data, progress, callback)
            if "uncompiled" in metrics:
                _log(folder, f"torch.compile failed ({metrics['uncompiled']}): trained without it", show)
    except Stopped as stopped:
        folder.update(status="stopped")
        raise Interrupted(folder, stopped.status) from None
    except TrainingFailed as error:
        folder.update(status="failed", reason=str(error))
        raise
    folder.finish()


def _progress(folder: RunFolder, show: bool, epochs: int, task: str) -> Callable[[int, float], bool]:
    """A function that reports each epoch: on one live line of a terminal, else about ten lines of a training."""
    live = show and sys.stdout.isatty()

    def report(epoch: int, value: float) -> bool:
        line = epoch_line(epoch, epochs, value, task)
        if is_logged_epoch(epoch, epochs):
            folder.log(line)
        if live:
            print(f"\r{line}", end="\n" if epoch == epochs else "", flush=True)
        elif show and is_logged_epoch(epoch, epochs):
            print(line, flush=True)
        return False

    return report
