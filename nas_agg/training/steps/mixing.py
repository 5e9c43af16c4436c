"""Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019) of a batch with itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_agg.training.recipes import Recipe
from nas_agg.training.steps.batches import Batch


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

    def mix(self, batch: Batch) -> Batch:
        """A batch of mixed images, targets and weights; processes that train together draw the same numbers."""
        is_cutmix = bool(self.cutmix) and (not self.mixup or self.random.random() < 0.5)
        alpha = self.cutmix if is_cutmix else self.mixup
        share = float(self.random.beta(alpha, alpha))
        images = batch.images
        images, before = (images[1:], images[:-1]) if batch.preceded else (images, images.roll(1, 0))
        if is_cutmix:
            images, share = self._paste(images, before, share)
        else:
            images = images * share + before * (1 - share)
        targets, weights = batch.targets, batch.weights
        dense = targets.float() if targets.ndim > 1 else self._one_hot(targets)
        mixed = dense * share + dense.roll(1, 0) * (1 - share)
        if weights is not None:
            weights = weights * share + weights.roll(1, 0) * (1 - share)
        return Batch(images, mixed, weights, batch.part)

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Distributions of labels, (N, classes); torch's own function reads their range, and so waits."""
        return torch.zeros(len(labels), self.classes, device=labels.device).scatter_(1, labels[:, None], 1.0)

    def _paste(self, images: Tensor, before: Tensor, share: float) -> tuple[Tensor, float]:
        """Images with a rectangle of the one before each, and the share of the image that it leaves."""
        height, width = images.shape[2:]
        side = (1 - share) ** 0.5 / 2
        row, column = int(self.random.integers(height)), int(self.random.integers(width))
        top, bottom = max(0, row - int(side * height)), min(height, row + int(side * height))
        left, right = max(0, column - int(side * width)), min(width, column + int(side * width))
        mixed = images.clone(memory_format=torch.preserve_format)
        mixed[:, :, top:bottom, left:right] = before[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)

    def state(self) -> str:
        """The random state, as text."""
        return json.dumps(self.random.bit_generator.state)

    def restore(self, state: Any) -> None:
        """Restore a random state."""
        self.random.bit_generator.state = json.loads(state)
