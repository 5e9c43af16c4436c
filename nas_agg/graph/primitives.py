"""The graph's operations. Each is one small class that knows its shape, its cost and its form in PyTorch.

A shape is ``(channels, height, width)`` of one image. Torch itself is not imported: an operation names the ``torch.nn``
module it is (``module``) or the expression it is (``call``), and the compiler builds from that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar, NamedTuple

from nas_agg.common.errors import GenotypeError

Shape = tuple[int, int, int]

MAX_CHANNELS = 1_000_000
MAX_SIDE = 16_384
MAX_KERNEL = 255


class Kept(NamedTuple):
    """What eager PyTorch keeps of one operation for the backward pass.

    Attributes:
        inputs: Which inputs are kept, by position.
        output: Whether the output is kept.
        image: Further bytes an image (masks, indices).
        batch: Further bytes a batch (statistics), however many images it has.
    """

    inputs: tuple[int, ...] = ()
    output: bool = False
    image: int = 0
    batch: int = 0


class Primitive:
    """An operation of the graph. Subclasses are frozen dataclasses whose fields are its arguments."""

    __slots__ = ()
    word: ClassVar[str]
    #: Reorders nothing among channels, so that a permutation of its input's channels is one of its output's.
    channelwise: bool = False
    #: Every output sees every input channel through a weight, so that the input's order is a matter of weights.
    mixing: bool = False
    #: Its output is the same for every order of its input's channels.
    symmetric: ClassVar[bool] = False
    #: Whether the order of its inputs is without meaning.
    commutes: ClassVar[bool] = False
    #: The output is a view on the input's memory.
    view: ClassVar[bool] = False
    #: Has parameters or running statistics.
    stateful: ClassVar[bool] = False

    def shape(self, *inputs: Shape) -> Shape:
        """The output's shape.

        Raises:
            GenotypeError: If the inputs do not fit; the message has no place, which the caller adds.
        """
        return inputs[0]

    @property
    def params(self) -> int:
        """Trainable numbers."""
        return 0

    def macs(self, out: Shape) -> int:
        """Multiply-adds an image: of convolutions and linear layers alone."""
        return 0

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        """What is kept for backward.

        Args:
            grads: For each input, whether a gradient flows into it.
            *shapes: The inputs' shapes, then the output's.
        """
        return Kept()

    def module(self) -> tuple[str, tuple, dict[str, Any]] | None:
        """The ``torch.nn`` class with its arguments, where the operation is a module."""
        return None

    def call(self, target: str, *inputs: str) -> str:
        """The Python expression that computes it.

        Args:
            target: The expression of its module or parameter, where it has one.
            *inputs: The names of its inputs.
        """
        return f"{target}({inputs[0]})"

    def arguments(self) -> tuple:
        """Its arguments, as the canonical hash sees them."""
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Input(Primitive):
    """The image."""

    word: ClassVar[str] = "input"
    size: Shape

    def shape(self, *inputs: Shape) -> Shape:
        return self.size


def _window(shape: Shape, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """The map's size behind a sliding window; sizes round down."""
    _, h, w = shape
    if min(h, w) + 2 * padding < kernel:
        raise GenotypeError(f"a kernel of {kernel} with padding {padding} does not fit a map of {h}x{w}")
    return (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1


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
            raise GenotypeError(f"{self.groups} groups do not divide {self.channels} -> {self.out} channels")
        return self.out, *_window(inputs[0], self.kernel, self.stride, self.padding)

    @property
    def channelwise(self) -> bool:  # type: ignore[override]
        return self.groups == self.channels == self.out

    @property
    def mixing(self) -> bool:  # type: ignore[override]
        return self.groups == 1

    @property
    def params(self) -> int:
        return self.kernel**2 * self.channels * self.out // self.groups + (self.out if self.bias else 0)

    def macs(self, out: Shape) -> int:
        return self.kernel**2 * self.channels * self.out // self.groups * out[1] * out[2]

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,))

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
    """Batch norm (groups 0), or group norm: 1 group is layer norm, a group per channel instance norm."""

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

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        if not (self.affine or grads[0]):
            return Kept()
        if self.groups:
            return Kept(inputs=(0,), image=8 * self.groups)
        return Kept(inputs=(0,), batch=8 * self.channels)

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        options = {} if self.affine else {"affine": False}
        if self.groups:
            return "GroupNorm", (self.groups, self.channels), options
        return "BatchNorm2d", (self.channels,), options

    def call(self, target: str, *inputs: str) -> str:
        if self.groups == self.channels:  # not the module's own call, which refuses one image on a map of 1x1
            return f"torch.group_norm({inputs[0]}, {self.groups}, {target}.weight, {target}.bias)"
        return f"{target}({inputs[0]})"


#: Word of an activation -> its function in torch.nn.functional, and what backward needs: the input or the output.
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

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        if not grads[0]:
            return Kept()
        return Kept(output=True) if ACTIVATIONS[self.function][1] == "output" else Kept(inputs=(0,))

    def call(self, target: str, *inputs: str) -> str:
        return f"F.{ACTIVATIONS[self.function][0]}({inputs[0]})"


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
            raise GenotypeError(f"a padding of {self.padding} is more than half the kernel of {self.kernel}")
        return inputs[0][0], *_window(inputs[0], self.kernel, self.stride, self.padding)

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        c, h, w = shapes[-1]
        return Kept(inputs=(0,), image=8 * c * h * w) if grads[0] else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.max_pool2d({inputs[0]}, {self.kernel}, {self.stride}, {self.padding})"


@dataclass(frozen=True, slots=True)
class AvgPool(MaxPool):
    """Average pooling; padded zeros count."""

    word: ClassVar[str] = "avgpool"

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,)) if grads[0] else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.avg_pool2d({inputs[0]}, {self.kernel}, {self.stride}, {self.padding})"


@dataclass(frozen=True, slots=True)
class AdaptivePool(Primitive):
    """Pooling to size x size, whatever the map's size; 1 is global pooling."""

    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    size: int

    def shape(self, *inputs: Shape) -> Shape:
        c, h, w = inputs[0]
        if self.size > min(h, w):
            raise GenotypeError(f"a map of {h}x{w} cannot be pooled to {self.size}x{self.size}, which is larger")
        return c, self.size, self.size


@dataclass(frozen=True, slots=True)
class Gap(AdaptivePool):
    """Adaptive average pooling."""

    word: ClassVar[str] = "gap"

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,)) if grads[0] and self.size > 1 else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.adaptive_avg_pool2d({inputs[0]}, {self.size})"


@dataclass(frozen=True, slots=True)
class Gmp(AdaptivePool):
    """Adaptive max pooling."""

    word: ClassVar[str] = "gmp"

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,), image=8 * prod(shapes[-1])) if grads[0] else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.adaptive_max_pool2d({inputs[0]}, {self.size})"


@dataclass(frozen=True, slots=True)
class ChannelMean(Primitive):
    """The mean over all channels, at each place of the map."""

    word: ClassVar[str] = "channel-mean"
    symmetric: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        return 1, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}.mean(1, keepdim=True)"


@dataclass(frozen=True, slots=True)
class ChannelMax(ChannelMean):
    """The largest value over all channels, at each place of the map."""

    word: ClassVar[str] = "channel-max"

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,), output=True) if grads[0] else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}.amax(1, keepdim=True)"


@dataclass(frozen=True, slots=True)
class Linear(Primitive):
    """A linear layer with bias on the flattened map; its output is a map of 1x1."""

    word: ClassVar[str] = "linear"
    stateful: ClassVar[bool] = True
    mixing: ClassVar[bool] = True  # type: ignore[misc]
    features: int
    out: int

    def shape(self, *inputs: Shape) -> Shape:
        return self.out, 1, 1

    @property
    def params(self) -> int:
        return (self.features + 1) * self.out

    def macs(self, out: Shape) -> int:
        return self.features * self.out

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,))

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        return "Linear", (self.features, self.out), {}

    def call(self, target: str, *inputs: str) -> str:
        return f"{target}({inputs[0]}.flatten(1))[:, :, None, None]"


@dataclass(frozen=True, slots=True)
class Scale(Primitive):
    """A learned number per channel. ``start`` is its first value, which is no part of the function's shape."""

    word: ClassVar[str] = "scale"
    stateful: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    channels: int
    start: float = 1.0

    @property
    def params(self) -> int:
        return self.channels

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=(0,))

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {target}"

    def arguments(self) -> tuple:
        return (self.channels,)


@dataclass(frozen=True, slots=True)
class Mul(Primitive):
    """The first input times the second, a gate on a map of 1x1."""

    word: ClassVar[str] = "mul"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=tuple(i for i in (0, 1) if grads[1 - i]))

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {inputs[1]}"


@dataclass(frozen=True, slots=True)
class Product(Primitive):
    """The product of two inputs; where one has a single channel, row or column, it goes with all of the other's."""

    word: ClassVar[str] = "product"
    commutes: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if not broadcasts(a, b):
            raise GenotypeError(f"a product needs sizes that are equal or 1, not {text(a)} and {text(b)}")
        return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(inputs=tuple(i for i in (0, 1) if grads[1 - i]))

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {inputs[1]}"


def broadcasts(a: Shape, b: Shape) -> bool:
    """Whether two shapes have a product: in each dimension they are equal, or one of them is 1."""
    return all(m == n or 1 in (m, n) for m, n in zip(a, b, strict=True))


@dataclass(frozen=True, slots=True)
class Times(Primitive):
    """The input times a fixed number."""

    word: ClassVar[str] = "times"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    factor: float

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {self.factor!r}"


@dataclass(frozen=True, slots=True)
class Add(Primitive):
    """The sum of all inputs."""

    word: ClassVar[str] = "add"
    commutes: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        for other in inputs[1:]:
            if other != inputs[0]:
                raise GenotypeError(
                    f"a sum needs equal shapes, not {text(inputs[0])} and {text(other)}; 'match' makes them so"
                )
        return inputs[0]

    def call(self, target: str, *inputs: str) -> str:
        return " + ".join(inputs)


@dataclass(frozen=True, slots=True)
class Mean(Add):
    """The mean of all inputs."""

    word: ClassVar[str] = "mean"

    def call(self, target: str, *inputs: str) -> str:
        return f"({' + '.join(inputs)}) / {len(inputs)}"


@dataclass(frozen=True, slots=True)
class Cat(Primitive):
    """The inputs' channels one after another."""

    word: ClassVar[str] = "cat"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]

    def shape(self, *inputs: Shape) -> Shape:
        for other in inputs[1:]:
            if other[1:] != inputs[0][1:]:
                raise GenotypeError(
                    f"concat needs equal maps, not {text(inputs[0])} and {text(other)}; 'match' makes them so"
                )
        return sum(shape[0] for shape in inputs), *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"torch.cat([{', '.join(inputs)}], 1)"


@dataclass(frozen=True, slots=True)
class Slice(Primitive):
    """Channels ``first`` to ``first + channels - 1``."""

    word: ClassVar[str] = "slice"
    view: ClassVar[bool] = True
    first: int
    channels: int

    def shape(self, *inputs: Shape) -> Shape:
        if self.first + self.channels > inputs[0][0]:
            raise GenotypeError(
                f"channels {self.first} to {self.first + self.channels - 1} are not among {inputs[0][0]}"
            )
        return self.channels, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}[:, {self.first}:{self.first + self.channels}]"


@dataclass(frozen=True, slots=True)
class Pad(Primitive):
    """``extra`` zero channels behind the input's."""

    word: ClassVar[str] = "pad"
    extra: int

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0][0] + self.extra, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"F.pad({inputs[0]}, (0, 0, 0, 0, 0, {self.extra}))"


@dataclass(frozen=True, slots=True)
class Shuffle(Primitive):
    """A channel shuffle between groups."""

    word: ClassVar[str] = "shuffle"
    groups: int

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0][0] % self.groups:
            raise GenotypeError(f"{self.groups} groups do not divide {inputs[0][0]} channels")
        return inputs[0]

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}.unflatten(1, ({self.groups}, -1)).transpose(1, 2).flatten(1, 2)"


@dataclass(frozen=True, slots=True)
class Dropout(Primitive):
    """Dropout of values, or of whole channels, in training."""

    word: ClassVar[str] = "dropout"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]
    rate: float
    channels: bool = False

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        c, h, w = shapes[0]
        return Kept(image=4 * (c if self.channels else c * h * w)) if grads[0] else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.dropout{'2d' if self.channels else ''}({inputs[0]}, {self.rate!r}, self.training)"


@dataclass(frozen=True, slots=True)
class DropPath(Dropout):
    """Stochastic depth: drops the map of an image in training, and scales those that stay by 1 / (1 - rate)."""

    word: ClassVar[str] = "drop-path"

    def kept(self, grads: tuple[bool, ...], *shapes: Shape) -> Kept:
        return Kept(image=4) if grads[0] else Kept()

    def call(self, target: str, *inputs: str) -> str:
        return f"F.dropout3d({inputs[0]}[None], {self.rate!r}, self.training)[0]"  # images as if they were channels

    def arguments(self) -> tuple:
        return (self.rate,)


def text(shape: Shape) -> str:
    """A shape as people write it: ``64x8x8``."""
    return "x".join(map(str, shape))
