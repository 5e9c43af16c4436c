"""Reads data sets: scikit-learn's digits, torchvision's data sets, image folders and .npz files."""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.common.files import check_regular_file
from nas_agg.training.recipes import Augmentation

DATASETS = {
    "digits": "1,797 greyscale images of handwritten digits, 8x8, 10 classes; included in scikit-learn",
    "fashion-mnist": "70,000 greyscale images of clothing, 28x28, 10 classes; downloaded by torchvision",
    "cifar10": "60,000 colour images, 32x32, 10 classes; downloaded by torchvision",
    "cifar100": "60,000 colour images, 32x32, 100 classes; downloaded by torchvision",
    "folder:PATH": "your own images: PATH/CLASS/*.png, or PATH/train/CLASS/* and PATH/test/CLASS/*",
    "npz:PATH": "your own arrays: x_train, y_train, x_test and y_test in a NumPy .npz file",
}
FOLDER_SIZE = 64
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_FILES = {
    "fashion-mnist": "FashionMNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte "
    "and t10k-labels-idx1-ubyte",
    "cifar10": "cifar-10-batches-py/ (unpacked from cifar-10-python.tar.gz)",
    "cifar100": "cifar-100-python/ (unpacked from cifar-100-python.tar.gz)",
}


@dataclass(frozen=True)
class RawSplit:
    """Images, uint8 (N, C, H, W), and their labels, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class RawDataset:
    """A data set as read; ``load_data`` splits missing parts off ``train``."""

    name: str
    class_names: tuple[str, ...]
    augmentation: Augmentation
    train: RawSplit
    validation: RawSplit | None = None
    test: RawSplit | None = None
    notes: tuple[str, ...] = ()


def read_digits() -> RawDataset:
    """Scikit-learn's digits, with their 17 grey levels scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    part = RawSplit(images, bunch.target.astype(np.int64))
    return RawDataset("digits", tuple("0123456789"), Augmentation(crop=1), part)


def read_torchvision(name: str, root: Path) -> RawDataset:
    """``fashion-mnist``, ``cifar10`` or ``cifar100`` from ``root``, downloaded if missing.

    Raises:
        InputError: The files are missing and the download failed; the message says which files are needed.
    """
    from torchvision import datasets

    kind = {"fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    remedy = f"put {_FILES[name]} into {root}, or set NAS_AGG_DATA to a folder that contains it"
    try:
        # CIFAR's files are pickles: torchvision opens them only if their checksums are correct.
        sets = [_open_existing(kind, root, train) or _download(kind, root, train) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(
            f"{name}: not found in {root}, and the download failed ({_error_text(error)}); {remedy}"
        ) from None
    train, test = (RawSplit(_channels_first(np.asarray(s.data)), np.asarray(s.targets, np.int64)) for s in sets)
    augmentation = Augmentation(crop=2 if name == "fashion-mnist" else 4, flip=True)
    return RawDataset(name, tuple(str(c) for c in sets[0].classes), augmentation, train, test=test)


def _open_existing(kind: Any, root: Path, train: bool) -> Any:
    try:
        return kind(root, train=train, download=False)
    except RuntimeError:  # files that are missing or have wrong checksums
        return None


def _download(kind: Any, root: Path, train: bool) -> Any:
    root.mkdir(parents=True, exist_ok=True)
    with _socket_timeout(30), contextlib.ExitStack() as quiet:
        silence = quiet.enter_context(open(os.devnull, "w"))
        quiet.enter_context(contextlib.redirect_stdout(silence))
        quiet.enter_context(contextlib.redirect_stderr(silence))
        return kind(root, train=train, download=True)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _error_text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    images = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# ---- .npz


def read_npz(path: Path) -> RawDataset:
    """The arrays ``x_train, y_train, x_test, y_test`` of a file: images NHW, NHWC or NCHW, labels from 0.

    Raises:
        InputError: The file cannot be read, or its arrays are not a data set.
    """
    arrays = _read_arrays(path)
    scale = _byte_scale(path, arrays["x_train"], arrays["x_test"])
    parts = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        parts.append(RawSplit(_to_bytes(f"{path}: x_{part}", images, scale), _to_labels(f"{path}: y_{part}", labels)))
        if len(images) != len(labels):
            raise InputError(f"{path}: x_{part} has {len(images)} images, y_{part} {len(labels)} labels")
    train, test = parts
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = " and ".join("x".join(map(str, part.images.shape[1:])) for part in parts)
        raise InputError(f"{path}: train and test images differ in size (channels x height x width): {shapes}")
    names = tuple(str(number) for number in range(_count_classes(path, train.labels, test.labels)))
    augmentation = Augmentation(crop=min(train.images.shape[2:]) // 8)
    return RawDataset(f"npz:{path}", names, augmentation, train, test=test)


def _count_classes(path: Path, train: np.ndarray, test: np.ndarray) -> int:
    """The number of classes."""
    present = np.unique(train)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        raise InputError(f"{path}: y_train has label {present[-1]} but not {gaps[0]}; number the classes without gaps")
    if len(present) < 2:
        raise InputError(f"{path}: y_train has a single class; at least two are needed")
    if test.max() >= len(present):
        raise InputError(f"{path}: y_test has label {test.max()}, which is not in y_train")
    return len(present)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    required = ("x_train", "y_train", "x_test", "y_test")
    check_regular_file(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError(f"{path}: a single array; save four with numpy.savez(path, x_train=..., y_train=..., ...)")
        with loaded as file:
            missing = [name for name in required if name not in file]
            if missing:
                raise InputError(f"{path}: array {missing[0]} is missing; required are {', '.join(required)}")
            arrays = {name: file[name] for name in required}
            for name, array in arrays.items():
                if not isinstance(array, np.ndarray):
                    raise InputError(f"{path}: {name} is not an array")
            return arrays
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except Exception as error:  # a damaged archive can make numpy raise almost anything
        raise InputError(f"{path}: not a readable .npz file ({_error_text(error)})") from None


def _byte_scale(path: Path, train: np.ndarray, test: np.ndarray) -> float:
    """The factor to bytes: 255 if the images of both splits are within 0 to 1, else 1."""
    if (train.dtype.kind == "f") != (test.dtype.kind == "f"):
        raise InputError(f"{path}: x_train is {train.dtype} and x_test {test.dtype}; use integers or floats for both")
    if train.dtype.kind != "f" or not train.size or not test.size:
        return 1.0
    low = float(np.minimum(train.min(), test.min()))  # unlike Python's min, these propagate NaN
    high = float(np.maximum(train.max(), test.max()))
    if not (low >= 0 and high <= 255):
        raise InputError(f"{path}: floats must be within 0 to 1 or 0 to 255, found {low:g} to {high:g}")
    return 255.0 if high <= 1 else 1.0


def _to_bytes(where: str, images: np.ndarray, scale: float) -> np.ndarray:
    """Images as uint8, (N, C, H, W)."""
    if images.ndim not in (3, 4) or images.size == 0:
        raise InputError(f"{where}: shape {images.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if images.dtype.kind not in "fiu":
        raise InputError(f"{where}: images of type {images.dtype}; use uint8 or floats")
    if images.dtype.kind == "f":
        images = np.rint(images.astype(np.float32) * np.float32(scale))
    elif images.min() < 0 or images.max() > 255:
        raise InputError(f"{where}: integers must be within 0 to 255, found {images.min()} to {images.max()}")
    if images.ndim == 4 and images.shape[1] == images.shape[3]:
        raise InputError(
            f"{where}: shape {images.shape} is ambiguous, (N, C, H, W) or (N, H, W, C); crop or pad the images"
        )
    images = images.astype(np.uint8)
    if images.ndim == 4 and images.shape[1] < images.shape[3]:  # the shorter axis is that of channels
        return np.ascontiguousarray(images)
    return _channels_first(images)


def _to_labels(where: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"{where}: shape {labels.shape}; expected one label per image, (N,)")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels of type {labels.dtype}; use integers from 0")
    if labels.size and labels.min() < 0:
        raise InputError(f"{where}: label {labels.min()}; number the classes from 0")
    if labels.size and labels.max() > np.iinfo(np.int64).max:
        raise InputError(f"{where}: label {labels.max()}; number the classes from 0")
    return labels.astype(np.int64)


# ---- folders


def read_folder(path: Path, size: int = FOLDER_SIZE) -> RawDataset:
    """A folder of images, one folder per class, each image resized to a square of ``size`` pixels.

    If ``path/train`` contains class folders, ``path/test`` is read as well, and ``path/val`` if it exists.

    Raises:
        InputError: A folder is missing or empty, or an image cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    split = bool(_subfolders(path / "train"))
    names = [entry.name for entry in _subfolders(path / "train" if split else path)]
    if len(names) < 2:
        count = f"only one class folder, '{names[0]}'" if names else "no class folders"
        raise InputError(f"{path}: {count}; put the images of each class into a folder of their own, at least two")
    if not split:
        parts, skipped = _read_splits({"train": path}, names, size)
        return _folder_dataset(path, names, parts, skipped, size)
    places = {"train": path / "train", "test": path / "test"}
    if not places["test"].is_dir():
        raise InputError(f"{path}: a train folder but no test folder; add one, or move the class folders out of train")
    for name in ("validation", "val"):
        if (path / name).is_dir():
            places["validation"] = path / name
    parts, skipped = _read_splits(places, names, size)
    return _folder_dataset(path, names, parts, skipped, size)


def _folder_dataset(path: Path, names: list[str], parts: dict[str, RawSplit], skipped: int, size: int) -> RawDataset:
    notes = (f"skipped {skipped} files with unsupported extensions",) if skipped else ()
    augmentation = Augmentation(crop=size // 8, flip=True)
    source = RawDataset(f"folder:{path}", tuple(names), augmentation, parts["train"], notes=notes)
    return replace(source, validation=parts.get("validation"), test=parts.get("test"))


def _subfolders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read_splits(places: dict[str, Path], names: list[str], size: int) -> tuple[dict[str, RawSplit], int]:
    """The images of each split, with one channel if all are greyscale, and the number of skipped files."""
    loaded: dict[str, RawSplit] = {}
    grey, skipped = True, 0
    for part, place in places.items():
        unknown = [entry.name for entry in _subfolders(place) if entry.name not in names]
        if unknown:
            raise InputError(f"{place / unknown[0]}: class '{unknown[0]}' is not in train")
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            here = [f for f in sorted((place / name).rglob("*")) if f.is_file() and not f.name.startswith(".")]
            images = [f for f in here if f.suffix.lower() in _SUFFIXES]
            if not images and part == "train":
                raise InputError(f"{place / name}: no images; add some or remove the folder")
            files += images
            labels += [label] * len(images)
            skipped += len(here) - len(images)
        if not files:
            raise InputError(f"{place}: no images; put them into folders named after the classes in train")
        pixels = np.empty((len(files), 3, size, size), np.uint8)
        for row, file in zip(pixels, files, strict=True):
            grey &= _read_image(file, size, row)
        loaded[part] = RawSplit(pixels, np.array(labels, np.int64))
    if grey:
        loaded = {
            name: RawSplit(np.ascontiguousarray(part.images[:, :1]), part.labels) for name, part in loaded.items()
        }
    return loaded, skipped


def _read_image(file: Path, size: int, out: np.ndarray) -> bool:
    """Read an image into ``out``, uint8 (3, size, size); returns whether it is greyscale."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.mode[:1] in ("I", "F"):
                raise InputError(f"{file}: more than 8 bits per channel; save it as an 8-bit image")
            grey = image.mode in ("1", "L")
            upright = ImageOps.exif_transpose(image).convert("RGB")
            small = upright.resize((size, size), Image.Resampling.BILINEAR)
    except InputError:
        raise
    except Exception as error:  # a damaged image can make Pillow raise almost anything
        raise InputError(f"{file}: not a readable image ({_error_text(error)}); repair or remove it") from None
    out[:] = np.asarray(small).transpose(2, 0, 1)
    return grey
