"""A space whose points have values of further variables beside the network's: hyperparameters of its training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from nas_agg.common.files import canonical_json
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.domains import parse_domain
from nas_agg.search_space.parameters import Values
from nas_agg.search_space.space import Space

PREFIX = "recipe."  # of the names of hyperparameters, which a space cannot have


class JointSpace(Space):
    """A space together with hyperparameters.

    Searchers see the variables of both. A point's genotype depends on those of the network alone; points that name no
    hyperparameters, such as the named ones, have their default values.

    Args:
        space: The space of networks.
        hyperparameters: The values of each hyperparameter by its name.
        defaults: A default value of each; the nearest one of its values, or the first, stands for it.
    """

    def __init__(self, space: Space, hyperparameters: Mapping[str, list[Any]], defaults: Mapping[str, Any]):
        vars(self).update({name: value for name, value in vars(space).items() if name not in ("distributions",)})
        self._networks = space
        domains = {f"{PREFIX}{name}": parse_domain(values, f"tune.{name}") for name, values in hyperparameters.items()}
        self.domains = space.domains | domains
        self.names = tuple(self.domains)
        self._defaults = {
            f"{PREFIX}{name}": _nearest(values, defaults.get(name)) for name, values in hyperparameters.items()
        }

    @property
    def networks(self) -> Space:
        """The space of networks alone, whose variables come first."""
        return self._networks

    def validate(self, values: Mapping[str, Any], where: str = "values.") -> Values:
        """Validate a point; see `SearchVariables.validate`."""
        return super().validate(self._defaults | dict(values), where)

    def genotype(
        self, values: Mapping[str, Any], input: tuple[int, int, int] | None = None, classes: int | None = None
    ) -> Genotype:
        """The genotype of a point; see `Space.genotype`."""
        own = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
        return self.networks.genotype(own, input, classes)

    def values_of(self, genotype: Genotype) -> Values:
        """The point of a genotype, with default values of the hyperparameters."""
        return self.validate(self.networks.values_of(genotype))

    def hyperparameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a point's hyperparameters by their names."""
        return {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}

    def trial_hash(self, network_hash: str, values: Mapping[str, Any]) -> str:
        """A hash that is equal for equal networks with equal hyperparameters; it begins with the network's."""
        text = canonical_json(self.hyperparameters(self.validate(values)))
        return f"{network_hash}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _nearest(values: list[Any], default: Any) -> Any:
    if default in values:
        return default
    numbers = all(isinstance(value, int | float) for value in values)
    if numbers and isinstance(default, int | float):
        return min(values, key=lambda value: abs(value - default))
    return values[0]
