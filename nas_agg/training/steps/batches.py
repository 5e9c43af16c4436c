"""The augmented batches of a training's epochs, of which each process gets its part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas_agg.common.errors import InputError
from nas_agg.training.augment import Augmenter
from nas_agg.training.data import Data, Split
from nas_agg.training.data.feed import gather_ahead
from nas_agg.training.losses import sampling_weights
from nas_agg.training.recipes import Augmentation, Recipe
from nas_agg.training.steps.processes import Processes


@dataclass(frozen=True)
class Batch:
    """A batch, of which this process has the images of its part.

    Attributes:
        images: Normalised images of the part, float32, (B, C, H, W); if ``preceded``, after the image before the part
            (the last of the batch, before the first).
        targets: Targets of the whole batch.
        weights: Weights of the images of the whole batch, float32 (N,), or None.
        part: The part's place in the batch.
        preceded: Whether ``images`` begins with the image before the part.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None
    part: slice
    preceded: bool = False

    @property
    def count(self) -> int:
        """Images of the whole batch."""
        return len(self.targets)

    @property
    def is_whole(self) -> bool:
        """Whether the part is the batch."""
        return self.part.stop - self.part.start == self.count


def part_of(count: int, processes: Processes) -> slice:
    """The place of this process's part in a batch; sizes of parts differ by at most one, as in `torch.tensor_split`."""
    size, larger = divmod(count, processes.count)
    start = processes.rank * size + min(processes.rank, larger)
    return slice(start, start + size + (processes.rank < larger))


class Batches:
    """Shuffles the training images in each epoch, splits them into batches and augments these.

    Sizes of batches differ by at most one, none is larger than the recipe's and none is a single image. Every process
    draws the same order, and the random numbers of all images, so that batches do not depend on the number of
    processes.

    Args:
        data: The data set.
        images: The training images, on the device if they fit.
        recipe: The recipe.
        augmentation: The augmentation.
        device: The device.
        seeds: Seeds of the order and of the augmentation.
        processes: The processes of the training.

    Attributes:
        count: Number of batches per epoch.
        order: Generator of the order.
        augmenter: Its generator is that of the augmentation.

    Raises:
        InputError: There are too few images for a batch, or for the processes.
    """

    def __init__(
        self,
        data: Data,
        images: Split,
        recipe: Recipe,
        augmentation: Augmentation,
        device: torch.device,
        seeds: tuple[int, int],
        processes: Processes,
    ):
        if len(images) < 2:
            raise InputError(f"{data.name}: {len(images)} training images; at least 2 are needed")
        self.images, self.labels, self.device, self.processes = images, images.labels, device, processes
        self.count = max(1, min(math.ceil(len(images) / recipe.batch_size), len(images) // 2))
        smallest = len(images) // self.count
        if smallest < 2 * processes.count:
            raise InputError(f"batches of {smallest} images: too few for {processes.count} processes; each needs two")
        self.order = torch.Generator().manual_seed(seeds[0])
        channels, *size = images.image_shape
        self.augmenter = Augmenter(channels, (size[0], size[1]), device, augmentation, data.mean, data.std, seeds[1])
        self.sampling = sampling_weights(recipe, data, images)
        self._preceded = processes.count > 1 and bool(recipe.mixup or recipe.cutmix)
        # Several batches are augmented at once: one gather serves many small steps.
        values_at_once = 2**20 if device.type == "cpu" else 2**24
        self._at_once = max(1, values_at_once // (recipe.batch_size * math.prod(data.input)))

    def epoch(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        order = self._draw_order()
        sizes = [len(batch) for batch in order.tensor_split(self.count)]
        groups = [sizes[first : first + self._at_once] for first in range(0, self.count, self._at_once)]
        lengths = [sum(group) for group in groups]
        # Images that are not on the device are gathered by positions that are not there either.
        places, indices = order.to(self.images.place).split(lengths), order.to(self.device).split(lengths)
        rows = [self._rows(group) for group in groups]
        own = [place if at is None else place[at] for place, at in zip(places, rows, strict=True)]
        gathered = gather_ahead(self.images, own, self.device, self.augmenter.whole)
        for group, index, at, images in zip(groups, indices, rows, gathered, strict=True):
            at = None if at is None else at.to(self.device)
            yield from self._augmented(group, index, self.augmenter.batch(images, len(index), at))

    def _augmented(self, sizes: Sequence[int], index: Tensor, images: Tensor) -> Iterator[Batch]:
        """The batches of a group, whose images of this process follow each other."""
        parts = [part_of(size, self.processes) for size in sizes]
        own = images.split([part.stop - part.start + self._preceded for part in parts])
        targets = self.labels[index].split(list(sizes))
        weights: Sequence[Tensor | None] = [None] * len(sizes)
        if self.images.weights is not None:
            weights = self.images.weights[index].split(list(sizes))
        for batch in zip(own, targets, weights, parts, strict=True):
            yield Batch(*batch, self._preceded)

    def _rows(self, sizes: Sequence[int]) -> Tensor | None:
        """Positions of this process's images in a group of batches, where the images are; None if they are all."""
        if self.processes.count == 1:
            return None
        rows, first = [], 0
        for size in sizes:
            part = part_of(size, self.processes)
            if self._preceded:
                before = first + (part.start - 1) % size
                rows.append(torch.arange(before, before + 1, device=self.images.place))
            rows.append(torch.arange(first + part.start, first + part.stop, device=self.images.place))
            first += size
        return torch.cat(rows)

    def _draw_order(self) -> Tensor:
        """Positions of an epoch's images: each once, or drawn by the sampling weights."""
        if self.sampling is None:
            return torch.randperm(len(self.labels), generator=self.order)
        return torch.multinomial(self.sampling, len(self.labels), replacement=True, generator=self.order)

    def example(self) -> tuple[Tensor, Tensor]:
        """Images and targets of this process's part of a batch of the largest size; draws no number."""
        before = self.augmenter.generator.get_state()
        part = part_of(math.ceil(len(self.labels) / self.count), self.processes)
        index = torch.arange(part.stop - part.start)
        images = next(gather_ahead(self.images, [index], self.device, self.augmenter.whole))
        images = self.augmenter.batch(images)
        self.augmenter.generator.set_state(before)
        return images, self.labels[: len(index)]

    @property
    def is_of_one_size(self) -> bool:
        """Whether this process's parts of all batches have the same size."""
        return len(self.labels) % (self.count * self.processes.count) == 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"order": self.order.get_state(), "augmentation": self.augmenter.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.order.set_state(state["order"])
        self.augmenter.generator.set_state(state["augmentation"])
