"""The files of a trial's folder as bytes, for backends whose machines share no disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nas_agg.common.errors import InputError
from nas_agg.common.files import write_atomic

Files = dict[str, bytes]


def read_files(folder: Path) -> Files:
    """The files of a trial's folder by their names; empty if there is no folder."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a trial's folder, which is made if it is missing.

    Raises:
        InputError: A name is not that of a file in a folder.
    """
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if name != Path(name).name or name in ("", ".", ".."):
            raise InputError(f"{name!r} is no name of a file in a trial's folder")
        write_atomic(folder / name, content)


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Let a trial's folder have exactly these files; those that have come to be missing are removed last."""
    earlier = read_files(folder)
    write_files(folder, files)
    for name in earlier.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)


@dataclass
class ChangedFiles:
    """The files of a trial's folder that have changed since they were last asked for.

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
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        stats = {path.name: path.stat() for path in paths if path.is_file()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
