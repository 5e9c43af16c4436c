"""Training images varied in batches, on the device they live on, without a Python loop over images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.common.errors import InputError
from nas_agg.training.autoaugment import autoaugment
from nas_agg.training.recipes import Augmentation

__all__ = ["Augmentation", "Augmenter", "color_jittered", "color_shift", "normalise", "resized"]

_TRIES = 10  # windows drawn for an image, of which the first that fits into it is taken; the last is cut to fit

# Principal components of the RGB values of ImageNet (0 to 1), in columns, and their standard deviations: the noise of
# AlexNet (Krizhevsky et al. 2012, section 4.1) with the values that its reimplementations share.
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_DEVIATIONS = (0.2175, 0.0188, 0.0045)


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


def color_jittered(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast and saturation, changed in an order of each image's own.

    Each step moves an image away from black, from its mean grey value or from its grey version, and cuts off what
    is no byte, as torchvision's ``adjust_brightness``, ``adjust_contrast`` and ``adjust_saturation`` do.

    Args:
        images: uint8, (N, 3, H, W).
        factors: float32, (3, N): of brightness, contrast and saturation; 1 changes nothing.
        order: int64, (3, N): for each image a permutation of 0 (brightness), 1 (contrast) and 2 (saturation).

    Returns:
        uint8, (N, 3, H, W).
    """
    for kinds in order:
        kind, factor = kinds.view(-1, 1, 1, 1), factors.gather(0, kinds[None]).view(-1, 1, 1, 1)
        red, green, blue = images.unbind(1)
        grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_().unsqueeze(1)
        base = torch.where(kind == 2, grey, torch.where(kind == 1, grey.mean((1, 2, 3), keepdim=True), 0.0))
        images = images.mul(factor).addcmul_(base, 1 - factor).clamp_(0, 255).to(torch.uint8)
    return images


def color_shift(draws: Tensor) -> Tensor:
    """PCA lighting: what is added to the RGB values (0 to 1) of every pixel of an image.

    Args:
        draws: Of each principal component, in standard deviations: (N, 3).

    Returns:
        (N, 3): for red, green and blue.
    """
    components, deviations = (torch.tensor(x, device=draws.device) for x in (_COMPONENTS, _DEVIATIONS))
    return draws * deviations @ components.T


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
        InputError: AutoAugment is asked for on images that are neither grey nor RGB, or color jitter or lighting on
            images that are not RGB.
    """

    def __init__(
        self, images: Tensor, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], seed: int
    ):
        channels = images.shape[1]
        if augmentation.autoaugment != "none" and channels not in (1, 3):
            raise InputError(f"AutoAugment works on 1 or 3 channels, these images have {channels}; use another recipe")
        for name, wanted in (("color jitter", augmentation.color_jitter), ("lighting", augmentation.lighting)):
            if wanted and channels != 3:
                raise InputError(f"{name} works on 3 channels, these images have {channels}; use another recipe")
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
        if self.augmentation.color_jitter:
            images = color_jittered(images, *self._jitter(len(index)))
        if self.augmentation.autoaugment != "none":
            images = autoaugment(images, self.augmentation.autoaugment, self.generator)
        batch = normalise(images, self.mean, self.std)
        if self.augmentation.lighting:
            batch += self._shift(len(index))
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

    def _jitter(self, count: int) -> tuple[Tensor, Tensor]:
        """Factors and order of `color_jittered`: (3, B) each."""
        draws = torch.rand((6, count), generator=self.generator, device=self.device)
        return 1 + self.augmentation.color_jitter * (2 * draws[:3] - 1), draws[3:].argsort(0)

    def _shift(self, count: int) -> Tensor:
        """What lighting adds to normalised images: (B, 3, 1, 1)."""
        draws = torch.randn((count, 3), generator=self.generator, device=self.device)
        shift = color_shift(self.augmentation.lighting * draws) / torch.tensor(self.std, device=self.device)
        return shift.view(-1, 3, 1, 1)

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
