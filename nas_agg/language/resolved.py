"""What a genotype is made of once its names are put in: units, aggregates and gathers whose numbers are expressions.

Equal parts written at the same place are one object, also in another genotype, so that `expansion.py` does equal work
once.
"""

from __future__ import annotations

import graphlib
import keyword
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nas_agg.common.errors import GenotypeError, truncate
from nas_agg.language.expressions import VARIABLES, Expression, ExpressionError, whole
from nas_agg.language.operators import Operator
from nas_agg.language.schema import Bounds, Word

ANY = Bounds(0, 0, "")  # a number of an aggregate's let: whole or not

#: Names that torch.nn.Module or the compiled network has for itself, so that no part of a network may go by them.
TAKEN = frozenset(
    [
        "T_destination",
        "add_module",
        "apply",
        "bfloat16",
        "buffers",
        "call_super_init",
        "children",
        "compile",
        "cpu",
        "cuda",
        "double",
        "dump_patches",
        "eval",
        "extra_repr",
        "float",
        "forward",
        "get_buffer",
        "get_extra_state",
        "get_parameter",
        "get_submodule",
        "half",
        "ipu",
        "load_state_dict",
        "modules",
        "mtia",
        "named_buffers",
        "named_children",
        "named_modules",
        "named_parameters",
        "parameters",
        "register_backward_hook",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_module",
        "register_parameter",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "requires_grad_",
        "set_extra_state",
        "set_submodule",
        "share_memory",
        "source",
        "start",
        "state_dict",
        "to",
        "to_empty",
        "train",
        "training",
        "type",
        "xpu",
        "zero_grad",
    ]
)

SOURCES = "k"  # the number of a gather's sources, which its `start` alone knows
_LOCAL = frozenset({"in", "c", "h"})  # known from the tensor at hand


class Number(NamedTuple):
    """A number, as an expression, with the place it was written at."""

    expression: Expression
    where: str
    bounds: Bounds

    def value(self, scope: Mapping[str, Any]) -> Any:
        """Works it out: an int, or a fraction where its field takes one.

        Raises:
            GenotypeError: If a name is not known here, or the value is none that the field takes.
        """
        try:
            value = self.expression.constant
            if value is None:
                value = self.expression.value(scope)
        except KeyError as error:
            name = error.args[0]
            raise GenotypeError(f"'{name}' ({VARIABLES.get(name, 'a number')}) is not known here", self.where) from None
        except ExpressionError as error:
            raise GenotypeError(str(error), self.where) from None
        bounds = self.bounds
        if bounds is ANY:
            return value
        if bounds.fraction:
            if not bounds.least <= value < bounds.most:
                within = f"goes from {bounds.least} to below {bounds.most}"
                raise GenotypeError(f"{bounds.what} {within}, not {float(value):g}", self.where)
            return value
        if value.__class__ is int and bounds.least <= value <= bounds.most:
            return value
        try:
            return whole(value, bounds.least, bounds.most, bounds.what, self.expression.text)
        except GenotypeError as error:
            raise GenotypeError(error.problem, self.where) from None


Schedule = Number | tuple[Number, ...]


@dataclass(frozen=True, eq=False, slots=True)
class WordUse:
    """A layer, a pattern or an operator with its fields.

    Attributes:
        size: How many values it is written with.
        work: How much is to be worked out where it stands.
    """

    where: str
    word: str
    kind: type[Word]
    fixed: tuple[tuple[str, Any], ...]
    numbers: tuple[tuple[str, Number], ...]
    size: int
    work: int

    def values(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Its fields, worked out."""
        found = dict(self.fixed)
        for field, number in self.numbers:
            found[field] = number.value(scope)
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Join:
    """The place where the shortcut joins."""

    where: str


@dataclass(frozen=True, eq=False, slots=True)
class Sequence:
    """A unit.

    Attributes:
        steps: Each with its label, which is unique in the unit.
        joins: Whether a join in it takes the shortcut of an aggregate around it.
        free: The names that it needs from around, but for in, c and h.
        parts: The steps in runs: those without such a join together, one with it alone.
    """

    where: str
    steps: tuple[tuple[str, Any], ...]
    joins: bool
    free: tuple[str, ...]
    size: int
    parts: tuple[Sequence, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Gather:
    """A gather with its defaults filled in; `start` is None where sources have no weights."""

    where: str
    pattern: WordUse
    operator: WordUse
    each: Sequence | None
    norm: str
    weight: bool
    start: Number | None
    match: Sequence | str | None
    raw: bool
    size: int

    @property
    def how(self) -> type[Operator]:
        return self.operator.kind  # type: ignore[return-value]


@dataclass(frozen=True, eq=False, slots=True)
class Aggregate:
    """An aggregate, `like` merged."""

    where: str
    units: tuple[Sequence, ...]
    each: bool  # one unit a node
    nodes: Number | None
    growth: Schedule | None
    cardinality: Schedule | None
    stride: Schedule | None
    strides_each: bool
    reads: Gather
    shortcut: Gather | None
    output: Gather | None
    let: tuple[tuple[str, Schedule], ...]
    joins: bool
    free: tuple[str, ...]
    needed: tuple[str, ...]
    size: int
    work: int


known: dict[tuple, Any] = {}


def made(kind: Callable[..., Any], *values: Any) -> Any:
    """One object for equal values."""
    key = (kind, *values)
    found = known.get(key)
    if found is None:
        if len(known) > 100_000:
            known.clear()
        found = known[key] = kind(*values)
    return found


def joins_in(step: Any) -> bool:
    return isinstance(step, Join) or getattr(step, "joins", False)


def join_place(unit: Sequence) -> str:
    """Where the join of a unit was written."""
    step: Any = unit
    while not isinstance(step, Join):
        steps = [inner for _, inner in step.steps] if isinstance(step, Sequence) else step.units
        step = next(inner for inner in steps if joins_in(inner))
    return step.where


def labelled(steps: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Labels that are unique: numbered where one comes more than once."""
    times = Counter(label for label, _ in steps)
    found, seen, taken = [], dict.fromkeys(times, 0), set()
    for label, step in steps:
        seen[label] += 1
        own = f"{label}{seen[label]}" if times[label] > 1 else label
        while own in taken or own in TAKEN or keyword.iskeyword(own):
            own += "_"
        taken.add(own)
        found.append((own, step))
    return tuple(found)


def sequence_of(where: str, steps: tuple[tuple[str, Any], ...], parts: tuple[Sequence, ...]) -> Sequence:
    free: set[str] = set()
    for _, step in steps:
        if isinstance(step, WordUse):
            free.update(name for _, number in step.numbers for name in number.expression.names)
        else:
            free.update(getattr(step, "free", ()))
    joins = any(joins_in(step) for _, step in steps)
    size = 1 + sum(getattr(step, "size", 1) for _, step in steps)
    return made(Sequence, where, steps, joins, tuple(sorted(free - _LOCAL)), size, parts)


def _names(value: Schedule | None) -> set[str]:
    if value is None:
        return set()
    numbers = value if type(value) is tuple else (value,)
    return {name for number in numbers for name in number.expression.names}  # type: ignore[union-attr]


def each_node(stride: Schedule | None, let: dict[str, Schedule]) -> bool:
    """Whether a stride is each node's: a list, or an expression that uses l, itself or through a name."""
    if stride is None or type(stride) is tuple:
        return stride is not None
    found, further = set(), _names(stride)
    while further:
        found |= further
        rows = [let[name] for name in further & let.keys()]
        if any(type(row) is tuple for row in rows):
            return True
        further = {name for row in rows for name in _names(row)} - found
    return "l" in found


def check_circles(aggregate: Aggregate, where: str) -> None:
    """Refuses numbers of an aggregate that need one another."""
    rows: dict[str, Schedule] = dict(aggregate.let)
    own = {n for n, value in (("w", aggregate.growth), ("g", aggregate.cardinality), ("s", aggregate.stride)) if value}
    known = rows.keys() | own
    needs: dict[str, list[str]] = {}
    # A schedule sees the outer w, g and s, but growth an own cardinality and the reverse.
    for name, schedule, seen in (
        ("w", aggregate.growth, "g"),
        ("g", aggregate.cardinality, "w"),
        ("s", aggregate.stride, ""),
    ):
        needs[name] = sorted((_names(schedule) & known) - own.difference(seen))
    for name, row in rows.items():
        needs[name] = sorted(_names(row) & known)
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        fields = {"w": "growth", "g": "cardinality", "s": "stride"}
        circle = [fields.get(name, name) for name in reversed(error.args[1])]
        raise GenotypeError(f"a circle: {truncate(' -> '.join(circle))}", where) from None


def _entries(value: Schedule | None) -> int:
    return len(value) if type(value) is tuple else int(value is not None)


def measured(aggregate: Aggregate) -> Aggregate:
    """An aggregate with its free names, its size, and the work of its numbers at one node."""
    gathers = [gather for gather in (aggregate.reads, aggregate.shortcut, aggregate.output) if gather]
    schedules = [aggregate.growth, aggregate.cardinality, aggregate.stride, *[row for _, row in aggregate.let]]
    inside: list[Any] = [*aggregate.units, *gathers]
    work = 1 + sum(gather.pattern.work + gather.operator.work for gather in gathers)
    work += sum(gather.start.expression.size for gather in gathers if gather.start)
    for value in schedules:
        numbers = value if type(value) is tuple else (value,) if value else ()
        work += max([number.expression.size for number in numbers], default=0)  # type: ignore[union-attr]
    free, needed = _free(aggregate)
    size = 1 + sum(part.size for part in inside) + sum(map(_entries, schedules))
    return replace(aggregate, free=free, needed=needed, size=size, work=work)


def _gather_names(gather: Gather | None) -> tuple[set[str], set[str]]:
    """The names that a gather needs at each node, and those its match needs."""
    if gather is None:
        return set(), set()
    own = {
        n for word in (gather.pattern, gather.operator) for _, number in word.numbers for n in number.expression.names
    }
    match = set(gather.match.free) if isinstance(gather.match, Sequence) else set()
    if gather.each:
        own |= set(gather.each.free)
    if gather.start:
        own |= set(gather.start.expression.names) - {SOURCES}
    return own, match - {"w", "s"}


def _free(aggregate: Aggregate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names an aggregate needs from around, and those its nodes need of the aggregate's own scope."""
    inside: set[str] = {name for unit in aggregate.units for name in unit.free}
    for gather in (aggregate.reads, aggregate.shortcut, aggregate.output):
        at_node, in_match = _gather_names(gather)
        inside |= at_node | in_match
    own = {name for name, _ in aggregate.let}
    schedules = {"w": aggregate.growth, "g": aggregate.cardinality, "s": aggregate.stride}
    outer = inside - own - {"l", "n"} - {name for name, value in schedules.items() if value is not None}
    for value in (*schedules.values(), *(row for _, row in aggregate.let)):
        outer |= _names(value) - own - {"l", "n"}
    counted = _names(aggregate.nodes)
    if counted & own:  # numbers of its own let, which in `nodes` see the outer l and n
        counted = counted.union(*[_names(row) for _, row in aggregate.let])
    outer |= counted - own
    return tuple(sorted(outer - _LOCAL)), tuple(sorted(inside - _LOCAL))
