"""The journal file of a run: Optuna's operations, one JSON line each, in which no line can change or go missing.

The lines are those of Optuna's `JournalFileBackend`, which can read the file, with a digest at the end of each
(:mod:`nas_agg.common.chained_lines`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from nas_agg.common.chained_lines import DIGEST, START, DamagedLine, check_json_line, json_line, next_digest
from nas_agg.common.durable import DelayedSync, sync
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import check_regular_file

JOURNAL = "study.journal"
_FOREIGN = "dashboard:"  # attributes of optuna-dashboard, such as notes, which no result depends on


@dataclass(frozen=True)
class _Position:
    """A place between two lines.

    Attributes:
        number: Number of lines before it.
        offset: Their length in bytes.
        digest: The digest of the line before it.
    """

    number: int = 0
    offset: int = 0
    digest: str = START


class RunJournal(JournalStorage):
    """An Optuna storage in the journal file of a run.

    Args:
        path: The file; it is created if it does not exist.
        read_only: Whether nothing is written, and the file may belong to another user.

    Raises:
        InputError: The file is damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        self._journal = CheckedJournal(path, read_only)
        super().__init__(self._journal)

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        self._journal.flush()


class CheckedJournal(BaseJournalBackend):
    """A journal file.

    One process at a time writes, under a kernel lock on the file itself, which is released as soon as its holder dies.
    If a process was killed in the middle of a write, the next writer removes the incomplete line. Lines reach the disk
    within a second.

    Args:
        path: The file; it is created if it does not exist.
        read_only: Whether nothing is written.

    Raises:
        InputError: The file is damaged.
    """

    def __init__(self, path: Path, read_only: bool = False):
        self._path = path
        check_regular_file(path)  # a pipe would block for ever
        is_new = not path.exists()
        self._held = path.open("rb" if read_only else "ab")  # keeps the number of the file from being used again
        self._sync = DelayedSync(path)
        self._read, self._end = _Position(), _Position()
        if is_new:
            sync(path.parent)
        if not read_only:
            with self._locked():
                pass  # removes an incomplete last line

    def flush(self) -> None:
        """Wait until all lines are on the disk."""
        self._sync.flush()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from a number on."""
        if log_number_from != self._read.number:
            self._read = _Position()
        self._check_path()
        with self._path.open("rb") as file:
            for line in self._lines(file, self._read):
                self._read = self._after(self._read, line)
                if self._read.number > log_number_from:
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations."""
        with self._locked() as file:
            self._end = max(self._end, self._read, key=lambda position: position.number)
            for line in self._lines(file, self._end):
                self._end = self._after(self._end, line)
            digest, lines = self._end.digest, []
            for log in logs:
                line, digest = json_line(digest, log)
                lines.append(line)
            data = b"".join(lines)
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            self._end = _Position(self._end.number + len(lines), self._end.offset + len(data), digest)
        self._sync.written()

    def _lines(self, file: Any, position: _Position) -> Iterator[bytes]:
        """The complete lines after a position; another process may be writing the next one."""
        file.seek(position.offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line

    def _after(self, position: _Position, line: bytes) -> _Position:
        """The position after a line.

        Raises:
            InputError: The line is damaged, or a line before it is missing.
        """
        number = position.number + 1
        try:
            digest = check_json_line(position.digest, line, number)
        except DamagedLine as error:
            if not _is_foreign(line):
                raise InputError(
                    f"{self._path}: {error}; restore the file from a copy or, to continue from the trials before it, "
                    f"remove line {number}, all lines after it and trials.csv"
                ) from None
            digest = next_digest(position.digest, line)
        return _Position(number, position.offset + len(line), digest)

    def _check_path(self) -> None:
        try:
            here = os.stat(self._path)
        except OSError:
            raise NasAggError(f"{self._path}: the file was removed while this process was using it") from None
        if not os.path.samestat(here, os.fstat(self._held.fileno())):
            raise NasAggError(f"{self._path}: the file was replaced by another while this process was using it")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BufferedRandom]:
        self._check_path()
        with self._path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._check_path()
            _truncate_incomplete_line(file)
            yield file


def _is_foreign(line: bytes) -> bool:
    """Whether another program wrote a line, and no result depends on it."""
    try:
        operation = json.loads(line)
        attrs = operation.get("system_attr") or operation.get("user_attr")
        return DIGEST not in operation and all(key.startswith(_FOREIGN) for key in attrs)
    except (ValueError, AttributeError, TypeError):
        return False


def _truncate_incomplete_line(file: BufferedRandom) -> None:
    """Remove a last line without a line end."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
