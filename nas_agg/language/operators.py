"""How sources become one tensor.

An operator joins the *main path*, which is taken as it is, with other sources. Sources come oldest first, the main path
last.
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
        norm: The norm of a source, where the gather does not say it.
        weight: Whether a source is weighted, where the gather does not say it.
        dealt: Whether the sources' sum means something without a main path, so that it can be dealt out.
    """

    norm: ClassVar[str] = "none"
    weight: ClassVar[bool] = False
    dealt: ClassVar[bool] = False

    @staticmethod
    def fits(source: Shape, main: Shape, alone: bool, **values: Any) -> bool:
        """Whether a source fits the main path as it is; ``alone`` if it is the only one."""
        return source == main

    @staticmethod
    def width(source: Shape, main: Shape, **values: Any) -> int:
        """The channels that a source should have, which ``match`` knows as w."""
        return main[0]

    @staticmethod
    def prepare(tape: Tape, source: int, at: str) -> int:
        """What is done to a source after its norm and weight; ``at`` names the place of its parameters."""
        return source

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        """The tensor that the sources and the main path become."""
        raise NotImplementedError


def _all(sources: list[int], main: int | None) -> list[int]:
    return sources if main is None else [*sources, main]


class Sum(Operator):
    """The sum (ResNet)."""

    bare: ClassVar[tuple[str, ...]] = ("sum",)
    dealt: ClassVar[bool] = True

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        return tape.sum(_all(sources, main), Add())


class Weighted(Sum):
    """The sum of normalised sources, each times a learned number per edge and channel (DSNet)."""

    bare: ClassVar[tuple[str, ...]] = ("weighted",)
    norm: ClassVar[str] = "gn"
    weight: ClassVar[bool] = True


class MeanOf(Operator):
    """The mean over everything joined (FractalNet)."""

    bare: ClassVar[tuple[str, ...]] = ("mean",)

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        return tape.sum(_all(sources, main), Mean())


class Gated(Sum):
    """The sum of sources, each times sigmoid(1x1(gap(source)))."""

    bare: ClassVar[tuple[str, ...]] = ("gated",)

    @staticmethod
    def prepare(tape: Tape, source: int, at: str) -> int:
        channels = tape.shapes[source][0]
        pooled = tape.add(Gap(1), source, at=f"{at}.gap")
        gate = tape.add(Conv(channels, channels, 1, 1, 0, 1, True), pooled, at=f"{at}.conv")
        return tape.add(Mul(), source, tape.add(Act("sigmoid"), gate, at=f"{at}.sigmoid"), at=at)


class ProductOf(Operator):
    """The product, element by element (Highway networks, CBAM); a gate of one channel or one pixel goes with all."""

    bare: ClassVar[tuple[str, ...]] = ("product",)

    @staticmethod
    def fits(source: Shape, main: Shape, alone: bool, **values: Any) -> bool:
        return broadcastable(source, main)

    @staticmethod
    def join(tape: Tape, sources: list[int], main: int | None, **values: Any) -> int:
        found, *others = _all(sources, main)
        if len(others) == 1:  # a channel's gate is written as in `se`, which is the same network
            for x, gate in ((found, others[0]), (others[0], found)):
                shape = tape.shapes[x]
                if tape.shapes[gate] == (shape[0], 1, 1) != shape:
                    return tape.add(Mul(), x, gate)
        for other in others:
            found = tape.add(Product(), found, other)
        return found


class Concat(Operator):
    """The channels one after another (DenseNet)."""

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
    """The first channels of the main path are added onto the sources, the rest is appended (DPN, MixNet)."""

    key: ClassVar[str] = "mixed"
    mixed: Annotated[Number, Bounds(0, MAX_CHANNELS, "the summed channels")]
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
                "mixed needs a main path: the newest feature among what is read, or a shortcut's", ".operator"
            )
        if not sources or mixed == 0:
            return tape.cat([*sources, main])
        state = tape.cat(sources)
        have, given = tape.shapes[state][0], tape.shapes[main][0]
        if have < mixed or given < mixed:
            raise GenotypeError(
                f"mixed {mixed} needs as many channels on both sides, "
                f"not {have} of the sources and {given} of the main path",
                ".operator.mixed",
            )
        first = 0 if values["onto"] == "front" else have - mixed
        summed = tape.sum([tape.slice(state, first, mixed), tape.slice(main, 0, mixed)], Add())
        parts = [summed]
        if first:
            parts.insert(0, tape.slice(state, 0, first))
        if first + mixed < have:
            parts.append(tape.slice(state, first + mixed, have - first - mixed))
        if given > mixed:
            parts.append(tape.slice(main, mixed, given - mixed))
        return tape.cat(parts)


OPERATORS = registry(Sum, Weighted, MeanOf, Gated, ProductOf, Concat, Mixed)
START = Bounds(-1000, 1000, "the start of a weight", fraction=True)
#: Norms of a source, without affine: the groups of a map of c channels (0: batch norm).
SOURCE_NORMS = ("gn", "ln", "in", "bn", "none")
