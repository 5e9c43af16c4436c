"""Search variables: sampling, mutation, crossover, vector encodings and Optuna distributions for all kinds of spaces.

A point assigns each variable a value of its domain: a dictionary in the order of the variables.
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
    """Search variables, each with its domain.

    Args:
        domains: The domain of each variable by its name.

    Attributes:
        domains: The domain of each variable by its name.
        names: The names in order.
    """

    def __init__(self, domains: Mapping[str, Domain]):
        self.domains = dict(domains)
        self.names = tuple(self.domains)

    def validate(self, values: Mapping[str, Any], where: str = "values.") -> Values:
        """Validate a point.

        Args:
            values: A value for each variable.
            where: The prefix of paths in errors.

        Returns:
            The values as the domains write them, in the order of the variables.

        Raises:
            GenotypeError: A variable is unknown or has no value, or a value is not in its domain.
        """
        for name in values:
            if name not in self.domains:
                raise GenotypeError(f"unknown search variable{did_you_mean(name, self.names)}", f"{where}{name}")
        validated = {}
        for name, domain in self.domains.items():
            if name not in values:
                raise GenotypeError(f"missing value; specify one of {domain}", f"{where}{name}")
            try:
                validated[name] = domain.at(domain.index(values[name]))
            except InputError as error:
                raise GenotypeError(str(error), f"{where}{name}") from None
        return validated

    def labels(self, values: Mapping[str, Any]) -> dict[str, int | str]:
        """The values of a point as Optuna stores them: integers of ranges as they are, others as their labels."""
        values = self.validate(values)
        return {name: self.domains[name].label(value) for name, value in values.items()}

    def values(self, labels: Mapping[str, int | str]) -> Values:
        """The point of labels; the inverse of `labels`.

        Raises:
            GenotypeError: A variable is unknown or has no label, or a label is not in its domain.
        """
        values = {}
        for name, label in labels.items():
            try:
                values[name] = self.domains[name].value(label) if name in self.domains else label
            except InputError as error:
                raise GenotypeError(str(error), f"labels.{name}") from None
        return self.validate(values, "labels.")

    # ---- operations of searchers

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna distributions of the variables: integer for ranges, categorical over labels for lists."""
        return {name: domain.distribution() for name, domain in self.domains.items()}

    def size(self) -> int:
        """The number of points; different points may be equal networks."""
        return math.prod(domain.size for domain in self.domains.values())

    def sample(self, rng: np.random.Generator) -> Values:
        """Draw a point uniformly."""
        return {name: domain.at(int(rng.integers(domain.size))) for name, domain in self.domains.items()}

    def neighbours(self, values: Mapping[str, Any]) -> Iterator[Values]:
        """All points that differ from a point in one variable."""
        values = self.validate(values)
        for name, domain in self.domains.items():
            current = domain.index(values[name])
            for index in range(domain.size):
                if index != current:
                    yield values | {name: domain.at(index)}

    def mutate(self, values: Mapping[str, Any], rng: np.random.Generator, changes: int = 1) -> Values:
        """Draw uniformly a point that differs in ``changes`` variables (in all mutable ones, if they are fewer)."""
        mutant = self.validate(values)
        mutable = [name for name, domain in self.domains.items() if domain.size > 1]
        for place in rng.choice(len(mutable), size=min(changes, len(mutable)), replace=False) if mutable else ():
            name = mutable[place]
            domain = self.domains[name]
            shift = 1 + int(rng.integers(domain.size - 1))
            mutant[name] = domain.at((domain.index(mutant[name]) + shift) % domain.size)
        return mutant

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator) -> Values:
        """Uniform crossover: a point that takes each value from either parent with equal probability."""
        a, b = self.validate(a), self.validate(b)
        return {name: (a, b)[int(rng.integers(2))][name] for name in self.names}

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """Encode a point as a vector with entries in 0 to 1, different for different points.

        Integers of ranges are scaled, numbers of lists are encoded by rank, other values one-hot.
        """
        import numpy as np

        values = self.validate(values)
        return np.array([number for name in self.names for number in self.domains[name].encode(values[name])])
