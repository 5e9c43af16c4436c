"""Operations that select, append or reorder channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives.base import Primitive, Shape


@dataclass(frozen=True, slots=True)
class Slice(Primitive):
    """Channels ``first`` to ``first + channels - 1``."""

    word: ClassVar[str] = "slice"
    view: ClassVar[bool] = True
    first: int
    channels: int

    def shape(self, *inputs: Shape) -> Shape:
        if self.first + self.channels > inputs[0][0]:
            last = self.first + self.channels - 1
            raise GenotypeError(f"channels {self.first} to {last} exceed the input's {inputs[0][0]} channels")
        return self.channels, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}[:, {self.first}:{self.first + self.channels}]"


@dataclass(frozen=True, slots=True)
class Pad(Primitive):
    """Appends ``extra`` zero channels."""

    word: ClassVar[str] = "pad"
    extra: int

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0][0] + self.extra, *inputs[0][1:]

    def call(self, target: str, *inputs: str) -> str:
        return f"F.pad({inputs[0]}, (0, 0, 0, 0, 0, {self.extra}))"


@dataclass(frozen=True, slots=True)
class Shuffle(Primitive):
    """Channel shuffle between groups (ShuffleNet)."""

    word: ClassVar[str] = "shuffle"
    groups: int

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0][0] % self.groups:
            raise GenotypeError(f"{self.groups} groups do not divide {inputs[0][0]} channels")
        return inputs[0]

    def call(self, target: str, *inputs: str) -> str:
        return f"{inputs[0]}.unflatten(1, ({self.groups}, -1)).transpose(1, 2).flatten(1, 2)"
