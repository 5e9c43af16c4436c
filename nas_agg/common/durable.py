"""Order in which files reach the disk: the content of a file, then its name, then the folder that holds it.

A process may be killed at any time without this; it matters when the machine itself stops.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import socket
import threading
from pathlib import Path

from nas_agg.common.errors import NasAggError

SYNC_INTERVAL = 1.0  # seconds that a line appended to a file may wait for the disk


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk.

    Raises:
        OSError: The disk does not take them.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a complete folder so that the new name survives a power failure, and leads to all of its files.

    They need not be on the disk yet: brought there together, they cost less than one by one.

    Raises:
        OSError: It cannot be renamed.
    """
    for path in source.rglob("*"):
        sync(path)
    sync(source)
    os.rename(source, target)
    sync(target.parent)


class DelayedSync:
    """Brings a file that many short lines are appended to onto the disk, at most ``SYNC_INTERVAL`` after each write.

    A disk takes milliseconds to confirm a line, often longer than a trial of a table of results; so a thread waits for
    it, once for all lines of an interval.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._error: OSError | None = None

    def written(self) -> None:
        """Note that the file was written to.

        Raises:
            NasAggError: Lines written earlier did not reach the disk.
        """
        with self._lock:
            self._raise_error()
            if self._timer is None:
                self._timer = threading.Timer(SYNC_INTERVAL, self._sync)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Wait until everything written so far is on the disk.

        Raises:
            NasAggError: It does not reach the disk.
        """
        with self._lock:
            timer = self._timer
        if timer is not None:
            timer.cancel()
            self._sync()
        with self._lock:
            self._raise_error()

    def _sync(self) -> None:
        with self._lock:
            self._timer = None
        try:
            sync(self._path)
        except FileNotFoundError:
            return  # the run folder was removed; the next write reports it
        except OSError as error:
            with self._lock:
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise NasAggError(f"{self._path}: cannot be written: {self._error.strerror}")


class HeldFolder:
    """A folder that a process writes to by its path, as long as the path leads to the same folder.

    The folder may be removed, and another created in its place, while the process runs. An open descriptor keeps its
    number from being used again.

    Args:
        path: The folder.
        marker: A file in it that must also stay the same, such as that of a lock.
    """

    def __init__(self, path: Path, marker: str = "."):
        self.path, self._marker = path, path / marker
        self._descriptor = os.open(self._marker, os.O_RDONLY)

    def check(self) -> None:
        """Check that the path still leads to the folder.

        Raises:
            NasAggError: The folder was removed or replaced.
        """
        try:
            here = os.stat(self._marker)
        except OSError:
            raise NasAggError(f"{self.path}: the folder was removed while this process was writing to it") from None
        if not os.path.samestat(here, os.fstat(self._descriptor)):
            raise NasAggError(f"{self.path}: the folder was replaced by another while this process was writing to it")

    def close(self) -> None:
        """Release the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def temporary_path(path: Path, suffix: str = "tmp") -> Path:
    """A hidden name beside a path for what is not complete yet; it tells which process of which machine writes it."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.{secrets.token_hex(4)}.{suffix}")


def abandoned(folder: Path, name: str = "*", suffix: str = "tmp") -> list[Path]:
    """The :func:`temporary_path` of a name that processes of this machine left in a folder when they were killed.

    Args:
        folder: The folder.
        name: The name that they were to have in the end; by default any.
        suffix: As for :func:`temporary_path`.
    """
    found = []
    for temporary in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.{suffix}"):
        machine, _, process = temporary.name.split(".")[-3].partition("-")
        if machine == _machine() and process.isdecimal() and not _is_alive(int(process)):
            found.append(temporary)
    return found


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove the temporary files and folders that killed processes left; see :func:`abandoned`."""
    for temporary in abandoned(folder, name):
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True
