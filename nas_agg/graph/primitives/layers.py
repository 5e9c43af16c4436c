"""Operations with parameters: convolution, linear layer, norms and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives.base import Primitive, SavedTensors, Shape, window_output


@dataclass(frozen=True, slots=True)
class Conv(Primitive):
    """A square convolution."""

    word: ClassVar[str] = "conv"
    stateful: ClassVar[bool] = True
    channels: int
    out: int
    kernel: int
    stride: int
    padding: int
    groups: int
    bias: bool

    def shape(self, *inputs: Shape) -> Shape:
        if self.channels % self.groups or self.out % self.groups:
            raise GenotypeError(
                f"{self.groups} groups do not divide {self.channels} input and {self.out} output channels"
            )
        return self.out, *window_output(inputs[0], self.kernel, self.stride, self.padding)

    @property
    def channelwise(self) -> bool:  # type: ignore[override]
        return self.groups == self.channels == self.out

    @property
    def mixes_channels(self) -> bool:  # type: ignore[override]
        return self.groups == 1

    @property
    def params(self) -> int:
        return self.kernel**2 * self.channels * self.out // self.groups + (self.out if self.bias else 0)

    def macs(self, out: Shape) -> int:
        return self.kernel**2 * self.channels * self.out // self.groups * out[1] * out[2]

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,))

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        options: dict[str, Any] = {"bias": self.bias}
        for name, value, default in (
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("groups", self.groups, 1),
        ):
            if value != default:
                options[name] = value
        return "Conv2d", (self.channels, self.out, self.kernel), options


@dataclass(frozen=True, slots=True)
class Norm(Primitive):
    """Batch norm (groups 0) or group norm; one group is layer norm, one group per channel instance norm."""

    word: ClassVar[str] = "norm"
    stateful: ClassVar[bool] = True
    channels: int
    groups: int
    affine: bool

    @property
    def channelwise(self) -> bool:  # type: ignore[override]
        return self.groups in (0, 1, self.channels)

    @property
    def params(self) -> int:
        return 2 * self.channels if self.affine else 0

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        if not (self.affine or grads[0]):
            return SavedTensors()
        if self.groups:
            return SavedTensors(inputs=(0,), image=8 * self.groups)
        return SavedTensors(inputs=(0,), batch=8 * self.channels)

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        options = {} if self.affine else {"affine": False}
        if self.groups:
            return "GroupNorm", (self.groups, self.channels), options
        return "BatchNorm2d", (self.channels,), options

    def call(self, target: str, *inputs: str) -> str:
        if self.groups == self.channels:  # not the module's own call, which rejects a single image on a 1x1 map
            return f"torch.group_norm({inputs[0]}, {self.groups}, {target}.weight, {target}.bias)"
        return f"{target}({inputs[0]})"


@dataclass(frozen=True, slots=True)
class Linear(Primitive):
    """A linear layer with bias on the flattened map; its output is a 1x1 map."""

    word: ClassVar[str] = "linear"
    stateful: ClassVar[bool] = True
    mixes_channels: ClassVar[bool] = True  # type: ignore[misc]
    features: int
    out: int

    def shape(self, *inputs: Shape) -> Shape:
        return self.out, 1, 1

    @property
    def params(self) -> int:
        return (self.features + 1) * self.out

    def macs(self, out: Shape) -> int:
        return self.features * self.out

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,))

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        return "Linear", (self.features, self.out), {}

    def call(self, target: str, *inputs: str) -> str:
        return f"{target}({inputs[0]}.flatten(1))[:, :, None, None]"


@dataclass(frozen=True, slots=True)
class Scale(Primitive):
    """A learned factor per channel. Its initial value ``start`` does not enter the canonical hash."""

    word: ClassVar[str] = "scale"
    stateful: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    channels: int
    start: float = 1.0

    @property
    def params(self) -> int:
        return self.channels

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=(0,))

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {target}"

    def arguments(self) -> tuple:
        return (self.channels,)
