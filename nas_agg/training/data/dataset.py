"""A data set for training: its splits, and what is kept of it with a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_agg.common.errors import InputError
from nas_agg.training.data.images import Images, MappedImages, centre, gather, in_byte_range
from nas_agg.training.data.preprocessing import Preprocessing, fit_array, plan_preprocessing
from nas_agg.training.data.samples import Task
from nas_agg.training.recipes import Augmentation

_CUDA_SHARE = 0.5  # of a GPU's free memory that a split may take


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        pixels: Images that contain those of the split: uint8 or uint16, (M, C, H, W).
        labels: int64 (N,); uint8 (N, classes) for several labels per image; float32 (N, targets) for regression.
        index: Positions of the split's images in ``pixels``, int64 (N,); None if they are all of them, in this order.
        size: Height and width of the central part that is evaluated; None if it is all of an image.
        weights: Weight of each image in the training loss, float32 (N,), or None.
    """

    pixels: Images
    labels: Tensor
    index: Tensor | None = None
    size: tuple[int, int] | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image, its central part."""
        channels, height, width = self.pixels.shape[1:]
        return (channels, *(self.size or (height, width)))

    def rows(self, positions: Tensor, whole: bool = False) -> Tensor:
        """Some images of the split.

        Args:
            positions: Positions within the split, int64 (B,), on the device of ``labels``.
            whole: Whether to return all of each image rather than its central part.

        Returns:
            (B, C, H, W), on the device of ``pixels``: uint8, or float32 of 0 to 255 for 16-bit images.
        """
        places = (positions if self.index is None else self.index[positions]).to(self.pixels.device)
        images = in_byte_range(gather(self.pixels, places))
        return images if whole else centre(images, self.size)

    @property
    def images(self) -> Tensor:
        """All images of the split, as by `rows`; a copy in memory if they are part of more images."""
        if self.index is None and isinstance(self.pixels, Tensor):
            return centre(in_byte_range(self.pixels), self.size)
        return self.rows(torch.arange(len(self), device=self.labels.device))

    @property
    def nbytes(self) -> int:
        """Bytes of the split's images."""
        return len(self) * (self.pixels.nbytes // max(1, len(self.pixels)))

    def to(self, device: torch.device | str) -> Split:
        """The split on a device; images stay where they are if they do not fit into a GPU's memory."""
        device = torch.device(device)
        labels, index, pixels = self.labels.to(device), self.index, self.pixels
        weights = None if self.weights is None else self.weights.to(device)
        if device == pixels.device or not self._fits(device):
            return Split(pixels, labels, None if index is None else index.to(device), self.size, weights)
        if index is None and isinstance(pixels, Tensor):
            return Split(pixels.to(device), labels, None, self.size, weights)
        places = torch.arange(len(self)) if index is None else index.to(pixels.device)
        chunk = max(1, 2**28 * len(self) // max(1, self.nbytes))
        parts = [gather(pixels, part).to(device) for part in places.split(chunk)]
        return Split(torch.cat(parts), labels, None, self.size, weights)

    def _fits(self, device: torch.device) -> bool:
        if device.type != "cuda":
            return True
        return self.nbytes <= _CUDA_SHARE * torch.cuda.mem_get_info(device)[0]

    def __add__(self, other: Split) -> Split:
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = torch.cat([torch.ones(len(s)) if s.weights is None else s.weights for s in (self, other)])
        labels = torch.cat([self.labels, other.labels])
        if self.pixels is other.pixels and self.index is not None and other.index is not None:
            return Split(self.pixels, labels, torch.cat([self.index, other.index]), self.size, weights)
        if (self.size, self.pixels.shape[1:]) != (other.size, other.pixels.shape[1:]):
            raise ValueError("splits of other images")
        parts = [gather(s.pixels, torch.arange(len(s)) if s.index is None else s.index) for s in (self, other)]
        return Split(torch.cat(parts), labels, None, self.size, weights)


@dataclass(frozen=True)
class Data:
    """A data set, split.

    Attributes:
        name: Its name, as specified.
        classes: Number of classes, or of targets.
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
        task: Whether an image has one label, several, or numbers to predict.
        preprocessing: How images were scaled and cropped; None if they kept their size.
        keys: Digests of the files by their images' position in ``pixels``, uint64 (M, 2), or None without files.
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
    task: Task = "classification"
    preprocessing: Preprocessing | None = None
    keys: np.ndarray | None = field(default=None, repr=False)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def digest(self) -> str:
        """A checksum of images, labels and classes, split by split."""
        checksum = hashlib.sha256(f"{self.class_names} {self.input}".encode())
        if self.keys is not None:
            checksum.update(str(self.preprocessing).encode())
        for split in self.splits.values():
            self._update(checksum, split)
        return checksum.hexdigest()[:16]

    def _update(self, checksum: hashlib._Hash, split: Split) -> None:
        """Add a split's images, or the digests of their files, and its labels to a checksum."""
        tensors = [split.labels]
        if self.keys is not None and split.index is not None:
            checksum.update(np.ascontiguousarray(self.keys[split.index.numpy()]).data)
        else:
            tensors.insert(0, split.images)
        for tensor in tensors:
            checksum.update(str(tuple(tensor.shape)).encode())
            checksum.update(tensor.contiguous().numpy().data)

    def _split_digest(self, split: Split) -> str:
        checksum = hashlib.sha256()
        self._update(checksum, split)
        return checksum.hexdigest()[:16]

    def description(self) -> dict[str, Any]:
        """What is kept with a run, to recognise its data: JSON values."""
        return {
            "digest": self.digest,
            "input": list(self.input),
            "class_names": list(self.class_names),
            "images": {name: len(split) for name, split in self.splits.items()},
            "splits": {name: self._split_digest(split) for name, split in self.splits.items()},
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return sum(split.nbytes for split in self.splits.values())

    def shaped(self, size: tuple[int, int], classes: int) -> Data:
        """The data set for networks of another image size or of more classes.

        Raises:
            InputError: The scaled images take too much memory.
        """
        if (self.input[1:], self.classes) == (size, classes):
            return self
        if any(isinstance(split.pixels, MappedImages) for split in self.splits.values()):
            raise InputError(
                f"{self.name}: images of {self.input[1]}x{self.input[2]}; read them at {size[0]}x{size[1]}"
            )
        plan = plan_preprocessing(size, "squash")

        def scale(split: Split) -> Split:
            return Split(torch.from_numpy(fit_array(split.images.numpy(), plan)), split.labels, weights=split.weights)

        train, validation, test = (scale(split) for split in self.splits.values())
        return replace(
            self,
            classes=classes,
            input=(self.input[0], *size),
            train=train,
            validation=validation,
            test=test,
            keys=None,
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed in a data set since it was described; empty if nothing did.

    Args:
        before: What `Data.description` returned then.
        now: What it returns now.
    """
    if now["digest"] == before.get("digest"):
        return ""
    changes = []
    old_names, new_names = before.get("class_names", []), now["class_names"]
    if old_names != new_names:
        added, removed = sorted(set(new_names) - set(old_names)), sorted(set(old_names) - set(new_names))
        parts = [f"{word} {', '.join(names[:3])}" for word, names in (("added", added), ("removed", removed)) if names]
        changes.append(f"classes {' and '.join(parts) or 'in another order'}")
    if before.get("input") != now["input"]:
        sizes = ["x".join(map(str, value or [])) for value in (before.get("input"), now["input"])]
        changes.append(f"images {sizes[0]}, now {sizes[1]}")
    for name, count in now["images"].items():
        was = before.get("images", {}).get(name)
        if was != count:
            changes.append(f"{name} split of {was:,} images, now {count:,}" if was is not None else f"{name} split")
        elif before.get("splits", {}).get(name) != now["splits"][name]:
            changes.append(f"other images or labels in the {name} split")
    return "; ".join(changes) or "other images or labels"
