"""Images and labels in NumPy arrays: reads files without pickles, checks shapes, types and ranges."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file

HAIR = 0.05  # by how much floats may exceed the range of 0 to 1, as those of resized images do
_UNCLEAR = 20.0  # floats whose largest value is below may be of any scale
_MAX_EXPANSION = 200  # of compressed arrays; images compress by a factor of two to ten, masks by a hundred
_SMALL_MEMBER = 2**26  # bytes that any array may expand to


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an array in an archive says: its shape, type and order, and its bytes in all."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayArchive:
    """A .npz file, opened without trusting it: nothing is unpickled, and no size is believed before it is checked.

    Args:
        path: The file.

    Raises:
        InputError: The file is missing or no .npz file.
    """

    def __init__(self, path: Path):
        self.path = path
        check_regular_file(path)
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if path.is_dir():
            raise InputError(f"{path}: not a readable .npz file (a folder)")
        try:
            with path.open("rb") as file:
                magic = file.read(6)
            if magic == b"\x93NUMPY":
                raise InputError(
                    f"{path}: a single array; save four with numpy.savez(path, x_train=..., y_train=..., ...)"
                )
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise InputError(f"{path}: not a readable .npz file ({_reason(error)})") from None
        self._members = {name.removesuffix(".npy"): self._zip.getinfo(name) for name in self._zip.namelist()}
        self.headers: dict[str, ArrayHeader] = {}

    def __enter__(self) -> ArrayArchive:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._members)

    def header(self, name: str) -> ArrayHeader:
        """The header of an array.

        Raises:
            InputError: The array is damaged, holds Python objects, or expands too much.
        """
        if name not in self.headers:
            member, where = self._members[name], f"{self.path}: {name}"
            if member.file_size > max(_SMALL_MEMBER, _MAX_EXPANSION * member.compress_size):
                factor = member.file_size // max(1, member.compress_size)
                raise InputError(
                    f"{where}: {member.compress_size:,} bytes expand to {member.file_size / 2**30:.1f} GiB, "
                    f"{factor:,} times as many; more than {_MAX_EXPANSION} times is refused"
                )
            with self._errors(name), self._zip.open(member) as file:
                header = _read_header(file, where)
            start = member.file_size - header.nbytes
            if not 0 < start <= 2**16:
                raise InputError(
                    f"{where}: damaged: its header says {header.shape} of type {header.dtype}, its data differ"
                )
            self.headers[name] = header
        return self.headers[name]

    def read(self, name: str) -> np.ndarray:
        """Read an array.

        Raises:
            InputError: It is damaged.
        """
        self.header(name)
        member = self._members[name]
        with self._errors(name), self._zip.open(member) as file:
            return read_npy(file, member.file_size)

    def _errors(self, name: str) -> _ReadErrors:
        return _ReadErrors(f"{self.path}: not a readable .npz file ({name}: ")


class _ReadErrors:
    """Context that turns exceptions of damaged archives into one line."""

    def __init__(self, beginning: str):
        self.beginning = beginning

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, InputError) or not isinstance(error, Exception):
            return
        raise InputError(f"{self.beginning}{_reason(error)})") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_header(file: IO[bytes], where: str) -> ArrayHeader:
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise InputError(f"{where} is not an array") from None
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise InputError(f"{where}: an array of version {version}; save plain numbers")
    shape, fortran_order, dtype = reader(file)
    if dtype.hasobject:
        raise InputError(f"{where}: an array of Python objects, which may execute code; save numbers or strings")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise InputError(f"{where}: damaged: shape {shape}")
    return ArrayHeader(tuple(shape), dtype, fortran_order)


def read_npy(file: IO[bytes], length: int) -> np.ndarray:
    """Read an array in the format of ``numpy.save``.

    Args:
        file: The file, at its beginning.
        length: Its bytes in all; no more memory than that is taken.

    Raises:
        InputError: It holds Python objects, or its header does not fit the length.
        ValueError: The data are damaged.
    """
    header = _read_header(file, "the array")
    if header.nbytes > length:
        raise InputError(f"damaged: shape {header.shape} of type {header.dtype} in {length:,} bytes")
    values = np.empty(header.shape[::-1] if header.fortran_order else header.shape, header.dtype)
    view = memoryview(values.reshape(-1).view(np.uint8).data if header.nbytes else b"")
    position = 0
    while position < len(view):
        block = file.read(min(2**22, len(view) - position))
        if not block:
            raise InputError("damaged: it ends early")
        view[position : position + len(block)] = block
        position += len(block)
    file.read(1)  # the end of the member, where its checksum is compared
    return values.T if header.fortran_order else values


# ---- images


def image_layout(where: str, images: np.ndarray) -> np.ndarray:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W), without a copy.

    Raises:
        InputError: The shape is another, or ambiguous.
    """
    if images.ndim not in (3, 4) or images.size == 0:
        raise InputError(f"{where}: shape {images.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if images.ndim == 3:
        return images[:, None]
    if images.shape[1] == images.shape[3]:
        raise InputError(
            f"{where}: shape {images.shape} is ambiguous, (N, C, H, W) or (N, H, W, C); crop or pad the images"
        )
    if images.shape[1] < images.shape[3]:  # the shorter axis is that of channels
        return images
    return images.transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class PixelScale:
    """How values become integers: ``dtype`` is uint8 or uint16, ``factor`` what values are multiplied with."""

    dtype: np.dtype
    factor: float = 1.0
    note: str = ""


def pixel_scale(where: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> PixelScale:
    """The scale of images, from the type and the range of all arrays of a data set.

    Floats are taken for 0 to 1 if the largest is at most 1.05, and for 0 to 255 if it is 20 or more. Integers above 255
    make 16-bit images.

    Raises:
        InputError: The types differ, values are outside, or the scale is unclear.
    """
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "fiu":
            raise InputError(f"{where}: {name}: images of type {array.dtype}; use uint8 or floats")
    for name, array in zip(names, arrays, strict=True):
        if (array.dtype.kind == "f") != (arrays[0].dtype.kind == "f"):
            raise InputError(
                f"{where}: {names[0]} is {arrays[0].dtype} and {name} {array.dtype}; use integers or floats for both"
            )
    filled = [array for array in arrays if array.size]
    if not filled or all(array.dtype == np.uint8 for array in filled):
        return PixelScale(np.dtype(np.uint8))
    low = float(np.min([array.min() for array in filled]))  # unlike Python's min, these propagate NaN
    high = float(np.max([array.max() for array in filled]))
    if filled[0].dtype.kind == "f":
        return _float_scale(where, low, high)
    if low < 0 or high > 65535:
        raise InputError(f"{where}: integers must be within 0 to 255, or 0 to 65535, found {low:.0f} to {high:.0f}")
    return PixelScale(np.dtype(np.uint8 if high <= 255 else np.uint16))


def _float_scale(where: str, low: float, high: float) -> PixelScale:
    found = f"floats from {low:g} to {high:g}"
    if not (low >= -HAIR and high <= 255.5):  # also where a value is NaN
        raise InputError(f"{where}: floats must be within 0 to 1 or 0 to 255, found {low:g} to {high:g}")
    if 1 + HAIR < high < _UNCLEAR:
        raise InputError(f"{where}: {found}: unclear whether of 0 to 1 or of 0 to 255; scale them to 0 to 1")
    top = 1 if high <= 1 + HAIR else 255
    note = f"{found} were clipped to 0 to {top}" if low < 0 or high > top else ""
    return PixelScale(np.dtype(np.uint8), 255.0 / top, note)


def to_pixels(images: np.ndarray, scale: PixelScale) -> np.ndarray:
    """Images as integers of a scale, clipped to its range, in the order of their axes."""
    if images.dtype == scale.dtype:
        return images
    out = np.empty(images.shape, scale.dtype)
    highest = np.iinfo(scale.dtype).max
    rows = max(1, 2**24 // max(1, images[0].size)) if len(images) else 1
    for start in range(0, len(images), rows):
        chunk = images[start : start + rows]
        if images.dtype.kind == "f":
            chunk = np.rint(chunk.astype(np.float32) * np.float32(scale.factor)).clip(0, highest)
        out[start : start + rows] = chunk
    return out
