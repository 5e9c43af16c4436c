"""Exports a network to a folder that runs without nas_agg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, explain_out_of_memory
from nas_agg.common.files import read_document
from nas_agg.common.manifest import MANIFEST
from nas_agg.search_space.references import open_genotype
from nas_agg.study.model_input import ModelInput, recorded_input, weights_input
from nas_agg.study.records.provenance import describe_run, describe_source, describe_training
from nas_agg.study.records.run_folder import (
    GENOTYPE_FILE,
    METRICS_FILE,
    RUN_FILE,
    WEIGHTS_FILE,
    check_best,
    check_finished,
    dataset_arguments,
    encodable,
    read_run,
)
from nas_agg.study.saved_evaluation import finish_instructions

if TYPE_CHECKING:
    import os

    from nas_agg.compiler.codegen.model_config import ImageInput
    from nas_agg.compiler.codegen.package import WrittenPackage
    from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class ExportedModel:
    """An exported network.

    Attributes:
        genotype: The genotype.
        params: Number of parameters.
        macs: Multiply-accumulate operations per image.
        weights: The file or name of its weights; None if they are untrained.
        written: The folder.
        image_input: What happens to an image before the network sees it; None if unknown.
    """

    genotype: Genotype
    params: int
    macs: int
    weights: str | None
    written: WrittenPackage
    image_input: ImageInput | None


def export_genotype(
    source: str,
    out: str | os.PathLike[str],
    *,
    weights: str | None = None,
    seed: int | None = None,
    onnx: bool = False,
    export: bool = False,
    normalize: bool = False,
    force: bool = False,
    download: bool = False,
    input: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> ExportedModel:
    """Export a network as code and weights.

    Args:
        source: A source that `nas_agg.load` takes; a run's network has its own weights by default.
        out: The folder.
        weights: As for `nas_agg.compile`.
        seed: Seed of untrained weights, by default 0.
        onnx, export, normalize, force: See `nas_agg.compiler.codegen.package.write_package`.
        download: Download named weights that are not cached.
        input: Replaces the genotype's input.
        classes: Replaces the genotype's number of classes.

    Raises:
        InputError: Something is missing or exists already, or the weights do not belong to the network.
        NasAggError: The folder cannot be written.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.codegen.exports import check_onnx
    from nas_agg.compiler.codegen.model_config import model_config
    from nas_agg.compiler.codegen.package import check_normalize, check_place, write_package
    from nas_agg.expansion.costs import cost

    check_place(out, force)
    if onnx:
        check_onnx()
    if source and Path(source).is_dir():
        title, about, own_weights = describe_best(Path(source))
    else:
        title, about, own_weights = *describe_source(source), None
    genotype = open_genotype(source)
    if input is not None or classes is not None:
        genotype = genotype.with_task(input, classes)
    if seed is not None and (own_weights or weights) is not None:
        raise InputError("seed: only for untrained weights; leave it out")
    if weights is not None:
        about_weights = f"Weights from {encodable(Path(weights).name)}."
    elif own_weights is not None:
        about_weights = _describe_training(Path(source))
    else:
        about_weights = f"Untrained weights with seed {seed or 0}."
    about = " ".join(filter(None, [about, about_weights]))
    model_input = _model_input(source, weights, own_weights).adapted(genotype)
    if normalize:
        check_normalize(onnx or export, model_input.image_input is not None)
    weights = own_weights if weights is None else weights
    costs = cost(genotype)
    options: dict[str, Any] = {"onnx": onnx, "export": export, "normalize": normalize, "force": force}
    with explain_out_of_memory(source):
        network = compile(genotype, seed or 0, weights, download=download)
        config = model_config(
            genotype,
            network,
            name=_short_name(source),
            image_input=model_input.image_input,
            label_names=model_input.label_names,
            task=model_input.task,
        )
        written = write_package(out, genotype, network, title=title, about=about, config=config, **options)
    return ExportedModel(genotype, costs.params, costs.macs, weights, written, model_input.image_input)


def _model_input(source: str, weights: str | None, own_weights: str | None) -> ModelInput:
    """The input that belongs to the weights of an exported network."""
    if weights is not None:
        return weights_input(weights)
    return ModelInput() if own_weights is None else recorded_input(read_best_metrics(Path(source)))


def _short_name(source: str) -> str:
    """The name of a source without folders and endings, where it is one on the disk."""
    path = Path(source)
    return path.resolve().name if path.is_dir() else path.stem if path.is_file() else source


def describe_best(path: Path) -> tuple[str, str, str | None]:
    """Title, description and weights of the final network of a run folder.

    Raises:
        InputError: It has none.
    """
    best = path / "best"
    weights = str(best / WEIGHTS_FILE) if (best / WEIGHTS_FILE).is_file() else None
    if not (path / RUN_FILE).is_file():  # a copy of a final network; anything else is refused when it is opened
        return path.resolve().name, "", weights
    run = read_run(path)
    if not (best / GENOTYPE_FILE).is_file() or not (weights or run.get("evaluate")):
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    check_finished(path, run)
    if weights is not None:
        check_best(best, WEIGHTS_FILE)
    title, about = describe_run(run, path, read_best_metrics(path).get("trial"))
    return title, about, weights


def _describe_training(path: Path) -> str:
    """The training of a run's final network; empty if it is a copy without run.json or metrics."""
    metrics = read_best_metrics(path)
    try:
        return describe_training(metrics, dataset_arguments(read_run(path), path)["spec"])
    except (InputError, KeyError, TypeError, ValueError):
        return ""


def read_best_metrics(path: Path) -> dict[str, Any]:
    """The contents of metrics.json of a run's final network; empty without.

    Raises:
        InputError: It is damaged.
    """
    best = path / "best"
    if (path / RUN_FILE).is_file() or (best / MANIFEST).is_file():
        check_best(best, METRICS_FILE)
    try:
        metrics = read_document(best / METRICS_FILE)
    except InputError:
        return {}
    return metrics if isinstance(metrics, dict) else {}
