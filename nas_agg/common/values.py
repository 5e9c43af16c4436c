"""Values that Python code passes in, as the JSON values that files contain."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from nas_agg.common.errors import GenotypeError

MAX_NESTING = 48
MAX_RANGE = 10_000


def json_values(value: Any, where: str = "", depth: int = 0) -> Any:
    """Convert nested values to JSON values.

    Scalars and arrays of NumPy and tensors become Python's numbers and lists, as do tuples, ranges and fractions.

    Args:
        value: Mappings, sequences and scalars.
        where: The path of the value, for errors.
        depth: Levels around the value.

    Raises:
        GenotypeError: A number is NaN or infinite, a key is not a string, JSON has no such values, or they are nested
            too deeply.
    """
    if depth > MAX_NESTING:
        raise GenotypeError(f"nested more than {MAX_NESTING} levels deep", where.partition(".")[0].partition("[")[0])
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        prefix = f"{where}." if where else ""
        return {_key(key, where): json_values(item, f"{prefix}{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, range) and len(value) > MAX_RANGE:
        raise GenotypeError(f"a range of {len(value):,} values; the limit is {MAX_RANGE:,}", where)
    if isinstance(value, list | tuple | range):
        return [json_values(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _scalar(value, where)


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise GenotypeError(f"keys must be strings, not {key!r}", where)
    return str(key)


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        raise GenotypeError(f"a value of type {type(value).__name__}; use numbers, strings, lists and objects", where)
    number = float(value)
    if not math.isfinite(number):
        raise GenotypeError(f"{value} is not a finite number", where)
    return number


def is_integer(value: object) -> bool:
    """Return whether a value is an integer of Python or NumPy; booleans are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
