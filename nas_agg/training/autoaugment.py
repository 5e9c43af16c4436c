"""AutoAugment, RandAugment and TrivialAugment on batches: images that drew the same operation are processed together.

The policies are torchvision's. Magnitudes have 10 levels, as in torchvision, whose functions do the work; pixels from
outside an image are black.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

from torch import Tensor

from nas_agg.training.draws import ImageDraws

_SIGNED = ("Shear", "Translate", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")

Step = tuple[str, float, int | None]


@lru_cache
def policy(name: Literal["cifar10", "imagenet"]) -> tuple[tuple[Step, ...], ...]:
    """A policy's 25 sub-policies of two steps: torchvision's operation, probability, level 0 to 9 (or None)."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return tuple(AutoAugment(AutoAugmentPolicy(name)).policies)


def autoaugment(images: Tensor, name: Literal["cifar10", "imagenet"], draws: ImageDraws) -> Tensor:
    """Apply to every image a sub-policy that is drawn for it.

    Args:
        images: uint8, (N, 1 or 3, H, W).
        name: Name of the policy.
        draws: Random numbers of the images.

    Returns:
        New images of the same shape.
    """
    images = images.contiguous()
    numbers = draws.uniform(5)
    sub_policy = (numbers[0] * 25).long()
    for number, steps in enumerate(policy(name)):
        for place, (operation, probability, level) in enumerate(steps):
            selected = (sub_policy == number) & (numbers[1 + place] < probability)
            if not operation.startswith(_SIGNED):
                _apply_to(images, selected, operation, level, 1)
                continue
            negative = numbers[3 + place] < 0.5
            _apply_to(images, selected & ~negative, operation, level, 1)
            _apply_to(images, selected & negative, operation, level, -1)
    return images


#: Operations of RandAugment and TrivialAugment.
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip

MAX_MAGNITUDE = 30


def randaugment(images: Tensor, operations: int, magnitude: int, draws: ImageDraws) -> Tensor:
    """Apply to every image some operations that are drawn for it, in RandAugment (Cubuk et al., 2020).

    Args:
        images: uint8, (N, 1 or 3, H, W).
        operations: Number of operations.
        magnitude: Their magnitude, 0 to 30.
        draws: Random numbers of the images.

    Returns:
        New images of the same shape.
    """
    images = images.contiguous().clone()
    for _ in range(operations):
        drawn, sign = _draw_operations(draws)
        for number, operation in enumerate(OPERATIONS[1:], 1):
            for negative in (False, True) if operation.startswith(_SIGNED) else (None,):
                selected = (drawn == number) & (sign == negative) if negative is not None else drawn == number
                _apply_to(images, selected, operation, 9 * magnitude / MAX_MAGNITUDE, -1 if negative else 1)
    return images


def trivialaugment(images: Tensor, draws: ImageDraws) -> Tensor:
    """Apply to every image one operation of random magnitude, in TrivialAugment's wide ranges (Müller and Hutter).

    Args:
        images: uint8, (N, 1 or 3, H, W).
        draws: Random numbers of the images.

    Returns:
        New images of the same shape.
    """
    images = images.contiguous().clone()
    drawn, sign = _draw_operations(draws)
    bins = draws.integers(MAX_MAGNITUDE + 1)
    for position, (number, magnitude, negative) in enumerate(
        zip(drawn.tolist(), bins.tolist(), sign.tolist(), strict=True)
    ):
        if operation := OPERATIONS[number] if number else "":
            level = (
                9
                * magnitude
                / MAX_MAGNITUDE
                * wide_range(operation, images.shape[-1 if operation.endswith("X") else -2])
            )
            direction = -1 if negative and operation.startswith(_SIGNED) else 1
            images[position] = apply(images[position : position + 1], operation, level, direction)[0]
    return images


def _draw_operations(draws: ImageDraws) -> tuple[Tensor, Tensor]:
    """The number of an operation and whether its direction is negative, per image."""
    drawn = draws.integers(len(OPERATIONS))
    return drawn, draws.uniform() < 0.5


def wide_range(operation: str, side: int) -> float:
    """The end of an operation's wide range, as a multiple of its usual one."""
    if operation.startswith("Translate"):
        return 32 / (150 / 331 * side)  # of 32 pixels
    ends = {"Shear": 3.3, "Rotate": 4.5, "Posterize": 1.5, "Solarize": 1.0}
    return next((end for name, end in ends.items() if operation.startswith(name)), 1.1)  # brightness and the like


def _apply_to(images: Tensor, selected: Tensor, operation: str, level: float | None, sign: int) -> None:
    index = selected.nonzero().view(-1)
    if len(index):
        images[index] = apply(images[index], operation, level or 0, sign)


def apply(images: Tensor, operation: str, level: float, sign: int = 1) -> Tensor:
    """Apply one operation at one magnitude to every image.

    Args:
        images: uint8, (N, 1 or 3, H, W).
        operation: torchvision's name, for instance ``ShearX``.
        level: The magnitude, 0 to 9; TrivialAugment's ranges go beyond.
        sign: 1 or -1, the direction of signed operations.

    Returns:
        New images of the same shape.
    """
    from torchvision.transforms.v2 import functional

    share = sign * level / 9
    match operation:
        case "ShearX" | "ShearY":
            degrees = math.degrees(math.atan(0.3 * share))
            shear = [degrees, 0.0] if operation == "ShearX" else [0.0, degrees]
            return functional.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
        case "TranslateX" | "TranslateY":
            horizontal = operation == "TranslateX"
            pixels = int(150 / 331 * images.shape[-1 if horizontal else -2] * share)
            translate = [pixels, 0] if horizontal else [0, pixels]
            return functional.affine(images, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
        case "Rotate":
            return functional.rotate(images, 30 * share)
        case "Posterize":
            return functional.posterize(images, 8 - round(level * 4 / 9))
        case "Solarize":
            return functional.solarize(images, 255 * (1 - level / 9))
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            name = "saturation" if operation == "Color" else operation.lower()
            return getattr(functional, f"adjust_{name}")(images, 1 + 0.9 * share)
        case _:
            return getattr(functional, operation.lower())(images)
