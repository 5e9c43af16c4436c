"""A genotype, or a run's network, as a folder that runs without nas_agg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, explain_out_of_memory
from nas_agg.common.files import read_document
from nas_agg.search_space.references import open_genotype
from nas_agg.study.records.provenance import describe_run, describe_source, describe_training
from nas_agg.study.records.run_folder import (
    GENOTYPE,
    METRICS,
    RUN_FILE,
    WEIGHTS,
    dataset_arguments,
    encodable,
    read_run,
)
from nas_agg.study.standalone_training import finish_instructions

if TYPE_CHECKING:
    import os

    from nas_agg.compiler.codegen.package import WrittenPackage
    from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class ExportedModel:
    """What was written.

    Attributes:
        genotype: Of the network.
        params: Of the network.
        macs: Of the network, an image.
        weights: Where its weights come from; None: they are untrained.
        written: The folder.
    """

    genotype: Genotype
    params: int
    macs: int
    weights: str | None
    written: WrittenPackage


def export_genotype(
    source: str,
    out: str | os.PathLike[str],
    *,
    weights: str | None = None,
    seed: int | None = None,
    onnx: bool = False,
    export: bool = False,
    force: bool = False,
    download: bool = False,
    input: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> ExportedModel:
    """Writes a genotype's network as code and weights.

    Args:
        source: What `nas_agg.load` takes; a run's own weights are taken unless told others.
        out: The folder.
        weights: What `nas_agg.compile` takes.
        seed: Of untrained weights; 0 if unsaid.
        onnx: See `nas_agg.compiler.codegen.package.write_package`.
        export: Likewise.
        force: Likewise.
        download: Whether named weights that are not here are fetched.
        input: Images in place of the genotype's.
        classes: Classes in place of the genotype's.

    Raises:
        InputError: Something is missing or there already, or the weights are another network's.
        NasAggError: The folder cannot be written.
    """
    from nas_agg.compiler import compile
    from nas_agg.compiler.codegen.package import check_onnx, check_place, write_package
    from nas_agg.expansion.costs import cost

    check_place(out, force)
    if onnx:
        check_onnx()
    title, about, own = _of_run(Path(source)) if source and Path(source).is_dir() else (*describe_source(source), None)
    genotype = open_genotype(source)
    if input is not None or classes is not None:
        genotype = genotype.with_task(input, classes)
    taken = own if weights is None else weights
    if taken is not None and seed is not None:
        raise InputError("seed: it is of untrained weights, and there are others; leave it out")
    if own is not None and weights is None:
        said = _trained(Path(source))
    else:
        untrained = f"Untrained weights of seed {seed or 0}."
        said = untrained if taken is None else f"Weights of {encodable(Path(taken).name)}."
    about = " ".join(filter(None, [about, said]))
    counted = cost(genotype)
    options: dict[str, Any] = {"onnx": onnx, "export": export, "force": force}
    with explain_out_of_memory(source):
        network = compile(genotype, seed or 0, taken, download=download)
        written = write_package(out, genotype, network, title=title, about=about, **options)
    return ExportedModel(genotype, counted.params, counted.macs, taken, written)


def _of_run(path: Path) -> tuple[str, str, str | None]:
    """Title, about and weights of a run's best network."""
    best = path / "best"
    trained = (best / WEIGHTS).is_file()
    if not (path / RUN_FILE).is_file():  # a copy of a best network, or no run at all, as is said where it is opened
        return path.resolve().name, "", str(best / WEIGHTS) if trained else None
    run = read_run(path)
    if not (best / GENOTYPE).is_file() or not (trained or run.get("evaluate")):
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    title, about = describe_run(run, path, _metrics(path).get("trial"))
    return title, about, str(best / WEIGHTS) if trained else None


def _trained(path: Path) -> str:
    """What best/metrics.json and run.json say of the training; nothing where an older or spoilt run does not."""
    try:
        return describe_training(_metrics(path), dataset_arguments(read_run(path), path)["spec"])
    except (InputError, KeyError, TypeError, ValueError):
        return ""


def _metrics(path: Path) -> dict[str, Any]:
    try:
        found = read_document(path / "best" / METRICS)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}
