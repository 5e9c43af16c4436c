"""Data sets that Python code hands in: arrays, tensors and map-style datasets of torch.

Their images are written to the cache once, with their targets, so that other processes can read them by the path of the
entry. The entry's name follows from its contents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas_agg.common.errors import InputError
from nas_agg.training.data.building import DecodedSet, ImageFormat, WriteRow, image_sums
from nas_agg.training.data.cache import CachedImages, ImageCache, data_root
from nas_agg.training.data.decoding import UnreadableImage, content_key, fit_picture, match_channels
from nas_agg.training.data.images import MappedImages
from nas_agg.training.data.preprocessing import Preprocessing, fit_array, plan_preprocessing, side_pair
from nas_agg.training.data.samples import Part, Samples, check_text, parts_of
from nas_agg.training.data.sources.arrays import PixelScale, image_layout, pixel_scale, to_pixels
from nas_agg.training.data.sources.builtin import class_names, open_torchvision
from nas_agg.training.data.sources.targets import Targets, read_targets
from nas_agg.training.recipes import Augmentation

_PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)
_CHUNK = 1024


@dataclass(frozen=True)
class CacheOptions:
    """How images are made to fit, and where they are kept; see `nas_agg.training.data.load_data`."""

    image_size: int | str | tuple[int, int] | None = None
    resize: str = "crop"
    crop_share: float | None = None
    root: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class ArraySource:
    """Arrays of a data set; see `Data.from_arrays`."""

    images: Any
    targets: Any
    validation: tuple[Any, Any] | None = None
    test: tuple[Any, Any] | None = None
    class_names: Sequence[str] = ()
    weights: Any = None


@dataclass(frozen=True)
class DatasetSource:
    """Datasets of torch; see `Data.from_dataset`."""

    train: Any
    validation: Any = None
    test: Any = None
    class_names: Sequence[str] = ()
    workers: int = 0


@dataclass(frozen=True)
class CachedSamples:
    """Samples whose images are in the cache.

    Attributes:
        path: The entry's folder.
        samples: The samples, without pixels.
        images: The images.
        preprocessing: How they were made to fit.
        sums: Sums of each image's values and of their squares.
    """

    path: Path
    samples: Samples
    images: MappedImages
    preprocessing: Preprocessing
    sums: np.ndarray


def open_cached_samples(path: Path) -> CachedSamples:
    """Open an entry that Python code made.

    Raises:
        InputError: It is not there any more, or was not made by Python code.
    """
    cached = ImageCache(path.parent.parent).open(path.name)
    if cached is None or not cached.source:
        raise InputError(
            f"cache:{path}: no such images; they may have been removed or damaged: make the data set again"
        )
    return _from_entry(path, cached)


def _from_entry(path: Path, cached: CachedImages) -> CachedSamples:
    source, more, shape = cached.source, cached.decoded.more, cached.images.shape
    samples = Samples(
        name=source["name"],
        class_names=tuple(source["class_names"]),
        augmentation=Augmentation(crop=min(cached.preprocessing.size) // 8),
        pixels=np.empty((0, *shape[1:]), np.uint8),
        targets=more["targets"],
        parts=more["parts"],
        task=source["task"],
        keys=cached.decoded.keys,
        weights=more.get("weights"),
        notes=tuple(source["notes"]),
    )
    return CachedSamples(path, samples, cached.images, cached.preprocessing, cached.decoded.sums)


def _store(
    name: str,
    count: int,
    preprocessing: Preprocessing,
    format: ImageFormat,
    decode: Callable[[ImageFormat, WriteRow], DecodedSet],
    targets: Callable[[], tuple[Targets, tuple[str, ...]]],
    root: str | os.PathLike[str] | None,
    key: str | None = None,
) -> CachedSamples:
    cache = ImageCache(data_root(root))
    check_text(name, "the name of a data set")

    def source() -> dict[str, Any]:
        read, notes = targets()
        return {"name": name, "class_names": list(read.class_names), "task": read.task, "notes": list(notes)}

    cached = cache.build(name, count, preprocessing, format, decode, key=key, source=source)
    return _from_entry((cache.path / cached.key).absolute(), cached)


def _parts(lengths: Sequence[tuple[Part, int]]) -> np.ndarray:
    """The parts of images; those for training are to be split if there is no test part."""
    has_test = any(part is Part.TEST for part, _ in lengths)
    own = [(part if has_test or part is not Part.TRAIN else Part.UNASSIGNED, length) for part, length in lengths]
    return parts_of(*own)


def read_vision_files(name: str, options: CacheOptions) -> CachedSamples:
    """A data set of torchvision whose images are files: decoded once into the cache, or found there.

    Raises:
        InputError: The files are missing and the download failed, or there is no room for the images.
    """
    from torchvision import __version__

    root = data_root(options.root)
    cache = ImageCache(root)
    size = side_pair(options.image_size)
    plan = plan_preprocessing(size or (0, 0), options.resize, options.crop_share)
    key = cache.key("torchvision", __version__, name, plan.model_dump_json())
    cached = cache.open(key)
    if cached is not None and cached.source:
        return _from_entry((cache.path / key).absolute(), cached)
    sets = open_torchvision(name, root)
    names = class_names(sets[Part.TRAIN])
    source = DatasetSource(sets[Part.TRAIN], sets.get(Part.VALIDATION), sets.get(Part.TEST), names)
    return read_dataset_source(source, name, options, key)


# ---- arrays


def read_array_source(source: ArraySource, name: str, options: CacheOptions) -> CachedSamples:
    """Write arrays to the cache.

    Raises:
        InputError: They are no data set, or there is no room for them.
    """
    given = zip(_PARTS, ((source.images, source.targets), source.validation, source.test), strict=True)
    for word, pair in (("validation", source.validation), ("test", source.test)):
        if pair is not None and not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise InputError(f"{name}: {word}: must be a pair of images and targets")
    pairs = [(part, _as_array(pair[0]), _as_array(pair[1])) for part, pair in given if pair is not None]
    words = [part.name.lower() for part, _, _ in pairs]
    arrays = [images for _, images, _ in pairs]
    for word, (_, images, labels) in zip(words, pairs, strict=True):
        if images.ndim and labels.ndim and len(images) != len(labels):
            raise InputError(f"{name}: {word}: {len(images)} images, {len(labels)} targets")
    layouts = [image_layout(f"{name}: {word} images", images) for word, images in zip(words, arrays, strict=True)]
    scale = pixel_scale(name, [f"{word} images" for word in words], arrays)
    shape = layouts[0].shape[1:]
    if any(layout.shape[1:] != shape for layout in layouts):
        raise InputError(f"{name}: images of the splits differ in size")
    labels_of = [f"{name}: {word} targets" for word in words]
    targets = read_targets(labels_of, [labels for _, _, labels in pairs], source.class_names)
    preprocessing = _preprocessing(options, (shape[1], shape[2]))
    lengths = [(part, len(images)) for part, images, _ in pairs]
    count = sum(length for _, length in lengths)
    more = {"targets": np.concatenate(targets.values), "parts": _parts(lengths)}
    if source.weights is not None:
        more["weights"] = _weights(name, source.weights, lengths)

    def decode(format: ImageFormat, write: WriteRow) -> DecodedSet:
        keys, sums = np.zeros((count, 2), np.uint64), np.zeros((count, 2, format.channels), np.int64)
        for position, chunk in _chunks(layouts, scale):
            for offset, (image, fitted) in enumerate(zip(chunk, fit_array(chunk, preprocessing), strict=True)):
                write(position + offset, fitted)
                keys[position + offset] = content_key(image.tobytes())
                sums[position + offset] = image_sums(fitted, preprocessing.size)
        return DecodedSet(keys, sums, {}, more)

    notes = targets.notes + ((scale.note,) if scale.note else ())
    format = ImageFormat(shape[0], scale.dtype)
    return _store(name, count, preprocessing, format, decode, lambda: (targets, notes), options.root)


def _as_array(values: Any) -> np.ndarray:
    """An array or a tensor as an array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.hasobject:
        raise InputError("an array of Python objects or of rows of different lengths; use numbers or strings")
    return array


def _weights(name: str, weights: Any, lengths: Sequence[tuple[Part, int]]) -> np.ndarray:
    values, training = _as_array(weights), lengths[0][1]
    if values.shape != (training,) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise InputError(f"{name}: weights must be {training} finite numbers, one per training image")
    if values.min(initial=0) < 0 or not values.any():
        raise InputError(f"{name}: weights must be 0 or more, and not all 0")
    others = sum(length for _, length in lengths) - training
    return np.concatenate([values.astype(np.float32), np.ones(others, np.float32)])


def _preprocessing(options: CacheOptions, size: tuple[int, int]) -> Preprocessing:
    target = side_pair(options.image_size)
    if target is None:
        return plan_preprocessing(size, "squash")
    return plan_preprocessing(target, options.resize, options.crop_share)


def _chunks(layouts: Sequence[np.ndarray], scale: PixelScale) -> Iterator[tuple[int, np.ndarray]]:
    """The position of the first image, and some images as integers."""
    position = 0
    for layout in layouts:
        for start in range(0, len(layout), _CHUNK):
            chunk = np.ascontiguousarray(to_pixels(layout[start : start + _CHUNK], scale))
            yield position, chunk
            position += len(chunk)


# ---- datasets of torch


def read_dataset_source(
    source: DatasetSource, name: str, options: CacheOptions, key: str | None = None
) -> CachedSamples:
    """Read datasets of torch, once, into the cache.

    Args:
        source: The datasets.
        name: The name of the data set.
        options: How images are made to fit.
        key: The key of the entry; by default it follows from the contents.

    Raises:
        InputError: An item is no image with a target, or there is no room for the images.
    """
    given = zip(_PARTS, (source.train, source.validation, source.test), strict=True)
    if source.train is None:
        raise InputError(f"{name}: no training images")
    sets = [(part, dataset) for part, dataset in given if dataset is not None]
    lengths = [(part, _length(name, dataset)) for part, dataset in sets]
    count = sum(length for _, length in lengths)
    first = _image_array(name, sets[0][1][0])
    preprocessing = _preprocessing(options, (first.shape[1], first.shape[2]))
    names = tuple(source.class_names) or tuple(str(c) for c in getattr(source.train, "classes", ()) or ())
    found: list[Targets] = []

    def decode(format: ImageFormat, write: WriteRow) -> DecodedSet:
        keys, sums = np.zeros((count, 2), np.uint64), np.zeros((count, 2, format.channels), np.int64)
        labels: list[np.ndarray] = []
        for position, item in enumerate(_items([dataset for _, dataset in sets], source.workers)):
            pixels = _item_pixels(name, position, item, preprocessing, format)
            write(position, pixels)
            keys[position], sums[position] = content_key(pixels.tobytes()), image_sums(pixels, preprocessing.size)
            labels.append(_as_array(item[1]))
        found[:] = [_dataset_targets(name, lengths, labels, names)]
        more = {"targets": np.concatenate(found[0].values), "parts": _parts(lengths)}
        return DecodedSet(keys, sums, {}, more)

    format = ImageFormat(len(first), first.dtype)
    return _store(name, count, preprocessing, format, decode, lambda: (found[0], found[0].notes), options.root, key)


def _length(name: str, dataset: Any) -> int:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise InputError(f"{name}: a {kind} is no map-style dataset; it needs __getitem__ and __len__")
    if not len(dataset):
        raise InputError(f"{name}: an empty dataset")
    return len(dataset)


def _items(datasets: Sequence[Any], workers: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    for dataset in datasets:
        if not workers:
            yield from (dataset[index] for index in range(len(dataset)))
        else:
            yield from DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_unchanged)


def _unchanged(item: Any) -> Any:
    return item


def _image_array(name: str, item: Any) -> np.ndarray:
    """The image of an item as integers (C, H, W)."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise InputError(f"{name}: items must be an image and its target, not a {type(item).__name__}")
    image = item[0]
    if hasattr(image, "getbands"):
        return fit_picture(image, plan_preprocessing((image.height, image.width), "squash"))[0]
    is_tensor = hasattr(image, "detach")
    values = _as_array(image)
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and not is_tensor and not (values.shape[0] in (1, 3) and values.shape[2] not in (1, 3, 4)):
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or not values.size:
        raise InputError(f"{name}: an image of shape {values.shape}; expected (H, W), (H, W, C), or a tensor (C, H, W)")
    return to_pixels(np.ascontiguousarray(values), pixel_scale(name, ["an image"], [values]))


def _item_pixels(name: str, position: int, item: Any, preprocessing: Preprocessing, format: ImageFormat) -> np.ndarray:
    """The pixels of an item, made to fit.

    Raises:
        OtherFormat: It has more channels or bits than the first items.
    """
    try:
        if isinstance(item, tuple | list) and item and hasattr(item[0], "getbands"):
            pixels, _ = fit_picture(item[0], preprocessing)
        else:
            pixels = fit_array(_image_array(name, item)[None], preprocessing)[0]
        format.check(pixels)
        pixels = match_channels(pixels, format.channels, format.dtype)
    except UnreadableImage as error:
        raise InputError(f"{name}: item {position}: {error}") from None
    return np.broadcast_to(pixels, (format.channels, *pixels.shape[1:]))


def _dataset_targets(
    name: str, lengths: Sequence[tuple[Part, int]], labels: list[np.ndarray], class_names: tuple[str, ...]
) -> Targets:
    arrays, start = [], 0
    for _, length in lengths:
        try:
            arrays.append(np.stack(labels[start : start + length]))
        except ValueError:
            raise InputError(f"{name}: targets of different shapes; each item needs the same") from None
        start += length
    words = [f"{name}: {part.name.lower()} targets" for part, _ in lengths]
    return read_targets(words, arrays, class_names if arrays[0].dtype.kind in "iu" else ())
