"""A data set in a form that is sent to other machines once, and is read there without a copy per process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nas_agg.training.data import Data
from nas_agg.training.data.images import Images, MappedImages

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PackedData:
    """A data set whose images are arrays, which an object store holds once per machine.

    Attributes:
        data: The data set without its images.
        arrays: The images: integers (M, C, H, W).
        places: The array of each split.
    """

    data: Data
    arrays: tuple[np.ndarray, ...]
    places: tuple[int, ...]

    def unpack(self) -> Data:
        """The data set; its images are the arrays, not copies."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the arrays of an object store are read-only, and nobody writes to them
            tensors = [torch.from_numpy(array) for array in self.arrays]
        splits = {name: tensors[place] for name, place in zip(_SPLITS, self.places, strict=True)}
        data = self.data
        return replace(data, **{name: replace(getattr(data, name), pixels=splits[name]) for name in _SPLITS})


def pack_data(data: Any) -> Any:
    """Pack a data set; anything else, which a trainer of another kind has, is unchanged."""
    if not isinstance(data, Data):
        return data
    images: dict[int, Images] = {id(split.pixels): split.pixels for split in data.splits.values()}
    order = list(images)
    splits = {name: getattr(data, name) for name in _SPLITS}
    places = tuple(order.index(id(split.pixels)) for split in splits.values())
    bare = {name: replace(split, pixels=torch.empty(0)) for name, split in splits.items()}
    return PackedData(replace(data, **bare), tuple(map(_array, images.values())), places)


def _array(images: Images) -> np.ndarray:
    tensor = images.tensor if isinstance(images, MappedImages) else images
    return np.asarray(tensor.cpu().numpy())
