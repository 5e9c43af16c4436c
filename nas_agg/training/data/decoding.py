"""Decodes image files, with bounded memory and without running anything but Pillow's own decoders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.common.errors import InputError, one_line
from nas_agg.training.data.preprocessing import Preprocessing, fit_array, fit_image

if TYPE_CHECKING:
    from PIL import Image

MAX_FILE_BYTES = 2**28
MAX_PIXELS = 2**26  # of a decoded image: 8,192 x 8,192
_LARGE_PIXELS = 2**24
_LARGE = threading.Lock()  # larger images are decoded one at a time, so that threads do not multiply their memory
# Without these, Pillow would try every format, and start Ghostscript for PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class DecodedImage:
    """An image file as read.

    Attributes:
        pixels: uint8, or uint16 for images of more than 8 bits per channel: (C, H, W), of the stored size.
        is_grey: Whether a single channel would do.
        key: A digest of the file's bytes, uint64 (2,).
    """

    pixels: np.ndarray
    is_grey: bool
    key: np.ndarray


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


def content_key(data: bytes | memoryview) -> np.ndarray:
    """A digest of an image's own bytes, from which its split follows: uint64 (2,)."""
    return np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), "<u8")


def decode_file(path: str, preprocessing: Preprocessing) -> DecodedImage:
    """Decode an image file and make it fit.

    Args:
        path: The file.
        preprocessing: Its size and how the image is made to fit.

    Raises:
        UnreadableImage: The file cannot be read, is damaged, too large or of an unknown kind.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnreadableImage(error.strerror or type(error).__name__) from None
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImage(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
    if not data:
        raise UnreadableImage("an empty file")
    pixels, is_grey = decode_bytes(data, Path(path).suffix.lower(), preprocessing)
    return DecodedImage(pixels, is_grey, content_key(data))


def decode_bytes(data: bytes, suffix: str, preprocessing: Preprocessing) -> tuple[np.ndarray, bool]:
    """Decode the bytes of an image file; returns pixels (C, H, W) and whether they are grey.

    Raises:
        UnreadableImage: The bytes are damaged, too large or of an unknown kind.
    """
    try:
        if suffix == ".npy":
            return _decode_array(data, preprocessing)
        return _decode_picture(data, preprocessing)
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged image can make Pillow raise almost anything
        raise UnreadableImage(error_text(error)) from None


def error_text(error: BaseException) -> str:
    """An exception's message on one line, without addresses of objects."""
    text = " ".join(one_line(str(error).replace("\n", " ")).split())
    return "not an image of a known kind" if "cannot identify image" in text else text[:200] or type(error).__name__


def _decode_picture(data: bytes, preprocessing: Preprocessing) -> tuple[np.ndarray, bool]:
    from PIL import Image

    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS and image.format == "JPEG":
            image.draft(None, (max(preprocessing.stored), max(preprocessing.stored)))  # decodes a fraction of the size
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        with _LARGE if image.width * image.height > _LARGE_PIXELS else contextlib.nullcontext():
            return fit_picture(image, preprocessing)


def fit_picture(image: Image.Image, preprocessing: Preprocessing) -> tuple[np.ndarray, bool]:
    """An image of Pillow, made to fit: pixels (C, H, W), and whether they are grey.

    Raises:
        UnreadableImage: Its values are out of range.
    """
    from PIL import ImageOps

    mode = image.mode
    ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image would double the memory
    if mode[:1] in ("I", "F"):
        return _deep(np.asarray(image), preprocessing)[None], True
    if mode in ("1", "L", "LA", "La"):
        return fit_image(image if mode == "L" else image.convert("L"), preprocessing)[None], True
    pixels = fit_image(image if mode == "RGB" else image.convert("RGB"), preprocessing).transpose(2, 0, 1)
    # Greyscale images are often saved with a palette or an opacity; a plain RGB file is taken at its word.
    is_grey = mode != "RGB" and bool((pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all())
    return (pixels[:1] if is_grey else pixels), is_grey


def _deep(values: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """An image of one channel with more than 8 bits, as uint16 (H, W) of the stored size."""
    from PIL import Image

    scaled = to_16_bits(values).astype(np.float32)
    fitted = fit_image(Image.fromarray(scaled), preprocessing)
    return np.rint(fitted).clip(0, 65535).astype(np.uint16)


def to_16_bits(values: np.ndarray) -> np.ndarray:
    """Integers of 0 to 65,535, or floats of 0 to 1, as uint16.

    Raises:
        UnreadableImage: Values are outside.
    """
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if not (low >= -0.001 and high <= 1.001):
            raise UnreadableImage(f"floats from {low:g} to {high:g}; save floats of 0 to 1, or 16-bit integers")
        return np.rint(values.clip(0, 1) * 65535).astype(np.uint16)
    if low < 0 or high > 65535:
        raise UnreadableImage(f"integers from {low:g} to {high:g}; save 16-bit integers")
    return values.astype(np.uint16)


def _decode_array(data: bytes, preprocessing: Preprocessing) -> tuple[np.ndarray, bool]:
    """An image saved by ``numpy.save``: (H, W), (H, W, C) or (C, H, W)."""
    from nas_agg.training.data.sources.arrays import image_layout, read_npy

    values = read_npy(io.BytesIO(data), len(data))
    if values.dtype.kind not in "uif":
        raise UnreadableImage(f"an array of type {values.dtype}; save integers or floats")
    try:
        values = image_layout("the array", values[None])
    except InputError as error:
        raise UnreadableImage(str(error)) from None
    if values.dtype != np.uint8:
        values = to_16_bits(values)
    pixels = fit_array(np.ascontiguousarray(values), preprocessing)[0]
    return pixels, len(pixels) == 1


def match_channels(pixels: np.ndarray, channels: int, dtype: np.dtype) -> np.ndarray:
    """An image's pixels for a data set of ``channels`` channels of a type: grey is repeated, bytes are widened.

    Raises:
        UnreadableImage: The image has other channels, or more bits.
    """
    if pixels.dtype != dtype:
        if pixels.dtype == np.uint16:
            raise UnreadableImage("more than 8 bits per channel, unlike the other images")
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    if len(pixels) not in (1, channels):
        raise UnreadableImage(f"{len(pixels)} channels; other images have {channels}")
    return pixels
