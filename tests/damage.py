"""Files of runs, changed on purpose: with digests that match again, or by faults that must be noticed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.chained_lines import START, json_line
from nas_agg.common.manifest import MANIFEST, read_manifest, write_manifest
from nas_agg.common.sealed_json import SEAL, sealed


def edit_sealed(path: Path, **changes: Any) -> None:
    """Change entries of a sealed JSON file, such as run.json; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(sealed({key: entry for key, entry in content.items() if key != SEAL and entry is not None}))


def list_again(folder: Path) -> None:
    """Write a folder's manifest again, so that changed files count as intact."""
    manifest = read_manifest(folder)
    files = manifest.pop("files")
    names = [name for name in files if (folder / name).exists()]
    write_manifest(folder, names, appended=[n for n in names if files[n].get("appended")], **manifest)
    if folder.name == "best" and (folder.parent / MANIFEST).exists():
        list_again(folder.parent)


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of lines with running digests."""
    digest = START
    with path.open("wb") as file:
        for value in values:
            line, digest = json_line(digest, value)
            file.write(line)
