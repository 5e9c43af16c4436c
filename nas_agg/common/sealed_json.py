"""JSON objects that contain the SHA-256 of their own content, so that damage to their file is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file, parse_document

SEAL = "sha256"
MAX_BYTES = 4_000_000


def sealed(value: Mapping[str, Any], indent: int | None = 2) -> str:
    """An object as JSON with its seal.

    Args:
        value: The object.
        indent: As for `json.dumps`.
    """
    return json.dumps({**value, SEAL: _digest(value)}, indent=indent) + "\n"


def read_sealed(path: str | os.PathLike[str], remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Read an object that :func:`sealed` wrote; returns it without its seal.

    Args:
        path: The file.
        remedy: What to do if it is damaged, as the end of a sentence.

    Raises:
        InputError: The file cannot be read, is not such an object or was changed.
    """
    path = Path(path)
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: damaged: not valid UTF-8; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    try:
        value = parse_document(text, str(path), "json")
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    return check_seal(value, path, remedy)


def check_seal(value: Any, path: str | os.PathLike[str], remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Check the seal of an object; returns the object without it.

    Raises:
        InputError: It is not such an object or was changed.
    """
    if not isinstance(value, dict) or SEAL not in value:
        raise InputError(f"{path}: damaged: it does not contain its '{SEAL}'; {remedy}")
    content = {name: entry for name, entry in value.items() if name != SEAL}
    if value[SEAL] != _digest(content):
        raise InputError(f"{path}: damaged: its content does not match its '{SEAL}'; {remedy}")
    return content


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
