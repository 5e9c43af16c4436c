"""Puts names in: a genotype's text becomes units and aggregates whose numbers are checked expressions.

Types, words, joins and circles are found here, without expanding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, get_args

from nas_agg.common.errors import GenotypeError, GenotypeSyntaxError, did_you_mean, truncate
from nas_agg.graph.primitives import MAX_CHANNELS, MAX_SIDE
from nas_agg.language import genotype as text
from nas_agg.language.expressions import VARIABLES, Expression, ExpressionError, parse, parsed
from nas_agg.language.genotype import ADAPTERS, JOIN, MAX_NESTING, Genotype, shown, typed
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS, SOURCE_NORMS, START, Operator
from nas_agg.language.patterns import MAX_NODES, PATTERNS
from nas_agg.language.resolved import (
    ANY,
    SOURCES,
    Aggregate,
    Gather,
    Join,
    Number,
    Schedule,
    Sequence,
    WordUse,
    check_circles,
    each_node,
    join_place,
    joins_in,
    known,
    labelled,
    made,
    measured,
    sequence_of,
)
from nas_agg.language.schema import FLAG, Bounds, Choice, Word

MAX_VALUES = 50_000
MAX_TERMS = 100_000  # nodes of all expressions that are not equal

WIDTH = Bounds(1, MAX_CHANNELS, "a width")
GROUPS = Bounds(1, MAX_CHANNELS, "a cardinality")
STRIDE = Bounds(1, MAX_SIDE, "a stride")
NODES = Bounds(0, MAX_NODES, "a number of nodes")

#: A field of an aggregate: its value, its place, and the names of let whose text it is.
Fields = dict[str, tuple[Any, str, tuple[str, ...]]]
#: A number of an aggregate's let with its place.
Rows = dict[str, tuple[Any, str]]


@lru_cache(maxsize=4096)
def _named(expression: Expression, names: tuple[tuple[str, Expression], ...]) -> Expression:
    return expression.with_names(dict(names))


@lru_cache
def _fields(kind: type[Word]) -> dict[str, tuple[str, Any]]:
    """Field as written -> (attribute, what it takes: Bounds, Choice, FLAG or None)."""
    found = {}
    for name, field in kind.model_fields.items():
        marks = [
            *field.metadata,
            *(m for part in get_args(field.annotation) for m in getattr(part, "__metadata__", ())),
        ]
        found[field.alias or name] = (
            name,
            next((m for m in marks if isinstance(m, (Bounds, Choice)) or m == FLAG), None),
        )
    return found


class Resolver:
    """Puts the names of one genotype in.

    Args:
        genotype: A genotype.
    """

    def __init__(self, genotype: Genotype):
        self.genotype = genotype
        self.active: list[str] = []
        self.depth = 0
        self.values = 0
        self.terms = 0
        self.done: dict[tuple, Any] = {}

    def network(self) -> Sequence:
        """The net, with all names put in.

        Raises:
            GenotypeError: At the first fault that can be found without expanding.
        """
        steps = []
        for i, step in enumerate(self.genotype.net):
            where = f"net[{i}]"
            try:
                steps.append(self.step(step, where, frozenset()))
            except GenotypeError as error:
                raise error if error.where.startswith(where) else error.within(where) from None
        net = self.assembled(steps, "net")
        if net.joins:
            raise GenotypeError("a join that no shortcut reaches", join_place(net))
        return net

    # ------------------------------------------------------------------ names

    @contextmanager
    def named(self, name: str, where: str) -> Iterator[tuple[Any, str]]:
        """The text that a name stands for, and the place it was written at."""
        if name not in self.genotype.let:
            if name in (self.genotype.open or ()):
                raise GenotypeError(f"'{name}' is an open name: name a point of the space, or give it a value", where)
            if any(name in kind.bare for words in (LAYERS, PATTERNS, OPERATORS) for kind in words.values()):
                raise GenotypeError(f"the word '{name}' does not belong here", where)
            known = [*LAYERS, *PATTERNS, *OPERATORS, JOIN, *self.genotype.let]
            hint = did_you_mean(name, known)
            raise GenotypeSyntaxError(
                f"'{truncate(name)}' is neither a word of the language nor a name of let{hint}", where
            )
        self.check_circle(name)
        with self.inside((name,)), self.deeper(where):
            yield self.genotype.let[name], f"let.{name}"

    def check_circle(self, name: str) -> None:
        if name in self.active:
            circle = [*self.active[self.active.index(name) :], name]
            raise GenotypeError(f"a circle of names: {truncate(' -> '.join(circle))}", f"let.{name}")

    @contextmanager
    def inside(self, names: tuple[str, ...]) -> Iterator[None]:
        """Text of these names is put in meanwhile."""
        self.active.extend(names)
        try:
            yield
        finally:
            del self.active[len(self.active) - len(names) :]

    def typed(self, adapter: str, meaning: Any, place: str) -> Any:
        """The text of a name as a type of the language: looked at once."""
        key = ("typed", adapter, place)
        if key not in self.done:
            self.done[key] = typed(ADAPTERS[adapter], meaning, place)
        return self.done[key]

    @contextmanager
    def deeper(self, where: str) -> Iterator[None]:
        self.depth += 1
        if self.depth > 2 * MAX_NESTING:  # a name and what it stands for are a level each
            raise GenotypeError(f"nested more than {MAX_NESTING} levels deep once names are put in", where)
        try:
            yield
        finally:
            self.depth -= 1

    def count(self, values: int, where: str) -> None:
        """Counts values that are put in."""
        self.values += values
        _check_size(self.values, where)

    # ------------------------------------------------------------------ numbers

    def number(self, value: Any, where: str, bounds: Bounds, bound: frozenset[str]) -> Number:
        """A number field. A name in it is looked up in scope, the genotype's let last."""
        if isinstance(value, str) and value in self.genotype.let and value not in bound:
            with self.named(value, where) as (meaning, place):
                if not isinstance(meaning, (int, float, str)) or isinstance(meaning, bool):
                    raise GenotypeError(
                        f"{bounds.what or 'a number'} is wanted, and {truncate(place)} is {shown(meaning)}", where
                    )
                return self.number(meaning, place, bounds, bound)
        number = Number(self.expression(value, where, bound), where, bounds)
        if number.expression.constant is not None:
            number.value({})  # a constant out of bounds is found at once
        return number

    def expression(self, value: Any, where: str, bound: frozenset[str]) -> Expression:
        key = ("expression", value, bound)
        if key not in self.done:
            found = self.done[key] = self.put_in(value, where, bound)
            self.terms += found.size
            if self.terms > MAX_TERMS:
                raise GenotypeError("the expressions of this genotype are too many to work out", where)
        return self.done[key]

    def put_in(self, value: Any, where: str, bound: frozenset[str]) -> Expression:
        try:
            found = parse(value)
            names = []
            for name in found.names:
                if name in VARIABLES or name in bound:
                    continue
                with self.named(name, where) as (meaning, place):
                    if not isinstance(meaning, (int, float, str)) or isinstance(meaning, bool):
                        raise GenotypeError(
                            f"'{name}' in an expression must be a number, and is {shown(meaning)}", where
                        )
                    names.append((name, self.expression(meaning, place, bound)))
            return _named(found, tuple(names)) if names else found
        except ExpressionError as error:
            raise GenotypeError(str(error), where) from None

    def schedule(self, value: Any, where: str, bounds: Bounds, bound: frozenset[str]) -> Schedule:
        """A number, an expression, or a list with one entry a node."""
        if isinstance(value, str) and value not in bound and isinstance(self.genotype.let.get(value), tuple):
            with self.named(value, where) as (meaning, place):
                return self.schedule(meaning, place, bounds, bound)
        if isinstance(value, tuple):
            self.count(len(value), where)
            return tuple(self.number(item, f"{where}[{i}]", bounds, bound) for i, item in enumerate(value))
        return self.number(value, where, bounds, bound)

    # ------------------------------------------------------------------ words

    def word(
        self, value: Any, where: str, words: Mapping[str, type[Word]], adapter: str, bound: frozenset[str]
    ) -> WordUse:
        """A layer, a pattern or an operator: a bare word, an object, or a name of one."""
        if isinstance(value, str):
            kind = words.get(value)
            if kind and value in kind.bare:
                return self.fielded(kind.model_construct(), kind, value, where, bound)
            key = (adapter, value, bound)
            if key not in self.done:
                with self.named(value, where) as (meaning, place):
                    self.done[key] = self.word(self.typed(adapter, meaning, place), place, words, adapter, bound)
            return self.done[key]
        if not isinstance(value, Word):
            raise GenotypeError(f"{shown(value)} is not a {adapter}", where)
        return self.fielded(value, type(value), type(value).key or "", where, bound)

    def fielded(self, value: Word, kind: type[Word], word: str, where: str, bound: frozenset[str]) -> WordUse:
        fixed: list[tuple[str, Any]] = []
        numbers: list[tuple[str, Number]] = []
        for field, (attribute, mark) in _fields(kind).items():
            given, place = getattr(value, attribute), f"{where}.{field}"
            if isinstance(mark, Bounds) and given is not None:
                number = self.number(given, place, mark, bound)
                constant = number.expression.constant
                if constant is None:
                    numbers.append((field, number))
                else:
                    fixed.append((field, constant))
            elif isinstance(mark, Choice):
                fixed.append((field, self.chosen(given, place, mark)))
            elif mark == FLAG:
                fixed.append((field, self.flag(given, place)))
            else:
                fixed.append((field, given))
        size = 1 + sum(len(row) + 1 for field, rows in fixed if field == "edges" for row in rows)
        work = 1 + sum(number.expression.size for _, number in numbers)
        return made(WordUse, where, word, kind, tuple(fixed), tuple(numbers), size, work)

    def chosen(self, value: str, where: str, choice: Choice) -> str:
        if value in choice.words:
            return value
        if value in self.genotype.let or value in (self.genotype.open or ()):
            with self.named(value, where) as (meaning, place):
                if isinstance(meaning, str):
                    return self.chosen(meaning, place, choice)
                raise GenotypeError(f"one of {', '.join(choice.words)} is wanted, not {shown(meaning)}", place)
        hint = did_you_mean(value, choice.words)
        raise GenotypeError(f"'{truncate(value)}' is not one of {', '.join(choice.words)}{hint}", where)

    def flag(self, value: Any, where: str) -> bool:
        if isinstance(value, bool):
            return value
        with self.named(value, where) as (meaning, place):
            if not isinstance(meaning, (bool, str)):
                raise GenotypeError(f"true or false is wanted, not {shown(meaning)}", place)
            return self.flag(meaning, place)

    # ------------------------------------------------------------------ units

    def step(self, value: Any, where: str, bound: frozenset[str], name: str = "") -> tuple[str, Any]:
        """A step with the label it goes by: a layer's word, or the name of a unit or an aggregate, else its role."""
        if isinstance(value, str):
            if value == JOIN:
                return JOIN, made(Join, where)
            kind = LAYERS.get(value)
            if kind and value in kind.bare:
                return value, self.word(value, where, LAYERS, "layer", bound)
            key = ("step", value, bound)
            if key not in self.done:
                with self.named(value, where) as (meaning, place):
                    self.done[key] = self.step(self.typed("step", meaning, place), place, bound, value)
            return self.done[key]
        if isinstance(value, tuple):
            return name or "unit", self.sequence(value, where, bound)
        if isinstance(value, text.Aggregate):
            return self.aggregate(value, where, bound, name)
        return type(value).key or "", self.word(value, where, LAYERS, "layer", bound)

    def unit(self, value: Any, where: str, bound: frozenset[str]) -> Sequence:
        """A unit field: a list, or a name of one."""
        if not isinstance(value, str):
            return self.sequence(value, where, bound)
        key = ("unit", value, bound)
        if key not in self.done:
            with self.named(value, where) as (meaning, place):
                if isinstance(meaning, str):
                    self.done[key] = self.unit(meaning, place, bound)
                else:
                    self.done[key] = self.sequence(self.typed("unit", meaning, place), place, bound)
        return self.done[key]

    def sequence(self, steps: tuple, where: str, bound: frozenset[str]) -> Sequence:
        self.count(len(steps), where)
        with self.deeper(where):
            return self.assembled([self.step(step, f"{where}[{i}]", bound) for i, step in enumerate(steps)], where)

    def assembled(self, steps: list[tuple[str, Any]], where: str) -> Sequence:
        _check_size(1 + sum(getattr(step, "size", 1) for _, step in steps), where)
        joins = [step for _, step in steps if joins_in(step)]
        if len(joins) > 1:
            raise GenotypeError("two joins in a unit; one shortcut joins once", joins[1].where)
        labels = labelled(steps)
        if not joins:
            return sequence_of(where, labels, ())
        at = next(i for i, (_, step) in enumerate(labels) if joins_in(step))
        parts = [sequence_of(where, part, ()) for part in (labels[:at], labels[at : at + 1], labels[at + 1 :]) if part]
        return sequence_of(where, labels, tuple(parts))

    # ------------------------------------------------------------------ aggregates

    def aggregate(self, value: text.Aggregate, where: str, bound: frozenset[str], name: str) -> tuple[str, Aggregate]:
        with self.deeper(where):
            fields, let = self.merged(value, where)
            inner = bound | frozenset(let)
            inner = self.done.setdefault(("bound", inner), inner)  # one object, since equal ones take time to compare
            return name or value.like or "aggregate", self.built(fields, let, where, inner)

    def merged(self, value: text.Aggregate, where: str) -> tuple[Fields, Rows]:
        """An aggregate's fields and its let, each with its place, over those of the one it is like."""
        fields, let = self.base(value.like, f"{where}.like") if value.like is not None else ({}, {})
        own = [f for f in value.model_fields_set if f not in ("like", "let")]
        if "unit" in own and "units" in own:
            raise GenotypeError("an aggregate has 'unit' or 'units', not both", f"{where}.units")
        for field in own:
            fields[field] = (getattr(value, field), f"{where}.{field}", ())
            if field in ("unit", "units"):
                fields.pop("units" if field == "unit" else "unit", None)
        for name, row in (value.let or {}).items():
            text.check_name(name, f"{where}.let.{name}")
            let[name] = (row, f"{where}.let.{name}")
        return fields, let

    def base(self, name: str, where: str) -> tuple[Fields, Rows]:
        """The fields of an aggregate of let; text that a name stands for may not use that name."""
        self.check_circle(name)
        key = ("like", name)
        if key not in self.done:
            with self.named(name, where) as (meaning, place):
                fields, let = self.merged(self.typed("aggregate", self.aggregate_text(meaning, place), place), place)
            self.done[key] = {f: (v, p, (name, *names)) for f, (v, p, names) in fields.items()}, let
        fields, let = self.done[key]
        return dict(fields), dict(let)

    def aggregate_text(self, meaning: Any, place: str) -> Any:
        """The text of an aggregate, through a name of a name."""
        if isinstance(meaning, str):
            with self.named(meaning, place) as (further, there):
                return self.aggregate_text(further, there)
        if not isinstance(meaning, Mapping):
            raise GenotypeError(f"'like' takes the name of an aggregate, and this is {shown(meaning)}", place)
        return meaning

    def built(self, fields: Fields, let_text: Rows, where: str, bound: frozenset[str]) -> Aggregate:
        def field(name: str) -> tuple[Any, str]:
            return fields.get(name, (None, f"{where}.{name}"))[:2]

        def schedule(name: str, bounds: Bounds) -> Schedule | None:
            value, place = field(name)
            return None if value is None else self.schedule(value, place, bounds, bound)

        def gather(name: str) -> Gather | None:
            with self.inside(fields[name][2] if name in fields else ()):
                return self.gather(*field(name), bound)

        self.count(1 + len(let_text), where)
        let = tuple((name, self.schedule(value, place, ANY, bound)) for name, (value, place) in let_text.items())
        units, each = self.units_of(fields, where, bound)
        nodes, place = field("nodes")
        strides = schedule("stride", STRIDE)
        reads = gather("reads") or self.gather(text.Gather(), f"{where}.reads", bound)
        assert reads is not None
        shortcut, output = gather("shortcut"), gather("output")
        if output is None and "input" in reads.pattern.kind.bare:
            raise GenotypeError("nodes that read the input alone need an 'output'", f"{where}.output")
        joins = any(unit.joins for unit in units)
        if shortcut and not joins:
            raise GenotypeError('a shortcut that no join takes: write "join" in the unit', shortcut.where)
        aggregate = Aggregate(
            where, units, each, None if nodes is None else self.number(nodes, place, NODES, bound),
            schedule("growth", WIDTH), schedule("cardinality", GROUPS), strides, each_node(strides, dict(let)),
            reads, shortcut, output, let, joins and shortcut is None, (), (), 0, 0,
        )  # fmt: skip
        check_circles(aggregate, where)
        aggregate = measured(aggregate)
        _check_size(aggregate.size, where)
        return made(Aggregate, *(getattr(aggregate, name) for name in aggregate.__slots__))

    def units_of(self, fields: Fields, where: str, bound: frozenset[str]) -> tuple[tuple[Sequence, ...], bool]:
        value, place, names = fields.get("units", (None, where, ()))
        if value is not None:
            with self.inside(names):
                return self.units_listed(value, place, bound), True
        value, place, names = fields.get("unit", (None, where, ()))
        if value is None:
            raise GenotypeError("an aggregate needs a 'unit' or 'units'", where)
        with self.inside(names):
            return (self.unit(value, place, bound),), False

    def units_listed(self, value: Any, place: str, bound: frozenset[str]) -> tuple[Sequence, ...]:
        if isinstance(value, str):
            with self.named(value, place) as (meaning, there):
                further = meaning if isinstance(meaning, str) else self.typed("units", meaning, there)
                return self.units_listed(further, there, bound)
        if not value:
            raise GenotypeError("at least one unit is wanted", place)
        self.count(len(value), place)
        return tuple([self.unit(unit, f"{place}[{i}]", bound) for i, unit in enumerate(value)])

    def gather(self, value: Any, where: str, bound: frozenset[str]) -> Gather | None:
        if value is None:
            return None
        if isinstance(value, str):
            key = ("gather", value, bound)
            if key not in self.done:
                with self.named(value, where) as (meaning, place):
                    further = meaning if isinstance(meaning, str) else self.typed("gather", meaning, place)
                    self.done[key] = self.gather(further, place, bound)
            return self.done[key]
        pattern = self.word(value.pattern, f"{where}.pattern", PATTERNS, "pattern", bound)
        operator = self.word(value.operator, f"{where}.operator", OPERATORS, "operator", bound)
        kind: type[Operator] = operator.kind  # type: ignore[assignment]
        norm = kind.norm if value.norm is None else self.chosen(value.norm, f"{where}.norm", _NORM)
        weight = kind.weight if value.weight is None else self.flag(value.weight, f"{where}.weight")
        each = None if value.each is None else self.inner(value.each, f"{where}.each", bound)
        start = self.start(value, weight, where, bound)
        match = value.match
        if match is not None and match != "skip":
            if isinstance(match, str) and self.genotype.let.get(match) == "skip":
                match = "skip"
            else:
                match = self.inner(match, f"{where}.match", bound)
                if "l" in match.free:
                    raise GenotypeError("a 'match' is shared by its readers and sees no 'l'", f"{where}.match")
        raw = self.flag(value.raw, f"{where}.raw")
        size = 1 + pattern.size + operator.size + (each.size if each else 0)
        size += match.size if isinstance(match, Sequence) else 0
        return made(
            Gather,
            where,
            pattern,
            operator,
            each if each and each.steps else None,
            norm,
            weight,
            start,
            match,
            raw,
            size,
        )

    def inner(self, value: Any, where: str, bound: frozenset[str]) -> Sequence:
        """A unit of a gather, which no shortcut joins."""
        unit = self.unit(value, where, bound)
        if unit.joins:
            raise GenotypeError(f"a '{where.rpartition('.')[2]}' has no shortcut to join", join_place(unit))
        return unit

    def start(self, value: text.Gather, weight: bool, where: str, bound: frozenset[str]) -> Number | None:
        """The first value of a gather's weights, if it has any; its own name for the number of sources wins."""
        place = f"{where}.start"
        if not weight:
            if "start" in value.model_fields_set:
                raise GenotypeError("there is no weight to start; write 'weight: true' or remove 'start'", place)
            return None
        inner = bound | {SOURCES}
        return self.number(value.start, place, START, self.done.setdefault(("bound", inner), inner))


_NORM = Choice(SOURCE_NORMS)


def _check_size(size: int, where: str) -> None:
    if size > MAX_VALUES:
        raise GenotypeError(f"more than {MAX_VALUES:,} values once names are put in", where)


def forget() -> None:
    """Empties what is kept of earlier texts."""
    known.clear()
    _named.cache_clear()
    parsed.cache_clear()
