"""Batched augmentation of training images on their device, without a Python loop over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.common.errors import InputError
from nas_agg.training.autoaugment import autoaugment, randaugment, trivialaugment
from nas_agg.training.draws import ImageDraws
from nas_agg.training.recipes import Augmentation

__all__ = ["Augmentation", "Augmenter", "jitter_color", "lighting_shift", "normalise", "resize_windows"]

_TRIES = 10  # windows drawn per image; the first that fits is used, and the last is clipped if none does

# Principal components of ImageNet's RGB values (0 to 1), in columns, and their standard deviations: the colour noise of
# AlexNet (Krizhevsky et al., 2012, section 4.1) with the values that its reimplementations share.
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_DEVIATIONS = (0.2175, 0.0188, 0.0045)


@lru_cache(maxsize=256)
def _constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """A constant on a device; made once, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise bytes to floats: ``(x / 255 - mean) / std`` per channel.

    Args:
        images: uint8, (N, C, H, W).
        mean: Mean of x / 255 per channel.
        std: Standard deviation of x / 255 per channel.

    Returns:
        float32, (N, C, H, W), channels_last in memory.
    """
    scale = _constant(tuple(1 / (255 * s) for s in std), images.device).view(-1, 1, 1)
    shift = _constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), images.device).view(-1, 1, 1)
    return images.contiguous(memory_format=torch.channels_last).float().mul_(scale).add_(shift)


def resize_windows(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]
) -> Tensor:
    """Scale one window per image bilinearly to a size.

    Args:
        images: uint8, or float32 of 0 to 255, (N, C, H, W).
        top, left, height, width: Integers of each window as floats, (N,).
        size: Height and width of the result.

    Returns:
        The same type, (N, C, *size).
    """
    rows, columns = size

    def coordinates(first: Tensor, size: Tensor, count: int, whole: int) -> Tensor:
        """Coordinates of the output pixels, (N, count), in grid_sample's range of -1 to 1."""
        steps = torch.arange(0.5, count, device=images.device)
        inside = torch.minimum((steps * (size / count).view(-1, 1) - 0.5).clamp_(min=0), size.view(-1, 1) - 1)
        return (2 * (first.view(-1, 1) + inside) + 1) / whole - 1

    y, x = coordinates(top, height, rows, images.shape[2]), coordinates(left, width, columns, images.shape[3])
    grid = torch.stack([x[:, None].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], -1)
    scaled = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return as_bytes(scaled, images.dtype)


def as_bytes(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of 0 to 255 as bytes if images are bytes; images of more bits stay floats."""
    return values.round_().clamp_(0, 255).to(torch.uint8) if dtype == torch.uint8 else values.clamp_(0, 255)


def jitter_color(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast and saturation in a separate order per image.

    Each step blends an image with black, its mean grey value or its greyscale version and clips the result to bytes, as
    torchvision's ``adjust_brightness``, ``adjust_contrast`` and ``adjust_saturation`` do.

    Args:
        images: uint8, or float32 of 0 to 255, (N, 3, H, W).
        factors: float32, (3, N): factors of brightness, contrast and saturation; 1 changes nothing.
        order: int64, (3, N): per image a permutation of 0 (brightness), 1 (contrast) and 2 (saturation).

    Returns:
        The same type, (N, 3, H, W).
    """
    dtype = images.dtype
    for kinds in order:
        kind, factor = kinds.view(-1, 1, 1, 1), factors.gather(0, kinds[None]).view(-1, 1, 1, 1)
        red, green, blue = images.unbind(1)
        grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_().unsqueeze(1)
        base = torch.where(kind == 2, grey, torch.where(kind == 1, grey.mean((1, 2, 3), keepdim=True), 0.0))
        images = images.mul(factor).addcmul_(base, 1 - factor).clamp_(0, 255).to(dtype)
    return images


def lighting_shift(draws: Tensor) -> Tensor:
    """The shift of RGB values (0 to 1) of PCA lighting.

    Args:
        draws: Weights of the principal components, in standard deviations: (N, 3).

    Returns:
        The shift of red, green and blue, (N, 3).
    """
    components, deviations = _constant(_COMPONENTS, draws.device), _constant(_DEVIATIONS, draws.device)
    return draws * deviations @ components.T


def _policy(augmentation: Augmentation) -> str:
    """The name of the augmentation policy, or nothing."""
    if augmentation.autoaugment != "none":
        return "AutoAugment"
    return "RandAugment" if augmentation.randaugment else "TrivialAugment" if augmentation.trivialaugment else ""


class Augmenter:
    """Augments and normalises batches of training images.

    Cropping and flipping are a single gather from the padded images. All random numbers come from a separate generator
    on the images' device.

    Args:
        channels: Channels of the images.
        size: Height and width of augmented images.
        device: The images' device.
        augmentation: The augmentation.
        mean: Mean of x / 255 per channel.
        std: Standard deviation of x / 255 per channel.
        seed: Seed of the generator.

    Images of more than 8 bits per channel are floats of 0 to 255.

    Raises:
        InputError: AutoAugment of images that are neither greyscale nor RGB, or color jitter or lighting of images that
            are not RGB.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        device: torch.device,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ):
        if (policy := _policy(augmentation)) and channels not in (1, 3):
            raise InputError(f"{policy} requires 1 or 3 channels, but images have {channels}; use another recipe")
        for name, strength in (("color jitter", augmentation.color_jitter), ("lighting", augmentation.lighting)):
            if strength and channels != 3:
                raise InputError(f"{name} requires 3 channels, but images have {channels}; use another recipe")
        self.augmentation, self.mean, self.std = augmentation, mean, std
        self.size, self.device = size, device
        self.generator = torch.Generator(device).manual_seed(seed)

    @property
    def whole(self) -> bool:
        """Whether images are to be given whole, not only their central part: resized crops are cut from all of it."""
        return self.augmentation.resized_crop

    def batch(self, images: Tensor, count: int | None = None, rows: Tensor | None = None) -> Tensor:
        """An augmented and normalised batch, or some images of it.

        Args:
            images: uint8, or float32 of 0 to 255, (B, C, H, W): of the size of augmented images, or larger for resized
                crops.
            count: Number of images of the whole batch, if ``images`` are some of it.
            rows: Their positions in the whole batch, int64 (B,), on the device.

        Returns:
            float32, (B, C, H, W), channels_last in memory.
        """
        draws = ImageDraws(self.generator, len(images) if count is None else count, rows)
        images = self._crop_and_flip(images, draws)
        if self.augmentation.resized_crop:
            images = resize_windows(images, *self._crop_windows(draws, images.shape[2:]), size=self.size)
        if self.augmentation.color_jitter:
            images = jitter_color(images, *self._jitter(draws))
        if policy := _policy(self.augmentation):
            if images.dtype != torch.uint8:
                raise InputError(f"{policy} requires images of 8 bits per channel; use another recipe")
            images = self._apply_policy(images, draws)
        batch = normalise(images, self.mean, self.std)
        if self.augmentation.lighting:
            batch += self._shift(draws)
        if self.augmentation.cutout:
            batch.masked_fill_(self._holes(draws), 0.0)
        if self.augmentation.erasing:
            batch.masked_fill_(self._rectangles(draws), 0.0)
        return batch

    def _apply_policy(self, images: Tensor, draws: ImageDraws) -> Tensor:
        """Images after AutoAugment, RandAugment or TrivialAugment."""
        augmentation = self.augmentation
        if augmentation.autoaugment != "none":
            return autoaugment(images, augmentation.autoaugment, draws)
        if augmentation.randaugment:
            return randaugment(images, augmentation.randaugment, augmentation.randaugment_magnitude, draws)
        return trivialaugment(images, draws)

    def _crop_and_flip(self, images: Tensor, draws: ImageDraws) -> Tensor:
        """Randomly cropped and flipped images of the same size and type."""
        count, channels, height, width = images.shape
        crop = self.augmentation.crop
        padded = functional.pad(images, (crop,) * 4) if crop else images
        pixels = padded.permute(0, 2, 3, 1).reshape(-1, channels)
        rows = torch.arange(height, device=self.device).view(1, -1, 1)
        columns = torch.arange(width, device=self.device).view(1, 1, -1)
        if self.augmentation.flip:
            columns = torch.where(draws.integers(2).view(-1, 1, 1).bool(), width - 1 - columns, columns)
        if crop:
            rows = rows + draws.integers(2 * crop + 1).view(-1, 1, 1)
            columns = columns + draws.integers(2 * crop + 1).view(-1, 1, 1)
        first = torch.arange(count, device=self.device).view(-1, 1, 1) * padded.shape[2]
        pixel = (first + rows) * padded.shape[3] + columns
        return pixels.index_select(0, pixel.view(-1)).view(count, height, width, channels).permute(0, 3, 1, 2)

    def _crop_windows(self, draws: ImageDraws, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows of resized crops of images of a size: top, left, height and width, integers as floats, (B,)."""
        height, width = size
        area, aspect, down, right = draws.uniform(4, _TRIES)
        area = (0.08 + 0.92 * area) * (height * width)
        aspect = torch.exp((2 * aspect - 1) * math.log(4 / 3))  # uniform in the logarithm
        tall, wide = (area / aspect).sqrt().round().clamp_(min=1), (area * aspect).sqrt().round().clamp_(min=1)
        fits = (tall <= height) & (wide <= width)
        fits[-1].fill_(True)
        tall[-1].clamp_(max=height)
        wide[-1].clamp_(max=width)
        tall, wide, down, right = (t.gather(0, fits.byte().argmax(0)[None])[0] for t in (tall, wide, down, right))
        return (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor(), tall, wide

    def _jitter(self, draws: ImageDraws) -> tuple[Tensor, Tensor]:
        """Factors and order for `jitter_color`: (3, B) each."""
        numbers = draws.uniform(6)
        return 1 + self.augmentation.color_jitter * (2 * numbers[:3] - 1), numbers[3:].argsort(0)

    def _shift(self, draws: ImageDraws) -> Tensor:
        """The shift of normalised images by lighting: (B, 3, 1, 1)."""
        shift = lighting_shift(self.augmentation.lighting * draws.normal(3)) / _constant(tuple(self.std), self.device)
        return shift.view(-1, 3, 1, 1)

    def _holes(self, draws: ImageDraws) -> Tensor:
        """Mask of cutout's squares: bool, (B, 1, H, W)."""
        height, width = self.size
        side = self.augmentation.cutout
        top = draws.integers(height).view(-1, 1, 1) - side // 2
        left = draws.integers(width).view(-1, 1, 1) - side // 2
        rows = torch.arange(height, device=self.device).view(1, -1, 1)
        columns = torch.arange(width, device=self.device).view(1, 1, -1)
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        return inside.unsqueeze(1)

    def _rectangles(self, draws: ImageDraws) -> Tensor:
        """Mask of random erasing's rectangles: bool, (B, 1, H, W)."""
        height, width = self.size
        numbers = draws.uniform(4 * _TRIES + 1)
        area, aspect, down, right = numbers[1:].view(4, _TRIES, -1)
        area, aspect = (0.02 + 0.31 * area) * (height * width), 0.3 * (3.3 / 0.3) ** aspect  # uniform in the logarithm
        tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (tall < height) & (wide < width)
        erased = (numbers[0] < self.augmentation.erasing) & fits.any(0)
        tall, wide, down, right = (t.gather(0, fits.byte().argmax(0)[None])[0] for t in (tall, wide, down, right))
        top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
        top, left, tall, wide, erased = (t.view(-1, 1, 1) for t in (top, left, tall, wide, erased))
        rows = torch.arange(height, device=self.device).view(1, -1, 1)
        columns = torch.arange(width, device=self.device).view(1, 1, -1)
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        return (inside & erased).unsqueeze(1)
