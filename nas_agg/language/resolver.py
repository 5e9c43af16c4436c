"""Resolution of a genotype: names are substituted, fields are checked, and aggregates get the fields of their ``like``.

Unknown words, values of wrong types, misplaced joins and cycles are reported here, without expanding the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives import MAX_CHANNELS, MAX_SIDE
from nas_agg.language import genotype as text
from nas_agg.language.expressions import parse_text
from nas_agg.language.genotype import JOIN, Genotype, format_value
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS, SOURCE_NORMS, WEIGHT_START, Operator
from nas_agg.language.patterns import MAX_NODES, PATTERNS
from nas_agg.language.resolved import (
    NUM_SOURCES,
    UNBOUNDED,
    Aggregate,
    Gather,
    Join,
    NumberField,
    ResolvedWord,
    Schedule,
    Unit,
    check_cycles,
    contains_open_join,
    intern,
    interned,
    is_per_node,
    join_location,
    label_steps,
    make_unit,
    with_derived_fields,
)
from nas_agg.language.schema import FLAG, Bounds, Choice, Word
from nas_agg.language.substitution import Substitution, check_size, substitute_names

WIDTH = Bounds(1, MAX_CHANNELS, "the width")
GROUPS = Bounds(1, MAX_CHANNELS, "the cardinality")
STRIDE = Bounds(1, MAX_SIDE, "the stride")
NODES = Bounds(0, MAX_NODES, "the number of nodes")

#: Fields of an aggregate: value, path, and the names of `let` whose text it is.
Fields = dict[str, tuple[Any, str, tuple[str, ...]]]
#: Numbers of an aggregate's `let`: value and path.
LetFields = dict[str, tuple[Any, str]]

_SOURCE_NORM = Choice(SOURCE_NORMS)


@lru_cache
def _field_kinds(kind: type[Word]) -> dict[str, tuple[str, Any]]:
    """Return for each field, as it is written, its attribute and what it takes: Bounds, Choice, FLAG or None."""
    kinds = {}
    for name, field in kind.model_fields.items():
        marks = [
            *field.metadata,
            *(m for part in get_args(field.annotation) for m in getattr(part, "__metadata__", ())),
        ]
        kinds[field.alias or name] = (
            name,
            next((m for m in marks if isinstance(m, (Bounds, Choice)) or m == FLAG), None),
        )
    return kinds


class Resolver:
    """Resolves one genotype.

    In its methods, ``where`` is the path of the text at hand, and ``bound`` are the names bound by the ``let`` of
    enclosing aggregates.

    Args:
        genotype: A genotype.
    """

    def __init__(self, genotype: Genotype):
        self.genotype = genotype
        self.names = Substitution(genotype)
        self.cache = self.names.cache

    def network(self) -> Unit:
        """Resolve the whole network.

        Raises:
            GenotypeError: The first error that can be found without expanding.
        """
        steps = []
        for i, step in enumerate(self.genotype.net):
            where = f"net[{i}]"
            try:
                steps.append(self.step(step, where, frozenset()))
            except GenotypeError as error:
                raise error if error.where.startswith(where) else error.within(where) from None
        net = self._build_unit(steps, "net")
        if net.takes_shortcut:
            raise GenotypeError("a 'join' without a shortcut", join_location(net))
        return net

    # ------------------------------------------------------------------ words

    def word(
        self, value: Any, where: str, words: Mapping[str, type[Word]], adapter: str, bound: frozenset[str]
    ) -> ResolvedWord:
        """Resolve a layer, a pattern or an operator: a bare word, an object, or a name for one."""
        if isinstance(value, str):
            kind = words.get(value)
            if kind and value in kind.bare:
                return self._build_fields(kind.model_construct(), kind, value, where, bound)
            key = (adapter, value, bound)
            if key not in self.cache:
                with self.names.meaning_of(value, where) as (meaning, place):
                    typed = self.names.validate(adapter, meaning, place)
                    self.cache[key] = self.word(typed, place, words, adapter, bound)
            return self.cache[key]
        if not isinstance(value, Word):
            raise GenotypeError(f"{format_value(value)} is not a {adapter}", where)
        return self._build_fields(value, type(value), type(value).key or "", where, bound)

    def _build_fields(
        self, value: Word, kind: type[Word], word: str, where: str, bound: frozenset[str]
    ) -> ResolvedWord:
        fixed: list[tuple[str, Any]] = []
        numbers: list[tuple[str, NumberField]] = []
        for field, (attribute, mark) in _field_kinds(kind).items():
            content, place = getattr(value, attribute), f"{where}.{field}"
            if isinstance(mark, Bounds) and content is not None:
                number = self.names.number(content, place, mark, bound)
                constant = number.expression.constant
                if constant is None:
                    numbers.append((field, number))
                else:
                    fixed.append((field, constant))
            elif isinstance(mark, Choice):
                fixed.append((field, self.names.choice(content, place, mark)))
            elif mark == FLAG:
                fixed.append((field, self.names.flag(content, place)))
            else:
                fixed.append((field, content))
        size = 1 + sum(len(row) + 1 for field, rows in fixed if field == "edges" for row in rows)
        work = 1 + sum(number.expression.size for _, number in numbers)
        return intern(ResolvedWord, where, word, kind, tuple(fixed), tuple(numbers), size, work)

    # ------------------------------------------------------------------ units

    def step(self, value: Any, where: str, bound: frozenset[str], name: str = "") -> tuple[str, Any]:
        """Resolve a step and give it a label: a layer's word, the name of a unit or an aggregate, or else its kind."""
        if isinstance(value, str):
            if value == JOIN:
                return JOIN, intern(Join, where)
            kind = LAYERS.get(value)
            if kind and value in kind.bare:
                return value, self.word(value, where, LAYERS, "layer", bound)
            key = ("step", value, bound)
            if key not in self.cache:
                with self.names.meaning_of(value, where) as (meaning, place):
                    self.cache[key] = self.step(self.names.validate("step", meaning, place), place, bound, value)
            return self.cache[key]
        if isinstance(value, tuple):
            return name or "unit", self._sequence(value, where, bound)
        if isinstance(value, text.Aggregate):
            return self.aggregate(value, where, bound, name)
        return type(value).key or "", self.word(value, where, LAYERS, "layer", bound)

    def unit(self, value: Any, where: str, bound: frozenset[str]) -> Unit:
        """Resolve a field that takes a unit: a list, or a name for one."""
        if not isinstance(value, str):
            return self._sequence(value, where, bound)
        key = ("unit", value, bound)
        if key not in self.cache:
            with self.names.meaning_of(value, where) as (meaning, place):
                if isinstance(meaning, str):
                    self.cache[key] = self.unit(meaning, place, bound)
                else:
                    self.cache[key] = self._sequence(self.names.validate("unit", meaning, place), place, bound)
        return self.cache[key]

    def _sequence(self, steps: tuple, where: str, bound: frozenset[str]) -> Unit:
        self.names.count_values(len(steps), where)
        with self.names.nesting(where):
            return self._build_unit([self.step(step, f"{where}[{i}]", bound) for i, step in enumerate(steps)], where)

    def _build_unit(self, steps: list[tuple[str, Any]], where: str) -> Unit:
        check_size(1 + sum(getattr(step, "size", 1) for _, step in steps), where)
        joins = [step for _, step in steps if contains_open_join(step)]
        if len(joins) > 1:
            raise GenotypeError("a unit may have only one 'join'", joins[1].where)
        labelled = label_steps(steps)
        if not joins:
            return make_unit(where, labelled, ())
        at = next(i for i, (_, step) in enumerate(labelled) if contains_open_join(step))
        runs = (labelled[:at], labelled[at : at + 1], labelled[at + 1 :])
        return make_unit(where, labelled, tuple([make_unit(where, run, ()) for run in runs if run]))

    # ------------------------------------------------------------------ aggregates

    def aggregate(self, value: text.Aggregate, where: str, bound: frozenset[str], name: str) -> tuple[str, Aggregate]:
        """Resolve an aggregate and give it a label: its name, or the name that it is like."""
        with self.names.nesting(where):
            fields, let = self._merge_like(value, where)
            inner = bound | frozenset(let)
            inner = self.cache.setdefault(("bound", inner), inner)  # one object, since comparing equal sets takes time
            return name or value.like or "aggregate", self._build_aggregate(fields, let, where, inner)

    def _merge_like(self, value: text.Aggregate, where: str) -> tuple[Fields, LetFields]:
        """Return an aggregate's fields and its ``let``, on top of those of the aggregate that it is like."""
        fields, let = self._base_fields(value.like, f"{where}.like") if value.like is not None else ({}, {})
        own = [f for f in value.model_fields_set if f not in ("like", "let")]
        if "unit" in own and "units" in own:
            raise GenotypeError("an aggregate takes 'unit' or 'units', not both", f"{where}.units")
        for field in own:
            fields[field] = (getattr(value, field), f"{where}.{field}", ())
            if field in ("unit", "units"):
                fields.pop("units" if field == "unit" else "unit", None)
        for name, number in (value.let or {}).items():
            text.check_name(name, f"{where}.let.{name}")
            let[name] = (number, f"{where}.let.{name}")
        return fields, let

    def _base_fields(self, name: str, where: str) -> tuple[Fields, LetFields]:
        """Return the fields of a named aggregate; text that a name stands for may not use that name."""
        self.names.check_cycle(name)
        key = ("like", name)
        if key not in self.cache:
            with self.names.meaning_of(name, where) as (meaning, place):
                value = self.names.validate("aggregate", self._aggregate_text(meaning, place), place)
                fields, let = self._merge_like(value, place)
            self.cache[key] = {f: (v, p, (name, *names)) for f, (v, p, names) in fields.items()}, let
        fields, let = self.cache[key]
        return dict(fields), dict(let)

    def _aggregate_text(self, meaning: Any, place: str) -> Any:
        """Return the text of an aggregate, following names of names."""
        if isinstance(meaning, str):
            with self.names.meaning_of(meaning, place) as (next_meaning, next_place):
                return self._aggregate_text(next_meaning, next_place)
        if not isinstance(meaning, Mapping):
            raise GenotypeError(f"'like' takes the name of an aggregate, not {format_value(meaning)}", place)
        return meaning

    def _build_aggregate(self, fields: Fields, let_fields: LetFields, where: str, bound: frozenset[str]) -> Aggregate:
        def field(name: str) -> tuple[Any, str]:
            return fields.get(name, (None, f"{where}.{name}"))[:2]

        def schedule(name: str, bounds: Bounds) -> Schedule | None:
            value, place = field(name)
            return None if value is None else self.names.schedule(value, place, bounds, bound)

        def gather(name: str) -> Gather | None:
            with self.names.substituting(fields[name][2] if name in fields else ()):
                return self.gather(*field(name), bound)

        self.names.count_values(1 + len(let_fields), where)
        let = tuple(
            (name, self.names.schedule(value, place, UNBOUNDED, bound)) for name, (value, place) in let_fields.items()
        )
        units, unit_per_node = self._units(fields, where, bound)
        nodes, place = field("nodes")
        stride = schedule("stride", STRIDE)
        reads = gather("reads") or self.gather(text.Gather(), f"{where}.reads", bound)
        assert reads is not None
        shortcut, output = gather("shortcut"), gather("output")
        if output is None and "input" in reads.pattern.kind.bare:
            raise GenotypeError("nodes that read only the input need an 'output'", f"{where}.output")
        has_join = any(unit.takes_shortcut for unit in units)
        if shortcut and not has_join:
            raise GenotypeError("a shortcut without a 'join' in the unit", shortcut.where)
        aggregate = Aggregate(
            where=where,
            units=units,
            unit_per_node=unit_per_node,
            nodes=None if nodes is None else self.names.number(nodes, place, NODES, bound),
            growth=schedule("growth", WIDTH),
            cardinality=schedule("cardinality", GROUPS),
            stride=stride,
            stride_per_node=is_per_node(stride, dict(let)),
            reads=reads,
            shortcut=shortcut,
            output=output,
            let=let,
            takes_shortcut=has_join and shortcut is None,
            free_names=(),
            node_names=(),
            size=0,
            work=0,
        )
        check_cycles(aggregate, where)
        aggregate = with_derived_fields(aggregate)
        check_size(aggregate.size, where)
        return intern(Aggregate, *(getattr(aggregate, name) for name in aggregate.__slots__))

    def _units(self, fields: Fields, where: str, bound: frozenset[str]) -> tuple[tuple[Unit, ...], bool]:
        """Return an aggregate's units, and whether there is one per node."""
        value, place, names = fields.get("units", (None, where, ()))
        if value is not None:
            with self.names.substituting(names):
                return self._listed_units(value, place, bound), True
        value, place, names = fields.get("unit", (None, where, ()))
        if value is None:
            raise GenotypeError("an aggregate needs a 'unit' or 'units'", where)
        with self.names.substituting(names):
            return (self.unit(value, place, bound),), False

    def _listed_units(self, value: Any, where: str, bound: frozenset[str]) -> tuple[Unit, ...]:
        if isinstance(value, str):
            with self.names.meaning_of(value, where) as (meaning, place):
                units = meaning if isinstance(meaning, str) else self.names.validate("units", meaning, place)
                return self._listed_units(units, place, bound)
        if not value:
            raise GenotypeError("expected at least one unit", where)
        self.names.count_values(len(value), where)
        return tuple([self.unit(unit, f"{where}[{i}]", bound) for i, unit in enumerate(value)])

    # ------------------------------------------------------------------ gathers

    def gather(self, value: Any, where: str, bound: frozenset[str]) -> Gather | None:
        """Resolve a gather, or a name for one."""
        if value is None:
            return None
        if isinstance(value, str):
            key = ("gather", value, bound)
            if key not in self.cache:
                with self.names.meaning_of(value, where) as (meaning, place):
                    typed = meaning if isinstance(meaning, str) else self.names.validate("gather", meaning, place)
                    self.cache[key] = self.gather(typed, place, bound)
            return self.cache[key]
        pattern = self.word(value.pattern, f"{where}.pattern", PATTERNS, "pattern", bound)
        operator = self.word(value.operator, f"{where}.operator", OPERATORS, "operator", bound)
        kind: type[Operator] = operator.kind  # type: ignore[assignment]
        norm = kind.norm if value.norm is None else self.names.choice(value.norm, f"{where}.norm", _SOURCE_NORM)
        weight = kind.weight if value.weight is None else self.names.flag(value.weight, f"{where}.weight")
        each = None if value.each is None else self._unit_without_join(value.each, f"{where}.each", bound)
        start = self._weight_start(value, weight, where, bound)
        match = self._match(value.match, f"{where}.match", bound)
        raw = self.names.flag(value.raw, f"{where}.raw")
        size = 1 + pattern.size + operator.size + (each.size if each else 0)
        size += match.size if isinstance(match, Unit) else 0
        each = each if each and each.steps else None
        return intern(Gather, where, pattern, operator, each, norm, weight, start, match, raw, size)

    def _match(self, value: Any, where: str, bound: frozenset[str]) -> Unit | str | None:
        if value is None or value == "skip":
            return value
        if isinstance(value, str) and self.genotype.let.get(value) == "skip":
            return "skip"
        match = self._unit_without_join(value, where, bound)
        if "l" in match.free_names:
            raise GenotypeError("a 'match' is shared by all readers and cannot depend on 'l'", where)
        return match

    def _unit_without_join(self, value: Any, where: str, bound: frozenset[str]) -> Unit:
        unit = self.unit(value, where, bound)
        if unit.takes_shortcut:
            field = where.rpartition(".")[2]
            raise GenotypeError(f"'{field}' cannot contain a 'join', as it has no shortcut", join_location(unit))
        return unit

    def _weight_start(self, value: text.Gather, weight: bool, where: str, bound: frozenset[str]) -> NumberField | None:
        """Return the initial value of a gather's weights, if it has any; ``k`` in it is the number of sources."""
        place = f"{where}.start"
        if not weight:
            if "start" in value.model_fields_set:
                raise GenotypeError("'start' needs weights; add 'weight: true' or remove 'start'", place)
            return None
        inner = bound | {NUM_SOURCES}
        return self.names.number(value.start, place, WEIGHT_START, self.cache.setdefault(("bound", inner), inner))


def clear_caches() -> None:
    """Clear everything cached from earlier genotypes."""
    interned.clear()
    substitute_names.cache_clear()
    parse_text.cache_clear()
