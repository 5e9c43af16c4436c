"""The files of `nas_agg bench`: one JSON line per training, written as soon as it ends and read to resume."""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from nas_agg.common.chained_lines import json_line, last_digest, read_json_lines
from nas_agg.common.durable import DelayedSync
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import write_atomic, write_errors
from nas_agg.common.sealed_json import read_sealed, sealed

SETTINGS = "settings.json"
PROGRESS_INTERVAL = 60.0  # seconds between two lines of progress

Result = dict[str, Any]
Print = Callable[[str], None]


def read_results(out: Path, kind: str) -> list[Result]:
    """Read the results in a folder; an incomplete last line, which a kill may leave, is skipped.

    Args:
        out: The folder.
        kind: The beginning of the files' names.

    Raises:
        InputError: A line is damaged.
    """
    results = []
    for path in sorted(out.glob(f"{kind}*.jsonl")):
        results += read_json_lines(path, "restore the file, or remove that line and all lines after it")
    return results


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Store the settings of a folder's trainings, or check that they are the stored ones.

    Raises:
        InputError: The folder has trainings with other settings.
    """
    path = out / SETTINGS
    if not path.exists():
        with write_errors(path):
            out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, sealed(settings))
        return
    stored = read_sealed(path)
    for name, value in settings.items():
        stored_value = stored.get(name) if isinstance(stored, dict) else None
        if stored_value != value:
            raise InputError(f"{path}: trainings with {name} {stored_value}, not {value}; choose another --out")


def append_results(path: Path, results: Iterable[Result], total: int, report: Print) -> int:
    """Write results to a file as they come.

    Args:
        path: The file; an incomplete last line is removed first.
        results: The results.
        total: The largest possible number of results.
        report: Receives lines of progress.

    Returns:
        The number of results.

    Raises:
        InputError: Another process is writing to the file.
        NasAggError: The file cannot be written, or a worker process was killed.
    """
    count, last_report = 0, time.monotonic()
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another process is writing to it; wait, or choose another --part") from None
        with write_errors(path):
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        digest, written = last_digest(path), DelayedSync(path)
        for result in results:
            with write_errors(path):
                line, digest = json_line(digest, result)
                file.write(line)
                file.flush()
                written.written()
            count += 1
            if time.monotonic() - last_report >= PROGRESS_INTERVAL:
                report(f"{count:,} of {total:,}")
                last_report = time.monotonic()
        written.flush()
    return count


def run_tasks(function: Callable[..., Result], tasks: Iterator[tuple], workers: int) -> Iterator[Result]:
    """Call a function for each task in worker processes; results come in the order in which they are finished.

    Args:
        function: A function at the top level of a module.
        tasks: The arguments of each call; they are taken only when a worker is free.
        workers: Worker processes, with one thread each; 1 runs the tasks in this process.

    Raises:
        NasAggError: A worker process was killed.
    """
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    if workers == 1:
        yield from itertools.starmap(function, tasks)
        return
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(function, *task) for task in itertools.islice(tasks, workers)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(function, *task) for task in itertools.islice(tasks, len(finished))}
                yield from (future.result() for future in finished)
    except BrokenProcessPool:
        raise NasAggError("a worker process was killed; rerun the command to resume") from None
