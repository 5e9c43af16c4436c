"""Data sets in .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.training.data.decoding import content_key
from nas_agg.training.data.memory import check_memory
from nas_agg.training.data.samples import Part, Samples, parts_of
from nas_agg.training.data.sources.arrays import ArrayArchive, image_layout, pixel_scale, to_pixels
from nas_agg.training.data.sources.targets import Targets, read_targets
from nas_agg.training.recipes import Augmentation

#: Names of images and labels of each part: Keras's, MedMNIST's, and those of arrays that are not split.
_SCHEMES: tuple[dict[Part, tuple[tuple[str, str], ...]], ...] = (
    {
        Part.TRAIN: (("x_train", "y_train"),),
        Part.VALIDATION: (("x_val", "y_val"), ("x_valid", "y_valid"), ("x_validation", "y_validation")),
        Part.TEST: (("x_test", "y_test"),),
    },
    {
        Part.TRAIN: (("train_images", "train_labels"),),
        Part.VALIDATION: (("val_images", "val_labels"),),
        Part.TEST: (("test_images", "test_labels"),),
    },
    {Part.TRAIN: (("x", "y"),)},
    {Part.TRAIN: (("images", "labels"),)},
)
_CLASS_NAMES = ("class_names", "classes")


def read_npz(path: Path, processes: int = 1) -> Samples:
    """Read images NHW, NHWC or NCHW and their labels; a validation and a test part are optional.

    Args:
        path: The file.
        processes: Number of processes that will hold the images, for the memory they take.

    Raises:
        InputError: The file cannot be read, its arrays are not a data set, or they do not fit into memory.
    """
    with ArrayArchive(path) as archive:
        members = _members(archive)
        images = [archive.header(name) for _, name, _ in members]
        total, largest = sum(h.nbytes for h in images), max(h.nbytes for h in images)
        check_memory(f"npz:{path}", total * processes + 2 * largest, "split the file, or use folder:PATH")
        pixels = [archive.read(name) for _, name, _ in members]
        labels = [archive.read(name) for _, _, name in members]
        targets = _targets(archive, path, members, labels)
    for (_, image, label), array, values in zip(members, pixels, labels, strict=True):
        if array.ndim and values.ndim and len(array) != len(values):
            raise InputError(f"{path}: {image} has {len(array)} images, {label} {len(values)} labels")
    names = [name for _, name, _ in members]
    layouts = [image_layout(f"{path}: {name}", array) for name, array in zip(names, pixels, strict=True)]
    scale = pixel_scale(str(path), names, pixels)
    del pixels
    first = layouts[0].shape[1:]
    for (part, _, _), layout in zip(members, layouts, strict=True):
        if layout.shape[1:] != first:
            shapes = " and ".join("x".join(map(str, shape)) for shape in (first, layout.shape[1:]))
            raise InputError(
                f"{path}: train and {part.name.lower()} images differ in size (channels x height x width): {shapes}"
            )
    lengths = [len(layout) for layout in layouts]
    joined = np.empty((sum(lengths), *first), scale.dtype)
    for start in range(len(layouts)):
        begin = sum(lengths[:start])
        joined[begin : begin + lengths[start]] = to_pixels(layouts[start], scale)
        layouts[start] = layouts[start][:0]
    parts = [part for part, _, _ in members]
    has_test = Part.TEST in parts
    return Samples(
        name=f"npz:{path}",
        class_names=targets.class_names,
        augmentation=Augmentation(crop=min(first[1:]) // 8),
        pixels=joined,
        targets=np.concatenate(targets.values),
        parts=parts_of(*zip(parts, lengths, strict=True)) if has_test else _without_test(parts, lengths),
        task=targets.task,
        keys=None if has_test else np.stack([content_key(image.tobytes()) for image in joined]),
        notes=targets.notes + ((scale.note,) if scale.note else ()),
        layout=tuple(part.name.lower() for part in parts),
    )


def _without_test(parts: list[Part], lengths: list[int]) -> np.ndarray:
    own = [Part.UNASSIGNED if part is Part.TRAIN else part for part in parts]
    return parts_of(*zip(own, lengths, strict=True))


def _members(archive: ArrayArchive) -> list[tuple[Part, str, str]]:
    """The arrays of each part that the file has: the part and the names of its images and labels.

    Raises:
        InputError: An array is missing.
    """
    path = archive.path
    for scheme in _SCHEMES:
        if not any(image in archive or label in archive for image, label in scheme[Part.TRAIN]):
            continue
        found = []
        for part, pairs in scheme.items():
            for image, label in pairs:
                if (image in archive) != (label in archive):
                    missing = label if image in archive else image
                    raise InputError(f"{path}: array {missing} is missing")
                if image in archive:
                    found.append((part, image, label))
        return found
    known = [name for scheme in _SCHEMES for pairs in scheme.values() for pair in pairs for name in pair]
    hint = next((hint for name in archive.names if (hint := did_you_mean(name.lower(), known))), "")
    raise InputError(
        f"{path}: array x_train is missing; required are x_train and y_train, optionally x_val, y_val, x_test and "
        f"y_test{hint}"
    )


def _targets(
    archive: ArrayArchive, path: Path, members: list[tuple[Part, str, str]], labels: list[np.ndarray]
) -> Targets:
    names: list[str] = []
    for name in _CLASS_NAMES:
        if name in archive and archive.header(name).dtype.kind == "U" and len(archive.header(name).shape) == 1:
            names = [str(text) for text in archive.read(name)]
            break
    return read_targets([f"{path}: {label}" for _, _, label in members], labels, names)
