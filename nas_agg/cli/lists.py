"""Commands that list spaces, points, the papers' tables, searchers, data sets and recipes."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.cli.completion import complete_space
from nas_agg.cli.options import Format, FormatOption, print_json
from nas_agg.common.console import format_count, print_table
from nas_agg.common.errors import InputError

if TYPE_CHECKING:
    from nas_agg.report.paper_runs import RunMatch
    from nas_agg.report.paper_tables import Grid
    from nas_agg.report.papers import Paper


class TableFormat(StrEnum):
    """Output formats of the papers' tables."""

    table = "table"
    json = "json"
    markdown = "markdown"


class DataSetName(StrEnum):
    """Data sets on which the papers report results and networks can be trained."""

    cifar10 = "cifar10"
    cifar100 = "cifar100"
    imagenet = "imagenet"


def spaces(format: FormatOption = Format.table) -> None:
    """List the search spaces, with the size of their tables of results."""
    from nas_agg.search_space.space import list_spaces, open_space
    from nas_agg.study.tables.results_table import TabularSpace

    opened = [open_space(name) for name in list_spaces()]
    tables = [TabularSpace(space).network_count if space.table else None for space in opened]
    if format is Format.json:
        print_json(
            [
                {"name": s.name, "about": s.about, "size": s.size(), "open": list(s.names), "points": list(s.points)}
                | {"table": networks}
                for s, networks in zip(opened, tables, strict=True)
            ]
        )
        return
    rows = [
        [s.name, f"{s.size():.2g}", str(len(s.names)), str(len(s.points)), f"{n:,}" if n else "", s.about]
        for s, n in zip(opened, tables, strict=True)
    ]
    print_table(["space", "size", "variables", "points", "table", "description"], rows, right=(1, 2, 3, 4))


def points(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="SPACE",
            help="Name of a space or family, or a space file (default: all).",
            autocompletion=complete_space,
        ),
    ] = None,
    named: Annotated[
        str | None,
        typer.Option("--space", metavar="SPACE", help="The same as the argument.", autocompletion=complete_space),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the named points of spaces with their costs."""
    from nas_agg.expansion.costs import Cost
    from nas_agg.expansion.expansion import expand
    from nas_agg.search_space.space import list_spaces, open_space, spaces_in_family

    if named is not None and space is not None:
        raise InputError("--space: the space is specified twice; leave out one")
    space = space if named is None else named
    rows: list[dict[str, Any]] = []
    family = list(spaces_in_family(space)) if space is not None else [open_space(name) for name in list_spaces()]
    for opened in family or [open_space(space or "")]:
        for point in opened.points:
            counted = Cost(expand(opened.point(point)))
            address = f"{opened.family if family else space}/{point}"
            shape, classes = counted.graph.shapes[0], counted.graph.shapes[counted.graph.output][0]
            task = {"input": list(shape), "classes": classes}
            costs = {"params": counted.params, "macs": counted.macs, "depth": counted.depth}
            rows.append({"point": address} | task | costs)
    if format is Format.json:
        print_json(rows)
        return
    if not rows:
        print(f"{space} has no named points")
        return
    texts = [
        [
            r["point"],
            "x".join(map(str, r["input"])),
            str(r["classes"]),
            format_count(r["params"]),
            format_count(r["macs"]),
        ]
        for r in rows
    ]
    print_table(["point", "input", "classes", "params", "MACs"], texts, right=(2, 3, 4))


def table(
    paper: Annotated[
        str | None,
        typer.Argument(metavar="PAPER", help="dsnet, microdense, seqconv, sparsenet or baselines (default: all)."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Compare the test error of this run's final network with the printed errors of the same network, or "
            "with all results of PAPER; repeatable.",
        ),
    ] = None,
    known_as: Annotated[
        list[DataSetName] | None,
        typer.Option(
            "--as",
            metavar="cifar10|cifar100|imagenet",
            help="The data set behind a run's npz:PATH or folder:PATH; repeatable.",
        ),
    ] = None,
    format: Annotated[TableFormat, typer.Option("--format", help="Output format.")] = TableFormat.table,
) -> None:
    """Show the papers' tables beside our counts. With runs, their results are shown beside the printed ones."""
    from nas_agg.report import paper_tables, papers

    if known_as and not run:
        raise InputError("--as: requires --run")
    selected = {name: papers.paper(name) for name in ([paper] if paper else papers.papers())}
    matches = _matches(run or [], [name.value for name in known_as or []], selected)
    if run and not paper:
        selected = {name: paper_tables.rows_of(p, name, matches) for name, p in selected.items()}
        selected = {name: p for name, p in selected.items() if p.rows}
    if format is TableFormat.json:
        print_json([paper_tables.row_dict(name, p, row, matches) for name, p in selected.items() for row in p.rows])
    elif format is TableFormat.markdown:
        print("\n".join(paper_tables.markdown(p, matches if run else None) for p in selected.values()), end="")
    else:
        for number, (name, selected_paper) in enumerate(selected.items()):
            print("\n" * (number > 0) + f"{name}: {selected_paper.about}")
            _print_paper(selected_paper, matches if run else None)


def _matches(runs: list[str], known_as: list[str], selected: dict[str, Paper]) -> list[RunMatch]:
    """The rows of papers that runs reproduce; a run without one gets a line on stderr with the reason."""
    from nas_agg.report.paper_runs import match, read_trained

    matches: list[RunMatch] = []
    for trained in [read_trained(path, known_as) for path in runs]:
        rows, reason = match(trained, selected)
        matches += rows
        if reason:
            print(f"note: {reason}", file=sys.stderr)
    return matches


def _print_paper(paper: Paper, matches: list[RunMatch] | None) -> None:
    """Print the sizes, alternative readings and results of a paper; with runs only the results."""
    from nas_agg.report import paper_counts, paper_tables

    if matches is None:
        counted = [paper_counts.count(row, paper) for row in paper.rows]
        print(f"\nsizes (FLOPs: {paper_counts.FLOPS[paper.flops]})")
        _print_grid(paper_tables.counts_grid(counted))
        print(paper_counts.summary(counted))
        readings = paper_tables.readings_grid(paper)
        if readings.rows:
            print("\nalternative readings of the paper")
            _print_grid(readings)
    results = paper_tables.results_grid(paper, matches)
    if results.rows:
        print("\nresults (errors in percent)")
        _print_grid(results)


def _print_grid(grid: Grid) -> None:
    print_table(grid.header, grid.rows, right=grid.right)


def searchers(format: FormatOption = Format.table) -> None:
    """List the searchers."""
    from nas_agg.study.samplers.searcher import find_searcher, installed_searchers

    summaries = {name: (find_searcher(name).__doc__ or "").strip().partition("\n")[0] for name in installed_searchers()}
    _print_named(summaries, "searcher", format)


def datasets(format: FormatOption = Format.table) -> None:
    """List the data sets."""
    from nas_agg.training.datasets import DATASETS

    _print_named(dict(DATASETS), "data set", format)


def recipes(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Print all fields of this recipe, a name or a file.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the training recipes, or the fields of one."""
    from nas_agg.training.recipes import list_recipes, open_recipe

    if recipe is not None:
        fields = open_recipe(recipe).model_dump(mode="json")
        if format is Format.json:
            print_json(fields)
        else:
            print("\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()))
        return
    opened = [open_recipe(name) for name in list_recipes()]

    if format is Format.json:
        print_json([recipe.model_dump(mode="json") for recipe in opened])
        return
    rows = [[r.name, str(r.epochs), str(r.batch_size), f"{r.lr:g}", r.about] for r in opened]
    print_table(["recipe", "epochs", "batch", "lr", "description"], rows, right=(1, 2, 3))
    print("\nChosen where the source does not specify:")
    for chosen in [recipe for recipe in opened if recipe.choices]:
        print(f"  {chosen.name}: {chosen.choices}")


def _print_named(descriptions: dict[str, str], kind: str, format: Format) -> None:
    if format is Format.json:
        print_json([{"name": name, "about": about} for name, about in descriptions.items()])
    else:
        print_table([kind, "description"], [[name, about] for name, about in descriptions.items()])
