"""The files of a training's folder as bytes, for backends whose machines share no disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nas_agg.common.errors import InputError
from nas_agg.common.files import write_atomic

Files = dict[str, bytes]


def _list_files(folder: Path) -> dict[str, Path]:
    """The files of a folder and of those in it, by their paths there."""
    paths = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file() and not path.is_symlink()}


def read_files(folder: Path) -> Files:
    """The files of a folder by their paths there; empty if there is no folder."""
    return {name: path.read_bytes() for name, path in _list_files(folder).items()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made if it is missing.

    Raises:
        InputError: A name is not that of a file in the folder.
    """
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise InputError(f"{name!r} is no name of a file in a trial's folder")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, content)


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Let a folder have exactly these files; those that have come to be missing are removed last."""
    earlier = _list_files(folder)
    write_files(folder, files)
    for name in earlier.keys() - files.keys():
        earlier[name].unlink(missing_ok=True)
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


@dataclass
class ChangedFiles:
    """The files of a folder that have changed since they were last asked for.

    Attributes:
        folder: The folder.
    """

    folder: Path
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seen = self._stamps()

    def take(self) -> Files:
        """The changed files; none if only lists that grow with each epoch have changed, as there is no checkpoint."""
        stamps = self._stamps()
        changed = [name for name, stamp in stamps.items() if self._seen.get(name) != stamp]
        if all(name.endswith(".jsonl") for name in changed):
            return {}
        self._seen = stamps
        return {name: (self.folder / name).read_bytes() for name in changed}

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file."""
        stats = {name: path.stat() for name, path in _list_files(self.folder).items()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
