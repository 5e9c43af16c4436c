"""The command that leaves a network as a folder which runs without nas_agg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.cli.options import (
    ClassesOption,
    Format,
    FormatOption,
    GenotypeArgument,
    InputOption,
    of,
    print_json,
    shape,
)
from nas_agg.common.console import bytes_text, count_text, print_table
from nas_agg.common.errors import NasAggError

if TYPE_CHECKING:
    from nas_agg.expansion.passes import Count
    from nas_agg.study.export import ExportedModel

_WHAT = {
    "model.py": "the network in plain PyTorch",
    "weights.safetensors": "its weights",
    "genotype.json": "the genotype, for nas_agg",
    "model.onnx": "for onnxruntime and others, any batch size",
    "model.pt2": "for torch.export.load, any batch size",
}


def compile_(
    genotype: GenotypeArgument,
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder that is made.")],
    weights: Annotated[
        str | None, typer.Option(help="A file of weights, or a name such as resnet50; a run's own if unsaid.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Of untrained weights, where there are no others.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch weights that are named and not here.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too.")] = False,
    export: Annotated[bool, typer.Option("--export", help="Write model.pt2 too, of torch.export.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of a compiled network.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how many operations each pass of the compiler leaves.")
    ] = False,
    classes: ClassesOption = None,
    input: InputOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Write a network as plain PyTorch code and weights, which run without nas_agg."""
    from nas_agg.study.definition.signals import Stopped, stoppable
    from nas_agg.study.export import export_genotype

    def work() -> ExportedModel:
        options: dict[str, Any] = {"onnx": onnx, "export": export, "force": force, "classes": classes}
        options["download"] = download
        images = None if input is None else shape(input)
        return export_genotype(genotype, out, weights=weights, seed=seed, input=images, **options)

    try:
        with stoppable():
            fixed = of(genotype, work)
    except Stopped as stopped:
        error = NasAggError("stopped; nothing is written")
        error.status = stopped.status
        raise error from None
    if format is Format.json:
        counts = {"passes": [step._asdict() for step in _passed(fixed)]} if verbose else {}
        print_json(_as_dict(fixed, seed) | counts)
    else:
        if verbose:
            _print_passes(fixed)
        _print(fixed, seed)


def _passed(fixed: ExportedModel) -> list[Count]:
    """What each pass leaves, for inference too."""
    from nas_agg.compiler.inference_fusion import counts as fused
    from nas_agg.compiler.network import build
    from nas_agg.expansion.passes import as_written, passed

    steps = passed(as_written(fixed.genotype))
    graph = steps[-1].graph
    return [*[step.counted for step in steps], *fused(build(graph, 0), graph)]


def _print_passes(fixed: ExportedModel) -> None:
    from nas_agg.expansion.passes import PASSES

    steps = _passed(fixed)
    own = len(PASSES)
    for title, part in (("as it is compiled", steps[:own]), ("for inference alone, by fuse=True", steps[own:])):
        rows = [[step.name, str(step.before), str(step.after)] for step in part]
        print_table([f"pass ({title})", "operations before", "after"], rows, right=(1, 2))
        print()


def _as_dict(fixed: ExportedModel, seed: int | None) -> dict:
    """What was written, for machines."""
    return {
        "out": str(fixed.written.path),
        "files": fixed.written.files,
        "params": fixed.params,
        "macs": fixed.macs,
        "weights": fixed.weights,
        "seed": (seed or 0) if fixed.weights is None else None,
        "notes": list(fixed.written.notes),
    }


def _print(fixed: ExportedModel, seed: int | None) -> None:
    """What was written, for people."""
    written = fixed.written
    rows = [[name, bytes_text(size), _WHAT[name]] for name, size in sorted(written.files.items(), key=_order)]
    print_table([str(written.path), "size", "what it is"], rows, right=(1,))
    print(f"{count_text(fixed.params)} params, {count_text(fixed.macs)} MACs an image")
    if fixed.weights is None:
        print(f"The weights are UNTRAINED (seed {seed or 0}); others: --weights, or a run whose network is trained.")
    else:
        print(f"The weights are those of {fixed.weights}.")
    for note in written.notes:
        print(f"Note: {note}.")
    print(f"In {written.path}:")
    print("    from model import build")
    channels, height, width = fixed.genotype.input
    print(f'    logits = build("weights.safetensors").eval()(images)  # of shape (N, {channels}, {height}, {width})')


def _order(file: tuple[str, int]) -> int:
    return list(_WHAT).index(file[0])
