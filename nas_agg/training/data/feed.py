"""Gathers the images of the next steps while the current one is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from nas_agg.training.data.images import MappedImages
from nas_agg.training.data.split import Split

_AHEAD = 2  # groups that are gathered before they are needed


def gather_ahead(split: Split, groups: Sequence[Tensor], device: torch.device, whole: bool = False) -> Iterator[Tensor]:
    """The images of groups of positions, one group after another.

    Images in memory are gathered on their device. Those of a file, or those that do not fit into a GPU's memory, are
    gathered by a thread, two groups ahead, into pinned memory if they go to a GPU.

    Args:
        split: The images.
        groups: Positions within the split, int64 each, on the device of its labels.
        device: The device of the result.
        whole: Whether to return all of each image rather than its central part.
    """
    if split.pixels.device.type == device.type and not isinstance(split.pixels, MappedImages):
        for positions in groups:
            yield split.rows(positions, whole)
        return

    def read(positions: Tensor) -> Tensor:
        images = split.rows(positions, whole)
        return images.contiguous().pin_memory() if device.type == "cuda" else images

    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(read, positions) for positions in groups[:_AHEAD]]
        try:
            for number in range(len(groups)):
                images = pending.pop(0).result()
                if number + _AHEAD < len(groups):
                    pending.append(pool.submit(read, groups[number + _AHEAD]))
                yield images.to(device, non_blocking=True)
        finally:
            for future in pending:
                future.cancel()
