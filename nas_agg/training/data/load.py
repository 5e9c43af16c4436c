"""From a specification to a data set: reads a source, splits its images and makes them one size."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import torch

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.training.data.cache import data_root
from nas_agg.training.data.dataset import Data
from nas_agg.training.data.files import read_files
from nas_agg.training.data.from_python import CacheOptions, open_cached_samples, read_vision_files
from nas_agg.training.data.images import Images
from nas_agg.training.data.memory import check_memory
from nas_agg.training.data.preprocessing import Preprocessing, check_side, fit_array, plan_preprocessing, side_pair
from nas_agg.training.data.samples import Samples, check_text
from nas_agg.training.data.sources.builtin import VISION_SETS, read_digits, read_torchvision
from nas_agg.training.data.sources.csv_file import list_csv
from nas_agg.training.data.sources.folders import list_folder
from nas_agg.training.data.sources.npz import read_npz
from nas_agg.training.data.splits import split_samples
from nas_agg.training.datasets import DATASETS, FILE_KINDS

FILE_SIZE = 64


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
        spec: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``folder:PATH``, ``npz:PATH`` or ``csv:FILE``,
            or the ``spec`` of a `Data` that Python code made.
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
    size = side_pair(image_size)
    check_text(spec, "its path")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    plan_preprocessing((1, 1), resize, crop_share)  # a wrong option is noticed before anything is read
    kind, colon, path = spec.partition(":")
    images: Images
    preprocessing: Preprocessing | None
    note = ""
    if kind in ("folder", "csv") and path:
        place = Path(os.path.expanduser(path))
        target, note = _target_size(*(size or (FILE_SIZE, FILE_SIZE)), None, min_side)
        preprocessing = plan_preprocessing(target, resize, crop_share)
        files = list_folder(place) if kind == "folder" else list_csv(place)
        samples, images, sums = read_files(f"{kind}:{place}", files, preprocessing, data_root(root), skip_unreadable)
    elif (kind == "cache" and path) or (spec in VISION_SETS and not VISION_SETS[spec].in_memory):
        if kind == "cache":
            entry = open_cached_samples(Path(path))
        else:
            size, note = _target_size(*(size or (FILE_SIZE, FILE_SIZE)), None, min_side)
            entry = read_vision_files(spec, CacheOptions(size, resize, crop_share, root))
        samples, images, sums, preprocessing = entry.samples, entry.images, entry.sums, entry.preprocessing
        if size not in (None, preprocessing.size):
            raise InputError(f"{samples.name}: its images are {'x'.join(map(str, preprocessing.size))}; make it anew")
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
    samples = replace(samples, notes=samples.notes + ((note,) if note else ()))
    indices = split_samples(samples, seed, validation_share, train_images, validation_images)
    return Data.from_samples(samples, images, preprocessing, indices, sums, spec)


def own_image_size(spec: str, input: tuple[int, int, int]) -> str | None:
    """The image size at which a network reads a data set of files: that of its own input; None of any other data set.

    Args:
        spec: The data set.
        input: Channels, height and width of the network's input.
    """
    kind, _, path = spec.partition(":")
    if (kind in ("folder", "csv") and path) or (spec in VISION_SETS and not VISION_SETS[spec].in_memory):
        return f"{input[1]}x{input[2]}"
    return None


def _read_arrays(
    spec: str, kind: str, has_colon: bool, path: str, root: str | os.PathLike[str] | None, processes: int
) -> Samples:
    """Read a source of arrays."""
    if kind in FILE_KINDS and not path:
        raise InputError(f"data set '{spec}': missing path; use {kind}:PATH")
    if kind == "npz":
        place = Path(os.path.expanduser(path))
        try:
            return read_npz(place, processes)
        except OSError as error:
            raise InputError(f"{error.filename or place}: cannot be read: {error.strerror}") from None
    if spec == "digits":
        return read_digits()
    if spec in VISION_SETS:
        return read_torchvision(spec, data_root(root))
    hint = did_you_mean(kind if has_colon else spec, ["digits", *VISION_SETS, *FILE_KINDS])
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
