"""The commands that count and show one network, without training it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nas_agg.cli.completion import complete_genotype
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
    diff: Annotated[
        str | None,
        typer.Option(
            metavar="GENOTYPE", help="Show what changes from the network to this one.", autocompletion=complete_genotype
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the network into this SVG file instead.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it into this PNG file instead.")] = None,
    pdf: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it into this PDF file instead.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Show or draw a network, or what changed between two. The tree has each part's shape, parameters and MACs."""
    from nas_agg.report.drawing import draw
    from nas_agg.report.tree import network_tree, tree_lines

    files = [file for file in (svg, png, pdf) if file is not None]
    if diff is not None:
        _show_difference(genotype, diff, (classes, input), depth, (svg, png, pdf), format)
        return
    with prefix_errors(genotype):
        network = load_for_task(genotype, classes, input)
        if files:
            _write_drawing(lambda: draw(network, genotype), svg, png, pdf)
            return
        tree = network_tree(network)
    if format is Format.json:
        print_json(tree.as_dict())
    else:
        print("\n".join(tree_lines(tree, depth)))


def _show_difference(
    before: str,
    after: str,
    task: tuple[int | None, str | None],
    depth: int,
    files: tuple[Path | None, Path | None, Path | None],
    format: Format,
) -> None:
    """Show what changed between two networks, or draw it into files."""
    from nas_agg.expansion.costs import cost
    from nas_agg.report.difference_drawing import draw_difference
    from nas_agg.report.differences import compare_trees, cost_changes, difference_lines
    from nas_agg.report.tree import network_tree

    networks, trees, costs = [], [], []
    for source in (before, after):
        with prefix_errors(source):
            networks.append(load_for_task(source, *task))
            trees.append(network_tree(networks[-1]))
            costs.append(cost(networks[-1]))
    if any(files):
        _write_drawing(lambda: draw_difference(networks[0], networks[1], (before, after)), *files)
        return
    difference, changes = compare_trees(*trees), cost_changes(*costs)
    same = costs[0].hash == costs[1].hash
    if format is Format.json:
        print_json({"same": same, "costs": [row[:3] for row in changes], "difference": difference.as_dict()})
    elif same:
        print("both are the same network")
    else:
        print_table(["metric", before, after, "change"], changes, right=(1, 2, 3))
        print()
        print("\n".join(difference_lines(difference, depth)))


def _write_drawing(draw: Callable[[], str], svg: Path | None, png: Path | None, pdf: Path | None) -> None:
    """Write a drawing into files."""
    from nas_agg.common.files import check_replaceable, write_atomic
    from nas_agg.report.raster import check_cairosvg, write_pdf, write_png

    for option, file in (("--png", png), ("--pdf", pdf)):
        if file is not None:
            check_cairosvg(option)
    for file, suffix in ((svg, ".svg"), (png, ".png"), (pdf, ".pdf")):
        if file is not None:
            check_replaceable(file, suffix)
    text = draw()
    if svg is not None:
        write_atomic(svg, text)
    if png is not None:
        write_png(png, text)
    if pdf is not None:
        write_pdf(pdf, text)
    for file in filter(None, (svg, png, pdf)):
        print(f"wrote {file}")
