"""Aggregation operators, which join several sources into one tensor.

An operator joins the *main path*, which is used unchanged, with other sources. Sources are ordered from oldest to
newest, with the main path last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import StrictStr

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives import MAX_CHANNELS, Act, Add, Conv, Gap, Mean, Mul, Product, Shape, broadcastable
from nas_agg.language.schema import Bounds, Choice, Number, Word, registry

if TYPE_CHECKING:
    from nas_agg.graph.graph import Tape


class Operator(Word):
    """An aggregation operator.

    Attributes:
        norm: Default norm of a source.
        weight: Whether sources are weighted by default.
        splittable: Whether the sources can be summed without a main path, and then split among inner nodes.
    """

    norm: ClassVar[str] = "none"
    weight: ClassVar[bool] = False
    splittable: ClassVar[bool] = False

    @staticmethod
    def fits(source: Shape, main: Shape, alone: bool, **values: Any) -> bool:
        """Return whether a source fits the main path without ``match``; ``alone`` if it is the only source."""
        return source == main

    @staticmethod
    def width(source: Shape, main: Shape, **values: Any) -> int:
        """Return the number of channels that a source should have, which is w in ``match``."""
        return main[0]

    @staticmethod
    def prepare(tape: Tape, source: int, at: str) -> int:
        """Transform a source after its norm and weight; ``at`` is the relative path of the parameters."""
        return source

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        """Append the join of the sources and the main path, and return its output."""
        raise NotImplementedError


def _all(sources: list[int], main: int | None) -> list[int]:
    return sources if main is None else [*sources, main]


class Sum(Operator):
    """The sum (ResNet)."""

    bare: ClassVar[tuple[str, ...]] = ("sum",)
    splittable: ClassVar[bool] = True

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        return tape.sum(_all(sources, main), Add())


class Weighted(Sum):
    """The sum of normalized sources, each weighted by a learned number per edge and channel (DSNet)."""

    bare: ClassVar[tuple[str, ...]] = ("weighted",)
    norm: ClassVar[str] = "gn"
    weight: ClassVar[bool] = True


class MeanOf(Operator):
    """The mean of all joined tensors (FractalNet)."""

    bare: ClassVar[tuple[str, ...]] = ("mean",)

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        return tape.sum(_all(sources, main), Mean())


class Gated(Sum):
    """The sum of sources, each multiplied by sigmoid(1x1(gap(source)))."""

    bare: ClassVar[tuple[str, ...]] = ("gated",)

    @staticmethod
    def prepare(tape: Tape, source: int, at: str) -> int:
        channels = tape.shapes[source][0]
        pooled = tape.add(Gap(1), source, at=f"{at}.gap")
        gate = tape.add(Conv(channels, channels, 1, 1, 0, 1, True), pooled, at=f"{at}.conv")
        return tape.add(Mul(), source, tape.add(Act("sigmoid"), gate, at=f"{at}.sigmoid"), at=at)


class ProductOf(Operator):
    """The element-wise product (Highway networks, CBAM); a gate of one channel or one pixel is broadcast."""

    bare: ClassVar[tuple[str, ...]] = ("product",)

    @staticmethod
    def fits(source: Shape, main: Shape, alone: bool, **values: Any) -> bool:
        return broadcastable(source, main)

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        product, *others = _all(sources, main)
        if len(others) == 1:  # a gate per channel is the operation of `se`, so that equal networks have equal hashes
            for x, gate in ((product, others[0]), (others[0], product)):
                shape = tape.shapes[x]
                if tape.shapes[gate] == (shape[0], 1, 1) != shape:
                    return tape.add(Mul(), x, gate)
        for other in others:
            product = tape.add(Product(), product, other)
        return product


class Concat(Operator):
    """Concatenation of channels (DenseNet)."""

    bare: ClassVar[tuple[str, ...]] = ("concat",)

    @staticmethod
    def fits(source: Shape, main: Shape, alone: bool, **values: Any) -> bool:
        return source[1:] == main[1:]

    @staticmethod
    def width(source: Shape, main: Shape, **values: Any) -> int:
        return source[0]

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        return tape.cat(_all(sources, main))


class Mixed(Operator):
    """The first channels of the main path are added to the sources, the others are appended (DPN, MixNet)."""

    key: ClassVar[str] = "mixed"
    mixed: Annotated[Number, Bounds(0, MAX_CHANNELS, "the number of summed channels")]
    onto: Annotated[StrictStr, Choice(("front", "back"))] = "front"

    @staticmethod
    def fits(source: Shape, main: Shape, alone: bool, **values: Any) -> bool:
        return source[1:] == main[1:] and (not alone or source[0] >= values["mixed"])

    @staticmethod
    def width(source: Shape, main: Shape, **values: Any) -> int:
        return values["mixed"]

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        mixed = values["mixed"]
        if main is None:
            raise GenotypeError(
                "'mixed' needs a main path: a shortcut, or reads that include the newest feature", ".operator"
            )
        if not sources or mixed == 0:
            return tape.cat([*sources, main])
        state = tape.cat(sources)
        available, main_width = tape.shapes[state][0], tape.shapes[main][0]
        if available < mixed or main_width < mixed:
            raise GenotypeError(
                f"'mixed' of {mixed} channels needs at least as many in the sources and in the main path, "
                f"not {available} and {main_width}",
                ".operator.mixed",
            )
        first = 0 if values["onto"] == "front" else available - mixed
        summed = tape.sum([tape.slice(state, first, mixed), tape.slice(main, 0, mixed)], Add())
        parts = [summed]
        if first:
            parts.insert(0, tape.slice(state, 0, first))
        if first + mixed < available:
            parts.append(tape.slice(state, first + mixed, available - first - mixed))
        if main_width > mixed:
            parts.append(tape.slice(main, mixed, main_width - mixed))
        return tape.cat(parts)


OPERATORS = registry(Sum, Weighted, MeanOf, Gated, ProductOf, Concat, Mixed)
WEIGHT_START = Bounds(-1000, 1000, "the initial weight", fraction=True)
#: Norms of a source, without affine parameters.
SOURCE_NORMS = ("gn", "ln", "in", "bn", "none")
