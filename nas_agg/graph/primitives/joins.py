"""Operations that join tensors: sum, mean, products and concat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives.base import Primitive, SavedTensors, Shape, format_shape


@dataclass(frozen=True, slots=True)
class Add(Primitive):
    """The sum of all inputs."""

    word: ClassVar[str] = "add"
    commutative: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        for other in inputs[1:]:
            if other != inputs[0]:
                shapes = f"{format_shape(inputs[0])} and {format_shape(other)}"
                raise GenotypeError(f"sum needs equal shapes, not {shapes}; add a 'match'")
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
class Mul(Primitive):
    """Multiplication of the first input by the second, a gate on a 1x1 map."""

    word: ClassVar[str] = "mul"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=tuple(i for i in (0, 1) if grads[1 - i]))

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {inputs[1]}"


@dataclass(frozen=True, slots=True)
class Product(Primitive):
    """The product of two inputs, with broadcasting of a single channel, row or column."""

    word: ClassVar[str] = "product"
    commutative: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if not broadcastable(a, b):
            raise GenotypeError(f"product needs sizes that are equal or 1, not {format_shape(a)} and {format_shape(b)}")
        return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])

    def saved_for_backward(self, grads: tuple[bool, ...], *shapes: Shape) -> SavedTensors:
        return SavedTensors(inputs=tuple(i for i in (0, 1) if grads[1 - i]))

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]} * {inputs[1]}"


def broadcastable(a: Shape, b: Shape) -> bool:
    """Return whether two shapes broadcast: in each dimension they are equal, or one of them is 1."""
    return all(m == n or 1 in (m, n) for m, n in zip(a, b, strict=True))


@dataclass(frozen=True, slots=True)
class Cat(Primitive):
    """Concatenation of the inputs' channels."""

    word: ClassVar[str] = "cat"
    channelwise: ClassVar[bool] = True  # type: ignore[misc]

    def shape(self, *inputs: Shape) -> Shape:
        for other in inputs[1:]:
            if other[1:] != inputs[0][1:]:
                shapes = f"{format_shape(inputs[0])} and {format_shape(other)}"
                raise GenotypeError(f"concat needs equal map sizes, not {shapes}; add a 'match'")
        return sum(shape[0] for shape in inputs), *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"torch.cat([{', '.join(inputs)}], 1)"
