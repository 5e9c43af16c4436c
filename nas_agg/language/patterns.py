"""Who reads whom. Position l reads some of T_0 ... T_{l-1}; T_0 is what enters the aggregate."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictInt

from nas_agg.common.errors import GenotypeError
from nas_agg.language.schema import Bounds, Number, Word, registry

MAX_NODES = 4096


class Pattern(Word):
    """A connection pattern."""

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        """The features that a position reads, oldest first.

        Args:
            position: From 1; n + 1 is what leaves an aggregate of n nodes.
            **values: The pattern's fields, worked out.
        """
        raise NotImplementedError


class Previous(Pattern):
    """The newest feature alone: a plain chain."""

    bare: ClassVar[tuple[str, ...]] = ("previous",)

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return [position - 1]


class Dense(Pattern):
    """All features (DenseNet)."""

    bare: ClassVar[tuple[str, ...]] = ("dense",)

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return list(range(position))


class Nodes(Pattern):
    """All features but the input."""

    bare: ClassVar[tuple[str, ...]] = ("nodes",)

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return list(range(1, position))


class InputOnly(Pattern):
    """The input alone: parallel branches."""

    bare: ClassVar[tuple[str, ...]] = ("input",)

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return [0]


class Window(Pattern):
    """The last m features."""

    key: ClassVar[str] = "window"
    window: Annotated[Number, Bounds(1, MAX_NODES, "a window")]

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return list(range(max(0, position - values["window"]), position))


class Exponential(Pattern):
    """l-1, l-c, l-c^2, ...: the offsets of SparseNet."""

    key: ClassVar[str] = "exponential"
    exponential: Annotated[Number, Bounds(2, MAX_NODES, "the base of an exponential pattern")]

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        found, offset = [], 1
        while offset <= position:
            found.append(position - offset)
            offset *= values["exponential"]
        return found[::-1]


class MicroDense(Pattern):
    """Dense inside groups of m nodes; a group's last feature is the next group's input."""

    key: ClassVar[str] = "micro-dense"
    micro_dense: Annotated[Number, Bounds(1, MAX_NODES, "a micro-dense group")] = Field(alias="micro-dense")

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        m = values["micro-dense"]
        return list(range(m * ((position - 1) // m), position))


class Edges(Pattern):
    """Written out: a row of features for each position."""

    key: ClassVar[str] = "edges"
    edges: tuple[tuple[StrictInt, ...], ...]

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        row = values["edges"][position - 1]
        for source in row:
            if not 0 <= source < position:
                raise GenotypeError(f"row {position} reads feature {source}; it may read 0 to {position - 1}", ".edges")
        if len(set(row)) < len(row):
            raise GenotypeError(f"row {position} names a feature twice", ".edges")
        return sorted(row)


PATTERNS = registry(Previous, Dense, Nodes, InputOnly, Window, Exponential, MicroDense, Edges)
