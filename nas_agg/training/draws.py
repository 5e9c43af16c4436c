"""Random numbers for the images of a batch, which do not depend on how the batch is divided among processes."""

from __future__ import annotations

import torch
from torch import Tensor


class ImageDraws:
    """Draws random numbers for all images of a batch and returns those of some of them.

    Args:
        generator: The generator; it advances by the whole batch.
        count: Number of images of the batch.
        rows: Positions of the images whose numbers are returned, int64 (N,) on the generator's device; None: all.
    """

    def __init__(self, generator: torch.Generator, count: int, rows: Tensor | None = None):
        self.generator, self.count, self.rows = generator, count, rows

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from 0 to 1: float32, (*shape, N)."""
        numbers = torch.rand((*shape, self.count), generator=self.generator, device=self.generator.device)
        return numbers if self.rows is None else numbers[..., self.rows]

    def normal(self, columns: int) -> Tensor:
        """Numbers of the standard normal distribution: float32, (N, columns)."""
        numbers = torch.randn((self.count, columns), generator=self.generator, device=self.generator.device)
        return numbers if self.rows is None else numbers[self.rows]

    def integers(self, bound: int) -> Tensor:
        """Integers below a bound: int64, (N,)."""
        numbers = torch.randint(bound, (self.count,), generator=self.generator, device=self.generator.device)
        return numbers if self.rows is None else numbers[self.rows]
