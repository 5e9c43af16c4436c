"""Console tables, ruled on a terminal and plain elsewhere, and the format of counts and accuracies."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from nas_agg.common.errors import one_line


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    right: Sequence[int] = (),
    file: TextIO | None = None,
) -> None:
    """Print a table; control characters are escaped.

    Args:
        header: Column names.
        rows: Cells, as text.
        title: Title above the table, shown on a terminal only.
        right: Indices of right-aligned columns.
        file: Output stream; default standard output.
    """
    out = file or sys.stdout
    header, *rows = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    # Ruled only where all columns but the last fit, so that no number is ever truncated.
    if out.isatty() and shutil.get_terminal_size().columns >= sum(widths[:-1]) + 3 * len(widths) + 24:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title) if title else None)
        for i, name in enumerate(header):
            # On a narrow terminal only the last column is wrapped.
            last = i == len(header) - 1
            table.add_column(name, justify="right" if i in right else "left", overflow="fold", no_wrap=not last)
        for row in rows:
            table.add_row(*[Text(cell) for cell in row])
        Console(file=out).print(table)
        return
    for row in [header, *rows]:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=out)


def format_bytes(count: int) -> str:
    """Format a number of bytes: ``18.53 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def format_accuracy(accuracy: float, correct: int, images: int, top5: float | None = None) -> str:
    """Format an accuracy in percent and in images: ``97.77 % (351 of 359 images), top-5 99.72 %``.

    Args:
        accuracy: Accuracy, 0 to 1.
        correct: Number of correctly classified images.
        images: Number of images.
        top5: Top-5 accuracy, 0 to 1, if any.
    """
    text = f"{100 * accuracy:.2f} % ({correct:,} of {images:,} images)"
    return text if top5 is None else f"{text}, top-5 {100 * top5:.2f} %"


def format_classes(count: int) -> str:
    """Format the number of outputs of a network: ``10 classes``; a single output is that of a regression."""
    return "1 output" if count == 1 else f"{count} classes"


def format_count(count: int) -> str:
    """Format a count: ``724,727 (0.725 M)``."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if count >= size / 10:
            return f"{count:,} ({count / size:.3g} {unit})"
    return f"{count:,}"
