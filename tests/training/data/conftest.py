"""Folders of images that tests share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_folder(tmp_path):
    """Makes folders of random images: ``make_folder("photos/train", {"cat": 5, "dog": 4})``."""

    def make(name, counts, size=(16, 16), mode="RGB", seed=0, suffix="png"):
        draw = np.random.default_rng(seed)
        place = tmp_path / name
        for label, count in counts.items():
            (place / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(place / label / f"{number}.{suffix}")
        return place

    return make
