"""Decodes many image files at once into an array or a file of the cache."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from nas_agg.common.errors import InputError, one_line
from nas_agg.training.data.decoding import UnreadableImage, decode_file, match_channels
from nas_agg.training.data.images import centre_slices
from nas_agg.training.data.preprocessing import Preprocessing

_PROBED = 64  # files that are decoded first, to learn the number of channels and bits
_SHOWN = 10  # unreadable files that a message names
_BLOCK = 512  # files in flight

#: Receives the position and the pixels of an image; called by several threads.
WriteRow = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class ImageFormat:
    """The number of channels and the type of all images of a set."""

    channels: int
    dtype: np.dtype

    def check(self, pixels: np.ndarray) -> None:
        """Check that an image (C, H, W) has no more channels than a grey set, and no more bits.

        Raises:
            OtherFormat: It has.
        """
        if pixels.dtype.itemsize > self.dtype.itemsize or (self.channels == 1 and len(pixels) > 1):
            raise OtherFormat(ImageFormat(max(self.channels, len(pixels)), max(self.dtype, pixels.dtype)))


class OtherFormat(Exception):
    """An image has more channels or bits than the first ones had: decoding begins again.

    Args:
        format: The format for all images.
    """

    def __init__(self, format: ImageFormat):
        self.format = format
        super().__init__()


@dataclass(frozen=True)
class DecodedSet:
    """What is known of decoded images beside their pixels.

    Attributes:
        keys: Digests of the files, uint64 (N, 2); zeros where a file is unreadable.
        sums: Sums of each image's values and of their squares over its central part, int64 (N, 2, C).
        unreadable: Position of each unreadable file, and the reason.
        more: Further arrays that are kept with the images.
    """

    keys: np.ndarray
    sums: np.ndarray
    unreadable: dict[int, str]
    more: dict[str, np.ndarray] = field(default_factory=dict)


def probe_format(paths: Sequence[str], preprocessing: Preprocessing) -> ImageFormat:
    """The format of a set of images, by some of them spread over the set."""
    channels, dtype = 1, np.dtype(np.uint8)
    step = max(1, len(paths) // _PROBED)
    for path in islice(paths, 0, None, step):
        try:
            pixels = decode_file(path, preprocessing).pixels
        except UnreadableImage:
            continue
        channels, dtype = max(channels, len(pixels)), max(dtype, pixels.dtype)
    return ImageFormat(channels, dtype)


def decode_files(
    paths: Sequence[str], preprocessing: Preprocessing, format: ImageFormat, write: WriteRow, label: str
) -> DecodedSet:
    """Decode image files in parallel.

    Args:
        paths: The files.
        preprocessing: How images are made to fit.
        format: Channels and type of the images.
        write: Receives each image.
        label: What the progress bar is called.

    Raises:
        OtherFormat: An image has more channels or bits.
    """
    count = len(paths)
    keys, sums = np.zeros((count, 2), np.uint64), np.zeros((count, 2, format.channels), np.int64)
    unreadable: dict[int, str] = {}
    stop = threading.Event()

    def work(position: int) -> None:
        if stop.is_set():
            return
        try:
            image = decode_file(paths[position], preprocessing)
            format.check(image.pixels)
            pixels = match_channels(image.pixels, format.channels, format.dtype)
        except UnreadableImage as error:
            unreadable[position] = str(error)
            return
        full = np.broadcast_to(pixels, (format.channels, *pixels.shape[1:]))
        write(position, full)
        keys[position], sums[position] = image.key, image_sums(full, preprocessing.size)

    with ThreadPoolExecutor(decoding_threads()) as pool, _progress(label, count) as advance:
        try:
            for start in range(0, count, _BLOCK):
                for _ in pool.map(work, range(start, min(count, start + _BLOCK))):
                    pass
                advance(min(_BLOCK, count - start))
        except BaseException:
            stop.set()
            raise
    return DecodedSet(keys, sums, dict(sorted(unreadable.items())))


def image_sums(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sums of values and of their squares over the central part: int64, (2, C)."""
    rows, columns = centre_slices((pixels.shape[-2], pixels.shape[-1]), size)
    values = pixels[:, rows, columns].reshape(len(pixels), -1)
    wide = values.astype(np.int64)
    return np.stack([wide.sum(1), np.einsum("ij,ij->i", wide, wide)])


def decoding_threads() -> int:
    """Threads that decode: one per core, since Pillow decodes without Python's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, cores)


def unreadable_message(name: str, unreadable: Sequence[tuple[str, str]]) -> str:
    """One line about all images that cannot be read."""
    shown = ", ".join(f"{one_line(path)} ({reason})" for path, reason in unreadable[:_SHOWN])
    more = f" and {len(unreadable) - _SHOWN:,} more" if len(unreadable) > _SHOWN else ""
    images = "image is" if len(unreadable) == 1 else "images are"
    return f"{name}: {len(unreadable):,} {images} not readable: {shown}{more}"


def check_readable(name: str, unreadable: Sequence[tuple[str, str]], skip: bool, count: int) -> tuple[str, ...]:
    """Refuse unreadable images, or return a note about them if they are to be skipped.

    Raises:
        InputError: There are unreadable images and they are not to be skipped, or none is readable.
    """
    if not unreadable:
        return ()
    message = unreadable_message(name, unreadable)
    if not skip:
        raise InputError(f"{message}; repair or remove them, or use --skip-unreadable")
    if len(unreadable) == count:
        raise InputError(message)
    return (message.removeprefix(f"{name}: ") + " and were skipped",)


@contextmanager
def _progress(label: str, count: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, for sets that take a while."""
    if count <= _BLOCK or not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=count)
        yield lambda number: bar.advance(task, number)
