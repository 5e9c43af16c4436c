"""Operations of inference-only networks; they have no backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas_agg.graph.primitives import Act, Conv, Primitive, Scale, Shape

#: Activations that can be computed in place.
IN_PLACE = ("relu", "relu6", "leaky", "elu", "swish", "hardswish", "hardsigmoid")


@dataclass(frozen=True, slots=True)
class Floor(Scale):
    """A lower bound for each channel."""

    word: ClassVar[str] = "floor"

    def call(self, target: str, *inputs: str) -> str:
        return f"torch.maximum({inputs[0]}, {target})"


@dataclass(frozen=True, slots=True)
class Ceiling(Scale):
    """An upper bound for each channel."""

    word: ClassVar[str] = "ceiling"

    def call(self, target: str, *inputs: str) -> str:
        return f"torch.minimum({inputs[0]}, {target})"


@dataclass(frozen=True, slots=True)
class Buffer(Primitive):
    """A buffer for a concat, into which its first part, the input, is written."""

    word: ClassVar[str] = "buffer"
    channels: int

    def shape(self, *inputs: Shape) -> Shape:
        return self.channels, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"kernels.buffer({inputs[0]}, {self.channels})"


@dataclass(frozen=True, slots=True)
class Store(Primitive):
    """A buffer, the first input, into which the second input is written from channel ``first`` on."""

    word: ClassVar[str] = "store"
    first: int

    def call(self, target: str, *inputs: str) -> str:
        return f"kernels.store({inputs[0]}, {inputs[1]}, {self.first})"


@dataclass(frozen=True, slots=True)
class Pointwise(Conv):
    """A 1x1 convolution by the kernel that is fast for few images."""

    def call(self, target: str, *inputs: str) -> str:
        return f"kernels.pointwise({inputs[0]}, {target})"


@dataclass(frozen=True, slots=True)
class InPlaceAct(Act):
    """An activation that is computed in place."""

    def call(self, target: str, *inputs: str) -> str:
        return f"{super(InPlaceAct, self).call(target, *inputs)[:-1]}, inplace=True)"
