"""One split of a data set: some rows of its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas_agg.training.data.images import Images, centre, gather, in_byte_range

_CUDA_SHARE = 0.5  # of a GPU's free memory that a split may take


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        pixels: Images that contain those of the split: uint8 or uint16, (M, C, H, W).
        labels: int64 (N,); uint8 (N, classes) for several labels per image; float32 (N, targets) for regression.
        index: Positions of the split's images in ``pixels``, int64 (N,); None if they are all of them, in this order.
        size: Height and width of the central part that is evaluated; None if it is all of an image.
        weights: Weight of each image in the training loss, float32 (N,), or None.
    """

    pixels: Images
    labels: Tensor
    index: Tensor | None = None
    size: tuple[int, int] | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def place(self) -> torch.device:
        """The device of positions within the split: that of its images."""
        return self.pixels.device if self.index is None else self.index.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image, its central part."""
        channels, height, width = self.pixels.shape[1:]
        return (channels, *(self.size or (height, width)))

    def rows(self, positions: Tensor, whole: bool = False) -> Tensor:
        """Some images of the split.

        Args:
            positions: Positions within the split, int64 (B,); no device is waited for if they are on `place`.
            whole: Whether to return all of each image rather than its central part.

        Returns:
            (B, C, H, W), on the device of ``pixels``: uint8, or float32 of 0 to 255 for 16-bit images.
        """
        positions = positions.to(self.place)
        places = (positions if self.index is None else self.index[positions]).to(self.pixels.device)
        images = in_byte_range(gather(self.pixels, places))
        return images if whole else centre(images, self.size)

    @property
    def images(self) -> Tensor:
        """All images of the split, as by `rows`; a copy in memory if they are part of more images."""
        if self.index is None and isinstance(self.pixels, Tensor):
            return centre(in_byte_range(self.pixels), self.size)
        return self.rows(torch.arange(len(self), device=self.labels.device))

    @property
    def nbytes(self) -> int:
        """Bytes of the split's images."""
        return len(self) * (self.pixels.nbytes // max(1, len(self.pixels)))

    def to(self, device: torch.device | str) -> Split:
        """The split on a device; images stay where they are if they do not fit into a GPU's memory."""
        device = torch.device(device)
        labels, index, pixels = self.labels.to(device), self.index, self.pixels
        weights = None if self.weights is None else self.weights.to(device)
        if device == pixels.device or not self.fits(device):
            return Split(pixels, labels, None if index is None else index.to(pixels.device), self.size, weights)
        if index is None and isinstance(pixels, Tensor):
            return Split(pixels.to(device), labels, None, self.size, weights)
        places = torch.arange(len(self)) if index is None else index.to(pixels.device)
        chunk = max(1, 2**28 * len(self) // max(1, self.nbytes))
        parts = [gather(pixels, part).to(device) for part in places.split(chunk)]
        return Split(torch.cat(parts), labels, None, self.size, weights)

    def fits(self, device: torch.device) -> bool:
        """Whether the images are moved to a device: to a GPU if they take at most half of its free memory."""
        if device.type != "cuda":
            return True
        return self.nbytes <= _CUDA_SHARE * torch.cuda.mem_get_info(device)[0]

    def __add__(self, other: Split) -> Split:
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = torch.cat([torch.ones(len(s)) if s.weights is None else s.weights for s in (self, other)])
        labels = torch.cat([self.labels, other.labels])
        if self.pixels is other.pixels and self.index is not None and other.index is not None:
            return Split(self.pixels, labels, torch.cat([self.index, other.index]), self.size, weights)
        if (self.size, self.pixels.shape[1:]) != (other.size, other.pixels.shape[1:]):
            raise ValueError("splits of other images")
        parts = [gather(s.pixels, torch.arange(len(s)) if s.index is None else s.index) for s in (self, other)]
        return Split(torch.cat(parts), labels, None, self.size, weights)
