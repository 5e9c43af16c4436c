"""Reports of runs as files: written once, rewritten while a search runs, or at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from nas_agg.common.errors import NasAggError
from nas_agg.common.files import check_replaceable, write_atomic
from nas_agg.report.html.comparison import comparison_page
from nas_agg.report.html.page import run_page
from nas_agg.report.runs.summary import state_of
from nas_agg.study.records.saved_run import SavedRun, read_saved_run

REPORT_FILE = "report.html"
WATCH_SECONDS = 10


def is_installed() -> bool:
    """Whether the packages of reports are installed."""
    return find_spec("plotly") is not None and find_spec("jinja2") is not None


def write_report(paths: Sequence[Path], out: Path | None = None, refresh: int | None = None) -> Path:
    """Write the report of a run, or the comparison of several.

    Args:
        paths: The run folders.
        out: The file; by default ``report.html`` in the run folder or, for several, in the current folder.
        refresh: Seconds after which a browser loads the page again.

    Returns:
        The file.

    Raises:
        InputError: A folder is not a run, runs cannot be compared, or Plotly is not installed.
        NasAggError: The file cannot be written.
    """
    return _write([read_saved_run(path) for path in paths], out, refresh)


def _write(runs: Sequence[SavedRun], out: Path | None, refresh: int | None = None) -> Path:
    several = len(runs) > 1
    file = out or (Path(REPORT_FILE) if several else runs[0].path / REPORT_FILE)
    check_replaceable(file, ".html")
    write_atomic(file, comparison_page(runs, refresh) if several else run_page(runs[0], refresh))
    return file


def watch(paths: Sequence[Path], out: Path | None, written: Callable[[Path], None]) -> None:
    """Rewrite a report at intervals while a run of it is in progress, and once more at the end.

    Args:
        paths: As for `write_report`.
        out: As for `write_report`.
        written: Called after each time.
    """
    while True:
        runs = [read_saved_run(path) for path in paths]
        running = any(state_of(run) == "running" for run in runs)
        written(_write(runs, out, WATCH_SECONDS if running else None))
        if not running:
            return
        time.sleep(WATCH_SECONDS)


def report_after_search(path: Path) -> str:
    """Write the report of a search that has ended, where the packages are installed and ``NAS_AGG_REPORT`` is not 0.

    Returns:
        The file, or a note why it was not written; empty without the packages.
    """
    if not is_installed() or os.environ.get("NAS_AGG_REPORT") == "0":
        return ""
    try:
        return f"report: {write_report([path])}"
    except NasAggError as error:
        return f"note: no report was written: {error}"
