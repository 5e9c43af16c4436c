"""Commands that list what there is: spaces, points, the papers' tables, searchers, data sets, recipes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from nas_agg.commands.options import Format, FormatOption, print_json
from nas_agg.console import count_text, print_table


class TableFormat(StrEnum):
    """How the papers' tables are printed."""

    table = "table"
    json = "json"
    markdown = "markdown"


def spaces(format: FormatOption = Format.table) -> None:
    """List the search spaces."""
    from nas_agg.space import list_spaces, open_space

    found = [open_space(name) for name in list_spaces()]
    if format is Format.json:
        print_json(
            [
                {"name": s.name, "about": s.about, "size": s.size(), "open": list(s.names), "points": list(s.points)}
                for s in found
            ]
        )
        return
    rows = [[s.name, f"{s.size():.2g}", str(len(s.names)), str(len(s.points)), s.about] for s in found]
    print_table(["space", "size", "open names", "points", "about"], rows, right=(1, 2, 3))


def points(
    space: Annotated[str | None, typer.Argument(help="A space's or family's name, or a file; all if unsaid.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the named points of spaces, with what they cost."""
    from nas_agg.costs import Cost
    from nas_agg.expansion import expand
    from nas_agg.space import list_spaces, open_space, spaces_of_family

    found: list[dict[str, Any]] = []
    family = list(spaces_of_family(space)) if space else [open_space(name) for name in list_spaces()]
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
        str | None, typer.Argument(help="sparsenet, seqconv, microdense, dsnet or baselines; all if unsaid.")
    ] = None,
    format: Annotated[
        TableFormat, typer.Option("--format", help="A table for people, JSON for machines, Markdown for texts.")
    ] = TableFormat.table,
) -> None:
    """The papers' own tables, row by row, beside what the points count."""
    from nas_agg.report import papers

    found = {name: papers.paper(name) for name in ([paper] if paper else papers.papers())}
    if format is TableFormat.markdown:
        print("\n".join(map(papers.markdown, found.values())), end="")
        return
    counted = {name: [papers.count(row, of) for row in of.rows] for name, of in found.items()}
    if format is TableFormat.json:
        print_json([{"paper": name} | row.as_dict() for name, rows in counted.items() for row in rows])
        return
    for name, rows in counted.items():
        if name != next(iter(counted)):
            print()
        print(f"{name}: {found[name].about} (FLOPs: {papers.FLOPS[found[name].flops]})")
        print_table(papers.COLUMNS, [row.cells() for row in rows], right=(2, 3, 4, 5))
        printed = [row for row in rows if row.printed]
        print(f"{sum(row.agrees for row in printed)} of {len(printed)} printed rows agree")


def searchers(format: FormatOption = Format.table) -> None:
    """List the searchers."""
    from nas_agg.study.searcher import find_searcher, searchers

    found = {name: (find_searcher(name).__doc__ or "").strip().partition("\n")[0] for name in searchers()}
    _named(found, "searcher", format)


def datasets(format: FormatOption = Format.table) -> None:
    """List the data sets."""
    from nas_agg.training.sources import DATASETS

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
