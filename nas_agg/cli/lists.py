"""Commands that list what there is: spaces, points, the papers' tables, searchers, data sets, recipes."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.cli.options import Format, FormatOption, print_json
from nas_agg.common.console import count_text, print_table
from nas_agg.common.errors import InputError

if TYPE_CHECKING:
    from nas_agg.report.papers import Paper
    from nas_agg.report.runs import Match
    from nas_agg.report.tables import Grid


class TableFormat(StrEnum):
    """How the papers' tables are printed."""

    table = "table"
    json = "json"
    markdown = "markdown"


class DataSetName(StrEnum):
    """The data sets that the papers print results on and that networks can be trained on."""

    cifar10 = "cifar10"
    cifar100 = "cifar100"
    imagenet = "imagenet"


def spaces(format: FormatOption = Format.table) -> None:
    """List the search spaces, and how many networks the tables of some have."""
    from nas_agg.search_space.space import list_spaces, open_space
    from nas_agg.study.tables.results_table import TabularSpace

    found = [open_space(name) for name in list_spaces()]
    tables = [TabularSpace(space).networks if space.table else None for space in found]
    if format is Format.json:
        print_json(
            [
                {"name": s.name, "about": s.about, "size": s.size(), "open": list(s.names), "points": list(s.points)}
                | {"table": networks}
                for s, networks in zip(found, tables, strict=True)
            ]
        )
        return
    rows = [
        [s.name, f"{s.size():.2g}", str(len(s.names)), str(len(s.points)), f"{n:,}" if n else "", s.about]
        for s, n in zip(found, tables, strict=True)
    ]
    print_table(["space", "size", "open names", "points", "table", "about"], rows, right=(1, 2, 3, 4))


def points(
    space: Annotated[str | None, typer.Argument(help="A space's or family's name, or a file; all if unsaid.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the named points of spaces, with what they cost."""
    from nas_agg.expansion.costs import Cost
    from nas_agg.expansion.expansion import expand
    from nas_agg.search_space.space import list_spaces, open_space, spaces_in_family

    found: list[dict[str, Any]] = []
    family = list(spaces_in_family(space)) if space else [open_space(name) for name in list_spaces()]
    for opened in family or [open_space(space or "")]:
        for point in opened.points:
            counted = Cost(expand(opened.point(point)))
            address = f"{opened.family if family else space}/{point}"
            shape, classes = counted.graph.shapes[0], counted.graph.shapes[counted.graph.output][0]
            task = {"input": list(shape), "classes": classes}
            figures = {"params": counted.params, "macs": counted.macs, "depth": counted.depth}
            found.append({"point": address} | task | figures)
    if format is Format.json:
        print_json(found)
        return
    if not found:
        print(f"{space} has no points")
        return
    rows = [
        [f["point"], "x".join(map(str, f["input"])), str(f["classes"]), count_text(f["params"]), count_text(f["macs"])]
        for f in found
    ]
    print_table(["point", "input", "classes", "params", "MACs"], rows, right=(2, 3, 4))


def table(
    paper: Annotated[
        str | None, typer.Argument(help="dsnet, microdense, seqconv, sparsenet or baselines; all if not named.")
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Show the test error of this run's final network beside what is printed of it, or in all of PAPER; "
            "repeatable.",
        ),
    ] = None,
    known_as: Annotated[
        list[DataSetName] | None,
        typer.Option(
            "--as",
            metavar="cifar10|cifar100|imagenet",
            help="The data set that npz:PATH or folder:PATH of a run is; repeatable.",
        ),
    ] = None,
    format: Annotated[
        TableFormat, typer.Option("--format", help="A table for people, JSON for machines, Markdown for texts.")
    ] = TableFormat.table,
) -> None:
    """The papers' tables, row by row: sizes beside what the points count, results beside those of your runs."""
    from nas_agg.report import papers, tables

    if known_as and not run:
        raise InputError("--as: only with --run; name a run, or leave this out")
    found = {name: papers.paper(name) for name in ([paper] if paper else papers.papers())}
    matches = _matches(run or [], [name.value for name in known_as or []], found)
    if run and not paper:
        found = {name: tables.rows_of(of, name, matches) for name, of in found.items()}
        found = {name: of for name, of in found.items() if of.rows}
    if format is TableFormat.json:
        print_json([tables.row_dict(name, of, row, matches) for name, of in found.items() for row in of.rows])
    elif format is TableFormat.markdown:
        print("\n".join(tables.markdown(of, matches if run else None) for of in found.values()), end="")
    else:
        for number, (name, of) in enumerate(found.items()):
            print("\n" * (number > 0) + f"{name}: {of.about}")
            _print_paper(of, matches if run else None)


def _matches(runs: list[str], known_as: list[str], found: dict[str, Paper]) -> list[Match]:
    """The rows that runs have trained the networks of; of a run without one a line says why."""
    from nas_agg.report.runs import match, read_trained

    matches: list[Match] = []
    for trained in [read_trained(path, known_as) for path in runs]:
        same, why = match(trained, found)
        matches += same
        if why:
            print(f"note: {why}", file=sys.stderr)
    return matches


def _print_paper(of: Paper, matches: list[Match] | None) -> None:
    """Prints the sizes, other readings and results of a paper; with runs the results alone."""
    from nas_agg.report import counts, tables

    if matches is None:
        counted = [counts.count(row, of) for row in of.rows]
        print(f"\nsizes (FLOPs: {counts.FLOPS[of.flops]})")
        _print_grid(tables.counts_grid(counted))
        print(counts.summary(counted))
        readings = tables.readings_grid(of)
        if readings.rows:
            print("\nother readings of the paper")
            _print_grid(readings)
    results = tables.results_grid(of, matches)
    if results.rows:
        print("\nresults (errors in percent)")
        _print_grid(results)


def _print_grid(grid: Grid) -> None:
    print_table(grid.header, grid.rows, right=grid.right)


def searchers(format: FormatOption = Format.table) -> None:
    """List the searchers."""
    from nas_agg.study.samplers.searcher import find_searcher, installed_searchers

    found = {name: (find_searcher(name).__doc__ or "").strip().partition("\n")[0] for name in installed_searchers()}
    _named(found, "searcher", format)


def datasets(format: FormatOption = Format.table) -> None:
    """List the data sets."""
    from nas_agg.training.datasets import DATASETS

    _named(dict(DATASETS), "dataset", format)


def recipes(format: FormatOption = Format.table) -> None:
    """List the training recipes."""
    from nas_agg.training.recipes import RECIPES

    if format is Format.json:
        print_json([recipe.model_dump(mode="json") for recipe in RECIPES.values()])
        return
    rows = [[r.name, str(r.epochs), str(r.batch_size), f"{r.lr:g}", r.about] for r in RECIPES.values()]
    print_table(["recipe", "epochs", "batch", "lr", "about"], rows, right=(1, 2, 3))
    print("\nWhat their sources leave unsaid:")
    for recipe in [recipe for recipe in RECIPES.values() if recipe.choices]:
        print(f"  {recipe.name}: {recipe.choices}")


def _named(found: dict[str, str], kind: str, format: Format) -> None:
    if format is Format.json:
        print_json([{"name": name, "about": about} for name, about in found.items()])
    else:
        print_table([kind, "about"], [[name, about] for name, about in found.items()])


COMMANDS = (spaces, points, table, searchers, datasets, recipes)
