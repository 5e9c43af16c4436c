"""Base classes of the language's words: fields, bounds of numbers, and registries.

A word is one small class. Its pydantic fields are the fields of its object; the first is named after the word. To add a
layer, a pattern or an operator, add such a class to `layers.py`, `patterns.py` or `operators.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr


class Model(BaseModel):
    """A part of a genotype: immutable and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=False)


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number field: an integer from ``least`` to ``most``, or a fraction from ``least`` to below ``most``.

    Bounds are part of a field's annotation: ``Annotated[Number, Bounds(1, 255, "the kernel size")]``.

    Attributes:
        least: Lower bound.
        most: Upper bound.
        what: Name of the quantity, with its article, for messages.
        fraction: Whether the number may be a fraction.
    """

    least: int
    most: int
    what: str
    fraction: bool = False


@dataclass(frozen=True)
class Choice:
    """A field that takes one of some words, or a name for one."""

    words: tuple[str, ...]


Number = StrictInt | StrictFloat | StrictStr
FLAG = "flag"
Flag = Annotated[StrictBool | StrictStr, FLAG]


class Word(Model):
    """A word with its fields.

    Attributes:
        bare: Texts as which it may be written without an object.
        key: Key of its object form, or None if it has none.
    """

    bare: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str | None] = None


def registry(*words: type[Word]) -> dict[str, type[Word]]:
    """Return words by their bare texts and keys."""
    return {name: word for word in words for name in (*word.bare, *([word.key] if word.key else []))}
