"""What the labels of arrays and tables are: classes, several labels per image, or numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas_agg.common.errors import InputError, one_line
from nas_agg.training.data.samples import Task


@dataclass(frozen=True)
class Targets:
    """Targets of all parts of a data set.

    Attributes:
        task: What they are.
        class_names: Names of the classes, or of the targets of a regression.
        values: The targets of each part, as in `Samples`.
        notes: Messages about how labels were read.
    """

    task: Task
    class_names: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()


def read_targets(names: Sequence[str], arrays: Sequence[np.ndarray], class_names: Sequence[str] = ()) -> Targets:
    """Interpret labels.

    One label per image: integers from 0 or from 1, strings, or a matrix of one-hot rows. A matrix of zeros and ones
    with other rows has several labels per image. Other floats are targets of a regression.

    Args:
        names: What the arrays are called in messages.
        arrays: The labels of each part, the training part first.
        class_names: Names of the classes, if known.

    Raises:
        InputError: The labels are none of these; the message says what is wrong.
    """
    columns = [array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array for array in arrays]
    first, where = columns[0], names[0]
    for name, array in zip(names, columns, strict=True):
        if array.ndim not in (1, 2) or array.ndim != first.ndim or array.shape[1:] != first.shape[1:]:
            raise InputError(
                f"{name}: shape {array.shape}; expected one label per image, (N,), or one row, (N, classes)"
            )
        if array.dtype.kind not in "biufUS":
            raise InputError(f"{name}: labels of type {array.dtype}; use integers from 0 or strings")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{name}: labels are NaN or infinite")
    if any((array.dtype.kind in "US") != (first.dtype.kind in "US") for array in columns):
        raise InputError(f"{where}: strings and numbers as labels; use the same in all parts")
    if first.dtype.kind in "US":
        return _strings(names, columns)
    if first.ndim == 2:
        return _matrix(names, columns, class_names)
    if any(array.dtype.kind == "f" for array in columns):
        return _floats(names, columns)
    return _integers(names, columns, class_names)


def single_precision(name: str, values: np.ndarray) -> np.ndarray:
    """Numbers as float32.

    Raises:
        InputError: One is too large.
    """
    if np.abs(values).max(initial=0) > np.finfo(np.float32).max:
        raise InputError(f"{name}: {values.flat[np.abs(values).argmax()]:g} is too large for single precision")
    return values.astype(np.float32)


def _strings(names: Sequence[str], arrays: Sequence[np.ndarray]) -> Targets:
    if arrays[0].ndim != 1:
        raise InputError(f"{names[0]}: shape {arrays[0].shape}; strings must be one label per image, (N,)")
    try:
        texts = [np.char.decode(a, "utf-8") if a.dtype.kind == "S" else a for a in arrays]
    except UnicodeDecodeError:
        raise InputError(f"{names[0]}: labels are not valid UTF-8") from None
    classes = np.unique(texts[0])
    for name, text in zip(names, texts, strict=True):
        unknown = np.setdiff1d(text, classes)
        if len(unknown):
            raise InputError(f"{name} has label '{one_line(str(unknown[0]))}', which is not in {names[0]}")
    _check_classes(names[0], len(classes))
    values = tuple(np.searchsorted(classes, text).astype(np.int64) for text in texts)
    return Targets("classification", tuple(str(name) for name in classes), values)


def _integers(names: Sequence[str], arrays: Sequence[np.ndarray], class_names: Sequence[str]) -> Targets:
    for name, labels in zip(names, arrays, strict=True):
        if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int64).max):
            label = labels.min() if labels.min() < 0 else labels.max()
            raise InputError(f"{name}: label {label}; number the classes from 0")
    values = [labels.astype(np.int64) for labels in arrays]
    present = np.unique(values[0])
    if class_names:
        if len(present) and present[-1] >= len(class_names):
            raise InputError(f"{names[0]}: label {present[-1]}, but {len(class_names)} class names")
        count, base = len(class_names), 0
    else:
        base = 1 if len(present) and present[0] == 1 and all(v.min(initial=1) >= 1 for v in values) else 0
        gaps = np.flatnonzero(present != np.arange(base, base + len(present)))
        if len(gaps):
            raise InputError(
                f"{names[0]} has label {present[-1]} but not {gaps[0] + base}; number the classes without gaps"
            )
        count = len(present)
    _check_classes(names[0], count)
    for name, labels in zip(names, values, strict=True):
        if labels.max(initial=0) >= count + base:
            raise InputError(f"{name} has label {labels.max()}, which is not in {names[0]}")
    known = tuple(class_names) or tuple(str(number) for number in range(base, base + count))
    return Targets("classification", known, tuple(labels - base for labels in values))


def _matrix(names: Sequence[str], arrays: Sequence[np.ndarray], class_names: Sequence[str]) -> Targets:
    count = arrays[0].shape[1]
    if class_names and len(class_names) != count:
        raise InputError(f"{names[0]}: {count} columns, but {len(class_names)} class names")
    known = tuple(class_names) or tuple(str(number) for number in range(count))
    if all(((array == 0) | (array == 1)).all() for array in arrays):
        if not any(array.any() for array in arrays):
            raise InputError(f"{names[0]}: shape {arrays[0].shape}, all zeros; expected one label per image, (N,)")
        if all((array.sum(1) == 1).all() for array in arrays):
            _check_classes(names[0], count)
            return Targets("classification", known, tuple(array.argmax(1).astype(np.int64) for array in arrays))
        return Targets("multilabel", known, tuple(array.astype(np.uint8) for array in arrays))
    if any(array.dtype.kind == "f" for array in arrays):
        return Targets("regression", known, tuple(map(single_precision, names, arrays)))
    raise InputError(
        f"{names[0]}: shape {arrays[0].shape} of integers other than 0 and 1; expected one label per image, (N,), "
        "one-hot rows, or floats as targets of a regression"
    )


def _floats(names: Sequence[str], arrays: Sequence[np.ndarray]) -> Targets:
    if all((array == np.rint(array)).all() for array in arrays):
        raise InputError(
            f"{names[0]}: labels of type {arrays[0].dtype}; use integers for classes; floats are targets of a "
            "regression only if some are not whole numbers"
        )
    return Targets(
        "regression",
        ("target",),
        tuple(single_precision(name, array)[:, None] for name, array in zip(names, arrays, strict=True)),
    )


def _check_classes(where: str, count: int) -> None:
    if count < 2:
        raise InputError(f"{where} has a single class; at least two are needed")
