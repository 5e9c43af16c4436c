"""Files of lines that are only ever appended to. Each line ends with a digest of all lines up to it.

A line that is changed, removed, inserted or moved is therefore noticed when the file is read. Lines missing at the end
are not: they look like a process that was killed before it wrote them, and whoever reads the file must know better.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file

START = ""  # the digest before the first line
DIGEST = "digest"
_LENGTH = 32  # hexadecimal digits: half of a SHA-256
_JSON_END = re.compile(rb',"digest":"([0-9a-f]{32})"\}\n')


class DamagedLine(Exception):
    """A line does not match its digest; the text says which.

    Attributes:
        number: The number of the line, from 1.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__(f"line {number} is damaged, or a line before it is missing")


def next_digest(previous: str, content: bytes) -> str:
    """The digest of a line.

    Args:
        previous: The digest of the line before; ``START`` for the first.
        content: The line without its digest.
    """
    return hashlib.sha256(previous.encode() + b"\n" + content).hexdigest()[:_LENGTH]


def json_line(previous: str, value: Mapping[str, Any]) -> tuple[bytes, str]:
    """An object as a line of JSON with its digest, which is returned as well."""
    content = json.dumps(value, separators=(",", ":")).encode()[:-1]
    digest = next_digest(previous, content)
    return content + f'{"," if value else ""}"{DIGEST}":"{digest}"}}\n'.encode(), digest


def check_json_line(previous: str, line: bytes, number: int) -> str:
    """Check a line of :func:`json_line`; returns its digest.

    Raises:
        DamagedLine: It does not match.
    """
    end = _JSON_END.search(line, max(0, len(line) - _LENGTH - 20))
    if end is None or next_digest(previous, line[: end.start()]) != end[1].decode():
        raise DamagedLine(number)
    return end[1].decode()


def read_json_lines(path: str | os.PathLike[str], remedy: str = "restore it from a copy") -> list[dict[str, Any]]:
    """Read a file of lines of :func:`json_line`, without their digests; an incomplete last line is left out.

    Args:
        path: The file.
        remedy: What to do if it is damaged, as the end of a sentence.

    Raises:
        InputError: The file cannot be read, or is damaged.
    """
    path = Path(path)
    check_regular_file(path)
    try:
        return [value for value, _ in _json_lines(path)]
    except DamagedLine as error:
        raise InputError(f"{path}: {error}; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def last_digest(path: str | os.PathLike[str], remedy: str = "restore it from a copy") -> str:
    """The digest to continue a file of :func:`json_line` with; ``START`` if there is none.

    Raises:
        InputError: The file cannot be read, or is damaged.
    """
    try:
        return next((digest for _, digest in reversed(list(_json_lines(Path(path))))), START)
    except FileNotFoundError:
        return START
    except DamagedLine as error:
        raise InputError(f"{path}: {error}; {remedy}") from None


def _json_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    digest = START
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            digest = check_json_line(digest, line, number)
            try:
                value = json.loads(line)
            except ValueError:
                raise DamagedLine(number) from None
            value.pop(DIGEST, None)
            yield value, digest
