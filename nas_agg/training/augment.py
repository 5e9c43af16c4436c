"""Training images varied in batches, on the device they live on, without a Python loop over images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.errors import InputError
from nas_agg.training.autoaugment import autoaugment
from nas_agg.training.recipes import Augmentation

__all__ = ["Augmentation", "Augmenter", "normalise", "resized"]

_TRIES = 10  # windows drawn for an image, of which the first that fits into it is taken; the last is cut to fit


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes to floats: ``(x / 255 - mean) / std`` for each channel.

    Args:
        images: uint8, (N, C, H, W).
        mean: Of each channel, of x / 255.
        std: Likewise.

    Returns:
        float32, (N, C, H, W), channels_last in memory.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(-1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(-1, 1, 1)
    return images.contiguous(memory_format=torch.channels_last).float().mul_(scale).add_(shift)


def resized(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """A window of each image scaled, bilinearly, to the image's size.

    Args:
        images: uint8, (N, C, H, W).
        top, left, height, width: Of each window, whole float numbers, (N,).

    Returns:
        uint8, (N, C, H, W).
    """
    rows, columns = images.shape[2:]

    def places(first: Tensor, size: Tensor, count: int) -> Tensor:
        """Where each output pixel lies, (N, count), on grid_sample's scale of -1 to 1."""
        steps = torch.arange(0.5, count, device=images.device)
        inside = torch.minimum((steps * (size / count).view(-1, 1) - 0.5).clamp_(min=0), size.view(-1, 1) - 1)
        return (2 * (first.view(-1, 1) + inside) + 1) / count - 1

    y, x = places(top, height, rows), places(left, width, columns)
    grid = torch.stack([x[:, None].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], -1)
    scaled = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


class Augmenter:
    """A set of training images that hands out varied, normalised batches of them.

    Choosing images, cropping and flipping are one gather from the padded images; every random number comes from a
    generator of its own on the images' device.

    Args:
        images: uint8, (N, C, H, W), on the device to work on.
        augmentation: How to vary them.
        mean: Of each channel, of x / 255.
        std: Likewise.
        seed: Of the generator.

    Raises:
        InputError: AutoAugment is asked for on images that are neither grey nor RGB.
    """

    def __init__(
        self, images: Tensor, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], seed: int
    ):
        channels = images.shape[1]
        if augmentation.autoaugment != "none" and channels not in (1, 3):
            raise InputError(f"AutoAugment works on 1 or 3 channels, these images have {channels}; use another recipe")
        self.augmentation, self.mean, self.std = augmentation, mean, std
        self.shape = tuple(images.shape)
        self.device = images.device
        self.generator = torch.Generator(images.device).manual_seed(seed)
        padded = functional.pad(images, (augmentation.crop,) * 4)
        self.padded_size = (padded.shape[2], padded.shape[3])
        self.pixels = padded.permute(0, 2, 3, 1).reshape(-1, channels)

    def batch(self, index: Tensor) -> Tensor:
        """The images of these numbers, varied and normalised.

        Args:
            index: int64, (B,), on the images' device.

        Returns:
            float32, (B, C, H, W), channels_last in memory.
        """
        images = self._cropped(index)
        if self.augmentation.resized_crop:
            top, left, height, width = self._windows(len(index))
            images = resized(images, top, left, height, width)
        if self.augmentation.autoaugment != "none":
            images = autoaugment(images, self.augmentation.autoaugment, self.generator)
        batch = normalise(images, self.mean, self.std)
        if self.augmentation.cutout:
            batch.masked_fill_(self._holes(len(index)), 0.0)
        return batch

    def _draw(self, bound: int, count: int) -> Tensor:
        return torch.randint(bound, (count, 1, 1), generator=self.generator, device=self.device)

    def _cropped(self, index: Tensor) -> Tensor:
        """The images' windows, mirrored or not: uint8, (B, C, H, W)."""
        _, channels, height, width = self.shape
        rows = torch.arange(height, device=self.device).view(1, -1, 1)
        columns = torch.arange(width, device=self.device).view(1, 1, -1)
        if self.augmentation.flip:
            columns = torch.where(self._draw(2, len(index)).bool(), width - 1 - columns, columns)
        if self.augmentation.crop:
            rows = rows + self._draw(2 * self.augmentation.crop + 1, len(index))
            columns = columns + self._draw(2 * self.augmentation.crop + 1, len(index))
        padded_height, padded_width = self.padded_size
        place = (index.view(-1, 1, 1) * padded_height + rows) * padded_width + columns
        return self.pixels.index_select(0, place.view(-1)).view(len(index), height, width, channels).permute(0, 3, 1, 2)

    def _windows(self, count: int) -> list[Tensor]:
        """Windows to be cut and scaled: top, left, height and width, whole float numbers, (B,)."""
        _, _, height, width = self.shape
        area, aspect, down, right = torch.rand((4, _TRIES, count), generator=self.generator, device=self.device)
        area = (0.08 + 0.92 * area) * (height * width)
        aspect = torch.exp((2 * aspect - 1) * math.log(4 / 3))  # of equal chance on a scale of logarithms
        tall, wide = (area / aspect).sqrt().round().clamp_(min=1), (area * aspect).sqrt().round().clamp_(min=1)
        fits = (tall <= height) & (wide <= width)
        fits[-1] = True
        tall[-1].clamp_(max=height)
        wide[-1].clamp_(max=width)
        tall, wide, down, right = (t.gather(0, fits.byte().argmax(0)[None])[0] for t in (tall, wide, down, right))
        return [(down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor(), tall, wide]

    def _holes(self, count: int) -> Tensor:
        """Where cutout's squares lie: bool, (B, 1, H, W)."""
        _, _, height, width = self.shape
        side = self.augmentation.cutout
        top = self._draw(height, count) - side // 2
        left = self._draw(width, count) - side // 2
        rows = torch.arange(height, device=self.device).view(1, -1, 1)
        columns = torch.arange(width, device=self.device).view(1, 1, -1)
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        return inside.unsqueeze(1)
