"""Data sets for training: sources are read into samples, which are split, scaled and kept in memory.

`load` is the whole path from a specification to a `Data`. `sources` give lists of files or
`Samples`; `splits` decides which image is in which split; `decoding` and `preprocessing` turn files and arrays into
images of one size; `cache` keeps decoded images on the disk, where all processes share them.
"""

from __future__ import annotations

from nas_agg.training.data.dataset import Data
from nas_agg.training.data.load import load_data
from nas_agg.training.data.split import Split
from nas_agg.training.datasets import DATASETS

__all__ = ["DATASETS", "Data", "Split", "load_data"]
