"""The metrics of a training's epochs, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas_agg.common.chained_lines import read_json_lines
from nas_agg.common.errors import InputError
from nas_agg.common.manifest import MANIFEST, check_file, read_manifest

HISTORY_FILE = "metrics.jsonl"  # METRICS of nas_agg.training.loop, which imports torch


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch of a training, which may still be running.

    Args:
        folder: The folder of a trial (``trials/N``) or of a final network (``best``).

    Returns:
        One dictionary per epoch; none if no epoch has ended.

    Raises:
        InputError: They are damaged.
    """
    path, remedy = folder / HISTORY_FILE, "restore it from a copy"
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder, remedy)
        if HISTORY_FILE in manifest["files"]:
            check_file(folder, HISTORY_FILE, remedy, manifest)
    history = read_json_lines(path, remedy) if path.exists() else []
    if not all("epoch" in metrics for metrics in history):
        raise InputError(f"{path}: not metrics of epochs; {remedy}")
    return history
