"""The command that trains every network of a small space, for a table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_agg.common.errors import InputError


def bench(
    space: Annotated[
        str, typer.Option(help="A small space: see 'nas_agg spaces', or a space file; its 'table' specifies trainings.")
    ] = "agg-bench",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results; the same command resumes there.")
    ] = Path("bench"),
    dataset: Annotated[str | None, typer.Option(help="In place of the space's: as for train.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Trainings per network, in place of the space's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=2, help="Of each training, in place of the space's.")] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N networks, in the order of training.")
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Only the best K so far, by their first seed; give more --seeds."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", min=0, help="Begin no training after M minutes.")
    ] = None,
    part: Annotated[str, typer.Option(metavar="I/N", help="Do one part of so many, as on several machines.")] = "1/1",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: the cores).")] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Measure latency and an epoch instead, one network after another.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table of what is done; its name ends in .csv.gz.")
    ] = None,
) -> None:
    """Train every network of a small space, for a table that searchers are compared on."""
    import hashlib
    import math

    from nas_agg.common.files import write_atomic
    from nas_agg.search_space.space import open_space
    from nas_agg.study.definition.task import cores
    from nas_agg.study.tables.table_builder import TableBuilder

    if table is not None and not table.name.endswith(".csv.gz"):
        raise InputError(f"--table: {table}: its name ends in .csv.gz")
    opened = open_space(space)
    given = {"dataset": dataset, "seeds": seeds, "epochs": epochs}
    settings = opened.table_settings.model_copy(update={name: v for name, v in given.items() if v is not None})
    found = TableBuilder(opened, settings, limit, best)
    most = math.inf if minutes is None else minutes
    if table is not None:
        content, networks = found.table(out)
        write_atomic(table, content)
        digest = hashlib.sha256(content).hexdigest()
        print(f"{table}: {networks:,} of {len(found.networks):,} networks, {len(content):,} bytes, sha256 {digest}")
    elif times:
        found.time(out, lambda line: print(line, flush=True), most)
    else:
        found.train(out, workers or cores(), _part(part), lambda line: print(line, flush=True), most)


def _part(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 10_000):
        raise InputError(f"--part: {text!r} is no part; write 1/4 for the first of four")
    return int(first), int(last)
