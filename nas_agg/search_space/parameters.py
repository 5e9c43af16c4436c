"""Open names and their domains: what a search does with the points that they span.

A point is a dictionary of values, in the order of the names. Sampling, size, neighbours, mutation, crossover, encodings
and Optuna's distributions are derived here once for all spaces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import GenotypeError, InputError, did_you_mean
from nas_agg.search_space.domains import Domain

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

Values = dict[str, Any]


class SearchVariables:
    """Names, each with the values it may take.

    Args:
        domains: The values of each name.

    Attributes:
        domains: The same.
        names: The names, in their order.
    """

    def __init__(self, domains: Mapping[str, Domain]):
        self.domains = dict(domains)
        self.names = tuple(self.domains)

    def validate(self, values: Mapping[str, Any], where: str = "values.") -> Values:
        """The values as the space writes them, in the order of its names.

        Raises:
            GenotypeError: A name is unknown or left open, or a value is outside its list.
        """
        for name in values:
            if name not in self.domains:
                raise GenotypeError(f"no open name of this space{did_you_mean(name, self.names)}", f"{where}{name}")
        checked = {}
        for name, values_of_name in self.domains.items():
            if name not in values:
                raise GenotypeError(f"left open: give it one of {values_of_name}", f"{where}{name}")
            try:
                checked[name] = values_of_name.at(values_of_name.index(values[name]))
            except InputError as error:
                raise GenotypeError(str(error), f"{where}{name}") from None
        return checked

    def labels(self, values: Mapping[str, Any]) -> dict[str, int | str]:
        """What Optuna stores for values: an integer as itself, anything else as its label."""
        values = self.validate(values)
        return {name: self.domains[name].label(value) for name, value in values.items()}

    def values(self, labels: Mapping[str, int | str]) -> Values:
        """The values of labels, the inverse of ``labels``."""
        values = {}
        for name, label in labels.items():
            try:
                values[name] = self.domains[name].value(label) if name in self.domains else label
            except InputError as error:
                raise GenotypeError(str(error), f"labels.{name}") from None
        return self.validate(values, "labels.")

    # ---- what a searcher needs

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The open names as Optuna distributions: ranges are integer ones, lists categorical ones over labels."""
        return {name: values.distribution() for name, values in self.domains.items()}

    def size(self) -> int:
        """How many points the space has; different points may be equal networks."""
        return math.prod(values.size for values in self.domains.values())

    def sample(self, rng: np.random.Generator) -> Values:
        """A point with every name's value drawn evenly."""
        return {name: values.at(int(rng.integers(values.size))) for name, values in self.domains.items()}

    def neighbours(self, values: Mapping[str, Any]) -> Iterator[Values]:
        """All points that differ in the value of one name."""
        values = self.validate(values)
        for name, domain_ in self.domains.items():
            own = domain_.index(values[name])
            for index in range(domain_.size):
                if index != own:
                    yield values | {name: domain_.at(index)}

    def mutate(self, values: Mapping[str, Any], rng: np.random.Generator, changes: int = 1) -> Values:
        """A point that differs in ``changes`` names (in all that can change, if they are fewer), drawn evenly."""
        mutant = self.validate(values)
        free = [name for name, domain_ in self.domains.items() if domain_.size > 1]
        for place in rng.choice(len(free), size=min(changes, len(free)), replace=False) if free else ():
            name = free[place]
            domain_ = self.domains[name]
            shift = 1 + int(rng.integers(domain_.size - 1))
            mutant[name] = domain_.at((domain_.index(mutant[name]) + shift) % domain_.size)
        return mutant

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator) -> Values:
        """A point that has each name's value from one of two others, drawn evenly."""
        a, b = self.validate(a), self.validate(b)
        return {name: (a, b)[int(rng.integers(2))][name] for name in self.names}

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """A point as a vector of numbers in 0 to 1, of the same length for all points and different for any two.

        An integer is scaled by its range, a value of a list of numbers is its rank, any other list is one-hot.
        """
        import numpy as np

        values = self.validate(values)
        return np.array([number for name in self.names for number in self.domains[name].encode(values[name])])
