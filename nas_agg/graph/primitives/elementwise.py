"""Element-wise operations on one tensor: activations, fixed factors and dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas_agg.graph.primitives.base import Primitive, SavedTensors, Shape

#: Activation -> its function in ``torch.nn.functional``, and what its backward needs: the input or the output.
ACTIVATIONS = {
    "relu": ("relu", "output"),
    "relu6": ("relu6", "input"),
    "leaky": ("leaky_relu", "input"),
    "elu": ("elu", "input"),
    "swish": ("silu", "input"),
    "gelu": ("gelu", "input"),
    "hardswish": ("hardswish", "input"),
    "sigmoid": ("sigmoid", "output"),
    "hardsigmoid": ("hardsigmoid", "input"),
}


@dataclass(frozen=True, slots=True)
class Act(Primitive):
    """An activation."""

    word: ClassVar[str] = "act"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    function: str

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        if not grads[0]:
            return SavedTensors()
        return SavedTensors(output=True) if ACTIVATIONS[self.function][1] == "output" else SavedTensors(inputs=(0,))

    def call(self, target: str, *inputs: str) -> str:
        return f"F.{ACTIVATIONS[self.function][0]}({inputs[0]})"


@dataclass(frozen=True, slots=True)
class Times(Primitive):
    """Multiplication by a fixed number."""

    word: ClassVar[str] = "times"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    factor: float

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {self.factor!r}"


@dataclass(frozen=True, slots=True)
class Dropout(Primitive):
    """Dropout of elements, or of whole channels, in training."""

    word: ClassVar[str] = "dropout"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    rate: float
    channels: bool = False

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        c, h, w = shapes[0]
        return SavedTensors(image=4 * (c if self.channels else c * h * w)) if grads[0] else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.dropout{'2d' if self.channels else ''}({inputs[0]}, {self.rate!r}, self.training)"


@dataclass(frozen=True, slots=True)
class DropPath(Dropout):
    """Stochastic depth (Huang et al. 2016): drops whole images in training and scales the others by 1 / (1 - rate)."""

    word: ClassVar[str] = "drop-path"

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(image=4) if grads[0] else SavedTensors()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.dropout3d({inputs[0]}[None], {self.rate!r}, self.training)[0]"  # treats images as channels

    def arguments(self) -> tuple:
        return (self.rate,)
