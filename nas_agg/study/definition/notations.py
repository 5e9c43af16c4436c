"""Texts of settings: counts, durations, latencies, image sizes, names, recipes, and the types that parse them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from nas_agg.common.errors import did_you_mean, truncate
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.recipes import open_recipe
from nas_agg.training.recipes.files import parse_changes, reference

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SEED_LIMIT = 2**63  # of PyTorch and of Optuna's storages
MAX_COUNT = 10**18
MAX_TEXT = 100  # characters of a count, a duration or a latency
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)")
_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_count(text: str | int) -> int:
    """Parse a whole number: ``1000``, ``200k``, ``1.5M``, ``2G`` (powers of 1000).

    Raises:
        ValueError: The text is not a whole number in this notation.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    characters = str(text)
    match = _COUNT.fullmatch(characters.strip().replace("_", "")) if len(characters) <= MAX_TEXT else None
    if match is None:
        raise ValueError(f"invalid count {short_repr(text)}; use for example 200000, 200k, 1.5M or 2G")
    unit = match[2].lower()
    count = Decimal(match[1]) * _UNITS["k" if unit == "k" else unit.upper()]
    if count != int(count):
        raise ValueError(f"invalid count {text!r}: not a whole number; use for example 200000, 200k, 1.5M or 2G")
    return int(count)


def parse_duration(text: str | float) -> float:
    """Parse a duration into seconds: ``90``, ``90s``, ``30m``, ``2h``, ``1h30m``.

    Raises:
        ValueError: The text is not a duration.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        try:
            return float(text)
        except OverflowError:
            return math.inf
    characters = str(text)
    match = _DURATION.fullmatch(characters.strip().lower()) if len(characters) <= MAX_TEXT else None
    if match is None or not any(match.groups()):
        raise ValueError(f"invalid duration {short_repr(text)}; use for example 90s, 30m, 2h or 1h30m")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_latency(text: str | float) -> float:
    """Parse a latency into milliseconds: ``5ms``, ``800us``, ``0.2s``; a number is milliseconds.

    Raises:
        ValueError: The text is not a latency.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return min(float(text), math.inf) if abs(text) < MAX_COUNT else math.inf
    characters = str(text)
    match = _LATENCY.fullmatch(characters.strip().lower()) if len(characters) <= MAX_TEXT else None
    if match is None:
        raise ValueError(f"invalid latency {short_repr(text)}; use for example 5ms, 800us or 0.2s")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def parse_image_size(text: str | int) -> int | str:
    """Parse the size of images: a side such as ``32``, or height and width such as ``64x48``.

    Raises:
        ValueError: The text is no size.
    """
    sides = [int(side) for side in str(text).lower().split("x") if side.isdecimal() and len(side) <= 5]
    if isinstance(text, bool) or len(sides) != str(text).lower().count("x") + 1 or len(sides) > 2 or min(sides) < 1:
        raise ValueError(f"invalid image size {short_repr(text)}; use for example 32 or 64x48")
    return sides[0] if len(set(sides)) == 1 else f"{sides[0]}x{sides[1]}"


def parse_names(names: object) -> object:
    """Split a text such as ``accuracy,macs``; other values are returned unchanged."""
    return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names


def short_repr(value: object) -> str:
    """An invalid value as an error message shows it, abbreviated."""
    try:
        return truncate(repr(value))
    except Exception:  # an integer of thousands of digits, or a user's own class
        return f"a {type(value).__name__}"


def parse_bounds(texts: Any) -> Any:
    """Parse limits of metrics from texts such as ``macro-f1=0.8``.

    Raises:
        ValueError: A text is not of the form NAME=VALUE, or names no metric.
    """
    if texts is None or isinstance(texts, dict):
        return texts
    bounds = {}
    for text in [texts] if isinstance(texts, str) else texts:
        name, _, value = str(text).partition("=")
        if name not in TRAINED_METRICS:
            raise ValueError(f"invalid metric {name!r}{did_you_mean(name, TRAINED_METRICS)}")
        try:
            bounds[name] = float(value)
        except ValueError:
            bounds[name] = math.nan
        if not math.isfinite(bounds[name]):
            raise ValueError(f"invalid limit {text!r}; write NAME=VALUE, for example macro-f1=0.8") from None
    return bounds


def parse_recipe(source: Any) -> Any:
    """The name of a shipped recipe, or the content of another, which its file may lose before the run is resumed."""
    return None if source is None else reference(open_recipe(source))


def parse_recipe_changes(texts: Any) -> Any:
    """Fields of a recipe from texts such as ``weight_decay=1e-4``."""
    return None if texts is None else parse_changes([texts] if isinstance(texts, str) else texts)


def parse_optional_text(text: Any) -> Any:
    """A text or a path; None if it is ``none``, by which a resumed run is told to do without."""
    return None if text is None or text == "none" else os.fspath(text) if isinstance(text, os.PathLike) else text


def check_gpus(count: float | None) -> float | None:
    """A number of GPUs, of which only one can be shared."""
    if count is not None and count > 1 and count % 1:
        raise ValueError("must be a whole number if more than 1")
    return count


def parse_assignments(texts: Any) -> Any:
    """Names and values from texts such as ``partition=gpu``."""
    if texts is None or isinstance(texts, Mapping):
        return texts if texts is None else {str(name): str(value) for name, value in texts.items()}
    parts = [str(text).partition("=") for text in ([texts] if isinstance(texts, str) else texts)]
    for name, _, value in parts:
        if not name.strip() or not value.strip():
            raise ValueError("expected NAME=VALUE")
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in parts}


def parse_tuning_texts(texts: Any) -> Any:
    """Fields of a recipe with the texts of their values."""
    if texts is None or isinstance(texts, Mapping):
        return texts if texts is None else dict(texts)
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in str(text).split(",")]
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in (part.partition("=") for part in parts)}


def _positive(value: float) -> float:
    if not math.isfinite(value) or value <= 0:
        raise ValueError("must be positive")
    return value


ImageSize = Annotated[int | str, BeforeValidator(parse_image_size)]
Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0, le=MAX_COUNT)]
Milliseconds = Annotated[float, BeforeValidator(lambda text: _positive(parse_latency(text)))]
Seconds = Annotated[float, BeforeValidator(lambda text: _positive(parse_duration(text)))]
