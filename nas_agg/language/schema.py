"""What a word of the language is: its fields, the bounds of its numbers, how it is written.

A word is one small class. Its pydantic fields are the fields of its object; the first one bears the word's name. Adding
a layer, a pattern or an operator is adding such a class to `layers.py`, `patterns.py` or `operators.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr


class Model(BaseModel):
    """A part of a genotype: immutable, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=False)


@dataclass(frozen=True)
class Bounds:
    """How a number field is worked out: whole and within bounds, or a fraction from `least` to below `most`.

    It stands in a field's annotation: ``Annotated[Number, Bounds(1, 255, "a kernel")]``.
    """

    least: int
    most: int
    what: str
    fraction: bool = False


@dataclass(frozen=True)
class Choice:
    """A field that takes one of some words, or a name that stands for one."""

    words: tuple[str, ...]


Number = StrictInt | StrictFloat | StrictStr
FLAG = "flag"
Flag = Annotated[StrictBool | StrictStr, FLAG]


class Word(Model):
    """A word with its fields.

    Attributes:
        bare: The texts it may be written as without an object.
        key: The key of its object form, or None if it has none.
    """

    bare: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str | None] = None


def registry(*words: type[Word]) -> dict[str, type[Word]]:
    """Every text and key by which some words are known."""
    return {name: word for word in words for name in (*word.bare, *([word.key] if word.key else []))}
