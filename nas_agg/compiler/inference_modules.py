"""Operations that only networks for inference have: nothing goes back through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas_agg.graph.primitives import Act, Conv, Primitive, Scale, Shape

#: Activations that can be written over what they read.
IN_PLACE = ("relu", "relu6", "leaky", "elu", "swish", "hardswish", "hardsigmoid")


@dataclass(frozen=True, slots=True)
class Floor(Scale):
    """No value of a channel below a number."""

    word: ClassVar[str] = "floor"

    def call(self, target: str, *inputs: str) -> str:
        return f"torch.maximum({inputs[0]}, {target})"


@dataclass(frozen=True, slots=True)
class Ceiling(Scale):
    """No value of a channel above a number."""

    word: ClassVar[str] = "ceiling"

    def call(self, target: str, *inputs: str) -> str:
        return f"torch.minimum({inputs[0]}, {target})"


@dataclass(frozen=True, slots=True)
class Buffer(Primitive):
    """Room for features side by side, the first of which is there."""

    word: ClassVar[str] = "buffer"
    channels: int

    def shape(self, *inputs: Shape) -> Shape:
        return self.channels, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"kernels.buffer({inputs[0]}, {self.channels})"


@dataclass(frozen=True, slots=True)
class Store(Primitive):
    """A buffer in which a further feature, the second input, now stands from channel ``first`` on."""

    word: ClassVar[str] = "store"
    first: int

    def call(self, target: str, *inputs: str) -> str:
        return f"kernels.store({inputs[0]}, {inputs[1]}, {self.first})"


@dataclass(frozen=True, slots=True)
class Pointwise(Conv):
    """A 1x1 convolution in the spelling that is fast for few images."""

    def call(self, target: str, *inputs: str) -> str:
        return f"kernels.pointwise({inputs[0]}, {target})"


@dataclass(frozen=True, slots=True)
class ActHere(Act):
    """An activation that is written over what it reads."""

    def call(self, target: str, *inputs: str) -> str:
        return f"{super(ActHere, self).call(target, *inputs)[:-1]}, inplace=True)"
