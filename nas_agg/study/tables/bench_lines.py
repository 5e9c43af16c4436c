"""The file of a bench's results: a JSON line for each training, written as soon as it is done, and read to go on."""

from __future__ import annotations

import fcntl
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import read_document, write_atomic, write_errors

SETTINGS = "settings.json"
SAY_SECONDS = 60.0  # between lines on how far it is

Line = dict[str, Any]
Say = Callable[[str], None]


def lines(out: Path, kind: str) -> list[Line]:
    """The results in a folder; half a last line, which a kill may leave, is none.

    Args:
        out: The folder.
        kind: What the files' names begin with.

    Raises:
        NasAggError: A line is spoilt.
    """
    found = []
    for path in sorted(out.glob(f"{kind}*.jsonl")):
        *whole, _ = path.read_text().split("\n")
        for number, line in enumerate(whole, 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                raise NasAggError(f"{path}: line {number} is spoilt; take it out") from None
    return found


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a folder's trainings, and refuse others: their results are not to be mixed.

    Raises:
        InputError: The folder's trainings have other settings.
    """
    path = out / SETTINGS
    if not path.exists():
        with write_errors(path):
            out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(settings, indent=2) + "\n")
        return
    known = read_document(path)
    for name, value in settings.items():
        there = known.get(name) if isinstance(known, dict) else None
        if there != value:
            raise InputError(f"{path}: trainings with {name} {there}, not {value}; choose another --out")


def append(path: Path, results: Iterable[Line], count: int, say: Say) -> int:
    """Write results to a file as they come.

    Args:
        path: The file; half a last line is removed first.
        results: One after another.
        count: How many there may be.
        say: Receives lines on how far it is.

    Returns:
        How many there were.

    Raises:
        InputError: Another process writes to the file.
        NasAggError: It cannot be written, or a process died.
    """
    done, said = 0, time.monotonic()
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another process writes there; wait for it, or choose another --part") from None
        with write_errors(path):
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        for line in results:
            with write_errors(path):
                file.write(json.dumps(line) + "\n")
                file.flush()
            done += 1
            if time.monotonic() - said >= SAY_SECONDS:
                say(f"{done:,} of {count:,}")
                said = time.monotonic()
    return done


def results(do: Callable[..., Line], tasks: Iterator[tuple], workers: int) -> Iterator[Line]:
    """What a function gives for each task, in the order in which they are done.

    Args:
        do: The function, of a module's own level.
        tasks: Its arguments; the next are taken when a worker is free.
        workers: Processes, of one thread each; a single one is this process.

    Raises:
        NasAggError: A process died.
    """
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    if workers == 1:
        yield from itertools.starmap(do, tasks)
        return
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(do, *task) for task in itertools.islice(tasks, workers)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(do, *task) for task in itertools.islice(tasks, len(finished))}
                yield from (future.result() for future in finished)
    except BrokenProcessPool:
        raise NasAggError("a process was killed; go on with the same command") from None
