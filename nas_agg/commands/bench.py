"""The command that trains every network of a small space, for a table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_agg.errors import InputError


def bench(
    space: Annotated[str, typer.Option(help="A small space: see 'nas_agg spaces', or a space file.")] = "agg-bench",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of what is done; the same command goes on there.")
    ] = Path("bench"),
    dataset: Annotated[str, typer.Option(help="As for train.")] = "digits",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each network.")] = 3,
    epochs: Annotated[int, typer.Option(min=2, help="Of each training.")] = 12,
    part: Annotated[str, typer.Option(metavar="I/N", help="Do one part of so many, as on several machines.")] = "1/1",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: the cores).")] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Measure latency and an epoch instead, one network after another.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table, when all is done; its name ends in .csv.gz.")
    ] = None,
) -> None:
    """Train every network of a small space, for a table that searchers are compared on."""
    import hashlib

    from nas_agg.files import write_atomic
    from nas_agg.space import open_space
    from nas_agg.study.bench import Bench
    from nas_agg.study.task import cores

    if table is not None and not table.name.endswith(".csv.gz"):
        raise InputError(f"--table: {table}: its name ends in .csv.gz")
    found = Bench(open_space(space), dataset, seeds, epochs)
    if table is not None:
        content = found.table(out)
        write_atomic(table, content)
        print(f"{table}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    elif times:
        found.time(out, lambda line: print(line, flush=True))
    else:
        found.train(out, workers or cores(), _part(part), lambda line: print(line, flush=True))


def _part(text: str) -> tuple[int, int]:
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 10_000):
        raise InputError(f"--part: {text!r} is no part; write 1/4 for the first of four")
    return int(first), int(last)
