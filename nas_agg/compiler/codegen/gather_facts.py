"""What is to be known of the gathers of one kind, at all uses of an aggregate."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from nas_agg.compiler.codegen.numbers import NotExpressible
from nas_agg.expansion.trace import AggregateRun, GatherRun
from nas_agg.language.operators import Gated
from nas_agg.language.resolved import SOURCES, Gather


def stateful(gather: Gather) -> bool:
    """Whether sources are changed before they are joined, but for what makes them fit."""
    return bool(gather.each) or gather.norm != "none" or gather.weight or gather.how is Gated


class Start(NamedTuple):
    """How the weights of one gather start: the value, and the names that it was worked out from."""

    value: Any
    names: dict[str, Any]

    @property
    def plain(self) -> bool:
        """Whether it is one over the number of sources."""
        return self.value == Fraction(1, self.names[SOURCES])

    @property
    def text(self) -> str:
        return str(self.value) if isinstance(self.value, int) else repr(float(self.value))


def starts_of(gathers: list[GatherRun]) -> list[Start]:
    """The starts of the weights of those gathers that have some."""
    found = []
    for one in gathers:
        if one.gather.start and one.sources:
            names = {**one.scope, SOURCES: len(one.sources)}
            found.append(Start(one.gather.start.value(names), names))
    return found


class Role:
    """What is to be known of the reads, the shortcuts or the output of an aggregate at all its uses.

    Attributes:
        name: The role.
        found: For each use the gathers that found anything.
        kind: `newest` or `input` where that feature alone is taken as it is, else `pattern`.
        matched: Whether any source goes through `match`.
        apart: Whether its sources are a list of their own beside the features.
    """

    def __init__(self, name: str, runs: list[AggregateRun], found: list[list[GatherRun]]):
        self.name, self.runs, self.found = name, runs, found
        flat = [(run, one) for run, row in zip(runs, found, strict=True) for one in row]
        self.all = [one for _, one in flat]
        self.gather: Gather | None = self.all[0].gather if self.all else None
        if self.gather and self.gather.each:
            raise NotExpressible
        self.matched = any(one.matches for one in self.all)
        self.kind = "pattern"
        self.raw = self.apart = False
        if name != "shortcut" and self.all and not self.matched:
            if all(one.result == run.features[one.position - 1] for run, one in flat):
                self.kind = "newest"
            elif all(one.result == run.features[0] for run, one in flat):
                self.kind = "input"
        if self.kind == "pattern" and self.all:
            self.check(flat)

    def check(self, flat: list[tuple[AggregateRun, GatherRun]]) -> None:
        """Refuses what the loops below do not say."""
        assert self.gather is not None
        if self.gather.norm == "bn" and self.matched:
            raise NotExpressible
        self.raw = any(tensor != run.features[s] for run, one in flat for s, tensor in one.sources) and not self.matched
        if self.raw and self.gather.raw:
            if self.name != "shortcut" or any(len(one.sources) < len(one.asked) for one in self.all):
                raise NotExpressible
            return
        state: dict[int, list[int]] = {}
        for run, one in flat:
            tensors = state.setdefault(id(run), list(run.features))
            newest = self.name != "shortcut" and one.position - 1 in one.asked
            if len(one.sources) + newest != len(one.asked):
                raise NotExpressible  # a source was left out
            for source, tensor in one.sources:
                if source in one.matches or tensor == run.features[source]:
                    tensors[source] = tensor
                if tensors[source] != tensor:
                    raise NotExpressible

    @property
    def word(self) -> str:
        assert self.gather is not None
        return self.gather.operator.word

    @property
    def prepared(self) -> bool:
        return self.gather is not None and stateful(self.gather)
