"""AutoAugment (Cubuk et al., CVPR 2019) on batches: images that drew the same operation are worked on together.

Strengths run over 10 levels, as in torchvision, whose functions do the work. What an operation leaves empty is black.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

# The papers' 25 sub-policies: operation, probability in tenths, level; then the second operation. "-": no level.
_POLICIES = {
    "cifar10": """
        invert 1 -, contrast 2 6 | rotate 7 2, translate_x 3 9 | sharpness 8 1, sharpness 9 3
        shear_y 5 8, translate_y 7 9 | autocontrast 5 -, equalize 9 - | shear_y 2 7, posterize 3 7
        color 4 3, brightness 6 7 | sharpness 3 9, brightness 7 9 | equalize 6 -, equalize 5 -
        contrast 6 7, sharpness 6 5 | color 7 7, translate_x 5 8 | equalize 3 -, autocontrast 4 -
        translate_y 4 3, sharpness 2 6 | brightness 9 6, color 2 8 | solarize 5 2, invert 0 -
        equalize 2 -, autocontrast 6 - | equalize 2 -, equalize 6 - | color 9 9, equalize 6 -
        autocontrast 8 -, solarize 2 8 | brightness 1 3, color 7 0 | solarize 4 5, autocontrast 9 -
        translate_y 9 9, translate_y 7 9 | autocontrast 9 -, solarize 8 3 | equalize 8 -, invert 1 -
        translate_y 7 9, autocontrast 9 -
    """,
    "imagenet": """
        posterize 4 8, rotate 6 9 | solarize 6 5, autocontrast 6 - | equalize 8 -, equalize 6 -
        posterize 6 7, posterize 6 6 | equalize 4 -, solarize 2 4 | equalize 4 -, rotate 8 8
        solarize 6 3, equalize 6 - | posterize 8 5, equalize 10 - | rotate 2 3, solarize 6 8
        equalize 6 -, posterize 4 6 | rotate 8 8, color 4 0 | rotate 4 9, equalize 6 -
        equalize 0 -, equalize 8 - | invert 6 -, equalize 10 - | color 6 4, contrast 10 8
        rotate 8 8, color 10 2 | color 8 8, solarize 8 7 | sharpness 4 7, invert 6 -
        shear_x 6 5, equalize 10 - | color 4 0, equalize 6 - | equalize 4 -, solarize 2 4
        solarize 6 5, autocontrast 6 - | invert 6 -, equalize 10 - | color 6 4, contrast 10 8
        equalize 8 -, equalize 6 -
    """,
}
_SIGNED = ("shear", "translate", "rotate", "brightness", "color", "contrast", "sharpness")

Step = tuple[str, float, int | None]


def policy(name: Literal["cifar10", "imagenet"]) -> list[tuple[Step, ...]]:
    """A policy's 25 sub-policies, each two steps: operation, probability, level 0 to 9 (or none)."""
    pairs = [pair.strip() for line in _POLICIES[name].split("\n") for pair in line.split("|") if pair.strip()]
    return [tuple(_step(text) for text in pair.split(",")) for pair in pairs]


def _step(text: str) -> Step:
    operation, tenths, level = text.split()
    return operation, int(tenths) / 10, None if level == "-" else int(level)


def autoaugment(images: Tensor, name: Literal["cifar10", "imagenet"], generator: torch.Generator) -> Tensor:
    """Every image put through one sub-policy drawn for it alone.

    Args:
        images: uint8, (N, 1 or 3, H, W).
        name: Of the policy.
        generator: On the images' device.

    Returns:
        New images of the same shape.
    """
    images = images.contiguous()
    draws = torch.rand((5, len(images)), generator=generator, device=images.device)
    drawn = (draws[0] * 25).long()
    for number, steps in enumerate(policy(name)):
        for place, (operation, probability, level) in enumerate(steps):
            chosen = (drawn == number) & (draws[1 + place] < probability)
            if not operation.startswith(_SIGNED):
                _work(images, chosen, operation, level, 1)
                continue
            negative = draws[3 + place] < 0.5
            _work(images, chosen & ~negative, operation, level, 1)
            _work(images, chosen & negative, operation, level, -1)
    return images


def _work(images: Tensor, chosen: Tensor, operation: str, level: int | None, sign: int) -> None:
    index = chosen.nonzero().view(-1)
    if len(index):
        images[index] = apply(images[index], operation, level or 0, sign)


def apply(images: Tensor, operation: str, level: int, sign: int = 1) -> Tensor:
    """One operation at one strength on every image.

    Args:
        images: uint8, (N, 1 or 3, H, W).
        operation: For instance ``shear_x``.
        level: 0 to 9.
        sign: 1 or -1: direction of the operations that have one.

    Returns:
        New images of the same shape.
    """
    from torchvision.transforms.v2 import functional as work

    share = sign * level / 9
    size = {"x": images.shape[-1], "y": images.shape[-2]}
    match operation.split("_"):
        case ["shear", axis]:
            degrees = math.degrees(math.atan(0.3 * share))
            shear = [degrees, 0.0] if axis == "x" else [0.0, degrees]
            return work.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
        case ["translate", axis]:
            pixels = int(150 / 331 * size[axis] * share)
            translate = [pixels, 0] if axis == "x" else [0, pixels]
            return work.affine(images, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
        case ["rotate"]:
            return work.rotate(images, 30 * share)
        case ["posterize"]:
            return work.posterize(images, 8 - round(level * 4 / 9))
        case ["solarize"]:
            return work.solarize(images, 255 * (1 - level / 9))
        case ["brightness" | "color" | "contrast" | "sharpness"]:
            name = "saturation" if operation == "color" else operation
            return getattr(work, f"adjust_{name}")(images, 1 + 0.9 * share)
        case _:
            return getattr(work, operation)(images)
