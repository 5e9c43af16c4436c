"""Data sets for training: read, split, scaled and ready to lie on a device as one tensor."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.training import datasets as sources
from nas_agg.training.datasets import DATASETS, Part, Source
from nas_agg.training.recipes import Augmentation

__all__ = ["DATASETS", "Data", "Split", "load_data"]

TEST_SHARE = 0.2
SMALL = 10_000  # data sets with fewer images validate on 20 %, others on 10 %
MAX_SIDE = 1024
_TEST_SEED = 20_240_101  # the same test images whatever the seed of a run


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The same part on a device (itself if it is there)."""
        return Split(self.images.to(device), self.labels.to(device))

    def __add__(self, other: Split) -> Split:
        return Split(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class Data:
    """A data set, split.

    Attributes:
        name: As it was asked for.
        classes: How many.
        class_names: Their names, in the order of the labels.
        input: Channels, height and width of an image.
        train: What networks learn from.
        validation: What the search scores on; drawn by seed, unless the data came with one.
        test: Never moves with the seed.
        mean: Of each channel of x / 255, over the images that train or validate: the same for every seed, where these
            are all but the test's.
        std: Likewise; 1 for a channel that never changes.
        augmentation: How the training images are varied, unless a recipe says otherwise.
        notes: Lines for people about what was done to the images.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    input: tuple[int, int, int]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A checksum of its images, labels and classes as they are split; equal data, equal text."""
        found = hashlib.sha256(f"{self.class_names} {self.input}".encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                found.update(str(tuple(tensor.shape)).encode())
                found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        """Bytes of its images."""
        return sum(split.images.nbytes for split in (self.train, self.validation, self.test))

    def shaped(self, size: tuple[int, int], classes: int) -> Data:
        """The same data set for networks of another image size, or of more classes; itself if they are its own.

        Raises:
            InputError: The scaled images take too much memory.
        """
        if (self.input[1:], self.classes) == (size, classes):
            return self
        parts = [self.train, self.validation, self.test]
        _check_memory(self.name, parts, size)
        train, validation, test = (_scaled(part, size) for part in parts)
        return replace(
            self, classes=classes, input=(self.input[0], *size), train=train, validation=validation, test=test
        )


def load_data(
    spec: str,
    seed: int = 0,
    image_size: int | None = None,
    min_side: int | None = None,
    root: str | os.PathLike[str] | None = None,
    validation_share: float | None = None,
    train_images: int | None = None,
    validation_images: int | None = None,
) -> Data:
    """Read a data set.

    Args:
        spec: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``folder:PATH`` or ``npz:PATH``.
        seed: Of the split into training and validation images; the test images do not depend on it.
        image_size: Scale all images to a square of that side in pixels: to a whole fraction of their size by the means
            of squares of pixels, else bilinear and antialiased. Unsaid, images keep their size; those of a folder are
            scaled to 64.
        min_side: Scale images up in proportion whose shorter side has fewer pixels, and note it.
        root: Where torchvision's files lie; unsaid, ``NAS_AGG_DATA`` or ``~/.cache/nas_agg``.
        validation_share: Of the images that are not the test's, how many validate, where the data set leaves it open;
            unsaid, 0.2, or 0.1 of many images.
        train_images: How many of the training images to keep, drawn by the seed, each class in proportion; unsaid, all.
        validation_images: Likewise how many validate, in place of a share.

    Raises:
        InputError: The name is unknown, or the data are missing or malformed: what, where and what instead.
    """
    for name, side in (("image_size", image_size), ("min_side", min_side)):
        if side is not None and not 1 <= side <= MAX_SIDE:
            raise InputError(f"{name} {side}: give 1 to {MAX_SIDE} pixels")
    if seed < 0:
        raise InputError(f"seed {seed}: give a number from 0 on")
    source = _read(spec, image_size, root)
    train, test = source.train, source.test
    if test is None:
        train, test = _divide(train, TEST_SHARE, _TEST_SEED, source)
    train, validation = _validation(source, train, seed, validation_share, validation_images)
    if train_images is not None:
        _, train = _draw(train, train_images, [seed, 1], f"{source.name}: train_images")
    height, width = train.images.shape[2:]
    target, note = _target(height, width, image_size, min_side)
    parts = [Split(torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in (train, validation, test)]
    _check_memory(source.name, parts, target)
    splits = [_scaled(part, target) for part in parts]
    mean, std = _statistics([splits[0].images.numpy(), splits[1].images.numpy()])
    grown = source.augmentation
    if target != (height, width):
        grown = grown.model_copy(update={"crop": round(grown.crop * min(target) / min(height, width))})
    return Data(
        name=source.name,
        classes=len(source.class_names),
        class_names=source.class_names,
        input=(train.images.shape[1], *target),
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        mean=mean,
        std=std,
        augmentation=grown,
        notes=source.notes + ((note,) if note else ()),
    )


def _read(spec: str, image_size: int | None, root: str | os.PathLike[str] | None) -> Source:
    kind, colon, path = spec.partition(":")
    if kind in ("folder", "npz"):
        if not path:
            raise InputError(f"data set '{spec}': give a path, {kind}:PATH")
        place = Path(os.path.expanduser(path))
        try:
            return sources.npz(place) if kind == "npz" else sources.folder(place, image_size or sources.FOLDER_SIZE)
        except OSError as error:
            raise InputError(f"{error.filename or place}: cannot be read: {error.strerror}") from None
    if spec == "digits":
        return sources.digits()
    if spec in DATASETS and not colon:
        place = Path(os.path.expanduser(root or os.environ.get("NAS_AGG_DATA") or "~/.cache/nas_agg"))
        return sources.torchvision_set(spec, place)
    hint = did_you_mean(kind if colon else spec, [*DATASETS, "folder", "npz"])
    if Path(spec).is_dir():
        hint = f"; for a folder of images write folder:{spec}"
    raise InputError(f"no data set is called '{spec}'{hint or '; there are ' + ', '.join(DATASETS)}")


def _validation(source: Source, train: Part, seed: int, share: float | None, count: int | None) -> tuple[Part, Part]:
    """The training images that are left, and those that validate."""
    if source.validation is not None:
        own = source.validation
        return train, own if count is None else _draw(own, count, [seed], f"{source.name}: validation_images")[1]
    if count is not None:
        rest, validation = _draw(train, count, [seed], f"{source.name}: validation_images")
        if not len(rest.labels):
            raise InputError(f"{source.name}: validation_images {count:,}: none are left to learn from; give fewer")
        return rest, validation
    return _divide(train, share or (0.2 if len(train.labels) < SMALL else 0.1), seed, source)


def _draw(part: Part, count: int, seed: list[int], what: str) -> tuple[Part, Part]:
    """What is left of a part, and exactly so many images of it, each class in proportion (by largest remainders).

    Raises:
        InputError: There are not as many.
    """
    if not 1 <= count <= len(part.labels):
        raise InputError(f"{what} {count:,}: give 1 to {len(part.labels):,}")
    shuffled = np.random.default_rng(seed).permutation(len(part.labels))
    labels = part.labels[shuffled]
    each = np.bincount(part.labels) * count
    quotas, remainders = each // len(labels), each % len(labels)
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    drawn = np.zeros(len(shuffled), bool)
    for label, quota in enumerate(quotas):
        drawn[np.flatnonzero(labels == label)[:quota]] = True
    stay, leave = np.sort(shuffled[~drawn]), np.sort(shuffled[drawn])
    return Part(part.images[stay], part.labels[stay]), Part(part.images[leave], part.labels[leave])


def _divide(part: Part, share: float, seed: int, source: Source) -> tuple[Part, Part]:
    """Split off a share of each class, at least one image of it and never its last.

    Raises:
        InputError: No class has two images.
    """
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(part.labels))
    labels = part.labels[shuffled]
    off = np.zeros(len(shuffled), bool)
    for label in range(len(source.class_names)):
        places = np.flatnonzero(labels == label)
        off[places[: min(max(1, round(share * len(places))), len(places) - 1)]] = True
    if not off.any():
        raise InputError(f"{source.name}: too few images to split; give at least three of each class")
    stay, leave = np.sort(shuffled[~off]), np.sort(shuffled[off])
    return Part(part.images[stay], part.labels[stay]), Part(part.images[leave], part.labels[leave])


def _statistics(parts: list[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x / 255; sums of integers, so exact in any order."""
    total = np.zeros(parts[0].shape[1])
    squares, count = total.copy(), 0
    for images in parts:
        count += images.size // len(total)
        several = max(1, 2**22 // max(1, images[0].size))
        for start in range(0, len(images), several):
            chunk = images[start : start + several].astype(np.int64)
            total += chunk.sum((0, 2, 3))
            squares += (chunk * chunk).sum((0, 2, 3))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean * mean, 0))
    std[std == 0] = 255.0
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _target(height: int, width: int, image_size: int | None, min_side: int | None) -> tuple[tuple[int, int], str]:
    """The size to scale to, and a line about it if ``min_side`` asked for it."""
    if image_size is not None:
        height = width = image_size
    shorter = min(height, width)
    if min_side is None or shorter >= min_side:
        return (height, width), ""
    target = (math.ceil(height * min_side / shorter), math.ceil(width * min_side / shorter))
    return target, f"images scaled from {height}x{width} to {target[0]}x{target[1]}: smaller ones do not fit the space"


def _check_memory(name: str, parts: list[Split], target: tuple[int, int]) -> None:
    need = sum(len(part.labels) for part in parts) * parts[0].images.shape[1] * target[0] * target[1]
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have // 2:
        raise InputError(
            f"{name}: its images of {target[0]}x{target[1]} take {need / 2**30:.1f} GiB, this machine has "
            f"{have / 2**30:.1f}; give a smaller image size"
        )


def _scaled(part: Split, target: tuple[int, int]) -> Split:
    images = part.images
    if tuple(images.shape[2:]) == target:
        return part
    out = torch.empty((*images.shape[:2], *target), dtype=torch.uint8)
    squares = images.shape[2] % target[0] == 0 and images.shape[3] % target[1] == 0
    for start in range(0, len(images), 1024):
        chunk = images[start : start + 1024].float()
        if squares:  # the same on every machine, as sums of a few bytes are exact
            scaled = functional.avg_pool2d(chunk, (images.shape[2] // target[0], images.shape[3] // target[1]))
        else:
            scaled = functional.interpolate(chunk, target, mode="bilinear", antialias=True, align_corners=False)
        out[start : start + 1024] = scaled.round_().clamp_(0, 255)
    return Split(out, part.labels)
