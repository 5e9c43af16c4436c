"""The command that lists and empties the cache of decoded images."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_agg.cli.options import Format, FormatOption, print_json
from nas_agg.common.console import format_bytes, print_table
from nas_agg.common.errors import InputError, did_you_mean


def cache(
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="KEY", help="Remove images by their key, or all; repeatable."),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List decoded images of data sets, which are kept in NAS_AGG_DATA/cache, or remove some."""
    from nas_agg.training.data.cache import ImageCache, age, data_root

    images = ImageCache(data_root())
    entries = {entry.key: entry for entry in images.entries()}
    for word in remove or []:
        keys = list(entries) if word == "all" else [key for key in entries if key.startswith(word)]
        if not keys and word != "all":
            raise InputError(f"--remove: no images '{word}' in {images.path}{did_you_mean(word, entries)}")
        for key in keys:
            images.remove(key)
            del entries[key]
    rows = sorted(entries.values(), key=lambda entry: -entry.used)
    if format is Format.json:
        words = ("key", "name", "shape", "nbytes", "used")
        print_json([{word: getattr(entry, word) for word in words} for entry in rows])
        return
    cells = [
        [e.key, "x".join(map(str, e.shape[1:])), f"{e.shape[0]:,}", format_bytes(e.nbytes), age(e.used), e.name]
        for e in rows
    ]
    header = ["key", "size", "images", "on disk", "last used", "data set"]
    print_table(header, cells, title=str(images.path), right=(2, 3))
    total, limit = sum(entry.nbytes for entry in rows), images.limit()
    print(f"{format_bytes(total)} of at most {format_bytes(limit)} in {images.path}")
