"""Initial points: the networks that a search evaluates before the searcher's proposals."""

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
from nas_agg.study.definition.notations import short_repr
from nas_agg.study.definition.settings import Settings
from nas_agg.study.tables.bare_parameters import ParameterSpace


def initial_points(space: Space | ParameterSpace, sources: Any) -> list[Values]:
    """The values of initial points, without duplicates.

    Args:
        space: The search space.
        sources: One or several of: values of the search variables, a point's name, any other genotype of the space as
            `nas_agg.load` takes it.

    Raises:
        InputError: One of them is not a point of the space.
    """
    if isinstance(sources, str | os.PathLike | Mapping):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise InputError(f"start: expected points, genotypes or values, not {short_repr(sources)}")
    points: list[Values] = []
    for source in sources:
        if not isinstance(source, str | os.PathLike | Mapping):
            raise InputError(f"start: expected a point's name, a genotype or values, not {short_repr(source)}")
        try:
            values = _values(space, source if isinstance(source, Mapping) else os.fspath(source))
        except InputError as error:
            raise InputError(f"start: {error}{'' if isinstance(source, Mapping) else _hint(space, source)}") from None
        if values not in points:
            points.append(values)
    return points


def _values(space: Space | ParameterSpace, source: str | Mapping[str, Any]) -> Values:
    if isinstance(source, Mapping):
        return space.validate(source)
    if isinstance(space, ParameterSpace):
        raise InputError(f"{short_repr(source)} is not a point: specify values of the search variables")
    is_reference = source not in space.points and ({*source} & {"/", ":", "."} or _exists(source))
    return space.values_of(open_genotype(source) if is_reference else space.point(source))


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False


def _hint(space: Space | ParameterSpace, source: str | os.PathLike[str]) -> str:
    """A hint at the space of the same family that has a point of this name."""
    if isinstance(space, ParameterSpace):
        return ""
    name = os.fspath(source).rpartition("/")[2]
    others = [
        other.name for other in spaces_in_family(space.family) if name in other.points and other.name != space.name
    ]
    return f"; '{name}' is a point of the space {others[0]}" if others else ""


#: For each limit the attribute of a cost, and its name in messages.
_LIMITS = {
    "max_params": ("params", "params"),
    "max_macs": ("macs", "MACs"),
    "max_activations": ("activation_bytes", "bytes of activations"),
}


def resolve_settings(
    settings: Settings, space: Space, input: tuple[int, int, int] | None, classes: int | None
) -> Settings:
    """Fill in the settings that were left unspecified, by the space's defaults.

    The space's own limits are raised to what the initial points need; limits that the user specified are not.

    Args:
        settings: The settings that the user specified, with the initial points.
        space: The search space.
        input: Shape of the images (channels, height, width); None: the space's own.
        classes: The number of classes; None: the space's own.

    Raises:
        InputError: An initial point makes no valid network on these images, or exceeds a limit of the user.
    """
    resolved = settings.with_space_defaults(space, input or space.template.input)
    for place, values in enumerate(settings.start or (), start=1):
        where = f"start: {space.describe(values, place)}"
        try:
            cost = costs.cost(space.genotype(values, input, classes))
        except GenotypeError as error:
            raise InputError(f"{where}: {error}") from None
        for name, (attribute, what) in _LIMITS.items():
            limit = getattr(resolved, name)
            if not limit or (need := getattr(cost, attribute)) <= limit:
                continue
            if getattr(settings, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"{where} has {need:,} {what}, over {option} {limit:,}; raise it or leave out the point"
                )
            resolved = resolved.model_copy(update={name: need})
    return resolved
