"""A data set for training: its splits, and what is kept of it with a run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from nas_agg.common.errors import InputError
from nas_agg.training.data.from_python import (
    ArraySource,
    CachedSamples,
    CacheOptions,
    DatasetSource,
    read_array_source,
    read_dataset_source,
)
from nas_agg.training.data.images import Images, MappedImages
from nas_agg.training.data.preprocessing import Preprocessing, fit_array, plan_preprocessing
from nas_agg.training.data.samples import Samples, Task, check_text
from nas_agg.training.data.split import Split
from nas_agg.training.data.splits import Indices, split_samples
from nas_agg.training.recipes import Augmentation


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
        spec: What `load_data` reads it from, also in another process.
        keys: Digests of the files by their images' position in ``pixels``, uint64 (M, 2), or None without files.
        layout: See `Samples`.
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
    spec: str = ""
    keys: np.ndarray | None = field(default=None, repr=False)
    layout: tuple[str, ...] = ()

    @classmethod
    def from_samples(
        cls,
        samples: Samples,
        images: Images,
        preprocessing: Preprocessing | None,
        indices: Indices,
        sums: np.ndarray | None = None,
        spec: str = "",
    ) -> Data:
        """A data set from its samples and splits.

        Args:
            samples: The samples, with or without pixels.
            images: The images of all samples.
            preprocessing: How the images were made to fit, if they were.
            indices: The splits.
            sums: Sums of each image's values and their squares, int64 (N, 2, C), if they are known.
            spec: What `load_data` reads it from.

        Raises:
            InputError: The name of a class cannot be written to a file.
        """
        for name in samples.class_names:
            check_text(name, "the name of a class")
        size = None if preprocessing is None else preprocessing.size
        channels, height, width = images.shape[1:]
        height, width = size or (height, width)
        targets = torch.from_numpy(samples.targets)
        weights = None if samples.weights is None else torch.from_numpy(samples.weights)

        def split(index: np.ndarray) -> Split:
            rows = torch.from_numpy(index)
            return Split(images, targets[rows], rows, size, None if weights is None else weights[rows])

        known = np.concatenate([indices.train, indices.validation])
        if sums is None:
            assert isinstance(images, torch.Tensor)
            totals = _totals(images.numpy(), known)
        else:
            totals = sums[known].sum(0)
        mean, std = _statistics(totals, len(known) * height * width, 65535 if images.dtype == torch.uint16 else 255)
        return cls(
            name=samples.name,
            classes=len(samples.class_names),
            class_names=samples.class_names,
            input=(channels, height, width),
            train=split(indices.train),
            validation=split(indices.validation),
            test=split(indices.test),
            mean=mean,
            std=std,
            augmentation=samples.augmentation,
            notes=samples.notes + indices.notes,
            task=samples.task,
            preprocessing=preprocessing,
            keys=samples.keys if sums is not None else None,
            spec=spec or samples.name,
            layout=samples.layout,
        )

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        targets: Any,
        *,
        validation: tuple[Any, Any] | None = None,
        test: tuple[Any, Any] | None = None,
        class_names: Sequence[str] = (),
        weights: Any = None,
        name: str = "arrays",
        seed: int = 0,
        **options: Any,
    ) -> Data:
        """A data set of arrays or tensors.

        Args:
            images: (N, H, W), (N, H, W, C) or (N, C, H, W): integers, or floats of 0 to 1 or 0 to 255.
            targets: Labels (N,), integers or strings; several labels (N, classes) of zeros and ones; or floats.
            validation, test: Images and targets of these splits; drawn from ``images`` by default.
            class_names: Names of the classes.
            weights: Weight of each training image in the loss, (N,).
            name: The name of the data set.
            seed: Seed of the split into training and validation images.
            **options: ``image_size``, ``resize``, ``crop_share`` and ``root``, as for `load_data`.

        Raises:
            InputError: The arrays are no data set.
        """
        source = ArraySource(images, targets, validation, test, class_names, weights)
        return cls._from_source(read_array_source(source, name, CacheOptions(**options)), seed)

    @classmethod
    def from_dataset(
        cls,
        train: Any,
        *,
        validation: Any = None,
        test: Any = None,
        class_names: Sequence[str] = (),
        name: str = "dataset",
        workers: int = 0,
        seed: int = 0,
        **options: Any,
    ) -> Data:
        """A data set of map-style `torch.utils.data.Dataset` objects, whose images are read once, into the cache.

        An item is an image and its target: an image of Pillow, an array (H, W) or (H, W, C), or a tensor (C, H, W).

        Args:
            train: The training images.
            validation, test: Images of these splits; drawn from ``train`` by default.
            class_names: Names of the classes; by default the attribute ``classes`` of ``train``.
            name: The name of the data set.
            workers: Processes that read items; 0 reads them in this one.
            seed: Seed of the split into training and validation images.
            **options: ``image_size``, ``resize``, ``crop_share`` and ``root``, as for `load_data`.

        Raises:
            InputError: An item is no image with a target.
        """
        source = DatasetSource(train, validation, test, class_names, workers)
        return cls._from_source(read_dataset_source(source, name, CacheOptions(**options)), seed)

    @classmethod
    def _from_source(cls, entry: CachedSamples, seed: int) -> Data:
        names = entry.samples.class_names
        if len(set(names)) < len(names):
            raise InputError(f"{entry.samples.name}: two classes of the same name")
        indices = split_samples(entry.samples, seed)
        return cls.from_samples(
            entry.samples, entry.images, entry.preprocessing, indices, entry.sums, f"cache:{entry.path}"
        )

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

    def preprocessing_dict(self) -> dict[str, Any]:
        """How images are scaled and cropped before a network sees them, as JSON values."""
        if self.preprocessing is None:
            return {"size": list(self.input[1:]), "resize": "none", "about": "images keep their size"}
        return {**self.preprocessing.model_dump(mode="json"), "about": self.preprocessing.describe()}

    def description(self) -> dict[str, Any]:
        """What is kept with a run, to recognise its data: JSON values."""
        return {
            "digest": self.digest,
            "input": list(self.input),
            "class_names": list(self.class_names),
            "images": {name: len(split) for name, split in self.splits.items()},
            "splits": {name: self._split_digest(split) for name, split in self.splits.items()},
            "layout": list(self.layout),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return sum(split.nbytes for split in self.splits.values())

    def resident_bytes(self, device: str) -> int:
        """Bytes that the images take in the memory of a device while a network is trained.

        Mapped images take none of a CPU's, and those that do not fit into a GPU's memory are gathered batch by batch.
        """
        splits = self.splits.values()
        if not device.startswith("cuda"):
            return sum(split.nbytes for split in splits if not isinstance(split.pixels, MappedImages))
        return sum(split.nbytes for split in splits if split.fits(torch.device(device)))

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
    if now.get("digest") == before.get("digest"):
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


def check_layout(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to test on a data set that has gained or lost the folder or array of a split since it was described.

    Its test images could be images that the network was trained or chosen on.

    Args:
        name: The data set.
        before: What `Data.description` returned then.
        now: What it returns now.

    Raises:
        InputError: The layout is another.
    """
    layouts = [tuple(description.get("layout", ())) for description in (before, now)]
    if all(layouts) and layouts[0] != layouts[1]:
        was, has = (" + ".join(layout).replace("unassigned", "a folder per class") for layout in layouts)
        raise InputError(
            f"{name} was {was} when the run began and is {has} now, so that images it was trained or chosen on could "
            f"be test images; restore it"
        )


def _totals(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sums of values and of their squares per channel; integers, hence exact in any order: int64, (2, C)."""
    totals = np.zeros((2, images.shape[1]), np.int64)
    size = max(1, 2**22 // max(1, images[0].size))
    for start in range(0, len(index), size):
        chunk = images[index[start : start + size]].astype(np.int64)
        totals += np.stack([chunk.sum((0, 2, 3)), (chunk * chunk).sum((0, 2, 3))])
    return totals


def _statistics(totals: np.ndarray, count: int, highest: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, as shares of the highest value."""
    mean = totals[0] / count
    std = np.sqrt(np.maximum(totals[1] / count - mean * mean, 0))
    std[std == 0] = float(highest)
    return tuple((mean / highest).tolist()), tuple((std / highest).tolist())
