"""Resolution of the points of a search space: each part of the text is resolved once for the values it depends on.

Search variables whose values are all numbers remain names, whose values are part of the scope in which the network is
expanded; so points that differ in them alone have the same resolved network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from nas_agg.common.errors import GenotypeError
from nas_agg.language.expressions import parse_expression
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import (
    Aggregate,
    Gather,
    NumberField,
    ResolvedWord,
    Unit,
    contains_open_join,
)
from nas_agg.language.resolver import Resolver

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass
class _FilledTemplate:
    """What a resolver needs of a genotype; ``let`` changes from point to point."""

    let: dict[str, Any]
    net: tuple
    open: Mapping[str, Any] | None = None


class _DependentCache(MutableMapping[tuple, Any]):
    """A cache whose entries are kept for each combination of the values that they depend on.

    Args:
        dependencies: For each name the search variables that its text depends on, by number.
    """

    def __init__(self, dependencies: Mapping[str, frozenset[int]]):
        self.point: list[int] = []
        self._dependencies = dependencies
        self._variables: dict[tuple, tuple[int, ...]] = {}
        self._entries: dict[tuple, Any] = {}

    def _full_key(self, key: tuple) -> tuple:
        variables = self._variables.get(key)
        if variables is None:
            text = key[2].partition(".")[2] if key[0] == "validate" else key[1]
            names = _identifiers(text) if isinstance(text, str) else ()
            found = frozenset[int]().union(*[self._dependencies.get(name, frozenset()) for name in names])
            variables = self._variables[key] = tuple(sorted(found))
        point = self.point
        return (key, *[point[j] for j in variables])

    def __getitem__(self, key: tuple) -> Any:
        return self._entries[self._full_key(key)]

    def __setitem__(self, key: tuple, value: Any) -> None:
        if len(self._entries) > MAX_ENTRIES:
            self._entries.clear()
        self._entries[self._full_key(key)] = value

    def __contains__(self, key: object) -> bool:
        return self._full_key(key) in self._entries  # type: ignore[arg-type]

    def __delitem__(self, key: tuple) -> None:
        del self._entries[self._full_key(key)]

    def __iter__(self) -> Iterator[tuple]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


MAX_ENTRIES = 200_000


class TemplateResolver(Resolver):
    """Resolves the points of a search space.

    Args:
        template: The genotype with its search variables.
        values: The values of each other search variable, in their order.
        numeric: The search variables whose values are numbers, except for `names_bound_inside` of the template; they
            remain names.
    """

    def __init__(self, template: Genotype, values: Mapping[str, Sequence[Any]], numeric: Sequence[str]):
        self.variables = tuple(values)
        self._values = values
        self._current = [-1] * len(values)
        self._symbolic = frozenset(numeric)
        dependencies = _dependencies(template.let, values)
        self._filled = _FilledTemplate(dict(template.let), template.net)
        super().__init__(self._filled)  # type: ignore[arg-type]
        self.cache = self.names.cache = _DependentCache(dependencies)  # type: ignore[assignment]
        self._cached: _DependentCache = self.cache  # type: ignore[assignment]
        self._step_variables = [
            tuple(sorted(frozenset[int]().union(*[dependencies.get(name, frozenset()) for name in _identifiers(text)])))
            for text in template.to_dict()["net"]
        ]
        self._steps: dict[tuple, tuple[str, Any]] = {}
        self._nets: dict[tuple, Unit] = {}
        self._constants: dict[Any, tuple[NumberField, ...]] = {}
        self._checked: dict[tuple, str] = {}

    def at(self, point: Sequence[int], numbers: Mapping[str, Any]) -> Unit:
        """Resolve the network of a point.

        Args:
            point: The index of the value of each search variable that is not numeric.
            numbers: The values of the numeric ones.

        Raises:
            GenotypeError: It is not valid.
        """
        self._fill(point)
        steps = []
        for i, (step, variables) in enumerate(zip(self.genotype.net, self._step_variables, strict=True)):
            key = (i, *[point[j] for j in variables])
            found = self._steps.get(key)
            if found is None:
                self.names.reset()
                found = self.step(step, f"net[{i}]", self._symbolic)
                if contains_open_join(found[1]):
                    raise GenotypeError("a 'join' without a shortcut", f"net[{i}]")
                self._steps[key] = found
            steps.append(found)
        net_key = tuple(steps)
        net = self._nets.get(net_key)
        if net is None:
            net = self._nets[net_key] = self._build_unit(steps, "net")
        self._check_constants(net, numbers)
        return net

    def _fill(self, point: Sequence[int]) -> None:
        for j, index in enumerate(point):
            if index != self._current[j]:
                name = self.variables[j]
                self._filled.let[name] = self._values[name][index]
                self._current[j] = index
        self._cached.point = self._current

    def _check_constants(self, net: Unit, numbers: Mapping[str, Any]) -> None:
        """Check numbers that are constants of the point, wherever they are, as the resolution of a genotype does."""
        fields = self._constants.get(net)
        if fields is None:
            fields = self._constants[net] = tuple(dict.fromkeys(_constant_fields(net, self._symbolic, {})))
        for field in fields:
            key = (field, *[numbers[name] for name in field.expression.names])
            if key not in self._checked:
                try:
                    field.value(numbers)
                    self._checked[key] = ""
                except GenotypeError as error:
                    self._checked[key] = error.problem
            if self._checked[key]:
                raise GenotypeError(self._checked[key], field.where)


def _identifiers(value: Any) -> set[str]:
    """The names in all texts of a JSON value."""
    if isinstance(value, str):
        return set(_IDENTIFIER.findall(value))
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return set()
    return set[str]().union(*map(_identifiers, value))


def names_bound_inside(value: Any) -> set[str]:
    """The names that aggregates bind by their own ``let``."""
    if isinstance(value, Mapping):
        own = value.get("let")
        bound = set(own) if isinstance(own, Mapping) else set()
        return bound.union(*map(names_bound_inside, value.values()))
    if isinstance(value, (list, tuple)):
        return set[str]().union(*map(names_bound_inside, value))
    return set()


def _dependencies(let: Mapping[str, Any], values: Mapping[str, Sequence[Any]]) -> dict[str, frozenset[int]]:
    """For each name the search variables that its text depends on, by number."""
    texts = {
        **{name: _identifiers(text) for name, text in let.items()},
        **{n: _identifiers(v) for n, v in values.items()},
    }
    number = {name: j for j, name in enumerate(values)}
    dependencies = {}
    for name in texts:
        reached, pending = set[str](), {name}
        while pending:
            reached |= pending
            pending = set[str]().union(*[texts[other] for other in pending]) & texts.keys() - reached
        dependencies[name] = frozenset(number[other] for other in reached if other in number)
    return dependencies


def _constant_fields(part: Any, names: frozenset[str], visited: dict[int, Any]) -> Iterator[NumberField]:
    """The numbers in a step that depend on the given names alone."""
    if id(part) in visited:
        return
    visited[id(part)] = part
    if isinstance(part, NumberField):
        if part.expression.names and names.issuperset(part.expression.names):
            yield part
        return
    inner: list[Any] = []
    if isinstance(part, ResolvedWord):
        inner = [number for _, number in part.numbers]
    elif isinstance(part, Unit):
        inner = [step for _, step in part.steps]
    elif isinstance(part, Gather):
        inner = [part.pattern, part.operator, part.each, part.start, part.match]
    elif isinstance(part, Aggregate):
        schedules = [part.growth, part.cardinality, part.stride, *[value for _, value in part.let]]
        inner = [*part.units, part.nodes, part.reads, part.shortcut, part.output, *schedules]
    elif isinstance(part, tuple):
        inner = list(part)
    for other in inner:
        yield from _constant_fields(other, names, visited)


class _HashedFraction(Fraction):
    """A fraction that computes its hash once."""

    __slots__ = ("_hash",)

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash: int = super().__hash__()
            return self._hash


def exact_number(value: float) -> Any:
    """A number of a space file as expressions use it: an int or a fraction."""
    number = parse_expression(value).constant
    return _HashedFraction(number) if isinstance(number, Fraction) else number
