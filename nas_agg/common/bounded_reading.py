"""Reading of whole files within a limit: pipes and devices are rejected, and no file or archive can fill the memory."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file.

    Args:
        path: The file.
        limit: The largest permitted size in bytes.

    Raises:
        InputError: The file cannot be read, is a pipe or a device, or exceeds the limit.
    """
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > limit:
        raise InputError(f"{path}: larger than the limit of {limit:,} bytes")
    return content


def gunzip_bounded(content: bytes, path: Path, limit: int) -> bytes:
    """Decompress the content of a gzip file, never more than the limit.

    Args:
        content: The compressed content.
        path: The file's name in errors.
        limit: The largest permitted size of the decompressed content in bytes.

    Raises:
        InputError: The content is damaged, or exceeds the limit.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            decompressed = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a readable gzip file: {error}") from None
    if len(decompressed) > limit:
        raise InputError(f"{path}: decompresses to more than the limit of {limit:,} bytes")
    return decompressed
