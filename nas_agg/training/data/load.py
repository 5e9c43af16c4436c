"""From a specification to a data set: reads a source, splits its images and makes them one size."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nas_agg.common.errors import InputError, did_you_mean, one_line
from nas_agg.training.data.dataset import Data, Split
from nas_agg.training.data.files import read_files
from nas_agg.training.data.images import Images
from nas_agg.training.data.memory import check_memory
from nas_agg.training.data.preprocessing import Preprocessing, check_side, fit_array, plan_preprocessing
from nas_agg.training.data.samples import Samples
from nas_agg.training.data.sources.builtin import read_digits, read_torchvision
from nas_agg.training.data.sources.folders import list_folder
from nas_agg.training.data.sources.npz import read_npz
from nas_agg.training.data.splits import Indices, split_samples
from nas_agg.training.datasets import DATASETS

FOLDER_SIZE = 64


def load_data(
    spec: str,
    seed: int = 0,
    image_size: int | str | tuple[int, int] | None = None,
    min_side: int | None = None,
    root: str | os.PathLike[str] | None = None,
    validation_share: float | None = None,
    train_images: int | None = None,
    validation_images: int | None = None,
    *,
    resize: str = "crop",
    crop_share: float | None = None,
    skip_unreadable: bool = False,
    processes: int = 1,
) -> Data:
    """Read a data set.

    Args:
        spec: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``folder:PATH`` or ``npz:PATH``.
        seed: Seed of the split into training and validation images; the test images do not depend on it.
        image_size: Side in pixels of square images, or height and width, also as ``64x48``. By default images keep
            their size, except those of files, which are scaled to 64.
        min_side: Scale images up proportionally if their shorter side has fewer pixels, and add a note.
        root: Folder of torchvision's files and of the cache; by default ``NAS_AGG_DATA`` or ``~/.cache/nas_agg``.
        validation_share: Share of the images other than test images that is used for validation, if the data set has no
            validation split; by default 0.2, or 0.1 of large data sets.
        train_images: Number of training images to keep, in proportion to the classes; by default all.
        validation_images: Number of validation images, likewise; replaces the share.
        resize: How images of another size are made to fit: ``crop`` (scaled to cover the size, centre kept), ``squash``
            (height and width scaled separately) or ``pad`` (scaled to fit, black borders).
        crop_share: With ``crop``, the share of the height and width of scaled images that evaluation keeps; by default
            0.875 from 128 pixels on, and 1 below.
        skip_unreadable: Whether images that cannot be read are left out, with a note; by default they are an error.
        processes: Number of processes that will hold the images, for the memory they take.

    Raises:
        InputError: The name is unknown, the data are missing or malformed, or they do not fit into memory.
    """
    if min_side is not None:
        check_side("min_side", min_side)
    size = _side_pair(image_size)
    _check_text(spec, "its path")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    plan_preprocessing((1, 1), resize, crop_share)  # a wrong option is noticed before anything is read

    def plan(target: tuple[int, int]) -> Preprocessing:
        return plan_preprocessing(target, resize, crop_share)

    kind, colon, path = spec.partition(":")
    images: Images
    if kind == "folder" and path:
        place = Path(os.path.expanduser(path))
        target, note = _target_size(*(size or (FOLDER_SIZE, FOLDER_SIZE)), None, min_side)
        files = list_folder(place)
        samples, images, sums = read_files(f"folder:{place}", files, plan(target), data_root(root), skip_unreadable)
        preprocessing: Preprocessing | None = plan(target)
    else:
        samples = _read_arrays(spec, kind, bool(colon), path, root, processes)
        height, width = samples.pixels.shape[2:]
        target, note = _target_size(height, width, size, min_side)
        preprocessing = (
            None
            if target == (height, width)
            else plan_preprocessing(target, "squash" if note else resize, crop_share or 1.0)
        )
        samples = _fit(samples, preprocessing, processes)
        images, sums = torch.from_numpy(samples.pixels), None
    return assemble(
        replace(samples, notes=samples.notes + ((note,) if note else ())),
        images,
        sums,
        preprocessing,
        split_samples(samples, seed, validation_share, train_images, validation_images),
    )


def _check_text(text: str, what: str) -> None:
    """Refuse a text that could not be written with a run and read again.

    Raises:
        InputError: It is not valid UTF-8, or has a NUL.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{one_line(text)}: {what} is not valid UTF-8; rename it") from None
    if "\0" in text:
        raise InputError(f"{one_line(text)}: {what} has a NUL")


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of downloaded data and of the cache: ``root``, ``NAS_AGG_DATA`` or ``~/.cache/nas_agg``."""
    return Path(os.path.expanduser(root or os.environ.get("NAS_AGG_DATA") or "~/.cache/nas_agg"))


def _side_pair(image_size: int | str | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    try:
        texts = image_size.lower().split("x") if isinstance(image_size, str) else image_size
        sides = [int(side) for side in texts] if isinstance(texts, list | tuple) else [texts]
        if not 1 <= len(sides) <= 2:
            raise ValueError
    except ValueError:
        raise InputError(f"image_size {image_size}: must be a side, or height and width such as 64x48") from None
    sides *= 3 - len(sides)
    for side in sides:
        check_side("image_size", side)
    return sides[0], sides[1]


def _read_arrays(
    spec: str, kind: str, has_colon: bool, path: str, root: str | os.PathLike[str] | None, processes: int
) -> Samples:
    """Read a source of arrays."""
    if kind in ("folder", "npz") and not path:
        raise InputError(f"data set '{spec}': missing path; use {kind}:PATH")
    if kind == "npz":
        place = Path(os.path.expanduser(path))
        try:
            return read_npz(place, processes)
        except OSError as error:
            raise InputError(f"{error.filename or place}: cannot be read: {error.strerror}") from None
    if spec == "digits":
        return read_digits()
    if spec in DATASETS and not has_colon:
        return read_torchvision(spec, data_root(root))
    hint = did_you_mean(kind if has_colon else spec, [*DATASETS, "folder", "npz"])
    if Path(spec).is_dir():
        hint = f"; for a folder of images use folder:{spec}"
    raise InputError(f"unknown data set '{spec}'{hint or '; choose from ' + ', '.join(DATASETS)}")


def _target_size(
    height: int, width: int, image_size: tuple[int, int] | None, min_side: int | None
) -> tuple[tuple[int, int], str]:
    """The target size, and a note if ``min_side`` determined it."""
    height, width = image_size or (height, width)
    shorter = min(height, width)
    if min_side is None or shorter >= min_side:
        return (height, width), ""
    target = (math.ceil(height * min_side / shorter), math.ceil(width * min_side / shorter))
    return (
        target,
        f"images scaled from {height}x{width} to {target[0]}x{target[1]}, the smallest size the space accepts",
    )


def _fit(samples: Samples, preprocessing: Preprocessing | None, processes: int) -> Samples:
    """Scale the images of arrays."""
    if preprocessing is None:
        return samples
    count, channels = samples.pixels.shape[:2]
    height, width = preprocessing.stored
    needed = count * channels * height * width * samples.pixels.dtype.itemsize
    size = f"images of {height}x{width}"
    check_memory(f"{samples.name}: {size}", needed * processes + samples.pixels.nbytes, "use a smaller image size")
    crop = round(samples.augmentation.crop * min(height, width) / min(samples.pixels.shape[2:]))
    augmentation = samples.augmentation.model_copy(update={"crop": crop})
    return replace(samples, pixels=fit_array(samples.pixels, preprocessing), augmentation=augmentation)


def assemble(
    samples: Samples,
    images: Images,
    sums: np.ndarray | None,
    preprocessing: Preprocessing | None,
    indices: Indices,
) -> Data:
    """A data set from its samples and splits.

    Args:
        samples: The samples, with or without pixels.
        images: The images of all samples.
        sums: Sums of each image's values and their squares, int64 (N, 2, C), if they are known.
        preprocessing: How the images were made to fit, if they were.
        indices: The splits.
    """
    for name in samples.class_names:
        _check_text(name, "the name of a class")
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
    return Data(
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
