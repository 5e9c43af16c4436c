"""Domains of search variables: integer ranges, and lists of any values that a genotype may contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import GenotypeError, InputError, did_you_mean
from nas_agg.common.files import canonical_json
from nas_agg.language.genotype import format_value

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, IntDistribution

MAX_BOUND = 10**9


@dataclass(frozen=True)
class IntRange:
    """The integers ``low``, ``low + step``, ..., ``high``.

    Attributes:
        size: The number of values.
        width: The number of entries that encode a value in a vector.
    """

    low: int
    high: int
    step: int = 1
    width: int = field(default=1, init=False)

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def at(self, index: int) -> int:
        """The value at an index, 0 to ``size - 1``."""
        return self.low + index * self.step

    def index(self, value: Any) -> int:
        """The index of a value.

        Raises:
            InputError: The value is not in the range.
        """
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or not self.low <= value <= self.high or (value - self.low) % self.step:
            raise InputError(f"{format_value(value)} is not one of {self}")
        return (value - self.low) // self.step

    def label(self, value: Any) -> int:
        """The value as Optuna stores it: the integer itself."""
        return self.at(self.index(value))

    def value(self, label: Any) -> int:
        """The value of a label."""
        return self.label(label)

    def encode(self, value: Any) -> list[float]:
        """The value scaled to 0 to 1, as one entry."""
        return [self.index(value) / max(1, self.size - 1)]

    def distribution(self) -> IntDistribution:
        """The domain as an Optuna distribution."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, step=self.step)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class Choice:
    """A list of values; ordered by size if all of them are numbers, otherwise categorical.

    Attributes:
        labels: Each value as compact canonical JSON, which identifies it in Optuna.
        ordered: Whether all values are numbers.
    """

    values: tuple[Any, ...]
    labels: tuple[str, ...] = field(init=False)
    ordered: bool = field(init=False)
    _indices: dict[str, int] = field(init=False, repr=False, compare=False)
    _ranks: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        labels = tuple(canonical_json(value) for value in self.values)
        ordered = all(_is_number(value) for value in self.values)
        ranks = [0] * len(labels)
        if ordered:
            for rank, index in enumerate(sorted(range(len(labels)), key=self.values.__getitem__)):
                ranks[index] = rank
        indices = {label: index for index, label in enumerate(labels)}
        fields = {"labels": labels, "ordered": ordered, "_indices": indices, "_ranks": tuple(ranks)}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return 1 if self.ordered else self.size

    def at(self, index: int) -> Any:
        """The value at an index, 0 to ``size - 1``."""
        return self.values[index]

    def index(self, value: Any) -> int:
        """The index of a value; 1 and 1.0 are the same value.

        Raises:
            InputError: The value is not in the list.
        """
        try:
            index = self._indices.get(canonical_json(value))
        except (TypeError, ValueError):  # not a JSON value
            index = None
        if index is None and _is_number(value):
            equal = (i for i, other in enumerate(self.values) if _is_number(other) and other == value)
            index = next(equal, None)
        if index is None:
            hint = did_you_mean(value, [v for v in self.values if isinstance(v, str)]) if isinstance(value, str) else ""
            raise InputError(f"{format_value(value)} is not one of {self}{hint}")
        return index

    def label(self, value: Any) -> str:
        """The value as Optuna stores it."""
        return self.labels[self.index(value)]

    def value(self, label: Any) -> Any:
        """The value of a label.

        Raises:
            InputError: No value has this label.
        """
        if not isinstance(label, str) or label not in self._indices:
            raise InputError(f"{format_value(label)} is not the label of any of {self}")
        return self.values[self._indices[label]]

    def encode(self, value: Any) -> list[float]:
        """The rank of a number scaled to 0 to 1, as one entry; any other value one-hot."""
        index = self.index(value)
        if self.ordered:
            return [self._ranks[index] / max(1, self.size - 1)]
        return [float(i == index) for i in range(self.size)]

    def distribution(self) -> CategoricalDistribution:
        """The domain as an Optuna distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.labels)

    def __str__(self) -> str:
        text = ", ".join(format_value(value) for value in self.values)
        return text if len(text) <= 200 else text[:197] + "..."


Domain = IntRange | Choice


def parse_domain(values: Any, where: str) -> Domain:
    """Parse the domain of a search variable.

    Args:
        values: A list of values, or ``{"from": a, "to": b, "step": 1}``.
        where: The path of the text, for errors.

    Raises:
        GenotypeError: It is neither, is empty, or has duplicate values.
    """
    if isinstance(values, Mapping):
        return _range(values, where)
    if not isinstance(values, (list, tuple)):
        raise GenotypeError(f'{format_value(values)} is neither a list of values nor {{"from": a, "to": b}}', where)
    if not values:
        raise GenotypeError("empty list; specify at least one value", where)
    keys: set[Any] = set()
    for index, value in enumerate(values):
        key = value if _is_number(value) else canonical_json(value)  # 1 and 1.0 are the same value, "1" is another
        if key in keys:
            raise GenotypeError(f"duplicate value {format_value(value)}", f"{where}[{index}]")
        keys.add(key)
    return Choice(tuple(values))


def _range(values: Mapping[str, Any], where: str) -> IntRange:
    for key in values:
        if key not in ("from", "to", "step"):
            raise GenotypeError(
                f"unknown field{did_you_mean(key, ('from', 'to', 'step'))}; a range has from, to and step",
                f"{where}.{key}",
            )
    for key in ("from", "to"):
        if key not in values:
            raise GenotypeError(f"a range needs '{key}'", where)
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_BOUND:
            raise GenotypeError(f"{format_value(value)} is not an integer from -10^9 to 10^9", f"{where}.{key}")
    low, high, step = values["from"], values["to"], values.get("step", 1)
    if step < 1:
        raise GenotypeError(f"{step} is not a positive integer", f"{where}.step")
    if low > high:
        raise GenotypeError(f"'from' {low} is greater than 'to' {high}", where)
    return IntRange(low, low + (high - low) // step * step, step)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
