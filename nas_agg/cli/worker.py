"""`nas_agg worker`: a machine joins a search."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from nas_agg.common.errors import InputError


def worker(
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The search's Optuna storage, or grpc://HOST:PORT of Optuna's gRPC proxy."),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study in it (default: the only one that is not finished).")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run's folder, if it is on a disk that both share.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The search's data set, where its files lie elsewhere here: folder:PATH.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Trials at once (default: one a GPU, else 2 or the cores).")
    ] = None,
    wait: Annotated[str, typer.Option(help="Time to wait for a study that is not there yet, such as 5m.")] = "0",
    idle: Annotated[str, typer.Option(help="Time without a coordinator after which it leaves.")] = "10m",
) -> None:
    """Train trials of a search that runs elsewhere, until it is over."""
    from nas_agg.study.workers.join import join

    times = {"wait": _seconds("wait", wait), "idle": _seconds("idle", idle)}
    join(storage, study, run, dataset=dataset, device=device, workers=workers, say=_say, **times)


def _seconds(name: str, text: str) -> float:
    from nas_agg.study.definition.settings import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"--{name}: {error}") from None


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: no reason to stop working
        print(line, flush=True)
