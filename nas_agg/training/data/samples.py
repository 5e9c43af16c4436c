"""Samples: what a source of images gives before they are split."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from nas_agg.common.errors import InputError, one_line, truncate
from nas_agg.training.recipes import Augmentation

MAX_TEXT = 1000  # characters of a name

Task = Literal["classification", "multilabel", "regression"]


class Part(IntEnum):
    """The part of a data set that its source assigns an image to."""

    LEFT_OUT = -2
    UNASSIGNED = -1
    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Samples:
    """A data set as read.

    Attributes:
        name: Its name, as specified.
        class_names: Names of the classes in the order of the labels, or of the targets of a regression.
        augmentation: Default augmentation of the training images.
        pixels: uint8 or uint16, (N, C, H, W).
        targets: One label per image, int64 (N,); several labels per image, uint8 (N, classes) of zeros and ones; or
            targets of a regression, float32 (N, targets).
        parts: The `Part` of each image, int8 (N,).
        task: What the targets are.
        keys: A digest of each image's own bytes, uint64 (N, 2), from which its split follows. None for a data set that
            never changes, whose splits are drawn by a random permutation.
        weights: Weight of each image in the training loss, float32 (N,), or None.
        notes: Messages about what was left out or changed.
        layout: Names of the splits that the source has folders or arrays for, if that decides which images are drawn
            and which are test images: with another layout, an image may be in another split.
    """

    name: str
    class_names: tuple[str, ...]
    augmentation: Augmentation
    pixels: np.ndarray
    targets: np.ndarray
    parts: np.ndarray
    task: Task = "classification"
    keys: np.ndarray | None = None
    weights: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()


def parts_of(*lengths: tuple[Part, int]) -> np.ndarray:
    """The parts of images that follow each other: int8, (N,)."""
    return np.concatenate([np.full(length, part, np.int8) for part, length in lengths])


def check_text(text: str, what: str) -> None:
    """Refuse a text that could not be written with a run and read again.

    Raises:
        InputError: It is not a text, not valid UTF-8, too long, or has a NUL.
    """
    if not isinstance(text, str):
        raise InputError(f"{text!r}: {what} is not a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{one_line(text)}: {what} is not valid UTF-8; rename it") from None
    if "\0" in text:
        raise InputError(f"{one_line(text)}: {what} has a NUL")
    if len(text) > MAX_TEXT:
        raise InputError(f"{one_line(truncate(text))}: {what} has more than {MAX_TEXT:,} characters")
