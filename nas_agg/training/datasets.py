"""Where images come from: scikit-learn's digits, torchvision's sets, folders of images and .npz files."""

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
    "digits": "1,797 grey images 8x8 of handwritten digits, 10 classes; comes with scikit-learn",
    "fashion-mnist": "70,000 grey images 28x28 of clothes, 10 classes; downloaded by torchvision",
    "cifar10": "60,000 colour images 32x32, 10 classes; downloaded by torchvision",
    "cifar100": "60,000 colour images 32x32, 100 classes; downloaded by torchvision",
    "folder:PATH": "your images: PATH/CLASS/*.png, or PATH/train/CLASS/* and PATH/test/CLASS/*",
    "npz:PATH": "your arrays: x_train, y_train, x_test, y_test in a numpy .npz file",
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
class Part:
    """Images, uint8 (N, C, H, W), and their labels, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Source:
    """What was read; parts that are none are still to be split off ``train``."""

    name: str
    class_names: tuple[str, ...]
    augmentation: Augmentation
    train: Part
    validation: Part | None = None
    test: Part | None = None
    notes: tuple[str, ...] = ()


def digits() -> Source:
    """Scikit-learn's digits, their 17 levels of grey spread over 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    part = Part(images, bunch.target.astype(np.int64))
    return Source("digits", tuple("0123456789"), Augmentation(crop=1), part)


def torchvision_set(name: str, root: Path) -> Source:
    """``fashion-mnist``, ``cifar10`` or ``cifar100`` from ``root``, downloaded into it if they are not there.

    Raises:
        InputError: The files are neither there nor to be had; the message says which to put where.
    """
    from torchvision import datasets

    kind = {"fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = f"put {_FILES[name]} into {root}, or set NAS_AGG_DATA to a folder that has it"
    try:
        # CIFAR's files are pickles: torchvision opens them only if their checksums are the official ones.
        sets = [_present(kind, root, train) or _downloaded(kind, root, train) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{name}: not in {root} and cannot be downloaded ({_line(error)}); {place}") from None
    train, test = (Part(_channels_first(np.asarray(s.data)), np.asarray(s.targets, np.int64)) for s in sets)
    augmentation = Augmentation(crop=2 if name == "fashion-mnist" else 4, flip=True)
    return Source(name, tuple(str(c) for c in sets[0].classes), augmentation, train, test=test)


def _present(kind: Any, root: Path, train: bool) -> Any:
    try:
        return kind(root, train=train, download=False)
    except RuntimeError:  # what torchvision says to files that are absent or not the official ones
        return None


def _downloaded(kind: Any, root: Path, train: bool) -> Any:
    root.mkdir(parents=True, exist_ok=True)
    with _timeout(30), contextlib.ExitStack() as quiet:
        silence = quiet.enter_context(open(os.devnull, "w"))
        quiet.enter_context(contextlib.redirect_stdout(silence))
        quiet.enter_context(contextlib.redirect_stderr(silence))
        return kind(root, train=train, download=True)


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    images = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# ---- .npz


def npz(path: Path) -> Source:
    """The arrays ``x_train, y_train, x_test, y_test`` of a file: images NHW, NHWC or NCHW, labels from 0 on.

    Raises:
        InputError: The file cannot be read or what is in it is no data set.
    """
    arrays = _arrays(path)
    scale = _scale(path, arrays["x_train"], arrays["x_test"])
    parts = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        parts.append(Part(_bytes(f"{path}: x_{part}", images, scale), _labels(f"{path}: y_{part}", labels)))
        if len(images) != len(labels):
            raise InputError(f"{path}: x_{part} has {len(images)} images, y_{part} {len(labels)} labels")
    train, test = parts
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = " and ".join("x".join(map(str, part.images.shape[1:])) for part in parts)
        raise InputError(f"{path}: train and test images differ in size (channels x height x width): {shapes}")
    names = tuple(str(number) for number in range(_classes(path, train.labels, test.labels)))
    augmentation = Augmentation(crop=min(train.images.shape[2:]) // 8)
    return Source(f"npz:{path}", names, augmentation, train, test=test)


def _classes(path: Path, train: np.ndarray, test: np.ndarray) -> int:
    """How many classes the labels speak of."""
    present = np.unique(train)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        raise InputError(f"{path}: y_train has no label {gaps[0]} but {present[-1]}; number the classes without gaps")
    if len(present) < 2:
        raise InputError(f"{path}: y_train has a single class; give at least two")
    if test.max() >= len(present):
        raise InputError(f"{path}: y_test has label {test.max()}, which y_train has not")
    return len(present)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    wanted = ("x_train", "y_train", "x_test", "y_test")
    check_regular_file(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError(f"{path}: one array; save four with numpy.savez(path, x_train=..., y_train=..., ...)")
        with loaded as file:
            missing = [name for name in wanted if name not in file]
            if missing:
                raise InputError(f"{path}: no array {missing[0]}; it needs {', '.join(wanted)}")
            arrays = {name: file[name] for name in wanted}
            for name, array in arrays.items():
                if not isinstance(array, np.ndarray):
                    raise InputError(f"{path}: {name} is no array")
            return arrays
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except Exception as error:  # a damaged archive can make numpy raise almost anything
        raise InputError(f"{path}: not an .npz file that can be read ({_line(error)})") from None


def _scale(path: Path, train: np.ndarray, test: np.ndarray) -> float:
    """255 if the images run from 0 to 1, else 1; both parts are judged together."""
    if (train.dtype.kind == "f") != (test.dtype.kind == "f"):
        raise InputError(f"{path}: x_train is {train.dtype}, x_test {test.dtype}; give both as integers or as floats")
    if train.dtype.kind != "f" or not train.size or not test.size:
        return 1.0
    low = float(np.minimum(train.min(), test.min()))  # unlike Python's min, these pass not-a-number on
    high = float(np.maximum(train.max(), test.max()))
    if not (low >= 0 and high <= 255):
        raise InputError(f"{path}: floats must run from 0 to 1 or from 0 to 255, found {low:g} to {high:g}")
    return 255.0 if high <= 1 else 1.0


def _bytes(where: str, images: np.ndarray, scale: float) -> np.ndarray:
    """Images as uint8, (N, C, H, W)."""
    if images.ndim not in (3, 4) or images.size == 0:
        raise InputError(f"{where}: shape {images.shape}; give (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if images.dtype.kind not in "fiu":
        raise InputError(f"{where}: images of type {images.dtype}; give uint8 or floats")
    if images.dtype.kind == "f":
        images = np.rint(images.astype(np.float32) * np.float32(scale))
    elif images.min() < 0 or images.max() > 255:
        raise InputError(f"{where}: integers must lie in 0 to 255, found {images.min()} to {images.max()}")
    if images.ndim == 4 and images.shape[1] == images.shape[3]:
        raise InputError(f"{where}: shape {images.shape} may be (N, C, H, W) or (N, H, W, C); crop or pad the images")
    images = images.astype(np.uint8)
    if images.ndim == 4 and images.shape[1] < images.shape[3]:  # the short axis holds the channels
        return np.ascontiguousarray(images)
    return _channels_first(images)


def _labels(where: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"{where}: shape {labels.shape}; give one label an image, (N,)")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels of type {labels.dtype}; give integers from 0 on")
    if labels.size and labels.min() < 0:
        raise InputError(f"{where}: label {labels.min()}; number the classes from 0 on")
    if labels.size and labels.max() > np.iinfo(np.int64).max:
        raise InputError(f"{where}: label {labels.max()}; number the classes from 0 on")
    return labels.astype(np.int64)


# ---- folders


def folder(path: Path, size: int = FOLDER_SIZE) -> Source:
    """A folder of images, one folder a class, each image squeezed to a square of ``size`` pixels.

    Where ``path/train`` holds class folders, ``path/test`` is read too, and ``path/val`` if it is there.

    Raises:
        InputError: A folder is missing or empty, or a file is no image that can be read.
    """
    if not path.is_dir():
        raise InputError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    split = bool(_folders(path / "train"))
    names = [entry.name for entry in _folders(path / "train" if split else path)]
    if len(names) < 2:
        found = f"one class folder, '{names[0]}'" if names else "no class folders"
        raise InputError(f"{path}: {found}; put the images of each class into a folder of its own, at least two")
    if not split:
        parts, skipped = _read({"train": path}, names, size)
        return _folder_source(path, names, parts, skipped, size)
    places = {"train": path / "train", "test": path / "test"}
    if not places["test"].is_dir():
        raise InputError(f"{path}: train but no test folder; add test, or move the classes of train up")
    for name in ("validation", "val"):
        if (path / name).is_dir():
            places["validation"] = path / name
    parts, skipped = _read(places, names, size)
    return _folder_source(path, names, parts, skipped, size)


def _folder_source(path: Path, names: list[str], parts: dict[str, Part], skipped: int, size: int) -> Source:
    notes = (f"{skipped} files without an image's ending were left out",) if skipped else ()
    augmentation = Augmentation(crop=size // 8, flip=True)
    source = Source(f"folder:{path}", tuple(names), augmentation, parts["train"], notes=notes)
    return replace(source, validation=parts.get("validation"), test=parts.get("test"))


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(places: dict[str, Path], names: list[str], size: int) -> tuple[dict[str, Part], int]:
    """Every part's images, grey if all of them are, and how many other files lay beside them."""
    loaded: dict[str, Part] = {}
    grey, skipped = True, 0
    for part, place in places.items():
        unknown = [entry.name for entry in _folders(place) if entry.name not in names]
        if unknown:
            raise InputError(f"{place / unknown[0]}: class '{unknown[0]}' has no folder in train")
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            here = [f for f in sorted((place / name).rglob("*")) if f.is_file() and not f.name.startswith(".")]
            images = [f for f in here if f.suffix.lower() in _SUFFIXES]
            if not images and part == "train":
                raise InputError(f"{place / name}: no images in it; put some there or remove the folder")
            files += images
            labels += [label] * len(images)
            skipped += len(here) - len(images)
        if not files:
            raise InputError(f"{place}: no images in it; put them into folders named as the classes of train")
        pixels = np.empty((len(files), 3, size, size), np.uint8)
        for row, file in zip(pixels, files, strict=True):
            grey &= _image(file, size, row)
        loaded[part] = Part(pixels, np.array(labels, np.int64))
    if grey:
        loaded = {name: Part(np.ascontiguousarray(part.images[:, :1]), part.labels) for name, part in loaded.items()}
    return loaded, skipped


def _image(file: Path, size: int, out: np.ndarray) -> bool:
    """Read an image into ``out``, uint8 (3, size, size); whether it is grey."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.mode[:1] in ("I", "F"):
                raise InputError(f"{file}: more than 8 bits a pixel; save it as an 8-bit image")
            grey = image.mode in ("1", "L")
            upright = ImageOps.exif_transpose(image).convert("RGB")
            small = upright.resize((size, size), Image.Resampling.BILINEAR)
    except InputError:
        raise
    except Exception as error:  # a damaged image can make Pillow raise almost anything
        raise InputError(f"{file}: not an image that can be read ({_line(error)}); mend or remove it") from None
    out[:] = np.asarray(small).transpose(2, 0, 1)
    return grey
