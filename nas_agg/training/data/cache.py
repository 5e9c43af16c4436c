"""The cache of decoded images: each set of files is decoded once per machine.

An entry is a folder under ``ROOT/cache`` named by its key, with the images one after another in ``pixels.bin``, what is
known of each in ``samples.npz``, with a checksum, and ``entry.json``, which is written last. It is built under another
name and renamed, so it is there as a whole or not at all; processes that want the same entry wait for the one that
builds it. Its room is reserved before the first image is decoded. Least recently used entries are removed to make room
for a new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from nas_agg.common.console import format_bytes
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import read_document
from nas_agg.training.data.building import DecodedSet, ImageFormat, OtherFormat, WriteRow
from nas_agg.training.data.cache_files import (
    existing_folder,
    has_checksums,
    host_name,
    is_alive,
    locked,
    process_name,
    sync_folder,
    write_pixels,
    write_samples,
)
from nas_agg.training.data.images import MappedImages
from nas_agg.training.data.preprocessing import Preprocessing
from nas_agg.training.data.sources.arrays import ArrayArchive

CACHE_FORMAT = 2
LIMIT_VARIABLE = "NAS_AGG_CACHE_LIMIT"  # in GiB
_DISK_SHARE = 0.5  # of the whole disk, unless the limit is specified
_SPARE_BYTES = 2**30  # of the disk, left free
PIXELS, SAMPLES, ENTRY = "pixels.bin", "samples.npz", "entry.json"
_ARRAYS = ("keys", "sums", "checksums", "unreadable", "reasons")

#: Decodes all images: takes their format and the function that receives each image.
Decode = Callable[[ImageFormat, WriteRow], DecodedSet]


class EntryRecord(BaseModel):
    """The contents of ``entry.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    name: str
    shape: list[int]
    dtype: str
    preprocessing: Preprocessing
    samples_sha256: str
    source: dict[str, Any] = {}


@dataclass(frozen=True)
class CachedImages:
    """Decoded images of an entry.

    Attributes:
        key: The entry's key.
        images: The images.
        decoded: What is known of each.
        preprocessing: How they were made to fit.
        source: What else is kept with them: JSON values.
    """

    key: str
    images: MappedImages
    decoded: DecodedSet
    preprocessing: Preprocessing
    source: dict[str, Any]


@dataclass(frozen=True)
class CacheEntry:
    """An entry as listed.

    Attributes:
        key: Its key.
        name: The data set it was made of.
        shape: (N, C, H, W).
        nbytes: Bytes on the disk.
        used: When it was last used, in seconds since the epoch.
    """

    key: str
    name: str
    shape: tuple[int, ...]
    nbytes: int
    used: float


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of downloaded data and of the cache: ``root``, ``NAS_AGG_DATA`` or ``~/.cache/nas_agg``."""
    return Path(os.path.expanduser(root or os.environ.get("NAS_AGG_DATA") or "~/.cache/nas_agg"))


class ImageCache:
    """The cache under a folder.

    Args:
        root: The data root.
    """

    def __init__(self, root: Path):
        self.path = root / "cache"

    def key(self, *parts: str) -> str:
        """The key of an entry that depends on some texts."""
        checksum = hashlib.sha256(f"{CACHE_FORMAT}".encode())
        for part in parts:
            checksum.update(b"\0")
            checksum.update(os.fsencode(part))
        return checksum.hexdigest()[:24]

    def open_or_build(
        self,
        key: str,
        name: str,
        count: int,
        preprocessing: Preprocessing,
        probe: Callable[[], ImageFormat],
        decode: Decode,
    ) -> CachedImages:
        """Open an entry, or build it.

        Args:
            key: Its key.
            name: The data set, for messages and listings.
            count: Number of images.
            preprocessing: How they are made to fit.
            probe: Returns the format of the images; called only to build.
            decode: Decodes the images; called only to build.

        Raises:
            InputError: There is no room for the entry.
            NasAggError: The entry cannot be written.
        """
        found = self.open(key)
        if found is not None:
            return found
        # Refused before anything is read if not even greyscale images of one byte fit.
        self._check_room(name, count * preprocessing.stored[0] * preprocessing.stored[1])
        with _write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path / f".{key}.lock"):
                found = self.open(key)  # built meanwhile by another process
                return found or self.build(name, count, preprocessing, probe(), decode, key=key)

    def build(
        self,
        name: str,
        count: int,
        preprocessing: Preprocessing,
        format: ImageFormat,
        decode: Decode,
        *,
        key: str | None = None,
        source: Callable[[], dict[str, Any]] = dict,
    ) -> CachedImages:
        """Build an entry.

        Args:
            name, count, preprocessing, decode: As for `open_or_build`.
            format: The format of the first images.
            key: The entry's key; by default it follows from what was decoded.
            source: Returns what else is to be kept; called after the images are decoded.

        Raises:
            InputError: There is no room for the entry.
            NasAggError: The entry cannot be written.
        """
        with _write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            while True:
                try:
                    key = self._build(key, name, count, preprocessing, format, decode, source)
                    break
                except OtherFormat as other:
                    format = other.format
        found = self.open(key)
        if found is None:
            raise NasAggError(f"{self.path / key}: damaged as soon as it was written; check the disk")
        return found

    def open(self, key: str) -> CachedImages | None:
        """An entry's images, or None if there is no such entry or it is damaged."""
        folder = self.path / key
        try:
            record = EntryRecord.model_validate(read_document(folder / ENTRY))
            if record.format != CACHE_FORMAT or len(record.shape) != 4 or record.dtype not in ("uint8", "uint16"):
                return None
            if hashlib.sha256((folder / SAMPLES).read_bytes()).hexdigest() != record.samples_sha256:
                return None
            dtype, shape = np.dtype(record.dtype), tuple(record.shape)
            if (folder / PIXELS).stat().st_size != math.prod(shape) * dtype.itemsize:
                return None
            with ArrayArchive(folder / SAMPLES) as archive:
                arrays = {name: archive.read(name) for name in archive.names}
            keys, sums, checksums, unreadable, reasons = (arrays.pop(name) for name in _ARRAYS)
            if len(checksums) != shape[0] or not has_checksums(folder / PIXELS, checksums):
                return None
            os.utime(folder / ENTRY)
            images = MappedImages(folder / PIXELS, shape, dtype)  # type: ignore[arg-type]
        except (InputError, ValidationError, OSError, ValueError, KeyError):
            return None
        decoded = DecodedSet(keys, sums, dict(zip(unreadable.tolist(), reasons.tolist(), strict=True)), arrays)
        return CachedImages(key, images, decoded, record.preprocessing, record.source)

    def _build(
        self,
        key: str | None,
        name: str,
        count: int,
        preprocessing: Preprocessing,
        format: ImageFormat,
        decode: Decode,
        source: Callable[[], dict[str, Any]],
    ) -> str:
        """Build an entry under another name and rename it; returns its key."""
        shape = (count, format.channels, *preprocessing.stored)
        row = math.prod(shape[1:]) * format.dtype.itemsize
        self._make_room(name, count * row)
        folder = self.path / f".{key or secrets.token_hex(12)}.{process_name()}.tmp"
        folder.mkdir(parents=True)
        try:
            decoded, checksums = write_pixels(folder / PIXELS, count, row, lambda write: decode(format, write))
            digest = write_samples(folder / SAMPLES, decoded, checksums)
            record = EntryRecord(
                format=CACHE_FORMAT,
                name=name.encode("utf-8", "backslashreplace").decode(),
                shape=list(shape),
                dtype=format.dtype.name,
                preprocessing=preprocessing,
                samples_sha256=digest,
                source=source(),
            )
            key = key or self.key(digest, preprocessing.model_dump_json(), repr(record.source), format.dtype.name)
            with (folder / ENTRY).open("w") as entry:
                entry.write(record.model_dump_json(indent=1) + "\n")
                entry.flush()
                os.fsync(entry.fileno())
            final = self.path / key
            if final.exists() and self.open(key) is None:  # damaged
                shutil.rmtree(final, ignore_errors=True)
            if not final.exists():
                os.replace(folder, final)
                sync_folder(self.path)
            return key
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # ---- room

    def limit(self) -> int:
        """Bytes that the cache may take: ``NAS_AGG_CACHE_LIMIT`` in GiB, or half of the disk.

        Raises:
            InputError: The variable is no number.
        """
        text = os.environ.get(LIMIT_VARIABLE)
        if text is None:
            return int(_DISK_SHARE * shutil.disk_usage(existing_folder(self.path)).total)
        try:
            value = float(text)
            if not 0 <= value < 2**30:
                raise ValueError
        except ValueError:
            raise InputError(f"{LIMIT_VARIABLE}: '{text}' is not a number of GiB") from None
        return int(value * 2**30)

    def _check_room(self, name: str, needed: int) -> None:
        """Refuse an entry for which the cache has no room even without other entries."""
        limit, free = self.limit(), shutil.disk_usage(existing_folder(self.path)).free - _SPARE_BYTES
        held = sum(entry.nbytes for entry in self.entries())
        if needed > min(limit, free + held):
            room = format_bytes(max(0, free + held))
            where = f"{self.path} may hold {format_bytes(limit)} and its disk has {room}"
            raise InputError(
                f"{name}: decoded images take {format_bytes(needed)}, but {where} for them; use smaller images or "
                f"set NAS_AGG_DATA to a folder on a larger disk, or {LIMIT_VARIABLE} to more GiB"
            )

    def _make_room(self, name: str, needed: int) -> None:
        """Remove the least recently used entries until an entry fits.

        Raises:
            InputError: It does not fit at all.
        """
        self._check_room(name, needed)
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        held = sum(entry.nbytes for entry in entries)
        for entry in entries:
            free = shutil.disk_usage(self.path).free - _SPARE_BYTES
            if held + needed <= self.limit() and needed <= free:
                return
            self.remove(entry.key)
            held -= entry.nbytes

    def entries(self) -> list[CacheEntry]:
        """All entries, sorted by key."""
        found = []
        for folder in sorted(self.path.glob("[0-9a-f]*")):
            try:
                record = EntryRecord.model_validate(read_document(folder / ENTRY))
                nbytes = sum(file.stat().st_size for file in folder.iterdir())
                used = (folder / ENTRY).stat().st_mtime
            except (InputError, ValidationError, OSError):
                continue
            found.append(CacheEntry(folder.name, record.name, tuple(record.shape), nbytes, used))
        return found

    def remove(self, key: str) -> None:
        """Remove an entry; processes that use it keep its images until they end."""
        trash = self.path / f".{key}.{process_name()}.removed"
        with contextlib.suppress(OSError):
            os.replace(self.path / key, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what processes of this machine that were killed left."""
        for folder in self.path.glob(".*.*.*"):
            owner = folder.name.split(".")[2]
            host, _, pid = owner.rpartition("-")
            if folder.is_dir() and host == host_name() and pid.isdecimal() and not is_alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NasAggError(
            f"{error.filename or path}: cannot be written: {error.strerror}; set NAS_AGG_DATA to a writable folder"
        ) from None


def age(used: float) -> str:
    """How long ago a time is: ``3 days``."""
    seconds = max(0.0, time.time() - used)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "now"


def listing_digest(lines: Iterator[tuple[str, int, int]]) -> str:
    """A digest of a list of files: path, length and time of modification of each."""
    checksum = hashlib.sha256()
    for path, length, modified in lines:
        checksum.update(os.fsencode(path) + b"\0%d %d\n" % (length, modified))
    return checksum.hexdigest()
