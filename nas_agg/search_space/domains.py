"""The values that an open name may take: an integer range, or a list of anything that a genotype may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import GenotypeError, InputError, did_you_mean
from nas_agg.common.files import canonical_json
from nas_agg.language.genotype import shown

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, IntDistribution

MAX_BOUND = 10**9


@dataclass(frozen=True)
class IntRange:
    """The integers low, low + step, ... up to high, which is one of them.

    Attributes:
        size: How many values there are.
        width: How many numbers encode a value.
    """

    low: int
    high: int
    step: int = 1
    width: int = field(default=1, init=False)

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def at(self, index: int) -> int:
        """The value at a place, 0 to ``size - 1``."""
        return self.low + index * self.step

    def index(self, value: Any) -> int:
        """The place of a value; InputError if it is outside."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not self.low <= value <= self.high or (value - self.low) % self.step:
            raise InputError(f"{shown(value)} is not one of {self}")
        return (value - self.low) // self.step

    def label(self, value: Any) -> int:
        """What Optuna stores for a value: itself."""
        return self.at(self.index(value))

    def value(self, label: Any) -> int:
        """The value of a label."""
        return self.label(label)

    def encode(self, value: Any) -> list[float]:
        """The value, scaled to 0 to 1."""
        return [self.index(value) / max(1, self.size - 1)]

    def distribution(self) -> IntDistribution:
        """As Optuna knows it."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, step=self.step)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class Choice:
    """A list of values; numbers alone are ordered by size, whatever their place in the list.

    Attributes:
        labels: Each value as compact canonical JSON, its name for Optuna.
        ordered: Whether all values are numbers.
    """

    values: tuple[Any, ...]
    labels: tuple[str, ...] = field(init=False)
    ordered: bool = field(init=False)
    _places: dict[str, int] = field(init=False, repr=False, compare=False)
    _ranks: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        labels = tuple(canonical_json(value) for value in self.values)
        ordered = all(_is_number(value) for value in self.values)
        ranks = [0] * len(labels)
        if ordered:
            for rank, place in enumerate(sorted(range(len(labels)), key=self.values.__getitem__)):
                ranks[place] = rank
        places = {label: place for place, label in enumerate(labels)}
        for name, it in (("labels", labels), ("ordered", ordered), ("_places", places), ("_ranks", tuple(ranks))):
            object.__setattr__(self, name, it)

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return 1 if self.ordered else self.size

    def at(self, index: int) -> Any:
        """The value at a place, 0 to ``size - 1``."""
        return self.values[index]

    def index(self, value: Any) -> int:
        """The place of a value; InputError if it is not in the list. 1 and 1.0 are the same value."""
        try:
            place = self._places.get(canonical_json(value))
        except (TypeError, ValueError):  # no value of JSON
            place = None
        if place is None and _is_number(value):
            equal = (i for i, other in enumerate(self.values) if _is_number(other) and other == value)
            place = next(equal, None)
        if place is None:
            hint = did_you_mean(value, [v for v in self.values if isinstance(v, str)]) if isinstance(value, str) else ""
            raise InputError(f"{shown(value)} is not one of {self}{hint}")
        return place

    def label(self, value: Any) -> str:
        """What Optuna stores for a value."""
        return self.labels[self.index(value)]

    def value(self, label: Any) -> Any:
        """The value of a label; InputError if no value has it."""
        if not isinstance(label, str) or label not in self._places:
            raise InputError(f"{shown(label)} is not the label of one of {self}")
        return self.values[self._places[label]]

    def encode(self, value: Any) -> list[float]:
        """Numbers: the rank, scaled to 0 to 1; else one number a value, 1 at its place."""
        index = self.index(value)
        if self.ordered:
            return [self._ranks[index] / max(1, self.size - 1)]
        return [float(i == index) for i in range(self.size)]

    def distribution(self) -> CategoricalDistribution:
        """As Optuna knows it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.labels)

    def __str__(self) -> str:
        text = ", ".join(shown(value) for value in self.values)
        return text if len(text) <= 200 else text[:197] + "..."


Domain = IntRange | Choice


def parse_domain(values: Any, where: str) -> Domain:
    """The domain that a space's text says for an open name.

    Args:
        values: A list of values, or ``{"from": a, "to": b, "step": 1}``.
        where: The path of this text, for errors.

    Raises:
        GenotypeError: If it is neither, is empty, or says a value twice.
    """
    if isinstance(values, Mapping):
        return _range(values, where)
    if not isinstance(values, (list, tuple)):
        raise GenotypeError(f'{shown(values)} is neither a list of values nor {{"from": a, "to": b}}', where)
    if not values:
        raise GenotypeError("an empty list: give it a value", where)
    seen: set[Any] = set()
    for place, value in enumerate(values):
        same = value if _is_number(value) else canonical_json(value)  # 1 and 1.0 are the same value, "1" is another
        if same in seen:
            raise GenotypeError(f"{shown(value)} stands twice in the list", f"{where}[{place}]")
        seen.add(same)
    return Choice(tuple(values))


def _range(values: Mapping[str, Any], where: str) -> IntRange:
    for key in values:
        if key not in ("from", "to", "step"):
            raise GenotypeError(
                f"no such field here{did_you_mean(key, ('from', 'to', 'step'))}; a range has from, to and step",
                f"{where}.{key}",
            )
    for key in ("from", "to"):
        if key not in values:
            raise GenotypeError(f"a range needs '{key}'", where)
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_BOUND:
            raise GenotypeError(f"{shown(value)} is not a whole number within 10^9", f"{where}.{key}")
    low, high, step = values["from"], values["to"], values.get("step", 1)
    if step < 1:
        raise GenotypeError(f"{step} is not 1 or more", f"{where}.step")
    if low > high:
        raise GenotypeError(f"from {low} is above to {high}", where)
    return IntRange(low, low + (high - low) // step * step, step)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
