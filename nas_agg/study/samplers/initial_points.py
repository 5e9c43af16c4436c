"""The networks that a search starts from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.expansion import costs
from nas_agg.search_space.parameters import Values
from nas_agg.search_space.references import open_genotype
from nas_agg.search_space.space import Space, spaces_in_family
from nas_agg.study.definition.settings import Settings, shown
from nas_agg.study.tables.bare_parameters import ParameterSpace


def initial_points(space: Space | ParameterSpace, sources: Any) -> list[Values]:
    """The values of points of a space, each once.

    Args:
        space: The space.
        sources: One or several of: values, a point's name, any other genotype of the space as `nas_agg.load` takes it.

    Raises:
        InputError: One of them is none of the space.
    """
    if isinstance(sources, str | os.PathLike | Mapping):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise InputError(f"start: points, genotypes or values, not {shown(sources)}")
    found: list[Values] = []
    for source in sources:
        if not isinstance(source, str | os.PathLike | Mapping):
            raise InputError(f"start: a point's name, a genotype or values, not {shown(source)}")
        try:
            values = _values(space, source if isinstance(source, Mapping) else os.fspath(source))
        except InputError as error:
            raise InputError(f"start: {error}{'' if isinstance(source, Mapping) else _hint(space, source)}") from None
        if values not in found:
            found.append(values)
    return found


def _values(space: Space | ParameterSpace, source: str | Mapping[str, Any]) -> Values:
    if isinstance(source, Mapping):
        return space.validate(source)
    if isinstance(space, ParameterSpace):
        raise InputError(f"{shown(source)} is no point: give values of the names")
    elsewhere = source not in space.points and ({*source} & {"/", ":", "."} or _exists(source))
    return space.values_of(open_genotype(source) if elsewhere else space.point(source))


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False


def _hint(space: Space | ParameterSpace, source: str | os.PathLike[str]) -> str:
    """Where the point is that was meant: the spaces of a family have points of their own."""
    if isinstance(space, ParameterSpace):
        return ""
    name = os.fspath(source).rpartition("/")[2]
    others = [
        other.name for other in spaces_in_family(space.family) if name in other.points and other.name != space.name
    ]
    return f"; '{name}' is a point of the space {others[0]}" if others else ""


def resolve_settings(said: Settings, space: Space, input: tuple[int, int, int] | None, classes: int | None) -> Settings:
    """The settings of a search on some images, what is unsaid filled in.

    The space's own limits rise to what the search starts from; a limit that was said stays.

    Raises:
        InputError: A network to start from is no network on these images, or over a limit that was said.
    """
    filled = said.of_space(space, input or space.template.input)
    for place, values in enumerate(said.start or (), start=1):
        try:
            cost = costs.cost(space.genotype(values, input, classes))
            needs = {"max_params": cost.params, "max_macs": cost.macs}
        except GenotypeError as error:
            raise InputError(f"start: network {place}: {error}") from None
        for name, need in needs.items():
            limit = getattr(filled, name)
            if limit and need > limit:
                if getattr(said, name) is not None:
                    raise InputError(f"start: network {place} has {need:,} {name[4:]}, over {name} {limit:,}")
                filled = filled.model_copy(update={name: need})
    return filled
