"""Fields of a space file: named points, default settings of a search, and checks of their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from nas_agg.common.errors import GenotypeError, did_you_mean
from nas_agg.language.genotype import format_value
from nas_agg.search_space.parameters import Values


@dataclass(frozen=True)
class SearchDefaults:
    """Default settings of a search in a space; None: unspecified.

    In a space file each may be an expression of ``in``, the channels of the images, and ``h``, their height.
    """

    max_macs: int | None = None
    max_params: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Point:
    """A named point: values of the search variables, and the task it was published for if not the space's own.

    Attributes:
        values: The value of each search variable.
        classes: The number of classes; None: the space's own.
        input: Shape of the images (channels, height, width); None: the space's own.
    """

    values: Mapping[str, Any]
    classes: int | None = None
    input: tuple[int, int, int] | None = None


def read_point(
    point: Any, where: str, earlier: Mapping[str, Point], validate: Callable[[Mapping[str, Any], str], Values]
) -> Point:
    """Read a point; fields that it lacks are taken from the earlier point that it is like.

    Args:
        point: The point as it is written.
        where: Its path, for errors.
        earlier: The points before it, by name.
        validate: Checks values of the search variables; its second argument begins their paths.

    Raises:
        GenotypeError: It is not a point of the space.
    """
    fields = ("like", "values", "classes", "input")
    if not isinstance(point, Mapping):
        raise GenotypeError(f"{format_value(point)} is not a point: {{values: {{name: value}}}}", where)
    for key in point:
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise GenotypeError(f"unknown field{hint}; a point has {', '.join(fields)}", f"{where}.{key}")
    base, like = Point({}), point.get("like")
    if like is not None:
        if not isinstance(like, str) or like not in earlier:
            hint = did_you_mean(like, earlier) if isinstance(like, str) else ""
            raise GenotypeError(f"{format_value(like)} is not an earlier point{hint}", f"{where}.like")
        base = earlier[like]
    if not isinstance(point.get("values", {} if like else None), Mapping):
        raise GenotypeError("a point needs 'values', an object with a value for each search variable", where)
    size = point.get("input")
    if size is not None:
        if not isinstance(size, (list, tuple)) or len(size) != 3:
            raise GenotypeError(f"{format_value(size)} is not [channels, height, width]", f"{where}.input")
        for index, side in enumerate(size):
            read_count(side, f"{where}.input[{index}]")
    values = validate({**base.values, **point.get("values", {})}, f"{where}.values.")
    classes = read_count(point.get("classes"), f"{where}.classes")
    return Point(values, classes or base.classes, tuple(size) if size else base.input)


def is_text(value: Any) -> bool:
    """Return whether a value is a text that is not empty."""
    return isinstance(value, str) and value != ""


def read_object(text: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return an object of a space file, by default an empty one.

    Raises:
        GenotypeError: The value has another type.
    """
    value = text.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise GenotypeError(f"{format_value(value)} is not an object", field)
    return value or {}


def read_string(text: Mapping[str, Any], field: str, default: str) -> str:
    """Return a text of a space file without spaces around it.

    Raises:
        GenotypeError: The value has another type.
    """
    value = text.get(field, default)
    if not isinstance(value, str):
        raise GenotypeError(f"{format_value(value)} is not text", field)
    return value.strip()


def read_count(value: Any, where: str) -> int | None:
    """Return a positive integer, or None.

    Raises:
        GenotypeError: The value has another type.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise GenotypeError(
            f"{value if isinstance(value, Fraction) else format_value(value)} is not a positive integer", where
        )
    return value


def read_search_text(value: Any) -> dict[str, Any]:
    """Return the default settings of a search as they are written, without those that are null.

    Raises:
        GenotypeError: The value has another type.
    """
    fields = SearchDefaults.__annotations__
    if value is not None and not isinstance(value, Mapping):
        raise GenotypeError(f"{format_value(value)} is not an object", "search")
    for key in value or {}:
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise GenotypeError(f"unknown field{hint}; available: {', '.join(fields)}", f"search.{key}")
    return {key: setting for key, setting in (value or {}).items() if setting is not None}
