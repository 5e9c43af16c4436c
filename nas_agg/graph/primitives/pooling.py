"""Pooling over windows, whole maps and channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives.base import Primitive, SavedTensors, Shape, window_output


@dataclass(frozen=True, slots=True)
class MaxPool(Primitive):
    """Max pooling."""

    word: ClassVar[str] = "maxpool"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    kernel: int
    stride: int
    padding: int

    def shape(self, *inputs: Shape) -> Shape:
        if 2 * self.padding > self.kernel:
            raise GenotypeError(f"padding {self.padding} is more than half the kernel size {self.kernel}")
        return inputs[0][0], *window_output(inputs[0], self.kernel, self.stride, self.padding)

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        c, h, w = shapes[-1]
        return SavedTensors(inputs=(0,), image=8 * c * h * w) if grads[0] else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.max_pool2d({inputs[0]}, {self.kernel}, {self.stride}, {self.padding})"


@dataclass(frozen=True, slots=True)
class AvgPool(MaxPool):
    """Average pooling that includes padded zeros."""

    word: ClassVar[str] = "avgpool"

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,)) if grads[0] else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.avg_pool2d({inputs[0]}, {self.kernel}, {self.stride}, {self.padding})"


@dataclass(frozen=True, slots=True)
class AdaptivePool(Primitive):
    """Pooling to size x size for any map size; size 1 is global pooling."""

    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    size: int

    def shape(self, *inputs: Shape) -> Shape:
        c, h, w = inputs[0]
        if self.size > min(h, w):
            raise GenotypeError(f"a {h}x{w} map cannot be pooled to the larger size {self.size}x{self.size}")
        return c, self.size, self.size


@dataclass(frozen=True, slots=True)
class Gap(AdaptivePool):
    """Adaptive average pooling."""

    word: ClassVar[str] = "gap"

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,)) if grads[0] and self.size > 1 else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.adaptive_avg_pool2d({inputs[0]}, {self.size})"


@dataclass(frozen=True, slots=True)
class Gmp(AdaptivePool):
    """Adaptive max pooling."""

    word: ClassVar[str] = "gmp"

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,), image=8 * prod(shapes[-1])) if grads[0] else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.adaptive_max_pool2d({inputs[0]}, {self.size})"


@dataclass(frozen=True, slots=True)
class ChannelMean(Primitive):
    """The mean over all channels at each position of the map."""

    word: ClassVar[str] = "channel-mean"
    channel_symmetric: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return 1, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}.mean(1, keepdim=True)"


@dataclass(frozen=True, slots=True)
class ChannelMax(ChannelMean):
    """The maximum over all channels at each position of the map."""

    word: ClassVar[str] = "channel-max"

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,), output=True) if grads[0] else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}.amax(1, keepdim=True)"
