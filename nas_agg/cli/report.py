"""The command that writes a report of runs as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write (default: report.html in the run folder, or here for several runs)."
        ),
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Rewrite the page every 10 seconds until the search ends.")
    ] = False,
) -> None:
    """Write a report of one run or several: an HTML file with figures and drawings. It needs no network."""
    from nas_agg.report.html.page import check_installed
    from nas_agg.report.html.reports import watch as watch_runs
    from nas_agg.report.html.reports import write_report

    check_installed()
    opened = False

    def written(file: Path) -> None:
        nonlocal opened
        if not opened:
            print(f"wrote {file}" + (", rewritten until the search ends" if watch else ""), flush=True)
            if open:
                typer.launch(str(file.resolve()))
        opened = True

    if watch:
        watch_runs(runs, out, written)
    else:
        written(write_report(runs, out))
