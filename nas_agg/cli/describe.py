"""The commands that count and show one network, without training it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_agg.cli.options import (
    ClassesOption,
    Format,
    FormatOption,
    GenotypeArgument,
    InputOption,
    load_for_task,
    prefix_errors,
    print_json,
)
from nas_agg.common.console import print_table
from nas_agg.common.errors import InputError

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


def cost(
    genotype: GenotypeArgument,
    classes: ClassesOption = None,
    input: InputOption = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also measure the latency of a forward pass.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="With --latency: auto, cpu, cuda or cuda:N.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="With --latency: images per pass (default: 1).")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="With --latency: CPU threads (default: PyTorch's own number).")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Count a network's parameters, MACs, memory and depth. The latency is measured on request."""
    from nas_agg.expansion.costs import cost, cost_rows
    from nas_agg.study.model_input import saved_preprocessing

    for name, value in {"device": device, "batch": batch, "threads": threads}.items():
        if value is not None and not latency:
            raise InputError(f"--{name}: requires --latency")
    with prefix_errors(genotype):
        network = load_for_task(genotype, classes, input)
        counted = cost(network)
        metrics = counted.as_dict()
    measured = None
    if latency:
        from nas_agg.training.latency import latency as measure

        measured = measure(network, device=device or "auto", batch=batch or 1, threads=threads)
    saved = saved_preprocessing(genotype)
    if format is Format.json:
        print_json(metrics | ({"latency": measured.as_dict()} if measured else {}) | saved)
        return
    rows = cost_rows(counted) + ([list(row) for row in measured.rows()] if measured else [])
    print_table(["metric", "value", "meaning"], rows, title=genotype, right=(1,))
    if saved:
        mean, std = (", ".join(f"{value:.4g}" for value in saved[name]) for name in ("mean", "std"))
        print(f"preprocessing: {saved['preprocessing']['about']}; mean ({mean}), std ({std})")


def show(
    genotype: GenotypeArgument,
    classes: ClassesOption = None,
    input: InputOption = None,
    depth: Annotated[int, typer.Option(min=1, max=48, help="Levels of the tree.")] = 2,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the network into this SVG file instead.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it into this PNG file instead.")] = None,
    pdf: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it into this PDF file instead.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Show or draw a network. The tree has each part's output shape, parameters and MACs."""
    from nas_agg.report.tree import network_tree, tree_lines

    with prefix_errors(genotype):
        network = load_for_task(genotype, classes, input)
        if svg is not None or png is not None or pdf is not None:
            _draw(network, genotype, svg, png, pdf)
            return
        tree = network_tree(network)
    if format is Format.json:
        print_json(tree.as_dict())
    else:
        print("\n".join(tree_lines(tree, depth)))


def _draw(network: Genotype, title: str, svg: Path | None, png: Path | None, pdf: Path | None) -> None:
    """Draw a network into files."""
    from nas_agg.common.files import write_atomic
    from nas_agg.report.drawing import draw
    from nas_agg.report.raster import check_cairosvg, write_pdf, write_png

    for option, file in (("--png", png), ("--pdf", pdf)):
        if file is not None:
            check_cairosvg(option)
    text = draw(network, title)
    if svg is not None:
        write_atomic(svg, text)
    if png is not None:
        write_png(png, text)
    if pdf is not None:
        write_pdf(pdf, text)
    for file in filter(None, (svg, png, pdf)):
        print(f"wrote {file}")
