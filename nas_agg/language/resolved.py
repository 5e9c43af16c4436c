"""The resolved genotype: units, aggregates and gathers whose names are substituted and whose numbers are expressions.

Equal parts written at the same place are interned, across genotypes, so that their expansion can be cached.
"""

from __future__ import annotations

import graphlib
import keyword
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nas_agg.common.errors import GenotypeError, truncate
from nas_agg.language.expressions import VARIABLES, Expression, ExpressionError, check_integer
from nas_agg.language.module_attributes import MODULE_ATTRIBUTES
from nas_agg.language.operators import Operator
from nas_agg.language.schema import Bounds, Word

UNBOUNDED = Bounds(0, 0, "the value")  # a number of an aggregate's `let`, which may be a fraction

NUM_SOURCES = "k"  # the number of a gather's sources, known only to its `start`
_TENSOR_NAMES = frozenset({"in", "c", "h"})  # known from the tensor that enters, not from the scope


class NumberField(NamedTuple):
    """A number, as an expression with the place where it was written."""

    expression: Expression
    where: str
    bounds: Bounds

    def value(self, scope: Mapping[str, Any]) -> Any:
        """Evaluate the expression to an int, or to a fraction if its field takes one.

        Raises:
            GenotypeError: A name is not defined here, or the value is out of bounds.
        """
        try:
            value = self.expression.constant
            if value is None:
                value = self.expression.value(scope)
        except KeyError as error:
            name = error.args[0]
            meaning = VARIABLES.get(name, "a number")
            raise GenotypeError(f"'{name}' ({meaning}) is not defined here", self.where) from None
        except ExpressionError as error:
            raise GenotypeError(str(error), self.where) from None
        bounds = self.bounds
        if bounds is UNBOUNDED:
            return value
        if bounds.fraction:
            if not bounds.least <= value < bounds.most:
                limits = f"at least {bounds.least} and below {bounds.most}"
                raise GenotypeError(f"{bounds.what} must be {limits}, not {float(value):g}", self.where)
            return value
        if value.__class__ is int and bounds.least <= value <= bounds.most:
            return value
        try:
            return check_integer(value, bounds.least, bounds.most, bounds.what, self.expression.text)
        except GenotypeError as error:
            raise GenotypeError(error.problem, self.where) from None


Schedule = NumberField | tuple[NumberField, ...]


@dataclass(frozen=True, eq=False, slots=True)
class ResolvedWord:
    """A layer, a pattern or an operator with its fields.

    Attributes:
        where: Path where it was written.
        word: The text or key that it was written with.
        kind: Its class.
        fixed: Fields that are not numbers, with their values.
        numbers: Fields that are numbers, with their expressions.
        size: Number of values that it is written with.
        work: Cost of evaluating its numbers, in nodes of expressions.
    """

    where: str
    word: str
    kind: type[Word]
    fixed: tuple[tuple[str, Any], ...]
    numbers: tuple[tuple[str, NumberField], ...]
    size: int
    work: int

    def values(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate its fields."""
        values = dict(self.fixed)
        for field, number in self.numbers:
            values[field] = number.value(scope)
        return values


@dataclass(frozen=True, eq=False, slots=True)
class Join:
    """The place where the shortcut joins."""

    where: str


@dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """A unit.

    Attributes:
        where: Path where it was written.
        steps: The steps with their labels, which are unique in the unit.
        takes_shortcut: Whether a join in it takes the shortcut of an enclosing aggregate.
        free_names: Names from the enclosing scope that it needs, except for in, c and h.
        size: Number of values that it is written with.
        parts: The steps in runs: consecutive steps without such a join, and the step with it on its own.
    """

    where: str
    steps: tuple[tuple[str, Any], ...]
    takes_shortcut: bool
    free_names: tuple[str, ...]
    size: int
    parts: tuple[Unit, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Gather:
    """A gather with its defaults filled in; ``start`` is None if sources have no weights."""

    where: str
    pattern: ResolvedWord
    operator: ResolvedWord
    each: Unit | None
    norm: str
    weight: bool
    start: NumberField | None
    match: Unit | str | None
    raw: bool
    size: int

    @property
    def operator_type(self) -> type[Operator]:
        """Class of the operator."""
        return self.operator.kind  # type: ignore[return-value]


@dataclass(frozen=True, eq=False, slots=True)
class Aggregate:
    """An aggregate, with the fields of its ``like`` merged in.

    Attributes:
        where: Path where it was written.
        units: One unit for all nodes, or one per node.
        unit_per_node: Whether there is one unit per node.
        nodes: Number of nodes, or None for the default.
        growth: Schedule of widths.
        cardinality: Schedule of groups.
        stride: Schedule of strides.
        stride_per_node: Whether the stride applies to each node, and not to the first alone.
        reads: What each node reads.
        shortcut: What joins at each node's join.
        output: What leaves; None if it is what a further node would read.
        let: Numbers bound in the aggregate.
        takes_shortcut: Whether its units have joins but it has no shortcut, so that it takes an enclosing one.
        free_names: Names from the enclosing scope that it needs, except for in, c and h.
        node_names: Names of its own scope that its nodes need.
        size: Number of values that it is written with.
        work: Cost of evaluating its numbers at one node, in nodes of expressions.
    """

    where: str
    units: tuple[Unit, ...]
    unit_per_node: bool
    nodes: NumberField | None
    growth: Schedule | None
    cardinality: Schedule | None
    stride: Schedule | None
    stride_per_node: bool
    reads: Gather
    shortcut: Gather | None
    output: Gather | None
    let: tuple[tuple[str, Schedule], ...]
    takes_shortcut: bool
    free_names: tuple[str, ...]
    node_names: tuple[str, ...]
    size: int
    work: int


interned: dict[tuple, Any] = {}


def intern(kind: Callable[..., Any], *values: Any) -> Any:
    """Construct an object, or return the existing one with equal values."""
    key = (kind, *values)
    existing = interned.get(key)
    if existing is None:
        if len(interned) > 100_000:
            interned.clear()
        existing = interned[key] = kind(*values)
    return existing


def contains_open_join(step: Any) -> bool:
    """Return whether a step is, or contains, a join of an enclosing aggregate's shortcut."""
    return isinstance(step, Join) or getattr(step, "takes_shortcut", False)


def join_location(unit: Unit) -> str:
    """Return where the join of a unit was written."""
    step: Any = unit
    while not isinstance(step, Join):
        steps = [inner for _, inner in step.steps] if isinstance(step, Unit) else step.units
        step = next(inner for inner in steps if contains_open_join(inner))
    return step.where


def label_steps(steps: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Make labels unique: a label that occurs more than once is numbered."""
    counts = Counter(label for label, _ in steps)
    label_steps, numbers, taken = [], dict.fromkeys(counts, 0), set()
    for label, step in steps:
        numbers[label] += 1
        unique = f"{label}{numbers[label]}" if counts[label] > 1 else label
        while unique in taken or unique in MODULE_ATTRIBUTES or keyword.iskeyword(unique):
            unique += "_"
        taken.add(unique)
        label_steps.append((unique, step))
    return tuple(label_steps)


def make_unit(where: str, steps: tuple[tuple[str, Any], ...], parts: tuple[Unit, ...]) -> Unit:
    """Construct a unit from labelled steps.

    Args:
        where: Path where it was written.
        steps: Its steps with unique labels.
        parts: The same steps in runs, if one of them contains an open join.
    """
    free: set[str] = set()
    for _, step in steps:
        if isinstance(step, ResolvedWord):
            free.update(name for _, number in step.numbers for name in number.expression.names)
        else:
            free.update(getattr(step, "free_names", ()))
    takes_shortcut = any(contains_open_join(step) for _, step in steps)
    size = 1 + sum(getattr(step, "size", 1) for _, step in steps)
    return intern(Unit, where, steps, takes_shortcut, tuple(sorted(free - _TENSOR_NAMES)), size, parts)


def _names(schedule: Schedule | None) -> set[str]:
    if schedule is None:
        return set()
    numbers = schedule if type(schedule) is tuple else (schedule,)
    return {name for number in numbers for name in number.expression.names}  # type: ignore[union-attr]


def is_per_node(stride: Schedule | None, let: dict[str, Schedule]) -> bool:
    """Return whether a stride applies to each node: a list, or an expression that depends on l, also by a name."""
    if stride is None or type(stride) is tuple:
        return stride is not None
    visited, pending = set(), _names(stride)
    while pending:
        visited |= pending
        schedules = [let[name] for name in pending & let.keys()]
        if any(type(schedule) is tuple for schedule in schedules):
            return True
        pending = {name for schedule in schedules for name in _names(schedule)} - visited
    return "l" in visited


def check_cycles(aggregate: Aggregate, where: str) -> None:
    """Check that the numbers of an aggregate do not depend on each other in a cycle.

    Raises:
        GenotypeError: They do.
    """
    let: dict[str, Schedule] = dict(aggregate.let)
    own = {n for n, value in (("w", aggregate.growth), ("g", aggregate.cardinality), ("s", aggregate.stride)) if value}
    defined = let.keys() | own
    dependencies: dict[str, list[str]] = {}
    # A schedule sees the outer w, g and s, except that growth sees its own cardinality and vice versa.
    for name, schedule, visible in (
        ("w", aggregate.growth, "g"),
        ("g", aggregate.cardinality, "w"),
        ("s", aggregate.stride, ""),
    ):
        dependencies[name] = sorted((_names(schedule) & defined) - own.difference(visible))
    for name, schedule in let.items():
        dependencies[name] = sorted(_names(schedule) & defined)
    try:
        graphlib.TopologicalSorter(dependencies).prepare()
    except graphlib.CycleError as error:
        fields = {"w": "growth", "g": "cardinality", "s": "stride"}
        cycle = [fields.get(name, name) for name in reversed(error.args[1])]
        raise GenotypeError(f"circular definition: {truncate(' -> '.join(cycle))}", where) from None


def _count_entries(schedule: Schedule | None) -> int:
    return len(schedule) if type(schedule) is tuple else int(schedule is not None)


def with_derived_fields(aggregate: Aggregate) -> Aggregate:
    """Fill in an aggregate's free names, its size, and the work of evaluating its numbers at one node."""
    gathers = [gather for gather in (aggregate.reads, aggregate.shortcut, aggregate.output) if gather]
    schedules = [aggregate.growth, aggregate.cardinality, aggregate.stride, *[value for _, value in aggregate.let]]
    parts: list[Any] = [*aggregate.units, *gathers]
    work = 1 + sum(gather.pattern.work + gather.operator.work for gather in gathers)
    work += sum(gather.start.expression.size for gather in gathers if gather.start)
    for schedule in schedules:
        numbers = schedule if type(schedule) is tuple else (schedule,) if schedule else ()
        work += max([number.expression.size for number in numbers], default=0)  # type: ignore[union-attr]
    free_names, node_names = _free_names(aggregate)
    size = 1 + sum(part.size for part in parts) + sum(map(_count_entries, schedules))
    return replace(aggregate, free_names=free_names, node_names=node_names, size=size, work=work)


def _gather_names(gather: Gather | None) -> tuple[set[str], set[str]]:
    """Return the names that a gather needs at each node, and those that its match needs."""
    if gather is None:
        return set(), set()
    at_node = {
        name
        for word in (gather.pattern, gather.operator)
        for _, number in word.numbers
        for name in number.expression.names
    }
    in_match = set(gather.match.free_names) if isinstance(gather.match, Unit) else set()
    if gather.each:
        at_node |= set(gather.each.free_names)
    if gather.start:
        at_node |= set(gather.start.expression.names) - {NUM_SOURCES}
    return at_node, in_match - {"w", "s"}


def _free_names(aggregate: Aggregate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that an aggregate needs from outside, and those that its nodes need of its own scope."""
    inside: set[str] = {name for unit in aggregate.units for name in unit.free_names}
    for gather in (aggregate.reads, aggregate.shortcut, aggregate.output):
        at_node, in_match = _gather_names(gather)
        inside |= at_node | in_match
    own = {name for name, _ in aggregate.let}
    schedules = {"w": aggregate.growth, "g": aggregate.cardinality, "s": aggregate.stride}
    outer = inside - own - {"l", "n"} - {name for name, value in schedules.items() if value is not None}
    for value in (*schedules.values(), *(number for _, number in aggregate.let)):
        outer |= _names(value) - own - {"l", "n"}
    in_nodes = _names(aggregate.nodes)
    if in_nodes & own:  # numbers of its own `let`, which see the outer l and n in `nodes`
        in_nodes = in_nodes.union(*[_names(number) for _, number in aggregate.let])
    outer |= in_nodes - own
    return tuple(sorted(outer - _TENSOR_NAMES)), tuple(sorted(inside - _TENSOR_NAMES))
