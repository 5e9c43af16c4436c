"""The layers of the language. Each becomes one operation of the graph, or a few.

A layer's fields are evaluated at each place where it is used; ``build`` then appends it to the tape. An error of one
field is raised with that field's relative path (``.groups``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, StrictStr

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives import (
    ACTIVATIONS,
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_SIDE,
    Act,
    AvgPool,
    ChannelMax,
    ChannelMean,
    Conv,
    Dropout,
    DropPath,
    Gap,
    Gmp,
    Linear,
    MaxPool,
    Mul,
    Norm,
    Pad,
    Scale,
    Shuffle,
    Times,
)
from nas_agg.language.schema import Bounds, Choice, Flag, Number, Word, registry

if TYPE_CHECKING:
    from nas_agg.graph.graph import Tape

GROUPS = 32  # default of a group norm


Kernel = Annotated[Number, Bounds(1, MAX_KERNEL, "the kernel size")]
Channels = Annotated[Number, Bounds(1, MAX_CHANNELS, "the number of channels")]
Stride = Annotated[Number, Bounds(1, MAX_SIDE, "the stride")]
Groups = Annotated[Number, Bounds(1, MAX_CHANNELS, "the number of groups")]
Padding = Annotated[Number, Bounds(0, MAX_KERNEL, "the padding")]
ActivationWord = Annotated[StrictStr, Choice(tuple(ACTIVATIONS))]


class Layer(Word):
    """A layer."""

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        """Append the layer after tensor ``x`` and return its output.

        Args:
            tape: The tape.
            x: The tensor that enters.
            word: The text or key that the layer was written with.
            **values: Values of its fields.
        """
        raise NotImplementedError


def norm_groups(word: str, channels: int, groups: int = GROUPS) -> int:
    """Return the groups of a norm in the graph: 0 for batch norm, and for ``gn`` their gcd with the channels."""
    return {"bn": 0, "ln": 1, "in": channels}.get(word, math.gcd(groups, channels))


class NormLayer(Layer):
    """Batch norm, layer norm (one group) or instance norm (one group per channel), with affine parameters."""

    bare: ClassVar[tuple[str, ...]] = ("bn", "ln", "in")

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        channels = tape.shapes[x][0]
        return tape.add(Norm(channels, norm_groups(word, channels), True), x)


class GroupNorm(Layer):
    """Group norm with affine parameters."""

    bare: ClassVar[tuple[str, ...]] = ("gn",)
    key: ClassVar[str] = "gn"
    gn: Annotated[Number, Bounds(1, MAX_CHANNELS, "the number of groups")] = GROUPS

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        channels = tape.shapes[x][0]
        return tape.add(Norm(channels, norm_groups("gn", channels, values["gn"]), True), x)


class Activation(Layer):
    """An activation; ``leaky`` has a slope of 0.01."""

    bare: ClassVar[tuple[str, ...]] = tuple(ACTIVATIONS)

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Act(word), x)


def _conv(
    tape: Tape, x: int, kernel: int, out: int, stride: int, padding: int, groups: int, bias: bool, at: str = ""
) -> int:
    return tape.add(Conv(tape.shapes[x][0], out, kernel, stride, padding, groups, bias), x, at=at)


class ConvLayer(Layer):
    """A convolution with ``out`` channels (default w) and a square kernel."""

    key: ClassVar[str] = "conv"
    conv: Kernel
    out: Channels = "w"
    stride: Stride = 1
    groups: Groups = 1
    padding: Padding | None = None
    bias: Flag = False

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        kernel, out, groups, channels = values["conv"], values["out"], values["groups"], tape.shapes[x][0]
        if channels % groups or out % groups:
            raise GenotypeError(f"{groups} groups do not divide {channels} input and {out} output channels", ".groups")
        padding = _padding(kernel, values["padding"])
        return _conv(tape, x, kernel, out, values["stride"], padding, groups, values["bias"])


def _padding(kernel: int, padding: int | None) -> int:
    return (kernel - 1) // 2 if padding is None else padding


class Pool(Layer):
    stride: Stride | None = None
    padding: Padding | None = None

    primitive: ClassVar[type[MaxPool]]

    @classmethod
    def build(cls, tape: Tape, x: int, word: str, **values: Any) -> int:
        kernel = values[word]
        stride = kernel if values["stride"] is None else values["stride"]
        padding = _padding(kernel, values["padding"])
        return x if kernel == stride == 1 and not padding else tape.add(cls.primitive(kernel, stride, padding), x)


class MaxPoolLayer(Pool):
    """Max pooling, by default with stride = kernel. With kernel and stride 1 it is the identity."""

    key: ClassVar[str] = "maxpool"
    primitive: ClassVar[type[MaxPool]] = MaxPool
    maxpool: Kernel


class AvgPoolLayer(Pool):
    """Average pooling that includes padded zeros; otherwise like max pooling."""

    key: ClassVar[str] = "avgpool"
    primitive: ClassVar[type[MaxPool]] = AvgPool
    avgpool: Kernel


class GapLayer(Layer):
    """Adaptive average pooling to size x size (default 1: global)."""

    bare: ClassVar[tuple[str, ...]] = ("gap",)
    key: ClassVar[str] = "gap"
    gap: Annotated[Number, Bounds(1, MAX_SIDE, "the size")] = 1

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Gap(values["gap"]), x)


class GmpLayer(Layer):
    """Adaptive max pooling to size x size (default 1: global)."""

    bare: ClassVar[tuple[str, ...]] = ("gmp",)
    key: ClassVar[str] = "gmp"
    gmp: Annotated[Number, Bounds(1, MAX_SIDE, "the size")] = 1

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Gmp(values["gmp"]), x)


class ChannelPool(Layer):
    """The mean or the maximum over all channels, as a map of one channel."""

    bare: ClassVar[tuple[str, ...]] = ("channel-mean", "channel-max")

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(ChannelMean() if word == "channel-mean" else ChannelMax(), x)


class LinearLayer(Layer):
    """A linear layer with bias on the flattened map."""

    key: ClassVar[str] = "linear"
    linear: Annotated[Number, Bounds(1, MAX_CHANNELS, "the number of outputs")]

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Linear(math.prod(tape.shapes[x]), values["linear"]), x)


class SqueezeExcitation(Layer):
    """The map times gate(1x1(act(1x1(gap)))), both 1x1 with bias; with squeeze 0, a single 1x1 without ``act``."""

    key: ClassVar[str] = "se"
    se: Annotated[Number, Bounds(0, MAX_CHANNELS, "the squeeze width")]
    act: ActivationWord = "relu"
    gate: ActivationWord = "sigmoid"

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        channels = tape.shapes[x][0]
        y = tape.add(Gap(1), x, at=".gap")
        if values["se"]:
            y = _conv(tape, y, 1, values["se"], 1, 0, 1, True, at=".squeeze")
            y = tape.add(Act(values["act"]), y, at=".act")
        y = _conv(tape, y, 1, channels, 1, 0, 1, True, at=".excite")
        return tape.add(Mul(), x, tape.add(Act(values["gate"]), y, at=".gate"))


class ScaleLayer(Layer):
    """Multiplication by a learned number per channel."""

    bare: ClassVar[tuple[str, ...]] = ("scale",)

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Scale(tape.shapes[x][0]), x)


class TimesLayer(Layer):
    """Multiplication by a fixed number; 1 is the identity."""

    key: ClassVar[str] = "times"
    times: Annotated[Number, Bounds(-1000, 1000, "the factor", fraction=True)]

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return x if values["times"] == 1 else tape.add(Times(float(values["times"])), x)


class SliceLayer(Layer):
    """A number of channels, starting at channel ``from``."""

    key: ClassVar[str] = "slice"
    slice: Channels
    from_: Annotated[Number, Bounds(0, MAX_CHANNELS, "the first channel")] = Field(0, alias="from")

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        channels, first = values["slice"], values["from"]
        if first + channels > tape.shapes[x][0]:
            last, available = first + channels - 1, tape.shapes[x][0]
            raise GenotypeError(f"channels {first} to {last} exceed the input's {available} channels")
        return tape.slice(x, first, channels)


class PadLayer(Layer):
    """Appends zero channels up to a number of channels."""

    key: ClassVar[str] = "pad"
    pad: Channels

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        extra = values["pad"] - tape.shapes[x][0]
        if extra < 0:
            raise GenotypeError(f"cannot pad {tape.shapes[x][0]} channels to {values['pad']}", ".pad")
        return tape.add(Pad(extra), x) if extra else x


class ShuffleLayer(Layer):
    """Channel shuffle between groups (ShuffleNet)."""

    key: ClassVar[str] = "shuffle"
    shuffle: Groups

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Shuffle(values["shuffle"]), x) if values["shuffle"] > 1 else x


class DropoutLayer(Layer):
    """Dropout in training, with ``channels`` of whole channels."""

    key: ClassVar[str] = "dropout"
    dropout: Annotated[Number, Bounds(0, 1, "the dropout rate", fraction=True)]
    channels: Flag = False

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        return tape.add(Dropout(float(values["dropout"]), values["channels"]), x) if values["dropout"] else x


class DropPathLayer(Layer):
    """Stochastic depth (Huang et al. 2016): drops the whole map of an image in training."""

    key: ClassVar[str] = "drop-path"
    rate: Annotated[Number, Bounds(0, 1, "the dropout rate", fraction=True)] = Field(alias="drop-path")

    @staticmethod
    def build(tape: Tape, x: int, word: str, **values: Any) -> int:
        rate = values["drop-path"]
        return tape.add(DropPath(float(rate)), x) if rate else x


LAYERS = registry(
    NormLayer, GroupNorm, Activation, ConvLayer, MaxPoolLayer, AvgPoolLayer, GapLayer, GmpLayer, ChannelPool,
    LinearLayer, SqueezeExcitation, ScaleLayer, TimesLayer, SliceLayer, PadLayer, ShuffleLayer, DropoutLayer,
    DropPathLayer,
)  # fmt: skip
