"""The description of a run in its study, from which the run folder can be made again, and how studies are found."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.study.definition.trial import OWN
from nas_agg.study.records.storages import silence_optuna, storage_errors

RUN = f"{OWN}run:"
_PIECE_LENGTH = 20_000  # characters: MySQL's texts end at 65,535 bytes, and a quotation mark within a text takes two
_VOLATILE = ("status", "seconds", "reason", "forgiven")

Studies = Mapping[str, Mapping[str, Any]]


def store_run(storage: BaseStorage, study_id: int, run: Mapping[str, Any], folder: Path) -> None:
    """Keep the description of a run with its study.

    Args:
        storage: The storage.
        study_id: The study's ID.
        run: The contents of run.json.
        folder: The run folder.
    """
    content = {name: entry for name, entry in run.items() if name not in _VOLATILE}
    text = json.dumps({"name": folder.resolve().name, "run": content}, separators=(",", ":"))
    with storage_errors("cannot be written"):
        stored = storage.get_study_user_attrs(study_id)
        for piece, start in enumerate(range(0, len(text), _PIECE_LENGTH)):
            value = text[start : start + _PIECE_LENGTH]
            if stored.get(f"{RUN}{piece}") != value:
                storage.set_study_user_attr(study_id, f"{RUN}{piece}", value)


def read_stored_run(attrs: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The name of a run's folder and the contents of its run.json, from a study; None if the study has no such run."""
    pieces = {int(key.removeprefix(RUN)): str(piece) for key, piece in attrs.items() if key.startswith(RUN)}
    try:
        content = json.loads("".join(pieces[number] for number in sorted(pieces)))
        return str(content["name"]), dict(content["run"])
    except (ValueError, KeyError, TypeError):
        return None


def all_studies(storage: BaseStorage, storage_name: str) -> dict[str, dict[str, Any]]:
    """The attributes of all studies in a storage, by name.

    Raises:
        InputError: The storage cannot be read.
    """
    with storage_errors("cannot be read", storage_name, InputError), silence_optuna():
        return {study.study_name: study.user_attrs for study in storage.get_all_studies()}


def matching_studies(name: str, studies: Studies, candidates: Collection[str], storage_name: str) -> list[str]:
    """The candidates of a name, which may lack its random suffix.

    Raises:
        InputError: There is none.
    """
    if name in studies:
        return [name]
    matching = [study for study in candidates if re.fullmatch(re.escape(name) + "-[0-9a-f]{6}", study)]
    if not matching:
        raise InputError(f"{storage_name}: no study '{name}'{did_you_mean(name, studies)}")
    return matching


def find_stored_run(storage: BaseStorage, name: str, storage_name: str) -> tuple[str, dict[str, Any]]:
    """The run of a study.

    Args:
        storage: The storage.
        name: The study's name, with or without its random suffix.
        storage_name: The storage's name in error messages.

    Returns:
        The name of its folder, and the contents of its run.json.

    Raises:
        InputError: There is no such study, several, or one that keeps no run.
    """
    studies = all_studies(storage, storage_name)
    candidates = [study for study, attrs in studies.items() if read_stored_run(attrs)]
    found = matching_studies(name, studies, candidates, storage_name)
    if len(found) > 1:
        raise InputError(f"{storage_name}: several studies; choose one with --study: {', '.join(found)}")
    stored = read_stored_run(studies[found[0]])
    if stored is None:
        raise InputError(f"{storage_name}: the study '{found[0]}' was not begun by nas_agg search")
    return stored


def equal_runs(studies: Studies, settings: Any) -> dict[str, str]:
    """The studies of searches with equal settings, each with the name of its run folder.

    Args:
        studies: All studies of a storage.
        settings: The settings, with a method ``difference``.
    """
    runs = {name: stored for name, attrs in studies.items() if (stored := read_stored_run(attrs)) is not None}
    return {name: folder for name, (folder, run) in runs.items() if not settings.difference(run.get("settings", {}))}
