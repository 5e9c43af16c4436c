"""Data sets by name: scikit-learn's digits and torchvision's."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.training.data.samples import Part, Samples, parts_of
from nas_agg.training.recipes import Augmentation

_FILES = {
    "fashion-mnist": "FashionMNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte "
    "and t10k-labels-idx1-ubyte",
    "cifar10": "cifar-10-batches-py/ (unpacked from cifar-10-python.tar.gz)",
    "cifar100": "cifar-100-python/ (unpacked from cifar-100-python.tar.gz)",
}
_TRAIN_FLAG = {Part.TRAIN: {"train": True}, Part.TEST: {"train": False}}


def _splits(**names: str) -> dict[Part, dict[str, Any]]:
    return {Part[name.upper()]: {"split": value} for name, value in names.items()}


@dataclass(frozen=True)
class VisionSet:
    """A data set of torchvision.

    Attributes:
        kind: Its class in `torchvision.datasets`.
        parts: Arguments of the class for each part that it has.
        in_memory: Whether an object holds all its images as an array, ``data``.
        augmentation: Default augmentation, if it is small.
        options: Further arguments.
    """

    kind: str
    parts: Mapping[Part, dict[str, Any]]
    in_memory: bool = False
    augmentation: Augmentation | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


_SMALL = Augmentation(crop=4, flip=True)
_SIGNS = Augmentation(crop=2)  # written characters and house numbers are not flipped
VISION_SETS = {
    "fashion-mnist": VisionSet("FashionMNIST", _TRAIN_FLAG, True, Augmentation(crop=2, flip=True)),
    "cifar10": VisionSet("CIFAR10", _TRAIN_FLAG, True, _SMALL),
    "cifar100": VisionSet("CIFAR100", _TRAIN_FLAG, True, _SMALL),
    "mnist": VisionSet("MNIST", _TRAIN_FLAG, True, _SIGNS),
    "kmnist": VisionSet("KMNIST", _TRAIN_FLAG, True, _SIGNS),
    "emnist": VisionSet("EMNIST", _TRAIN_FLAG, True, _SIGNS, {"split": "balanced"}),
    "svhn": VisionSet("SVHN", _splits(train="train", test="test"), True, _SIGNS),
    "stl10": VisionSet("STL10", _splits(train="train", test="test"), True, Augmentation(crop=12, flip=True)),
    "flowers102": VisionSet("Flowers102", _splits(train="train", validation="val", test="test")),
    "oxford-pets": VisionSet("OxfordIIITPet", _splits(train="trainval", test="test")),
    "food101": VisionSet("Food101", _splits(train="train", test="test")),
    "dtd": VisionSet("DTD", _splits(train="train", validation="val", test="test")),
    "gtsrb": VisionSet("GTSRB", _splits(train="train", test="test")),
    "aircraft": VisionSet("FGVCAircraft", _splits(train="train", validation="val", test="test")),
    "country211": VisionSet("Country211", _splits(train="train", validation="valid", test="test")),
    "imagenette": VisionSet("Imagenette", _splits(train="train", test="val")),
    "eurosat": VisionSet("EuroSAT", {Part.TRAIN: {}}),
    "caltech101": VisionSet("Caltech101", {Part.TRAIN: {}}),
}


def read_digits() -> Samples:
    """Scikit-learn's digits, with their 17 grey levels scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = parts_of((Part.UNASSIGNED, len(images)))
    return Samples("digits", tuple("0123456789"), Augmentation(crop=1), images, bunch.target.astype(np.int64), parts)


def read_torchvision(name: str, root: Path) -> Samples:
    """A data set of torchvision that is one array, from ``root``, downloaded if missing.

    Raises:
        InputError: The files are missing and the download failed; the message says which files are needed.
    """
    sets = open_torchvision(name, root)
    images = np.ascontiguousarray(np.concatenate([_channels_first(np.asarray(s.data)) for s in sets.values()]))
    labels = [np.asarray(s.targets if hasattr(s, "targets") else s.labels, np.int64) for s in sets.values()]
    parts = parts_of(*((part, len(own)) for part, own in zip(sets, labels, strict=True)))
    names = class_names(next(iter(sets.values()))) or tuple(str(n) for n in range(int(labels[0].max()) + 1))
    augmentation = VISION_SETS[name].augmentation or Augmentation()
    return Samples(name, names, augmentation, images, np.concatenate(labels), parts)


def open_torchvision(name: str, root: Path) -> dict[Part, Any]:
    """The objects of `torchvision.datasets` for each part of a data set.

    Raises:
        InputError: The files are missing and the download failed; the message says which files are needed.
    """
    from torchvision import datasets

    vision_set = VISION_SETS[name]
    kind = getattr(datasets, vision_set.kind)
    files = _FILES.get(name, f"the files of torchvision.datasets.{vision_set.kind}")
    remedy = f"put {files} into {root}, or set NAS_AGG_DATA to a folder that contains it"
    found = {}
    try:
        # Some files are pickles: torchvision opens them only if their checksums are correct.
        for part, options in vision_set.parts.items():
            options = {**options, **vision_set.options}
            found[part] = _open_existing(kind, root, options) or _download(kind, root, options)
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}: not found in {root}, and the download failed ({text}); {remedy}") from None
    return found


def class_names(dataset: Any) -> tuple[str, ...]:
    """The names of the classes that a dataset of torchvision has, or nothing."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
    return tuple(str(name[0] if isinstance(name, tuple) else name) for name in names)


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    return images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)


def _open_existing(kind: Any, root: Path, options: Mapping[str, Any]) -> Any:
    try:
        return kind(root, **options, download=False)
    except RuntimeError:  # files that are missing or have wrong checksums
        return None


def _download(kind: Any, root: Path, options: Mapping[str, Any]) -> Any:
    root.mkdir(parents=True, exist_ok=True)
    with _socket_timeout(30), contextlib.ExitStack() as quiet:
        silence = quiet.enter_context(open(os.devnull, "w"))
        quiet.enter_context(contextlib.redirect_stdout(silence))
        quiet.enter_context(contextlib.redirect_stderr(silence))
        return kind(root, **options, download=True)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
