"""Reads recipes: shipped ones by name, users' files, and single fields that replace theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nas_agg.common.errors import InputError, did_you_mean, truncate
from nas_agg.common.files import parse_document, read_document
from nas_agg.common.values import json_values
from nas_agg.training.recipes.recipe import DESCRIPTION, Recipe

SHIPPED = Path(__file__).parent
LIKE = "like"
MAX_PARENTS = 16

#: Fields that belong to an optimizer and are not inherited by a recipe with another one.
_OPTIMIZER_FIELDS = ("optimizer_options", "momentum", "nesterov")

#: A name, a file, the content of one, or a recipe.
RecipeSource = str | os.PathLike[str] | Mapping[str, Any] | Recipe


@lru_cache
def list_recipes() -> tuple[str, ...]:
    """Names of the shipped recipes."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def open_recipe(source: RecipeSource, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Open a recipe.

    Args:
        source: The name of a shipped recipe, a YAML or JSON file, or the content of one: fields of `Recipe`, and
            ``like`` with the name or file of the recipe that it inherits the others from.
        changes: Fields that replace those of the recipe. They are listed in its name.

    Raises:
        InputError: There is no such recipe, or a field is unknown or invalid.
    """
    if isinstance(source, Recipe):
        recipe = source
    elif isinstance(source, Mapping):
        values = json_values(source)
        recipe = _validated({"name": "custom"} | _inherited(values, "recipe", Path.cwd(), 0), "recipe")
    else:
        recipe = _read(os.fspath(source))
    if not changes:
        return recipe
    if name := next((name for name in changes if name in (*DESCRIPTION, LIKE)), ""):
        raise InputError(f"recipe: {name} cannot be set; write a file with like: {recipe.name}")
    changes = json_values(changes)
    values = _merge(_content(recipe), changes, "recipe")
    changed = ", ".join(f"{name}={json.dumps(value)}" for name, value in changes.items())
    return _validated(values | {"name": f"{recipe.name} with {changed}"}, "recipe")


def reference(recipe: Recipe) -> str | dict[str, Any]:
    """What `open_recipe` opens as this recipe at any later time: the name of a shipped one, else its content."""
    is_shipped = recipe.name in list_recipes() and _read(recipe.name) == recipe
    return recipe.name if is_shipped else _content(recipe)


def parse_changes(texts: Mapping[str, Any] | list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Parse fields of a recipe from texts such as ``weight_decay=1e-4`` or ``milestones=[30, 60]``.

    Raises:
        InputError: A text is not of the form FIELD=VALUE.
    """
    if isinstance(texts, Mapping):
        return dict(texts)
    changes = {}
    for text in texts:
        name, equals, value = str(text).partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise InputError(f"{truncate(str(text))!r}: write FIELD=VALUE, for example weight_decay=1e-4")
        changes[name] = parse_document(value, name, "yaml")
    return changes


@lru_cache
def _shipped(name: str) -> Recipe:
    return _validated({"name": name} | _document(SHIPPED / f"{name}.yaml", 0), name)


def _read(name: str, depth: int = 0) -> Recipe:
    """The shipped recipe of a name, or a user's file."""
    if name in list_recipes():
        return _shipped(name)
    path = Path(os.path.expanduser(name))
    if path.suffix.lower() in (".yaml", ".yml", ".json") or os.sep in name:
        return _validated({"name": path.stem} | _document(path, depth), str(path))
    hint = did_you_mean(name, list_recipes()) or f"; choose from {', '.join(list_recipes())}, or a file"
    raise InputError(f"unknown recipe '{truncate(name)}'{hint}")


def _document(path: Path, depth: int) -> dict[str, Any]:
    """The fields of a file, with those that it inherits."""
    return _inherited(read_document(path), str(path), path.parent, depth)


def _inherited(values: Any, where: str, folder: Path, depth: int) -> dict[str, Any]:
    """Fields with those that they inherit.

    Args:
        values: The content of a file.
        where: Its name in messages.
        folder: What paths of ``like`` are relative to.
        depth: The number of files that inherit from this one.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: a recipe must be an object with fields such as lr and epochs")
    if LIKE not in values:
        return dict(values)
    like = values[LIKE]
    if not isinstance(like, str):
        raise InputError(f"{where}: like: must be the name of a recipe or a file")
    if depth >= MAX_PARENTS:
        raise InputError(f"{where}: like: more than {MAX_PARENTS} recipes inherit from each other; is there a circle?")
    is_path = like not in list_recipes() and not os.path.isabs(os.path.expanduser(like))
    name = str(folder / like) if is_path and Path(like).suffix else like
    try:
        parent = _read(name, depth + 1)
    except InputError as error:
        raise InputError(f"{where}: like: {error}") from None
    inherited = {name: value for name, value in _content(parent).items() if name not in ("name", "about", "choices")}
    return _merge(inherited, {name: value for name, value in values.items() if name != LIKE}, where)


def _merge(inherited: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Inherited fields and a recipe's own; those of another optimizer or schedule are not inherited."""
    for name in values:
        if name not in Recipe.model_fields:
            hint = did_you_mean(str(name), Recipe.model_fields) or f"; available: {', '.join(Recipe.model_fields)}"
            raise InputError(f"{where}: {truncate(str(name))}: unknown field{hint}")
    dropped: tuple[str, ...] = ()
    if "optimizer" in values and values["optimizer"] != inherited.get("optimizer", "SGD"):
        dropped += _OPTIMIZER_FIELDS
    if values.get("schedule", "step") != "step":
        dropped += ("milestones",)
    return {name: value for name, value in inherited.items() if name not in dropped} | dict(values)


def _content(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe without those that have their default values, as JSON values."""
    return recipe.model_dump(mode="json", exclude_defaults=True, exclude={"about", "choices"}) | {"name": recipe.name}


def _validated(values: dict[str, Any], where: str) -> Recipe:
    """Validate the fields of a recipe.

    Raises:
        InputError: A field is unknown, missing or invalid.
    """
    values = _merge({}, values, where)
    try:
        return Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        message = message if message.split(":")[0] in Recipe.model_fields else message[0].lower() + message[1:]
        if first["type"] == "missing":
            raise InputError(f"{where}: {path}: is missing; specify it, or inherit it with like") from None
        value = f", not {truncate(json.dumps(first['input']))}" if path else ""
        raise InputError(f"{where}: {path + ': ' if path else ''}{message}{value}") from None
