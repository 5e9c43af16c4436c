"""Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019) of a batch with itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.training.recipes import Recipe


class Mixer:
    """Mixes each image of a batch with the one before it, and their targets likewise.

    The share of a batch is drawn once, as in torchvision's ``MixUp`` and ``CutMix``.

    Args:
        recipe: Its ``mixup`` and ``cutmix`` are parameters of a beta distribution; with both, each batch draws one.
        classes: Number of classes; labels become distributions over them.
        seed: Seed of the draws.
    """

    def __init__(self, recipe: Recipe, classes: int, seed: int):
        self.mixup, self.cutmix, self.classes = recipe.mixup, recipe.cutmix, classes
        self.random = np.random.Generator(np.random.PCG64(seed))

    def mix(self, images: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mixed images, targets and weights.

        Args:
            images: float32, (N, C, H, W).
            targets: int64 (N,) or numbers (N, classes or targets).
            weights: Weight of each image, (N,), or None.
        """
        is_cutmix = bool(self.cutmix) and (not self.mixup or self.random.random() < 0.5)
        alpha = self.cutmix if is_cutmix else self.mixup
        share = float(self.random.beta(alpha, alpha))
        if is_cutmix:
            images, share = self._paste(images, share)
        else:
            images = images * share + images.roll(1, 0) * (1 - share)
        dense = functional.one_hot(targets, self.classes) if targets.ndim == 1 else targets
        mixed = dense.float() * share + dense.roll(1, 0).float() * (1 - share)
        return images, mixed, None if weights is None else weights * share + weights.roll(1, 0) * (1 - share)

    def _paste(self, images: Tensor, share: float) -> tuple[Tensor, float]:
        """Images with a rectangle of the one before, and the share of the image that it leaves."""
        height, width = images.shape[2:]
        side = (1 - share) ** 0.5 / 2
        row, column = int(self.random.integers(height)), int(self.random.integers(width))
        top, bottom = max(0, row - int(side * height)), min(height, row + int(side * height))
        left, right = max(0, column - int(side * width)), min(width, column + int(side * width))
        mixed = images.clone(memory_format=torch.preserve_format)
        mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)

    def state(self) -> str:
        """The random state, as text."""
        return json.dumps(self.random.bit_generator.state)

    def restore(self, state: Any) -> None:
        """Restore a random state."""
        self.random.bit_generator.state = json.loads(state)
