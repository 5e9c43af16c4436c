"""Lists the image files of a folder, and counts what it leaves out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas_agg.common.errors import InputError, one_line
from nas_agg.training.data.samples import Task

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".npy")

# Folders that programs leave among images: of macOS, Synology and Python.
_TOOL_FOLDERS = ("__MACOSX", "@eaDir", "__pycache__")


class ImageFile(NamedTuple):
    """An image file: its path, its length in bytes and its time of modification in nanoseconds."""

    path: str
    length: int
    modified: int


@dataclass(frozen=True)
class FileListing:
    """The image files of a data set and what is known of them before they are decoded.

    Attributes:
        folder: The folder relative to which files are named.
        class_names: Names of the classes, or of the targets of a regression.
        files: The files.
        targets: Targets as in `Samples`.
        parts: The `Part` of each file, int8 (N,).
        notes: Messages about the layout and about what was left out.
        task: What the targets are.
        weights: Weight of each image in the training loss, float32 (N,), or None.
        layout: See `Samples`.
    """

    folder: Path
    class_names: tuple[str, ...]
    files: list[ImageFile]
    targets: np.ndarray
    parts: np.ndarray
    notes: tuple[str, ...] = ()
    task: Task = "classification"
    weights: np.ndarray | None = None
    layout: tuple[str, ...] = ()


@dataclass
class LeftOut:
    """Counts what a listing leaves out, by the reason, with an example each.

    Args:
        root: The folder relative to which examples are named.
    """

    root: Path
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Count a file or folder."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, one_line(os.path.relpath(path, self.root)))

    def notes(self) -> tuple[str, ...]:
        """One note about everything, or none."""
        if not self.counts:
            return ()
        parts = [
            f"{count:,} {reason} ({'' if count == 1 else 'first: '}{self.examples[reason]})"
            for reason, count in self.counts.items()
        ]
        return (f"left out {', '.join(parts)}",)


def image_files(folder: Path, left_out: LeftOut) -> list[ImageFile]:
    """The image files of a folder and of the folders in it, links to folders included, in the order of their paths.

    Args:
        folder: The folder.
        left_out: Receives what is left out: hidden files and folders, files without an image's suffix, dangling links,
            pipes and devices, links to a folder that contains them.

    Raises:
        InputError: A folder cannot be read.
    """
    files: list[ImageFile] = []
    _collect(str(folder), left_out, files, _identities(folder))
    return files


def subfolders(path: Path, left_out: LeftOut | None = None) -> list[Path]:
    """The folders in a folder, links to folders included, sorted by name; hidden ones are left out.

    Raises:
        InputError: The folder cannot be read.
    """
    found = []
    for entry in _entries(str(path)):
        if not _is_folder(entry):
            continue
        if is_hidden(entry.name):
            if left_out is not None:
                left_out.add("hidden folders", entry.path)
        else:
            found.append(Path(entry.path))
    return found


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file or of a folder that a program left among images."""
    return name.startswith(".") or name in _TOOL_FOLDERS


def _identities(folder: Path) -> tuple[tuple[int, int], ...]:
    """What identifies a folder and those that contain it, so that a link back to one of them is recognised."""
    chain = []
    resolved = folder.resolve()
    for place in (resolved, *resolved.parents):
        status = place.stat()
        chain.append((status.st_dev, status.st_ino))
    return tuple(chain)


def _collect(folder: str, left_out: LeftOut, files: list[ImageFile], containing: tuple[tuple[int, int], ...]) -> None:
    for entry in _entries(folder):
        if is_hidden(entry.name):
            left_out.add("hidden folders" if _is_folder(entry) else "hidden files", entry.path)
            continue
        try:
            status = entry.stat()
        except OSError:
            left_out.add("dangling links" if entry.is_symlink() else "unreadable files", entry.path)
            continue
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            if identity in containing:
                left_out.add("links to a folder that contains them", entry.path)
            elif len(containing) > 200:
                left_out.add("folders that are too deep", entry.path)
            else:
                _collect(entry.path, left_out, files, (*containing, identity))
        elif not stat.S_ISREG(status.st_mode):
            left_out.add("pipes or devices", entry.path)
        elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
            left_out.add("files with other suffixes than images", entry.path)
        else:
            files.append(ImageFile(entry.path, status.st_size, status.st_mtime_ns))


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    yield from entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
