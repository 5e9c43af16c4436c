"""Tests networks with saved weights: those of a run, or of a file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.search_space.references import open_genotype
from nas_agg.study.records.run_folder import (
    WEIGHTS_FILE,
    check_best,
    check_finished,
    dataset_arguments,
    read_run,
    resume_instructions,
)

if TYPE_CHECKING:
    import os

    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data
    from nas_agg.training.evaluation import EvaluationPrecision


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
    metrics: Sequence[str] = (),
    precision: EvaluationPrecision = "float32",
    warn: Callable[[str], None] = _warn,
) -> dict[str, Any]:
    """Test a network with saved weights on the test split of a data set.

    Args:
        source: A run folder, with its own weights and data set by default, or any source that `nas_agg.load` takes.
        weights: As for `nas_agg.compile`.
        dataset: See `nas_agg.training.data.load_data`.
        device: auto, cpu, cuda or cuda:N.
        image_size: Side in pixels that images are scaled to, or height and width; by default image files are scaled to
            the genotype's own input.
        download: Download named weights that are not cached.
        metrics: Names of further metrics of `nas_agg.training.metrics`.
        precision: Format of the forward pass.
        warn: Receives a line if the run's data set has changed.

    Returns:
        See `nas_agg.training.evaluation.evaluate`: ``accuracy`` (0 to 1), ``loss``, ``correct``, ``images`` and the
        like.

    Raises:
        InputError: Something is missing, or the weights do not belong to the network.
    """
    is_run = Path(source).is_dir()
    if is_run and weights is None and dataset is None and image_size is None:
        return evaluate_run(source, device, warn, metrics, precision)
    genotype = open_genotype(source)
    if not is_run and (weights is None or dataset is None):
        missing = "--weights" if weights is None else "--dataset"
        raise InputError(f"{missing}: '{source}' is not a run folder, so specify weights and a data set")
    from nas_agg.compiler import compile
    from nas_agg.training.data import load_data
    from nas_agg.training.data.load import own_image_size
    from nas_agg.training.loop import evaluate, pick_device

    if image_size is None and dataset is not None:
        image_size = own_image_size(dataset, genotype.input)
    arguments: dict[str, Any] = (
        {"spec": dataset} if dataset is not None else dataset_arguments(read_run(source), source)
    )
    if image_size is not None:
        arguments["image_size"] = image_size
    data = load_data(**arguments)
    _check_test_images(data)
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
    return _finite(evaluate(model, data.test, data, pick_device(device), metrics=metrics, precision=precision))


def _check_test_images(data: Data) -> None:
    if not len(data.test):
        raise InputError(f"{data.name}: no test images; add images, or provide a test split")


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
    if run.get("evaluate") and run.get("named"):
        return f"its networks were looked up in a table of results; train one with: nas_agg train {path}:TRIAL"
    if run.get("evaluate"):
        return "its networks were evaluated by a function, not trained"
    if run["settings"].get("final") == 0:
        return f"it was searched without a final training; train a network with: nas_agg train {path}:TRIAL"
    if run["status"] == "finished":
        remedy = f"restore it, or remove {path}/best and train again {resume_instructions(run, path)}"
        return f"best/{WEIGHTS_FILE} is missing; {remedy}"
    return f"finish it {resume_instructions(run, path)}"


def evaluate_run(
    path: str | os.PathLike[str],
    device: str = "auto",
    warn: Callable[[str], None] = _warn,
    metrics: Sequence[str] = (),
    precision: EvaluationPrecision = "float32",
) -> dict[str, Any]:
    """Test a run's final network again, with its saved weights, on the run's own test split.

    Args:
        path: A finished run's folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        warn: Receives a line if the data set has changed since the run began.
        metrics: Names of further metrics.
        precision: Format of the forward pass.

    Returns:
        See `evaluate_genotype`.

    Raises:
        InputError: The folder is not a run folder, the run has no final network, or the data set has gained or lost a
            split.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.weights import load_weights
    from nas_agg.training.data import load_data
    from nas_agg.training.data.dataset import check_layout, differences
    from nas_agg.training.loop import evaluate, pick_device

    run = read_run(path)
    best = Path(path) / "best"
    if not (best / WEIGHTS_FILE).is_file():
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    check_finished(path, run)
    check_best(best, WEIGHTS_FILE)
    data = load_data(**dataset_arguments(run, path))
    if run.get("dataset") and (changes := differences(run["dataset"], data.description())):
        check_layout(data.name, run["dataset"], data.description())
        warn(f"{data.name} has changed since the run began: {changes}")
    _check_test_images(data)
    model = compile(open_genotype(str(path)))
    load_weights(model, best / WEIGHTS_FILE)
    return _finite(evaluate(model, data.test, data, pick_device(device), metrics=metrics, precision=precision))
