"""The command by which a machine joins a running search."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from nas_agg.cli.options import DeviceOption
from nas_agg.common.errors import InputError


def worker(
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Optuna storage of the search, or grpc://HOST:PORT of Optuna's gRPC proxy."),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the study in it (default: the only unfinished one).")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run folder of the search, if it is on a shared disk.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET", help="Data set of the search, if its path differs on this machine: folder:PATH."
        ),
    ] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Concurrent trials (default: one per GPU, else two or the number of cores)."
        ),
    ] = None,
    wait: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How long to wait for a study that does not exist yet, for example 5m."),
    ] = "0",
    idle: Annotated[str, typer.Option(metavar="DURATION", help="Exit after this long without a coordinator.")] = "10m",
) -> None:
    """Run trials of a search started on another machine. Exits when the search finishes."""
    from nas_agg.study.remote.join import join_study

    times = {"wait": _parse_seconds("wait", wait), "idle": _parse_seconds("idle", idle)}
    join_study(storage, study, run, dataset=dataset, device=device, workers=workers, print_line=_print, **times)


def _parse_seconds(name: str, text: str) -> float:
    from nas_agg.study.definition.notations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"--{name}: {error}") from None


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # a closed output is no reason to stop working
        print(line, flush=True)
