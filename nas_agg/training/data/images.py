"""The images of a data set: in memory, or mapped from a file of the cache and shared through the page cache."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_RELEASE_BYTES = 2**29  # mapped bytes after which a map's pages are given back
_MAPPED_AT_ONCE = 2**16  # bytes that Linux maps around a page that is read


class MappedImages:
    """Images in a file, which are read as they are gathered and take no memory of this process.

    Pages that were read stay in the system's page cache, where all processes share them; they are unmapped from this
    process after every 512 MiB.

    Args:
        path: A file with the images one after another, in C order.
        shape: (N, C, H, W).
        dtype: uint8 or uint16.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, shape: tuple[int, int, int, int], dtype: np.dtype):
        self.path, self.shape = path, shape
        self._array = np.memmap(path, dtype, "c", shape=shape)  # private, since torch requires writable memory
        self._tensor = torch.from_numpy(self._array)
        self.dtype = self._tensor.dtype
        self._gathered = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple:
        return MappedImages, (self.path, self.shape, self._array.dtype)

    @property
    def tensor(self) -> Tensor:
        """All images, a view of the file."""
        return self._tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self._array.nbytes

    def gather(self, rows: Tensor) -> Tensor:
        """Copies of some images: (B, C, H, W)."""
        images = gather_rows(self._tensor, rows)
        self._gathered += len(rows) * max(_MAPPED_AT_ONCE, self.nbytes // max(1, len(self)))
        if self._gathered >= _RELEASE_BYTES:
            self.release()
        return images

    def release(self) -> None:
        """Unmap the pages that were read; the system keeps them in its page cache."""
        self._gathered = 0
        mapped = self._array._mmap  # type: ignore[attr-defined]
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


Images = Tensor | MappedImages


def gather_rows(images: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a tensor, also of 16-bit integers, for which torch has few operations."""
    if images.dtype == torch.uint16:
        return images.view(torch.int16).index_select(0, rows).view(torch.uint16)
    return images.index_select(0, rows)


def gather(images: Images, rows: Tensor) -> Tensor:
    """Copies of some images on their device: (B, C, H, W)."""
    return images.gather(rows) if isinstance(images, MappedImages) else gather_rows(images, rows)


def in_byte_range(images: Tensor) -> Tensor:
    """Bytes as they are, and 16-bit images as float32 of 0 to 255."""
    return images.float().div_(257) if images.dtype == torch.uint16 else images


def centre_slices(stored: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the central part of an image."""
    top, left = (stored[0] - size[0]) // 2, (stored[1] - size[1]) // 2
    return slice(top, top + size[0]), slice(left, left + size[1])


def centre(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The central part of images, a view."""
    if size is None or tuple(images.shape[2:]) == size:
        return images
    rows, columns = centre_slices((images.shape[2], images.shape[3]), size)
    return images[:, :, rows, columns]
