"""How images of any size become images of one size, for files and for arrays.

``crop`` scales an image until it covers the target and keeps its centre, as torchvision's ``Resize`` and ``CenterCrop``
do; ``squash`` scales height and width separately; ``pad`` scales an image until it fits into the target and fills the
rest with black. Images are scaled bilinearly with antialiasing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from nas_agg.common.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["crop", "squash", "pad"]
MAX_SIDE = 1024
MAX_SCALED_PIXELS = 2**26  # of an image that is scaled up, before it is cropped
CROP_SHARE = 0.875  # 224 of 256 pixels, as in the evaluation of ImageNet
_CROP_FROM = 128  # smaller images are not cropped by default: their borders have few pixels to lose


class Preprocessing(BaseModel):
    """What happens to an image before it is trained on or evaluated.

    Attributes:
        size: Height and width of the images that a network sees.
        resize: How an image is made to fit ``stored``.
        stored: Height and width of the images that are kept; evaluation uses the central ``size`` of them, and resized
            crops are cut from all of it.
        interpolation: How images are scaled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int]
    resize: Resize = "crop"
    stored: tuple[int, int]
    interpolation: Literal["bilinear"] = "bilinear"

    def describe(self) -> str:
        """A phrase such as ``shorter side to 256, centre crop of 224x224``."""
        size = "x".join(map(str, self.size))
        match self.resize:
            case "crop":
                shorter = min(self.stored)
                return f"shorter side to {shorter}, centre crop of {size}"
            case "squash":
                return f"scaled to {size}"
        return f"scaled to fit {size}, padded with black"


def plan_preprocessing(size: tuple[int, int], resize: str = "crop", crop_share: float | None = None) -> Preprocessing:
    """The preprocessing for images of a size.

    Args:
        size: Height and width of the images that a network sees.
        resize: ``crop``, ``squash`` or ``pad``.
        crop_share: With ``crop``, the share of the height and width of a scaled image that evaluation keeps; by default
            0.875 from 128 pixels on, and 1 below.

    Raises:
        InputError: The method is unknown or the share is not within 0.5 to 1.
    """
    if resize not in get_args(Resize):
        hint = did_you_mean(resize, get_args(Resize)) or f"; choose from {', '.join(get_args(Resize))}"
        raise InputError(f"unknown resize '{resize}'{hint}")
    if crop_share is not None and not 0.5 <= crop_share <= 1:
        raise InputError(f"crop_share {crop_share:g}: must be 0.5 to 1")
    if resize != "crop":
        return Preprocessing(size=size, resize=resize, stored=size)
    share = crop_share or (CROP_SHARE if min(size) >= _CROP_FROM else 1.0)
    # Margins are even on each side, so that the centre of a centre crop is the centre crop of the scaled image.
    stored = tuple(side + 4 * round(side * (1 / share - 1) / 4) for side in size)
    return Preprocessing(size=size, resize="crop", stored=stored)


def check_side(name: str, side: int) -> None:
    """Check an image size.

    Raises:
        InputError: It is out of bounds.
    """
    if not 1 <= side <= MAX_SIDE:
        raise InputError(f"{name} {side}: must be 1 to {MAX_SIDE} pixels")


def side_pair(image_size: int | str | tuple[int, int] | None) -> tuple[int, int] | None:
    """The height and width of an image size.

    Raises:
        InputError: It is none, or out of bounds.
    """
    if image_size is None:
        return None
    try:
        texts = image_size.lower().split("x") if isinstance(image_size, str) else image_size
        sides = [int(side) for side in texts] if isinstance(texts, list | tuple) else [texts]
        if not 1 <= len(sides) <= 2:
            raise ValueError
    except ValueError:
        raise InputError(f"image_size {image_size}: must be a side, or height and width such as 64x48") from None
    sides *= 3 - len(sides)
    for side in sides:
        check_side("image_size", side)
    return sides[0], sides[1]


def scaled_size(height: int, width: int, target: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Height and width to which an image is scaled before it is cropped or padded.

    Raises:
        InputError: The image is so narrow that most of the scaled one would be cut off, and would not fit into memory.
    """
    if resize == "squash":
        return target
    if resize == "crop":  # rounds down, as torchvision.transforms.Resize does
        if target[1] * height >= target[0] * width:
            scaled = (max(target[0], target[1] * height // width), target[1])
        else:
            scaled = (target[0], max(target[1], target[0] * width // height))
        if scaled[0] * scaled[1] > max(MAX_SCALED_PIXELS, height * width):
            raise InputError(f"{height}x{width} pixels are too narrow to be scaled to {target[0]}x{target[1]}; crop it")
        return scaled
    scale = min(target[0] / height, target[1] / width)
    return min(target[0], max(1, round(height * scale))), min(target[1], max(1, round(width * scale)))


def centre_offset(length: int, target: int) -> int:
    """The first row or column of a central part, rounded as torchvision.transforms.CenterCrop does."""
    return round((length - target) / 2)


def fit_image(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    """Make an image of Pillow fit.

    Args:
        image: An image of mode L, RGB or F.
        preprocessing: The preprocessing.

    Returns:
        An array (H, W) or (H, W, C) of the stored size.
    """
    from PIL.Image import Resampling

    target = preprocessing.stored
    height, width = scaled_size(image.height, image.width, target, preprocessing.resize)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), Resampling.BILINEAR)
    pixels = np.asarray(image)
    if (height, width) == target:
        return pixels
    if preprocessing.resize == "pad":
        out = np.zeros((*target, *pixels.shape[2:]), pixels.dtype)
        top, left = centre_offset(target[0], height), centre_offset(target[1], width)
        out[top : top + height, left : left + width] = pixels
        return out
    top, left = centre_offset(height, target[0]), centre_offset(width, target[1])
    return pixels[top : top + target[0], left : left + target[1]]


def fit_array(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Make images in an array fit: to an integer fraction of their size by averaging blocks of pixels.

    Args:
        pixels: uint8 or uint16, (N, C, H, W).
        preprocessing: The preprocessing.

    Returns:
        The same type, of the stored size.
    """
    import torch
    from torch.nn import functional

    height, width = pixels.shape[2:]
    target = preprocessing.stored
    if (height, width) == target:
        return pixels
    scaled = scaled_size(height, width, target, preprocessing.resize)
    out = np.zeros((*pixels.shape[:2], *target), pixels.dtype)
    in_blocks = height % scaled[0] == 0 and width % scaled[1] == 0
    highest = np.iinfo(pixels.dtype).max
    rows, columns = (
        slice(max(0, centre_offset(t, s)), max(0, centre_offset(t, s)) + s) for t, s in zip(target, scaled, strict=True)
    )
    for start in range(0, len(pixels), 1024):
        chunk = torch.from_numpy(pixels[start : start + 1024].astype(np.float32))
        if scaled == (height, width):
            fitted = chunk
        elif in_blocks:  # equal on every machine, since sums of a few bytes are exact
            fitted = functional.avg_pool2d(chunk, (height // scaled[0], width // scaled[1]))
        else:
            fitted = functional.interpolate(chunk, scaled, mode="bilinear", antialias=True, align_corners=False)
        values = fitted.round_().clamp_(0, highest).numpy()
        if preprocessing.resize == "crop":
            top, left = centre_offset(scaled[0], target[0]), centre_offset(scaled[1], target[1])
            out[start : start + 1024] = values[:, :, top : top + target[0], left : left + target[1]]
        else:
            out[start : start + 1024, :, rows, columns] = values
    return out
