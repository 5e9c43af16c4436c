"""The command that trains every network of a small space for a table of results."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_agg.common.errors import InputError
from nas_agg.common.files import write_atomic

if TYPE_CHECKING:
    from nas_agg.study.tables.table_builder import TableBuilder


def bench(
    space: Annotated[
        str, typer.Option(metavar="SPACE", help="A small space, by name or file; its 'table' specifies the trainings.")
    ] = "agg-bench",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results; rerun the command to resume.")
    ] = Path("bench"),
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Data set, as for train (default: the space's).")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Trainings per network (default: the space's).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=2, help="Epochs per training (default: the space's).")] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N networks in training order.")
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Only the K best networks so far by their first seed; combine with a larger --seeds.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", min=0, help="Start no training after M minutes.")
    ] = None,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Train one of N parts, for example on several machines.")
    ] = "1/1",
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes (default: the number of cores).")] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Instead, measure latency and time per epoch, one network at a time.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead, write the table of the finished trainings to this .csv.gz file."),
    ] = None,
) -> None:
    """Train every network of a small space for a table of results. Searchers are compared on such tables."""
    from nas_agg.search_space.space import open_space
    from nas_agg.study.definition.task import cores
    from nas_agg.study.tables.table_builder import TableBuilder

    if table is not None and not table.name.endswith(".csv.gz"):
        raise InputError(f"--table: {table}: the name must end in .csv.gz")
    opened = open_space(space)
    given = {"dataset": dataset, "seeds": seeds, "epochs": epochs}
    settings = opened.table_settings.model_copy(update={name: v for name, v in given.items() if v is not None})
    builder = TableBuilder(opened, settings, limit, best)
    minutes = math.inf if minutes is None else minutes
    if table is not None:
        _write_table(builder, out, table)
    elif times:
        builder.time(out, _print_line, minutes)
    else:
        builder.train(out, workers or cores(), _parse_part(part), _print_line, minutes)


def _write_table(builder: TableBuilder, out: Path, table: Path) -> None:
    content, networks = builder.table(out)
    write_atomic(table, content)
    digest = hashlib.sha256(content).hexdigest()
    print(f"{table}: {networks:,} of {len(builder.networks):,} networks, {len(content):,} bytes, sha256 {digest}")


def _print_line(line: str) -> None:
    print(line, flush=True)


def _parse_part(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 10_000):
        raise InputError(f"--part: invalid part {text!r}; use for example 1/4 for the first of four")
    return int(first), int(last)
