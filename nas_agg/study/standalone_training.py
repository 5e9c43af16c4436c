"""One network, trained and tested without a search; its folder is a run's, so that all else works on it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nas_agg.common.console import format_accuracy
from nas_agg.common.errors import InputError, NasAggError, did_you_mean
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.search_space.references import open_genotype
from nas_agg.search_space.space import SUFFIXES
from nas_agg.study.definition.settings import SEED_LIMIT, short_repr
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.definition.task import absolute
from nas_agg.study.records.progress import epoch_line, is_logged_epoch, training_length
from nas_agg.study.records.provenance import describe_run, describe_source
from nas_agg.study.records.run_folder import WEIGHTS, RunFolder, dataset_arguments, read_run, resume_instructions
from nas_agg.study.scheduling.memory_plan import standalone_memory_choice

if TYPE_CHECKING:
    import os

    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data


def train_genotype(
    genotype: Genotype,
    *,
    name: str = "genotype",
    dataset: str = "digits",
    recipe: str = "final",
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    memory: RequestedMemoryMode = "auto",
    compile: bool = False,
    show: bool = False,
) -> dict[str, Any]:
    """Trains a network on train + validation and tests it once; ``OUT/best`` holds it.

    Args:
        genotype: Whose input and classes become the data set's.
        name: What the run is called after.
        dataset: See `nas_agg.training.data.load_data`.
        recipe: A recipe's name.
        epochs: In the place of the recipe's.
        device: auto, cpu, cuda or cuda:N.
        seed: Of weights, order and augmentation.
        out: The folder; ``runs/train-NAME-DATASET-SEED`` if unsaid. An unfinished training there goes on.
        image_size: Images are scaled to this side.
        memory: What is kept for backward: plain, lean or leanest; auto is the first that fits the device.
        compile: Whether steps run under ``torch.compile``, which takes minutes before the first.
        show: Whether to print how it goes.

    Returns:
        What ``best/metrics.json`` says.

    Raises:
        InputError: A setting is wrong, or the folder holds something else.
        TrainingFailed: The loss was no number, or memory ran out.
    """
    from nas_agg.expansion.costs import cost
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import pick_device
    from nas_agg.training.recipes import get_recipe
    from nas_agg.training.torch_compile import check_compiler

    if memory not in (ways := get_args(RequestedMemoryMode)):
        raise InputError(f"memory: {', '.join(ways)}, not {short_repr(memory)}{did_you_mean(str(memory), ways)}")
    if not 0 <= seed < SEED_LIMIT:
        raise InputError(f"seed: a whole number from 0 to 2**63 - 1, not {short_repr(seed)}")
    found, place = get_recipe(recipe), pick_device(device)
    if compile:
        check_compiler(str(place))
    settings = {
        "genotype": genotype.text(),
        "dataset": absolute(dataset),
        "recipe": recipe,
        "epochs": epochs or found.epochs,
        "seed": seed,
        "image_size": image_size,
    }
    arguments = {"spec": absolute(dataset), "seed": seed, "image_size": image_size}
    data = load_data(**arguments)  # type: ignore[arg-type]
    genotype = genotype.with_task(data.input, data.classes)
    counted = cost(genotype)
    figures = {"params": counted.params, "macs": counted.macs, "hash": counted.hash}
    folder = RunFolder(_default_folder(name, dataset, seed) if out is None else out)
    try:
        _begin(folder, settings, name, data=arguments, device=str(place))
        if folder.metrics() is None:
            if show:
                size = f"{figures['params']:,} params, {figures['macs']:,} MACs"
                length = f"{training_length(epochs or found.epochs, compile)}, recipe {recipe}"
                print(f"training {name} ({size}) on {data.name}: {length}", flush=True)
            choice = standalone_memory_choice(folder, memory, counted, found.batch_size, str(place), data.nbytes)
            if choice.message:
                _say(folder, choice.message, show)
            means = {"memory": choice.mode, "compile": compile}
            job = _job(folder, settings, genotype=genotype.text(), device=str(place), cost=figures, **means)
            _train(folder, job, data, show)
        metrics = folder.metrics()
    finally:
        folder.close()
    assert metrics is not None
    if show:
        top5 = metrics.get("test_top5_accuracy")
        accuracy = format_accuracy(metrics["test_accuracy"], metrics["correct"], metrics["images"], top5)
        print(f"test accuracy {accuracy}; the network is in {folder.best}")
        print(f"next: nas_agg compile {folder.path} --out {folder.path.name}-model")
    return metrics


def _begin(folder: RunFolder, settings: dict[str, Any], name: str, **more: Any) -> None:
    """Begins a run, or sees that the one that is there is the same training."""
    if folder.new:
        title, about = describe_source(name)
        folder.begin(settings, kind="train", origin={"title": title, "about": about}, **more)
    elif folder.run["settings"] != settings:
        keys = [key for key, value in settings.items() if folder.run["settings"].get(key) != value]
        raise InputError(f"{folder.path}: a run with another {keys[0]}; choose another --out")


def _say(folder: RunFolder, line: str, show: bool) -> None:
    folder.log(line)
    if show:
        print(line, flush=True)


def _default_folder(name: str, dataset: str, seed: int) -> Path:
    stems = [Path(text).stem if Path(text).suffix in (*SUFFIXES, ".npz") else text for text in (name, dataset)]
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.") for stem in stems]
    return Path("runs") / f"train-{'-'.join(words)}-{seed}"


def _train(folder: RunFolder, job: dict[str, Any], data: Data, show: bool) -> None:
    """Does the training, and keeps in the folder how it stands."""
    from nas_agg.study.workers.jobs import train_in_full
    from nas_agg.training.loop import TrainingFailed

    folder.run.pop("reason", None)
    folder.update(status="running")
    try:
        with stoppable():
            metrics = train_in_full(job, data, _reporter(folder, show, job["epochs"]))
            if "uncompiled" in metrics:
                failed = f"torch.compile failed ({metrics['uncompiled']})"
                _say(folder, f"{failed}: trained without it", show)
    except Stopped as stopped:
        folder.update(status="stopped")
        raise _interrupted(folder, stopped.status) from None
    except TrainingFailed as error:
        folder.update(status="failed", reason=str(error))
        raise
    folder.update(status="finished")


def _job(folder: RunFolder, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a search's worker is told of a final training; there is no trial here."""
    places = {"out": str(folder.path / "best.tmp"), "best": str(folder.best)}
    told = {name: settings[name] for name in ("seed", "recipe", "epochs")}
    title, about = describe_run(folder.run, folder.path)
    return {**places, **told, "trial": None, "value": None, "title": title, "about": about, **more}


def _interrupted(folder: RunFolder, status: int) -> Exception:
    error = NasAggError(f"stopped; resume {resume_instructions(folder.run, folder.path)}")
    error.status = status
    return error


def _reporter(folder: RunFolder, show: bool, epochs: int) -> Any:
    """Tells of an epoch now and then: of each on a terminal's one line, of every tenth part elsewhere."""
    import sys

    live = show and sys.stdout.isatty()

    def report(epoch: int, value: float) -> bool:
        line = epoch_line(epoch, epochs, value)
        if is_logged_epoch(epoch, epochs):
            folder.log(line)
        if live:
            print(f"\r{line}", end="\n" if epoch == epochs else "", flush=True)
        elif show and is_logged_epoch(epoch, epochs):
            print(line, flush=True)
        return False

    return report


def evaluate_genotype(
    source: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    device: str = "auto",
    image_size: int | None = None,
    download: bool = False,
) -> dict[str, Any]:
    """Tests a network from saved weights on a data set's test split.

    Args:
        source: A run folder, whose own weights and data set are taken unless told others, or any other genotype.
        weights: What `nas_agg.compile` takes.
        dataset: See `nas_agg.training.data.load_data`.
        device: auto, cpu, cuda or cuda:N.
        image_size: Images are scaled to this side.
        download: Whether named weights that are not here are fetched.

    Returns:
        ``accuracy`` (0 to 1), ``loss``, ``correct``, ``images`` and, of more than 5 classes, ``top5_accuracy``.

    Raises:
        InputError: Something is missing, or the weights are another network's.
    """
    run = Path(source).is_dir()
    if run and weights is None and dataset is None and image_size is None:
        return evaluate_run(source, device)
    genotype = open_genotype(source)
    if not run and (weights is None or dataset is None):
        missing = "--weights" if weights is None else "--dataset"
        raise InputError(
            f"{missing}: '{source}' is no run folder and has no weights of its own; name a file and a data set"
        )
    from nas_agg.compiler import compile
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import evaluate, pick_device

    arguments: dict[str, Any] = (
        {"spec": dataset} if dataset is not None else dataset_arguments(read_run(source), source)
    )
    if image_size is not None:
        arguments["image_size"] = image_size
    data = load_data(**arguments)
    taken = weights or Path(source) / "best" / WEIGHTS
    model = compile(genotype.with_task(data.input, data.classes), weights=taken, download=download)
    return _finite(evaluate(model, data.test, data, pick_device(device)))


def _finite(found: dict[str, Any]) -> dict[str, Any]:
    if not math.isfinite(found["loss"]):
        raise NasAggError("the network puts out what is no number: its weights are spoilt, or another network's")
    return found


def finish_instructions(run: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """What is to be done about a run without a final network, as the end of a sentence."""
    if run.get("evaluate"):
        return "its networks were evaluated by a function, not trained"
    if run["status"] == "finished":
        remedy = f"restore it, or remove {path}/best and train again {resume_instructions(run, path)}"
        return f"best/{WEIGHTS} is missing; {remedy}"
    return f"finish it {resume_instructions(run, path)}"


def evaluate_run(path: str | os.PathLike[str], device: str = "auto") -> dict[str, Any]:
    """Test a run's final network again, from its saved weights, on the run's own test split.

    Args:
        path: A finished run's folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        ``accuracy`` (0 to 1), ``loss``, ``correct``, ``images`` and, of more than 5 classes, ``top5_accuracy``.

    Raises:
        InputError: The folder is no run's, or the run has no final network.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.weights import load_weights
    from nas_agg.training.data import load_data
    from nas_agg.training.loop import evaluate, pick_device

    run = read_run(path)
    best = Path(path) / "best"
    if not (best / WEIGHTS).is_file():
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    data = load_data(**dataset_arguments(run, path))
    model = compile(open_genotype(str(path)))
    load_weights(model, best / WEIGHTS)
    return _finite(evaluate(model, data.test, data, pick_device(device)))
