"""The command that writes a network as a folder that runs without nas_agg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas_agg.cli.options import (
    ClassesOption,
    DownloadOption,
    Format,
    FormatOption,
    GenotypeArgument,
    InputOption,
    exit_on_signal,
    parse_shape,
    prefix_errors,
    print_json,
)
from nas_agg.common.console import format_bytes, format_count, print_table

if TYPE_CHECKING:
    from nas_agg.expansion.passes import PassCount
    from nas_agg.study.export import ExportedModel

_FILES = {
    "model.py": "the network in plain PyTorch",
    "predict.py": "prints the labels of image files",
    "config.json": "preprocessing and labels, in timm's form",
    "weights.safetensors": "its weights",
    "genotype.json": "the genotype, for nas_agg",
    "model.onnx": "for onnxruntime and others, any batch size",
    "model.pt2": "for torch.export.load, any batch size",
}


def compile_(
    genotype: GenotypeArgument,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to create.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS", help="A file of weights, or a torchvision name such as resnet50 (default: the run's)."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Seed of untrained weights, if there are no others.")
    ] = None,
    download: DownloadOption = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx.")] = False,
    export: Annotated[bool, typer.Option("--export", help="Also write model.pt2 (torch.export).")] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="The exported models take values from 0 to 1 and normalize them.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of a compiled network.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the number of operations before and after each compiler pass.")
    ] = False,
    classes: ClassesOption = None,
    input: InputOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Write a network as plain PyTorch code and weights. The folder runs without nas_agg."""
    from nas_agg.study.export import export_genotype

    with exit_on_signal("stopped; nothing was written"), prefix_errors(genotype):
        exported = export_genotype(
            genotype,
            out,
            weights=weights,
            seed=seed,
            download=download,
            input=None if input is None else parse_shape(input),
            classes=classes,
            onnx=onnx,
            export=export,
            normalize=normalize,
            force=force,
        )
    if format is Format.json:
        counts = {"passes": [step._asdict() for step in _pass_counts(exported)]} if verbose else {}
        print_json(_as_dict(exported, seed) | counts)
    else:
        if verbose:
            _print_passes(exported)
        _print(exported, seed)


def _pass_counts(exported: ExportedModel) -> list[PassCount]:
    """Operations before and after each pass, those for inference included."""
    from nas_agg.compiler.inference_fusion import pass_counts as fused
    from nas_agg.compiler.network import build
    from nas_agg.expansion.passes import expand_unsimplified, run_passes

    steps = run_passes(expand_unsimplified(exported.genotype))
    graph = steps[-1].graph
    return [*[step.counted for step in steps], *fused(build(graph, 0), graph)]


def _print_passes(exported: ExportedModel) -> None:
    from nas_agg.expansion.passes import PASSES

    steps = _pass_counts(exported)
    own = len(PASSES)
    for title, part in (("training and inference", steps[:own]), ("inference only, fuse=True", steps[own:])):
        rows = [[step.name, str(step.before), str(step.after)] for step in part]
        print_table([f"pass ({title})", "operations before", "after"], rows, right=(1, 2))
        print()


def _as_dict(exported: ExportedModel, seed: int | None) -> dict:
    """The written folder as JSON values."""
    return {
        "out": str(exported.written.path),
        "files": exported.written.files,
        "params": exported.params,
        "macs": exported.macs,
        "weights": exported.weights,
        "seed": (seed or 0) if exported.weights is None else None,
        "image_input": None if exported.image_input is None else exported.image_input.model_dump(mode="json"),
        "notes": list(exported.written.notes),
    }


def _print(exported: ExportedModel, seed: int | None) -> None:
    """Print the written folder and how to load it."""
    written = exported.written
    rows = [[name, format_bytes(size), _FILES[name]] for name, size in sorted(written.files.items(), key=_file_order)]
    print_table([str(written.path), "size", "contents"], rows, right=(1,))
    print(f"{format_count(exported.params)} params, {format_count(exported.macs)} MACs per image")
    if exported.weights is None:
        print(f"The weights are UNTRAINED (seed {seed or 0}); use --weights or a run whose network is trained.")
    else:
        print(f"Weights: {exported.weights}.")
    if exported.image_input is not None:
        print(f"Images: {exported.image_input.describe()}.")
    for note in written.notes:
        print(f"Note: {note}.")
    print(f"Usage in {written.path}:")
    if exported.image_input is not None:
        print("    python predict.py IMAGE_OR_FOLDER")
    print("    from model import build")
    channels, height, width = exported.genotype.input
    print(f'    logits = build("weights.safetensors").eval()(images)  # of shape (N, {channels}, {height}, {width})')


def _file_order(file: tuple[str, int]) -> int:
    return list(_FILES).index(file[0])
