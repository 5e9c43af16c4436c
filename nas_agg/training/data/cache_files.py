"""Writes the files of a cache entry so that they are whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import platform
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nas_agg.training.data.building import DecodedSet, WriteRow

MAX_CHECKED_IMAGES, MAX_CHECKED_BYTES = 100_000, 2**27  # of a file: a fraction of a second


def write_pixels(
    path: Path, count: int, row: int, decode: Callable[[WriteRow], DecodedSet]
) -> tuple[DecodedSet, np.ndarray]:
    """Decode images into a file whose room is reserved.

    Returns:
        What is known of the images, and the CRC-32 of each, uint32 (N,).
    """
    checksums = np.full(count, zlib.crc32(bytes(row)), np.uint32)  # of zeros, where nothing is written
    with path.open("wb") as file:
        _reserve(file.fileno(), count * row)

        def write(position: int, pixels: np.ndarray) -> None:
            data = memoryview(np.ascontiguousarray(pixels).data).cast("B")
            checksums[position], offset = zlib.crc32(data), position * row
            while data:
                written = os.pwrite(file.fileno(), data, offset)
                data, offset = data[written:], offset + written

        decoded = decode(write)
        os.fsync(file.fileno())
    return decoded, checksums


def has_checksums(path: Path, checksums: np.ndarray) -> bool:
    """Whether the images of a file have these checksums: all of a small file, or evenly spaced ones.

    Args:
        path: The file, whose images are of the same size.
        checksums: The CRC-32 of each image, uint32 (N,).
    """
    rows = np.memmap(path, np.uint8, "r").reshape(len(checksums), -1)
    count = min(len(rows), MAX_CHECKED_IMAGES, max(1, MAX_CHECKED_BYTES // rows.shape[1]))
    positions = np.linspace(0, len(rows) - 1, count).astype(np.int64)
    return all(zlib.crc32(rows[position]) == checksums[position] for position in positions.tolist())


def write_samples(path: Path, decoded: DecodedSet, checksums: np.ndarray) -> str:
    """Write what is known of each image; returns the file's SHA-256."""
    arrays = {
        "keys": decoded.keys,
        "sums": decoded.sums,
        "checksums": checksums,
        "unreadable": np.array(list(decoded.unreadable), np.int64),
        "reasons": np.array(list(decoded.unreadable.values()), np.str_),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays | decoded.more))  # type: ignore[arg-type]
    with path.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _reserve(file: int, length: int) -> None:
    """Reserve a file's room, so that the disk cannot be full half-way."""
    if length:
        try:
            os.posix_fallocate(file, 0, length)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in (28, 122):  # no space, or over the quota
                raise
            os.ftruncate(file, length)


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """A lock that other processes wait for; released by the system if this process dies."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: both build, the later one remains
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def process_name() -> str:
    """This process, in the name of a folder."""
    return f"{host_name()}-{os.getpid()}"


def host_name() -> str:
    """This machine, in the name of a file."""
    return re.sub(r"[^A-Za-z0-9]", "_", platform.node())
