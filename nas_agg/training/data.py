"""Data sets for training: read, split, scaled, and small enough to be moved to a device as one tensor."""

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
from nas_agg.training import datasets
from nas_agg.training.datasets import DATASETS, RawDataset, RawSplit
from nas_agg.training.recipes import Augmentation

__all__ = ["DATASETS", "Data", "Split", "load_data"]

TEST_SHARE = 0.2
SMALL = 10_000  # data sets with fewer training images use 20 % of them for validation, others 10 %
MAX_SIDE = 1024
_TEST_SEED = 20_240_101  # the test images do not depend on the seed of a run


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The split on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def __add__(self, other: Split) -> Split:
        return Split(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class Data:
    """A data set, split.

    Attributes:
        name: Its name, as specified.
        classes: Number of classes.
        class_names: Names of the classes, in the order of the labels.
        input: Channels, height and width of an image.
        train: Training images.
        validation: Validation images, by which a search compares networks; drawn by the seed, unless the data set has a
            validation split of its own.
        test: Test images; they do not depend on the seed.
        mean: Mean of x / 255 per channel, over training and validation images; the same for every seed if these are all
            images but the test images.
        std: Standard deviation, likewise; 1 for a constant channel.
        augmentation: Default augmentation of the training images; a recipe may override it.
        notes: Messages about what was done to the images.
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
        """A checksum of images, labels and classes, split by split."""
        checksum = hashlib.sha256(f"{self.class_names} {self.input}".encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                checksum.update(str(tuple(tensor.shape)).encode())
                checksum.update(tensor.contiguous().numpy().data)
        return checksum.hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return sum(split.images.nbytes for split in (self.train, self.validation, self.test))

    def shaped(self, size: tuple[int, int], classes: int) -> Data:
        """The data set for networks of another image size or of more classes.

        Raises:
            InputError: The scaled images take too much memory.
        """
        if (self.input[1:], self.classes) == (size, classes):
            return self
        parts = [self.train, self.validation, self.test]
        _check_memory(self.name, parts, size)
        train, validation, test = (_scale_images(part, size) for part in parts)
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
        seed: Seed of the split into training and validation images; the test images do not depend on it.
        image_size: Scale all images to squares of this side in pixels: to an integer fraction of their size by
            averaging blocks of pixels, else bilinearly with antialiasing. By default images keep their size, except
            those of a folder, which are scaled to 64.
        min_side: Scale images up proportionally if their shorter side has fewer pixels, and add a note.
        root: Folder of torchvision's files; by default ``NAS_AGG_DATA`` or ``~/.cache/nas_agg``.
        validation_share: Share of the images other than test images that is used for validation, if the data set has no
            validation split; by default 0.2, or 0.1 of large data sets.
        train_images: Number of training images to keep, drawn by the seed in proportion to the classes; by default all.
        validation_images: Number of validation images, likewise; replaces the share.

    Raises:
        InputError: The name is unknown, or the data are missing or malformed.
    """
    for name, side in (("image_size", image_size), ("min_side", min_side)):
        if side is not None and not 1 <= side <= MAX_SIDE:
            raise InputError(f"{name} {side}: must be 1 to {MAX_SIDE} pixels")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    raw = _read(spec, image_size, root)
    train, test = raw.train, raw.test
    if test is None:
        train, test = _split_off(train, TEST_SHARE, _TEST_SEED, raw)
    train, validation = _split_validation(raw, train, seed, validation_share, validation_images)
    if train_images is not None:
        _, train = _draw(train, train_images, [seed, 1], f"{raw.name}: train_images")
    height, width = train.images.shape[2:]
    target, note = _target_size(height, width, image_size, min_side)
    parts = [Split(torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in (train, validation, test)]
    _check_memory(raw.name, parts, target)
    splits = [_scale_images(part, target) for part in parts]
    mean, std = _statistics([splits[0].images.numpy(), splits[1].images.numpy()])
    augmentation = raw.augmentation
    if target != (height, width):
        crop = round(augmentation.crop * min(target) / min(height, width))
        augmentation = augmentation.model_copy(update={"crop": crop})
    return Data(
        name=raw.name,
        classes=len(raw.class_names),
        class_names=raw.class_names,
        input=(train.images.shape[1], *target),
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        mean=mean,
        std=std,
        augmentation=augmentation,
        notes=raw.notes + ((note,) if note else ()),
    )


def _read(spec: str, image_size: int | None, root: str | os.PathLike[str] | None) -> RawDataset:
    kind, colon, path = spec.partition(":")
    if kind in ("folder", "npz"):
        if not path:
            raise InputError(f"data set '{spec}': missing path; use {kind}:PATH")
        place = Path(os.path.expanduser(path))
        try:
            return (
                datasets.read_npz(place)
                if kind == "npz"
                else datasets.read_folder(place, image_size or datasets.FOLDER_SIZE)
            )
        except OSError as error:
            raise InputError(f"{error.filename or place}: cannot be read: {error.strerror}") from None
    if spec == "digits":
        return datasets.read_digits()
    if spec in DATASETS and not colon:
        place = Path(os.path.expanduser(root or os.environ.get("NAS_AGG_DATA") or "~/.cache/nas_agg"))
        return datasets.read_torchvision(spec, place)
    hint = did_you_mean(kind if colon else spec, [*DATASETS, "folder", "npz"])
    if Path(spec).is_dir():
        hint = f"; for a folder of images use folder:{spec}"
    raise InputError(f"unknown data set '{spec}'{hint or '; choose from ' + ', '.join(DATASETS)}")


def _split_validation(
    raw: RawDataset, train: RawSplit, seed: int, share: float | None, count: int | None
) -> tuple[RawSplit, RawSplit]:
    """Split training images into those that remain for training and those for validation."""
    if raw.validation is not None:
        own = raw.validation
        return train, own if count is None else _draw(own, count, [seed], f"{raw.name}: validation_images")[1]
    if count is not None:
        rest, validation = _draw(train, count, [seed], f"{raw.name}: validation_images")
        if not len(rest.labels):
            raise InputError(f"{raw.name}: validation_images {count:,}: no training images would remain; use fewer")
        return rest, validation
    return _split_off(train, share or (0.2 if len(train.labels) < SMALL else 0.1), seed, raw)


def _draw(part: RawSplit, count: int, seed: list[int], what: str) -> tuple[RawSplit, RawSplit]:
    """Draw a number of images, each class in proportion by largest remainders; returns the rest and the drawn images.

    Raises:
        InputError: There are fewer images.
    """
    if not 1 <= count <= len(part.labels):
        raise InputError(f"{what} {count:,}: must be 1 to {len(part.labels):,}")
    shuffled = np.random.default_rng(seed).permutation(len(part.labels))
    labels = part.labels[shuffled]
    products = np.bincount(part.labels) * count
    quotas, remainders = products // len(labels), products % len(labels)
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    drawn = np.zeros(len(shuffled), bool)
    for label, quota in enumerate(quotas):
        drawn[np.flatnonzero(labels == label)[:quota]] = True
    return _take(part, shuffled[~drawn]), _take(part, shuffled[drawn])


def _split_off(part: RawSplit, share: float, seed: int, raw: RawDataset) -> tuple[RawSplit, RawSplit]:
    """Split off a share of each class: at least one image of it, and never all; returns the rest and the share.

    Raises:
        InputError: No class has two images.
    """
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(part.labels))
    labels = part.labels[shuffled]
    drawn = np.zeros(len(shuffled), bool)
    for label in range(len(raw.class_names)):
        positions = np.flatnonzero(labels == label)
        drawn[positions[: min(max(1, round(share * len(positions))), len(positions) - 1)]] = True
    if not drawn.any():
        raise InputError(f"{raw.name}: too few images to split; provide at least three per class")
    return _take(part, shuffled[~drawn]), _take(part, shuffled[drawn])


def _take(part: RawSplit, index: np.ndarray) -> RawSplit:
    """The images of an index, in their original order."""
    index = np.sort(index)
    return RawSplit(part.images[index], part.labels[index])


def _statistics(parts: list[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of x / 255 per channel; sums of integers, hence exact in any order."""
    total = np.zeros(parts[0].shape[1])
    squares, count = total.copy(), 0
    for images in parts:
        count += images.size // len(total)
        chunk_size = max(1, 2**22 // max(1, images[0].size))
        for start in range(0, len(images), chunk_size):
            chunk = images[start : start + chunk_size].astype(np.int64)
            total += chunk.sum((0, 2, 3))
            squares += (chunk * chunk).sum((0, 2, 3))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean * mean, 0))
    std[std == 0] = 255.0
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _target_size(height: int, width: int, image_size: int | None, min_side: int | None) -> tuple[tuple[int, int], str]:
    """The target size, and a note if ``min_side`` determined it."""
    if image_size is not None:
        height = width = image_size
    shorter = min(height, width)
    if min_side is None or shorter >= min_side:
        return (height, width), ""
    target = (math.ceil(height * min_side / shorter), math.ceil(width * min_side / shorter))
    return (
        target,
        f"images scaled from {height}x{width} to {target[0]}x{target[1]}, the smallest size the space accepts",
    )


def _check_memory(name: str, parts: list[Split], target: tuple[int, int]) -> None:
    needed = sum(len(part.labels) for part in parts) * parts[0].images.shape[1] * target[0] * target[1]
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available // 2:
        raise InputError(
            f"{name}: images of {target[0]}x{target[1]} need {needed / 2**30:.1f} GiB and this machine has "
            f"{available / 2**30:.1f} GiB; use a smaller image size"
        )


def _scale_images(part: Split, target: tuple[int, int]) -> Split:
    images = part.images
    if tuple(images.shape[2:]) == target:
        return part
    out = torch.empty((*images.shape[:2], *target), dtype=torch.uint8)
    in_blocks = images.shape[2] % target[0] == 0 and images.shape[3] % target[1] == 0
    for start in range(0, len(images), 1024):
        chunk = images[start : start + 1024].float()
        if in_blocks:  # equal on every machine, since sums of a few bytes are exact
            scaled = functional.avg_pool2d(chunk, (images.shape[2] // target[0], images.shape[3] // target[1]))
        else:
            scaled = functional.interpolate(chunk, target, mode="bilinear", antialias=True, align_corners=False)
        out[start : start + 1024] = scaled.round_().clamp_(0, 255)
    return Split(out, part.labels)
