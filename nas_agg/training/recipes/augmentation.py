"""Augmentation of training images, as numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Policy = Literal["none", "cifar10", "imagenet"]


class Augmentation(BaseModel):
    """Augmentation of training images, in this order.

    Attributes:
        crop: Random crop of the image's size, after black padding of this many pixels on each side.
        flip: Random horizontal flip with probability 1/2.
        resized_crop: Random crop of 8 to 100 % of the image's area with an aspect ratio from 3:4 to 4:3, scaled to the
            image's size.
        color_jitter: Brightness, contrast and saturation are multiplied by factors from 1 - ``color_jitter`` to
            1 + ``color_jitter``, in random order; 0 disables it. RGB images only.
        autoaugment: AutoAugment policy (Cubuk et al., 2019); one of its 25 sub-policies is drawn per image.
        randaugment: Operations of RandAugment per image (Cubuk et al., 2020), of torchvision's 14; 0 disables it.
        randaugment_magnitude: Their magnitude, 0 to 30.
        trivialaugment: TrivialAugment (Müller and Hutter, 2021): one operation per image, of random magnitude, in
            torchvision's wide ranges.
        lighting: PCA colour noise (Krizhevsky et al., 2012, section 4.1): standard deviation of the weights with which
            the principal components of ImageNet's colours are added; 0 disables it. RGB images only.
        cutout: Side in pixels of a square, centred anywhere in the image, that is set to the mean colour; 0 disables
            it.
        erasing: Probability that a rectangle of 2 to 33 % of the image, with an aspect ratio from 0.3 to 3.3, is set to
            the mean colour (Zhong et al., 2017).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(0, ge=0, le=1024)
    flip: bool = False
    resized_crop: bool = False
    color_jitter: float = Field(0.0, ge=0, le=1)
    autoaugment: Policy = "none"
    randaugment: int = Field(0, ge=0, le=14)
    randaugment_magnitude: int = Field(9, ge=0, le=30)
    trivialaugment: bool = False
    lighting: float = Field(0.0, ge=0, le=1)
    cutout: int = Field(0, ge=0, le=1024)
    erasing: float = Field(0.0, ge=0, le=1)
