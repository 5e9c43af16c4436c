"""Base class of the graph's operations, shapes and their limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

from nas_agg.common.errors import GenotypeError

Shape = tuple[int, int, int]

MAX_CHANNELS = 1_000_000
MAX_SIDE = 16_384
MAX_KERNEL = 255


class SavedTensors(NamedTuple):
    """What eager PyTorch saves of one operation for the backward pass.

    Attributes:
        inputs: Positions of the inputs that are saved.
        output: Whether the output is saved.
        image: Further bytes per image (masks, indices).
        batch: Further bytes per batch (statistics), independent of its size.
    """

    inputs: tuple[int, ...] = ()
    output: bool = False
    image: int = 0
    batch: int = 0


class Primitive:
    """An operation of the graph. Subclasses are frozen dataclasses whose fields are its arguments.

    Attributes:
        word: Name of the operation, which enters the canonical hash.
        channelwise: Permuting the channels of its input permutes those of its output in the same way.
        mixes_channels: Each output channel depends on every input channel through a weight, so that the order of the
            input's channels is only a matter of the order of weights.
        channel_symmetric: The output does not depend on the order of the input's channels.
        commutative: The output does not depend on the order of the inputs.
        view: The output shares the input's memory.
        stateful: The operation has parameters or running statistics.
    """

    __slots__ = ()
    word: ClassVar[str]
    channelwise: bool = False
    mixes_channels: bool = False
    channel_symmetric: ClassVar[bool] = False
    commutative: ClassVar[bool] = False
    view: ClassVar[bool] = False
    stateful: ClassVar[bool] = False

    def shape(self, *inputs: Shape) -> Shape:
        """Return the output's shape.

        Raises:
            GenotypeError: The inputs do not fit; the caller adds the location.
        """
        return inputs[0]

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return 0

    def macs(self, out: Shape) -> int:
        """Return the multiply-adds per image, which only convolutions and linear layers have."""
        return 0

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        """Return what is saved for backward.

        Args:
            grads: For each input, whether it needs a gradient.
            *shapes: Shapes of the inputs, then of the output.
        """
        return SavedTensors()

    def module(self) -> tuple[str, tuple, dict[str, Any]] | None:
        """Return the ``torch.nn`` class, positional and keyword arguments, if the operation is a module."""
        return None

    def call(self, target: str, *inputs: str) -> str:
        """Return the Python expression that computes the operation.

        Args:
            target: Expression of its module or parameter, if it has one.
            *inputs: Names of its inputs.
        """
        return f"{target}({inputs[0]})"

    def arguments(self) -> tuple:
        """Return the arguments that enter the canonical hash."""
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Input(Primitive):
    """The input image."""

    word: ClassVar[str] = "input"
    size: Shape

    def shape(self, *inputs: Shape) -> Shape:
        return self.size


def format_shape(shape: Shape) -> str:
    """Format a shape: ``64x8x8``."""
    return "x".join(map(str, shape))


def window_output(shape: Shape, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the output height and width of a sliding window, rounded down."""
    _, h, w = shape
    if min(h, w) + 2 * padding < kernel:
        raise GenotypeError(f"kernel size {kernel} with padding {padding} does not fit a {h}x{w} map")
    return (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1
