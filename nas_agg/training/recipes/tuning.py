"""Fields of recipes as search variables: their values, from ``lr=0.02:0.4:log`` and the like or a recipe's ``open``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from nas_agg.common.errors import InputError, did_you_mean, truncate
from nas_agg.common.files import parse_document
from nas_agg.training.recipes.files import open_recipe
from nas_agg.training.recipes.recipe import DESCRIPTION, Recipe

LEVELS = 13  # values of a range of real numbers
_FIXED = (*DESCRIPTION, "epochs", "open")

#: Ranges of fields that are named without values: from, to, and whether in equal ratios.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "weight_decay": (1e-6, 1e-2, True),
    "label_smoothing": (0.0, 0.2, False),
    "momentum": (0.8, 0.98, False),
    "mixup": (0.0, 0.8, False),
    "cutmix": (0.0, 1.0, False),
    "dropout": (0.0, 0.5, False),
    "drop_path": (0.0, 0.3, False),
    "clip": (0.1, 10.0, True),
    "color_jitter": (0.0, 0.6, False),
    "erasing": (0.0, 0.5, False),
    "batch_size": (16, 256, True),
    "randaugment_magnitude": (3, 15, False),
}
_CHOICES: dict[str, list[Any]] = {
    "optimizer": ["SGD", "AdamW"],
    "schedule": ["cosine", "linear", "one-cycle"],
    "ema": [0.0, 0.9, 0.99, 0.999],
    "sampling": ["shuffle", "balanced"],
    "class_weights": ["none", "balanced"],
    "randaugment": [0, 1, 2],
}
_LR_SPAN = 8.0  # the range of learning rates reaches from the recipe's divided by this to the same times half of it


def parse_tuning(texts: Mapping[str, Any] | list[str] | tuple[str, ...], recipe: Recipe) -> dict[str, list[Any]]:
    """The values of each tuned field.

    Args:
        texts: Texts such as ``lr=0.02:0.4:log``, ``optimizer=SGD|AdamW`` or ``weight_decay``, separated by commas; or a
            mapping from fields to lists of values or to such texts.
        recipe: The recipe whose other fields the values must fit.

    Raises:
        InputError: A field is unknown or cannot be tuned, or a value does not fit it.
    """
    if not isinstance(texts, Mapping):
        pairs = [part.partition("=") for text in texts for part in str(text).split(",")]
        texts = {name.strip().replace("-", "_"): text.strip() for name, _, text in pairs}
    return {name: _values(name, given, recipe) for name, given in texts.items()}


def _values(name: str, given: Any, recipe: Recipe) -> list[Any]:
    if name not in Recipe.model_fields or name in _FIXED:
        known = [field for field in Recipe.model_fields if field not in _FIXED]
        raise InputError(f"{truncate(name)!r} is no field of recipes that can be tuned{did_you_mean(name, known)}")
    if isinstance(given, list | tuple):
        values = list(given)
    elif isinstance(given, str) and ":" in given:
        values = _range(name, given)
    elif isinstance(given, str) and given:
        values = [parse_document(text, name, "yaml") for text in given.split("|")]
    else:
        values = _default_values(name, recipe)
    values = list(dict.fromkeys(values)) if all(isinstance(v, int | float | str) for v in values) else values
    for value in values:
        open_recipe(recipe, {name: value})
    if len(values) < 2:
        raise InputError(f"{name}: specify at least two values, such as {name}=LOW:HIGH:log or {name}=A|B")
    return values


def _default_values(name: str, recipe: Recipe) -> list[Any]:
    if name == "lr":
        return _levels(recipe.lr / _LR_SPAN, recipe.lr * _LR_SPAN / 2, True, False)
    if name in _RANGES:
        low, high, is_log = _RANGES[name]
        return _levels(low, high, is_log, _is_integer(name))
    if name in _CHOICES:
        return _CHOICES[name]
    if bool in (Recipe.model_fields[name].annotation, *get_args(Recipe.model_fields[name].annotation)):
        return [False, True]
    raise InputError(f"{name}: specify its values, such as {name}=A|B")


def _range(name: str, text: str) -> list[Any]:
    """The values of a text such as ``0.02:0.4:log``."""
    low, _, rest = text.partition(":")
    high, _, scale = rest.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        raise InputError(f"{name}: {truncate(text)!r} is no range; write for example {name}=0.02:0.4:log") from None
    if scale not in ("", "log") or not bounds[0] < bounds[1] or (scale and bounds[0] <= 0):
        raise InputError(f"{name}: {truncate(text)!r} is no range; write LOW:HIGH, or LOW:HIGH:log with LOW above 0")
    return _levels(*bounds, scale == "log", _is_integer(name))


def _levels(low: float, high: float, is_log: bool, integer: bool) -> list[Any]:
    """Values from ``low`` to ``high`` in equal steps, or in equal ratios; of integers all where they are few."""
    if integer and not is_log and high - low < LEVELS:
        return list(range(round(low), round(high) + 1))
    shares = [step / (LEVELS - 1) for step in range(LEVELS)]
    values = [low * (high / low) ** share if is_log else low + (high - low) * share for share in shares]
    return [round(value) if integer else float(f"{value:.3g}") for value in values]


def _is_integer(name: str) -> bool:
    annotation = Recipe.model_fields[name].annotation
    return annotation is int or (int in get_args(annotation) and float not in get_args(annotation))
