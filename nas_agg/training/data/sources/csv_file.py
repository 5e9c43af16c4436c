"""Data sets listed in a CSV file: the path of each image with its label, labels or target."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas_agg.common.errors import InputError, did_you_mean, one_line
from nas_agg.common.files import check_regular_file
from nas_agg.training.data.samples import Part
from nas_agg.training.data.sources.folders import SPLIT_NAMES
from nas_agg.training.data.sources.listing import FileListing, ImageFile
from nas_agg.training.data.sources.targets import Targets, read_targets, single_precision

MAX_CSV_BYTES = 2**28
_PATHS = ("path", "file", "filename", "image")
_LABELS = ("label", "class")
_SEPARATORS = "|;,"
_MEANT = (*_PATHS, *_LABELS, "labels", "target", "split", "weight")


@dataclass(frozen=True)
class _Columns:
    """Positions of the columns."""

    path: int
    label: int | None
    labels: int | None
    targets: tuple[int, ...]
    indicators: tuple[int, ...]
    split: int | None
    weight: int | None
    names: tuple[str, ...]


def list_csv(path: Path) -> FileListing:
    """List the images of a CSV file.

    Its columns are ``path`` (relative to the file's folder) and one of: ``label``; ``labels``, separated by ``|`` or
    ``;``; ``target`` or ``target_...``, numbers to predict; or one column of zeros and ones per class. ``split``
    (train, val or test; empty where it is to be drawn) and ``weight`` are optional. Rows keep their split whatever the
    others are: without rows of test there may be no test images, since removing the last one must move no other.

    Raises:
        InputError: The file cannot be read, a row is malformed (the message names its line), or every row is for
            training, or none.
    """
    header, rows, lines = _read(path)
    columns = _columns(path, header)
    files = [_image_file(path, row[columns.path], line) for row, line in zip(rows, lines, strict=True)]
    _check_duplicates(path, files, lines)
    targets = _targets(path, columns, rows, lines)
    return FileListing(
        folder=path.parent,
        class_names=targets.class_names,
        files=files,
        targets=targets.values[0],
        parts=_parts(path, columns, rows, lines),
        notes=targets.notes,
        task=targets.task,
        weights=_weights(path, columns, rows, lines),
    )


def _read(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows and the line of each."""
    check_regular_file(path)
    rows, lines = [], []
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise InputError(f"{path}: longer than {MAX_CSV_BYTES:,} bytes")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise InputError(f"{path}, line {reader.line_num}: {len(row)} cells; the header has {len(header)}")
                rows.append(row)
                lines.append(reader.line_num)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not valid UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file: {error}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not rows:
        raise InputError(f"{path}: no rows; write a header with path and label, and a row per image")
    return header, rows, lines


def _columns(path: Path, header: list[str]) -> _Columns:
    words = [name.lower() for name in header]
    if len(set(words)) < len(words):
        raise InputError(f"{path}: two columns of the same name")

    def find(*names: str) -> int | None:
        return next((words.index(name) for name in names if name in words), None)

    place = find(*_PATHS)
    if place is None:
        hint = next((hint for name in words if (hint := did_you_mean(name, _PATHS))), "")
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            hint = "; separate columns by commas"
        raise InputError(f"{path}: no column 'path'; its columns are {one_line(', '.join(header))[:200]}{hint}")
    label, labels, split, weight = find(*_LABELS), find("labels"), find("split", "subset"), find("weight")
    targets = tuple(i for i, word in enumerate(words) if word == "target" or word.startswith("target_"))
    given = [
        name
        for name, found in (("label", label is not None), ("labels", labels is not None), ("target", targets))
        if found
    ]
    if len(given) > 1:
        raise InputError(f"{path}: columns {' and '.join(given)}; only one says what to predict")
    known = {place, label, labels, split, weight, *targets}
    others = tuple(i for i in range(len(words)) if i not in known)
    if not given and not others:
        raise InputError(f"{path}: no column 'label', 'labels' or 'target', nor columns of zeros and ones per class")
    return _Columns(place, label, labels, targets, () if given else others, split, weight, tuple(header))


def _image_file(path: Path, cell: str, line: int) -> ImageFile:
    if not cell.strip() or "\0" in cell:
        raise InputError(f"{path}, line {line}: no path")
    place = os.path.join(path.parent, cell.strip())
    try:
        check_regular_file(place)
        status = os.stat(place)
    except OSError:
        return ImageFile(place, -1, 0)  # reported with all other unreadable images
    return ImageFile(place, status.st_size, status.st_mtime_ns)


def _check_duplicates(path: Path, files: Sequence[ImageFile], lines: Sequence[int]) -> None:
    seen: dict[str, int] = {}
    for file, line in zip(files, lines, strict=True):
        first = seen.setdefault(os.path.normpath(file.path), line)
        if first != line:
            raise InputError(f"{path}, line {line}: {one_line(file.path)} is on line {first} already")


def _targets(path: Path, columns: _Columns, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> Targets:
    if columns.label is not None:
        return _classes(path, [row[columns.label].strip() for row in rows], lines)
    if columns.labels is not None:
        return _several(path, [_split_labels(row[columns.labels]) for row in rows])
    positions = columns.targets or columns.indicators
    values = np.array(
        [
            [_number(path, columns.names[i], row[i], line) for i in positions]
            for row, line in zip(rows, lines, strict=True)
        ]
    )
    names = tuple(columns.names[i] for i in positions)
    if columns.targets:
        return Targets("regression", names, (single_precision(f"{path}: target", values),))
    if not np.isin(values, (0, 1)).all():
        column = columns.names[positions[int(np.flatnonzero(~np.isin(values, (0, 1)).all(0))[0])]]
        hint = did_you_mean(column.lower(), _MEANT)
        raise InputError(f"{path}: column '{one_line(column)}' is neither known nor zeros and ones{hint}")
    return read_targets([str(path)], [values], names)


def _classes(path: Path, labels: list[str], lines: Sequence[int]) -> Targets:
    for label, line in zip(labels, lines, strict=True):
        if not label:
            raise InputError(f"{path}, line {line}: no label")
    are_numbers = all(label.isdecimal() and len(label) < 10 for label in labels)
    names = sorted(set(labels), key=(lambda label: (int(label), label)) if are_numbers else None)
    if len(names) < 2:
        raise InputError(f"{path}: a single class, '{one_line(names[0])}'; at least two are needed")
    number = {name: position for position, name in enumerate(names)}
    return Targets("classification", tuple(names), (np.array([number[label] for label in labels], np.int64),))


def _split_labels(cell: str) -> list[str]:
    separator = next((mark for mark in _SEPARATORS if mark in cell), "|")
    return [label.strip() for label in cell.split(separator) if label.strip()]


def _several(path: Path, labels: Sequence[Sequence[str]]) -> Targets:
    names = sorted({label for row in labels for label in row})
    if not names:
        raise InputError(f"{path}: no row has a label")
    number = {name: position for position, name in enumerate(names)}
    values = np.zeros((len(labels), len(names)), np.uint8)
    for row, own in zip(values, labels, strict=True):
        row[[number[label] for label in own]] = 1
    return Targets("multilabel", tuple(names), (values,))


def _number(path: Path, column: str, cell: str, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{path}, line {line}: {one_line(column)}: '{one_line(cell)[:40]}' is not a finite number")
    return value


def _parts(path: Path, columns: _Columns, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> np.ndarray:
    if columns.split is None:
        return np.full(len(rows), Part.UNASSIGNED, np.int8)
    parts = np.empty(len(rows), np.int8)
    for position, (row, line) in enumerate(zip(rows, lines, strict=True)):
        word = row[columns.split].strip().lower()
        if word and word not in SPLIT_NAMES:
            raise InputError(f"{path}, line {line}: split '{one_line(word)[:40]}'; use train, val or test")
        parts[position] = SPLIT_NAMES[word] if word else Part.UNASSIGNED
    if not np.isin(parts, (Part.TRAIN, Part.UNASSIGNED)).any():
        raise InputError(f"{path}: no training images: no row's split is train")
    if (parts == Part.TRAIN).all():
        raise InputError(f"{path}: every row's split is train; leave it empty where splits are to be drawn")
    return parts


def _weights(path: Path, columns: _Columns, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> np.ndarray | None:
    if columns.weight is None:
        return None
    values = [_number(path, "weight", row[columns.weight], line) for row, line in zip(rows, lines, strict=True)]
    if min(values) < 0 or not any(values):
        raise InputError(f"{path}: weights must be 0 or more, and not all 0")
    return single_precision(f"{path}: weight", np.array(values))
