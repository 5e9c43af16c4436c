"""Connection patterns. Position l reads some of T_0 ... T_{l-1}, where T_0 is the input of the aggregate."""

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
        """Return the features that a position reads, oldest first.

        Args:
            position: Number of the node, from 1; n + 1 is the output of an aggregate of n nodes.
            **values: Values of the pattern's fields.
        """
        raise NotImplementedError


class Previous(Pattern):
    """Only the newest feature: a plain chain."""

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
    """All features except the input."""

    bare: ClassVar[tuple[str, ...]] = ("nodes",)

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return list(range(1, position))


class InputOnly(Pattern):
    """Only the input: parallel branches."""

    bare: ClassVar[tuple[str, ...]] = ("input",)

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return [0]


class Window(Pattern):
    """The last m features."""

    key: ClassVar[str] = "window"
    window: Annotated[Number, Bounds(1, MAX_NODES, "the window")]

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        return list(range(max(0, position - values["window"]), position))


class Exponential(Pattern):
    """Features l-1, l-c, l-c^2, ... (SparseNet)."""

    key: ClassVar[str] = "exponential"
    exponential: Annotated[Number, Bounds(2, MAX_NODES, "the base of the exponential pattern")]

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        sources, offset = [], 1
        while offset <= position:
            sources.append(position - offset)
            offset *= values["exponential"]
        return sources[::-1]


class MicroDense(Pattern):
    """Dense within groups of m nodes; the last feature of a group is the input of the next (Micro-Dense Nets)."""

    key: ClassVar[str] = "micro-dense"
    micro_dense: Annotated[Number, Bounds(1, MAX_NODES, "the micro-dense group size")] = Field(alias="micro-dense")

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        m = values["micro-dense"]
        return list(range(m * ((position - 1) // m), position))


class Edges(Pattern):
    """An explicit list of features for each position."""

    key: ClassVar[str] = "edges"
    edges: tuple[tuple[StrictInt, ...], ...]

    @staticmethod
    def sources(position: int, **values: Any) -> list[int]:
        row = values["edges"][position - 1]
        for source in row:
            if not 0 <= source < position:
                raise GenotypeError(f"row {position} reads feature {source}; allowed are 0 to {position - 1}", ".edges")
        if len(set(row)) < len(row):
            raise GenotypeError(f"row {position} contains a feature twice", ".edges")
        return sorted(row)


PATTERNS = registry(Previous, Dense, Nodes, InputOnly, Window, Exponential, MicroDense, Edges)
