"""Noise of dropout and stochastic depth that does not depend on how a batch is divided among processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nas_agg.training.steps.batches import Batch


def has_noise(model: nn.Module) -> bool:
    """Whether a model draws random numbers in training: by modules, or in the text of its forward."""
    modules = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
    return modules or "F.dropout" in getattr(model, "source", "")


class NoiseOfPart(TorchFunctionMode):
    """Context in which noise is drawn for all images of a batch, and that of a part is used.

    Processes whose generators are in the same state stay so, and draw the numbers of one process.

    Args:
        batch: The batch; the forward pass is of its part.
    """

    def __init__(self, batch: Batch):
        super().__init__()
        self.count, self.part = batch.count, batch.part

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(self, *args, **(kwargs or {}))

    def draw(self, x: Tensor, shape: tuple[int, ...], keep: float, dtype: torch.dtype) -> Tensor:
        """Zeros and ones for the images of x, in its memory format: the shape is that of one image."""
        is_map = len(shape) == 3 and x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1
        layout = torch.channels_last if is_map else torch.contiguous_format
        noise = torch.empty((self.count, *shape), dtype=dtype, device=x.device, memory_format=layout)
        with torch._C.DisableTorchFunction():
            return noise.bernoulli_(keep)[self.part]


def _dropout(mode: NoiseOfPart, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or not p:
        return x
    return x * mode.draw(x, tuple(x.shape[1:]), 1 - p, x.dtype).div_(1 - p)


def _dropout2d(mode: NoiseOfPart, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or not p:
        return x
    return x * mode.draw(x, (x.shape[1], 1, 1), 1 - p, x.dtype).div_(1 - p)


def _dropout3d(mode: NoiseOfPart, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Stochastic depth: the images are the channels of one sample."""
    if not training or not p:
        return x
    return x * mode.draw(x[0], (1, 1, 1), 1 - p, x.dtype).div_(1 - p)[None]


def _bernoulli(mode: NoiseOfPart, noise: Tensor, p: float = 0.5, *, generator: Any = None) -> Tensor:
    return noise.copy_(mode.draw(noise, tuple(noise.shape[1:]), p, noise.dtype))


def _native_dropout(mode: NoiseOfPart, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    mask = mode.draw(x, tuple(x.shape[1:]), 1 - p, torch.bool)
    return x * mask * (1 / (1 - p)), mask


#: What is called in place of functions that draw noise, in plain networks and in lean ones.
_RULES: dict[Any, Callable[..., Any]] = {
    functional.dropout: _dropout,
    functional.dropout2d: _dropout2d,
    functional.dropout3d: _dropout3d,
    Tensor.bernoulli_: _bernoulli,
    torch.native_dropout: _native_dropout,
}
