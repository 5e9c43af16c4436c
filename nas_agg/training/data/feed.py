"""Gathers the images of the next steps while the current one is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from nas_agg.training.data.images import MappedImages
from nas_agg.training.data.split import Split

_AHEAD = 2  # groups that are gathered before they are needed
_THREAD_BYTES = 2**22  # of a group; less is gathered sooner than a thread wakes up


def gather_ahead(split: Split, groups: Sequence[Tensor], device: torch.device, whole: bool = False) -> Iterator[Tensor]:
    """The images of groups of positions, one group after another.

    Images in memory, and few of a file, are gathered when they are needed. More of a file, or those that do not fit
    into a GPU's memory, are gathered by a thread, two groups ahead, into pinned memory if they go to a GPU.

    Args:
        split: The images.
        groups: Positions within the split, int64 each, on its `place`.
        device: The device of the result.
        whole: Whether to return all of each image rather than its central part.
    """
    is_here = split.pixels.device.type == device.type
    row_bytes = split.pixels.nbytes // max(1, len(split.pixels))
    if is_here and (not isinstance(split.pixels, MappedImages) or row_bytes * max(map(len, groups)) < _THREAD_BYTES):
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
