"""Shortcuts of nodes: gathered where their `join` is reached, or split among the nodes of an inner aggregate."""

from __future__ import annotations

from collections.abc import Callable

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.graph import Tape
from nas_agg.language.operators import Sum


class PendingShortcut:
    """The shortcut of a node, gathered once its `join` is reached."""

    def __init__(self, gathered: Callable[[int | None], int | None]):
        self.gathered = gathered

    def join(self, x: int) -> int:
        joined = self.gathered(x)
        return x if joined is None else joined

    def split(self, tape: Tape) -> SplitShortcut | None:
        total = self.gathered(None)
        return None if total is None else SplitShortcut(tape, total)


class SplitShortcut:
    """A shortcut that is split among the nodes of an inner aggregate, slice by slice of channels."""

    def __init__(self, tape: Tape, total: int):
        self.tape, self.total, self.used = tape, total, 0

    def join(self, x: int) -> int:
        width, have = self.tape.shapes[x][0], self.tape.shapes[self.total][0]
        if self.used + width > have:
            raise GenotypeError(f"all {have} channels of the shortcut are used, but {width} more are needed here")
        part = self.tape.slice(self.total, self.used, width)
        self.used += width
        return Sum.join(self.tape, [part], x)

    def split(self, tape: Tape) -> SplitShortcut:
        return self

    def check_used(self) -> None:
        have = self.tape.shapes[self.total][0]
        if self.used < have:
            raise GenotypeError(f"{have - self.used} of the shortcut's {have} channels are unused")


Shortcut = PendingShortcut | SplitShortcut | None
