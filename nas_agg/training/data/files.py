"""Data sets of image files: decoded into the cache, or found there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nas_agg.training.data.building import (
    DecodedSet,
    ImageFormat,
    WriteRow,
    check_readable,
    decode_files,
    probe_format,
)
from nas_agg.training.data.cache import ImageCache, listing_digest
from nas_agg.training.data.images import MappedImages
from nas_agg.training.data.preprocessing import Preprocessing
from nas_agg.training.data.samples import Part, Samples
from nas_agg.training.data.sources.listing import FileListing
from nas_agg.training.recipes import Augmentation


def _relative(path: str, folder: str) -> str:
    """A file's path from a folder, which it begins with as a rule: of many files `os.path.relpath` takes seconds."""
    return path[len(folder) :] if path.startswith(folder) else os.path.relpath(path, folder)


def read_files(
    name: str, listing: FileListing, preprocessing: Preprocessing, root: Path, skip_unreadable: bool = False
) -> tuple[Samples, MappedImages, np.ndarray]:
    """Decode the images of a listing, or find them in the cache.

    Args:
        name: The data set, as specified.
        listing: Its files.
        preprocessing: How images are made to fit.
        root: The data root, which has the cache.
        skip_unreadable: Whether images that cannot be read are left out.

    Returns:
        The samples without pixels, the images, and the sums of their values.

    Raises:
        InputError: Images are unreadable, or there is no room for them.
    """
    folder = listing.folder
    cache = ImageCache(root)
    relative = [_relative(file.path, f"{folder}{os.sep}") for file in listing.files]
    files = zip(relative, listing.files, strict=True)
    digest = listing_digest((path, file.length, file.modified) for path, file in files)
    key = cache.key(digest, preprocessing.model_dump_json())
    paths = [file.path for file in listing.files]

    def decode(format: ImageFormat, write: WriteRow) -> DecodedSet:
        return decode_files(paths, preprocessing, format, write, f"decoding {name}")

    cached = cache.open_or_build(
        key, name, len(paths), preprocessing, lambda: probe_format(paths, preprocessing), decode
    )
    decoded = cached.decoded
    unreadable = [(relative[position], reason) for position, reason in decoded.unreadable.items()]
    notes = check_readable(name, unreadable, skip_unreadable, len(paths))
    parts = listing.parts.copy()
    parts[list(decoded.unreadable)] = Part.LEFT_OUT
    samples = Samples(
        name=name,
        class_names=listing.class_names,
        augmentation=Augmentation(crop=min(preprocessing.size) // 8, flip=True),
        pixels=np.empty((0, *cached.images.shape[1:]), np.uint8),
        targets=listing.targets,
        parts=parts,
        task=listing.task,
        weights=listing.weights,
        keys=decoded.keys,
        notes=listing.notes + notes,
        layout=listing.layout,
    )
    return samples, cached.images, decoded.sums
