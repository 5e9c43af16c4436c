"""Values that Python code passes in, as the JSON values that files contain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nas_agg.common.errors import GenotypeError

MAX_NESTING = 48


def json_values(value: Any, where: str = "", depth: int = 0) -> Any:
    """Copy nested values with NumPy's scalars and arrays as Python's numbers and lists; others are left as they are.

    Args:
        value: Mappings, lists, tuples and scalars.
        where: The path of the value, for errors.
        depth: Levels around the value.

    Raises:
        GenotypeError: A number is NaN or infinite, or values are nested too deeply.
    """
    if depth > MAX_NESTING:
        raise GenotypeError(f"nested more than {MAX_NESTING} levels deep", where.partition(".")[0].partition("[")[0])
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        prefix = f"{where}." if where else ""
        return {key: json_values(item, f"{prefix}{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise GenotypeError(f"{value} is not a finite number", where)
    return value
