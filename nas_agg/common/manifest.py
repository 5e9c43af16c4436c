"""The manifest of a folder: size and SHA-256 of each file in it, in a file that contains its own SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import check_regular_file, write_atomic
from nas_agg.common.sealed_json import read_sealed, sealed

MANIFEST = "manifest.json"
_FILES = "files"
_BLOCK = 1 << 20


def write_manifest(
    folder: Path,
    names: Iterable[str] | None = None,
    *,
    appended: Iterable[str] = (),
    durable: bool = True,
    **facts: Any,
) -> dict[str, Any]:
    """Write a folder's manifest, after all of its files.

    Args:
        folder: The folder.
        names: Files to list, relative to the folder; by default all visible files directly in it.
        appended: Those of the files that may become longer; what is there now must not change.
        durable: As for `write_atomic`.
        **facts: Further entries of the manifest.

    Returns:
        The contents of the manifest.

    Raises:
        NasAggError: A file cannot be read, or the manifest cannot be written.
    """
    if names is None:
        names = (path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files: dict[str, dict[str, Any]] = {}
    for name in sorted(set(names) - {MANIFEST}):
        try:
            size = os.path.getsize(folder / name)
            files[name] = {"bytes": size, "sha256": _digest(folder / name, size)}
            if name in appended:
                files[name]["appended"] = True
        except OSError as error:
            raise NasAggError(f"{folder / name}: cannot be read: {error.strerror}") from None
    content = {**facts, _FILES: files}
    write_atomic(folder / MANIFEST, sealed(content), durable=durable)
    return content


def read_manifest(folder: Path, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Read a folder's manifest.

    Args:
        folder: The folder.
        remedy: What to do if it is damaged, as the end of a sentence.

    Raises:
        InputError: It is missing or damaged.
    """
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder / MANIFEST}: missing, so the files of this folder cannot be checked; {remedy}")
    manifest = read_sealed(folder / MANIFEST, remedy)
    if not isinstance(manifest.get(_FILES), dict):
        raise InputError(f"{folder / MANIFEST}: not a manifest; {remedy}")
    return manifest


def check_file(
    folder: Path, name: str, remedy: str = "restore it from a copy", manifest: Mapping[str, Any] | None = None
) -> None:
    """Compare a file with its folder's manifest. A file that is appended to may have become longer.

    Args:
        folder: The folder.
        name: The file, relative to it.
        remedy: What to do if it is damaged, as the end of a sentence.
        manifest: The contents of the manifest, if it was read already.

    Raises:
        InputError: The file is not listed, missing or damaged.
    """
    path, manifest = folder / name, manifest or read_manifest(folder, remedy)
    entry = manifest[_FILES].get(name)
    if entry is None:
        raise InputError(f"{path}: not in the folder's {MANIFEST}; {remedy}")
    check_regular_file(path)
    try:
        size = os.path.getsize(path)
        is_intact = size >= entry["bytes"] and _digest(path, entry["bytes"]) == entry["sha256"]
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not is_intact or (size > entry["bytes"] and not entry.get("appended")):
        raise InputError(f"{path}: damaged: it does not match its SHA-256 in {MANIFEST}; {remedy}")


def _digest(path: Path, size: int) -> str:
    """SHA-256 of the first bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
