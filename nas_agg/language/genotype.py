"""The types of the language: units and aggregates, gathers, the genotype. `docs/language.md` says what they mean.

A genotype keeps its text as it was written; `names.py` puts the names in. Unions are told apart by the key an object
has, so that one fault is one error.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    StrictInt,
    StrictStr,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from typing_extensions import TypeAliasType

from nas_agg.common.errors import GenotypeError, GenotypeSyntaxError, did_you_mean, truncate
from nas_agg.common.files import canonical_json
from nas_agg.graph.primitives import MAX_CHANNELS, MAX_SIDE
from nas_agg.language.expressions import WORDS as EXPRESSION_WORDS
from nas_agg.language.expressions import is_name
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS, SOURCE_NORMS, START
from nas_agg.language.patterns import MAX_NODES, PATTERNS
from nas_agg.language.schema import Bounds, Choice, Flag, Model, Number, Word

VERSION = 1
MAX_NESTING = 48
JOIN = "join"

#: What a name may not be.
RESERVED = (
    EXPRESSION_WORDS
    | {word for words in (LAYERS, PATTERNS, OPERATORS) for kind in words.values() for word in kind.bare}
    | {JOIN, "skip", "none", "front", "back"}
)


class Frozen(dict):
    """An object of JSON that does not change."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a genotype does not change; make another with fill() or model_copy()")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple:
        return Frozen, (dict(self),)

    def __deepcopy__(self, memo: dict) -> Frozen:
        return self


def freeze(value: Any) -> Any:
    """JSON that cannot change: objects frozen, lists as tuples."""
    if isinstance(value, Mapping):
        return Frozen({key: freeze(item) for key, item in value.items()})
    return tuple(freeze(item) for item in value) if isinstance(value, (list, tuple)) else value


def thaw(value: Any) -> Any:
    """Plain JSON: dicts and lists."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, (list, tuple)) else value


def _tag(words: Mapping[str, type[Word]], further: Iterable[str] = ()) -> Any:
    """The kind of a text, list or object, for a union of words."""

    def tag(value: Any) -> str:
        if isinstance(value, BaseModel):
            return f"<{type(value).__name__}>"
        if isinstance(value, str):
            return "<name>"
        if isinstance(value, (list, tuple)):
            return "<list>"
        if isinstance(value, Mapping):
            for key in value:
                if key in words and words[key].key == key:
                    return f"<{words[key].__name__}>"
            if any(key in value for key in further):
                return "<Aggregate>"
        return ""

    return Discriminator(tag)


def _union(words: Mapping[str, type[Word]], *further: Any) -> Any:
    """A type for a name, a bare word or an object of some words."""
    kinds: Any = Annotated[StrictStr, Tag("<name>")]
    for kind in dict.fromkeys(kind for kind in words.values() if kind.key):
        kinds |= Annotated[kind, Tag(f"<{kind.__name__}>")]
    for other in further:
        kinds |= other
    return kinds


PatternText: Any = Annotated[_union(PATTERNS), _tag(PATTERNS)]
OperatorText: Any = Annotated[_union(OPERATORS), _tag(OPERATORS)]


class Gather(Model):
    """How earlier features come together: what a node reads, what joins as its shortcut, or what leaves."""

    pattern: PatternText = "previous"
    operator: OperatorText = "sum"
    each: Unit | StrictStr | None = None
    norm: Annotated[StrictStr, Choice(SOURCE_NORMS)] | None = None
    weight: Flag | None = None
    start: Annotated[Number, START] = "1/k"
    match: Unit | StrictStr | None = None
    raw: Flag = False


Schedule = Number | tuple[Number, ...]


class Aggregate(Model):
    """Nodes that gather earlier features, run a unit, and join a shortcut."""

    marks: ClassVar[tuple[str, ...]] = ("unit", "units", "like")

    unit: Unit | StrictStr | None = None
    units: tuple[Unit | StrictStr, ...] | StrictStr | None = None
    nodes: Annotated[Number, Bounds(0, MAX_NODES, "a number of nodes")] | None = None
    growth: Schedule | None = None
    cardinality: Schedule | None = None
    stride: Schedule | None = None
    reads: Gather | StrictStr | None = None
    shortcut: Gather | StrictStr | None = None
    output: Gather | StrictStr | None = None
    let: dict[str, Schedule] | None = None
    like: StrictStr | None = None


if TYPE_CHECKING:
    Step = Any
    Unit = tuple[Any, ...]
else:
    Step = TypeAliasType(
        "Step",
        Annotated[
            _union(LAYERS, Annotated[Aggregate, Tag("<Aggregate>")], Annotated["Unit", Tag("<list>")]),
            _tag(LAYERS, Aggregate.marks),
        ],
    )
    Unit = TypeAliasType("Unit", tuple[Step, ...])

Text = Annotated[
    Mapping[str, JsonValue],
    AfterValidator(freeze),
    PlainSerializer(thaw),
    WithJsonSchema({"type": "object"}),
]


def _check_names(names: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in names:
        check_name(name)
    return names


def check_name(name: str, where: str = "") -> None:
    """Refuses what cannot be a name of `let` or `open`.

    Raises:
        GenotypeError: If it is a word of the language, or not a name at all.
    """
    where = truncate(where)
    if name in RESERVED:
        raise GenotypeError(f"'{name}' is a word of the language and cannot be a name", where)
    if keyword.iskeyword(name):
        raise GenotypeError(f"'{name}' is a word of Python and cannot be a name", where)
    if len(name) > LONGEST_NAME:
        raise GenotypeError(f"'{truncate(name)}' is longer than {LONGEST_NAME} characters", where)
    if not is_name(name):
        raise GenotypeError(f"'{truncate(name)}' is not a name: a letter, then letters, digits and underscores", where)


LONGEST_NAME = 100  # a path repeats the names on its way
Channels = Annotated[StrictInt, Field(ge=1, le=MAX_CHANNELS)]
Side = Annotated[StrictInt, Field(ge=1, le=MAX_SIDE)]


class Genotype(Model):
    """A network, said in the language.

    Attributes:
        version: Of the language.
        input: Channels, height and width of an image.
        classes: Number of classes.
        let: What each name stands for, as JSON.
        net: The whole network, stem to classifier.
        open: The values of each open name: only in a space.
    """

    version: Annotated[StrictInt, Field(ge=VERSION, le=VERSION)] = VERSION
    input: tuple[Channels, Side, Side]
    classes: Channels
    let: Text = Field(default_factory=Frozen)
    net: Unit
    open: Text | None = None

    @classmethod
    def read(cls, value: Any) -> Genotype:
        """A genotype from JSON values, or one line that says where it is not one.

        Raises:
            GenotypeError: With the path of the first fault.
        """
        if not isinstance(value, Mapping):
            raise GenotypeError("a genotype is an object with 'input', 'classes' and 'net'")
        _check_nesting(value)
        genotype = typed(_GENOTYPE, value)
        for part in ("let", "open"):
            for name in getattr(genotype, part) or ():
                check_name(name, f"{part}.{name}")
        return genotype

    def text(self) -> dict[str, Any]:
        """Plain JSON values, as they were written."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def to_json(self) -> str:
        """Compact JSON with sorted keys: equal texts for equal genotypes."""
        return canonical_json(self.text())

    def with_task(self, input: tuple[int, int, int] | None = None, classes: int | None = None) -> Genotype:
        """The same network for another task."""
        return Genotype.read(
            {**self.text(), **({"input": input} if input else {}), **({"classes": classes} if classes else {})}
        )

    def fill(self, values: Mapping[str, Any]) -> Genotype:
        """The genotype with a value for each open name: they move into `let`."""
        let = Frozen({**self.let, **{name: freeze(value) for name, value in values.items()}})
        filled = self.model_copy(update={"let": let, "open": None})
        filled.model_fields_set.discard("open")
        return filled

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"Genotype({truncate(self.to_json())})"

    __str__ = __repr__


def _check_nesting(value: Any) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for item in level:
            inner.extend(item.values() if isinstance(item, Mapping) else item)
        level = [item for item in inner if isinstance(item, (Mapping, list, tuple))]
        if not level:
            return
    raise GenotypeError(f"nested more than {MAX_NESTING} levels deep", "net")


Gather.model_rebuild()
Aggregate.model_rebuild()
Genotype.model_rebuild()

_GENOTYPE: TypeAdapter = TypeAdapter(Genotype)
ADAPTERS: dict[str, TypeAdapter] = {
    "step": TypeAdapter(Step),
    "unit": TypeAdapter(Unit),
    "units": TypeAdapter(tuple[Unit | StrictStr, ...]),
    "aggregate": TypeAdapter(Aggregate),
    "gather": TypeAdapter(Gather),
    "pattern": TypeAdapter(PatternText),
    "operator": TypeAdapter(OperatorText),
}


def typed(adapter: TypeAdapter, value: Any, where: str = "") -> Any:
    """A value as a type of the language.

    Raises:
        GenotypeError: The first fault, with the path of its field.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _first_fault(error, where) from None
    except RecursionError:
        raise GenotypeError("is nested too deep", where) from None


def _first_fault(error: ValidationError, where: str) -> GenotypeError:
    # A union reports a fault for each of its kinds; the field that lies deepest is the one that was meant.
    faults = [(*_place(fault["loc"]), fault) for fault in error.errors(include_url=False)]
    # Of faults side by side an unknown field tells more than the missing one that it was meant to be.
    path, model, _ = max(faults, key=lambda fault: (len(fault[0]), fault[2]["type"] == "extra_forbidden"))
    said = _said([fault for at, _, fault in faults if at == path], path, model)
    for part in path:
        word = f"[{part}]" if isinstance(part, int) else truncate(part) or "''"
        where += f".{word}" if where and not isinstance(part, int) else word
    return GenotypeSyntaxError(said, where)


_KINDS = ("tuple[", "function-", "json-or-", "union[", "tagged-union[", "nullable[")


def _place(loc: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], str]:
    """The fields that lead to a fault, and the model it lies in, from pydantic's account of its way."""
    path: list[int | str] = []
    model = "Genotype"
    for part in loc:
        if isinstance(part, int) or (path and path[-1] == "let"):  # what follows `let` is always a name
            path.append(part)
        elif part.startswith("<"):
            model = part[1:-1]
        elif part in MODELS:
            model = part
        elif part not in ("str", "int", "float", "bool", "[key]") and not part.startswith(_KINDS):
            path.append(part)
    return tuple(path), model


_MODELS: list[type[Model]] = [Genotype, Aggregate, Gather, *LAYERS.values(), *PATTERNS.values(), *OPERATORS.values()]
MODELS = {kind.__name__: kind for kind in _MODELS}


#: What a field takes, by the kinds of fault that pydantic found with it.
_NUMBER = {"int_type", "float_type", "string_type"}
_WANTED = (
    ({*_NUMBER, "tuple_type"}, "a number, an expression or a list with one entry a node is"),
    (_NUMBER, "a number or an expression is"),
    ({"bool_type", "string_type"}, "true, false or a name of one is"),
    ({"tuple_type", "string_type"}, "a list or a name of one is"),
    ({"model_type", "string_type"}, "an object or a name of one is"),
    ({"tuple_type"}, "a list is"),
    ({"dict_type"}, "an object is"),
    ({"model_type"}, "an object is"),
    ({"int_type"}, "a whole number is"),
    ({"string_type"}, "a word is"),
)


def _said(faults: list[Any], path: tuple[int | str, ...], model: str) -> str:
    fault = faults[0]
    kinds, found = {one["type"] for one in faults}, fault["input"]
    if path == ("input",) and kinds & {"too_long", "tuple_type"}:
        return f"[channels, height, width] is wanted, not {shown(found)}"
    if path[:1] == ("input",) and len(path) == 2 and "missing" in kinds:
        return "is missing; [channels, height, width] is wanted"
    for kind in ("extra_forbidden", "invalid_key"):
        if kind in kinds:
            fields = [field.alias or name for name, field in MODELS[model].model_fields.items()]
            return "no such field here" + did_you_mean(str(path[-1]), fields)
    if "missing" in kinds:
        return "is missing"
    if kinds & {"union_tag_invalid", "union_tag_not_found"}:
        return _unknown(next(one["input"] for one in faults if one["type"].startswith("union_tag")), path[-1:])
    if kinds & {"greater_than_equal", "less_than_equal"}:
        if path[-1:] == ("version",):
            return f"version {shown(found)} is not known; this is version {VERSION}"
        most = MAX_SIDE if path in (("input", 1), ("input", 2)) else MAX_CHANNELS
        return f"a whole number from 1 to {most:,} is wanted, not {shown(found)}"
    if "finite_number" in kinds:
        return f"{shown(found)} is not a number to compute with"
    for wanted, said in _WANTED:
        if wanted <= kinds:
            return f"{said} wanted, not {shown(found)}"
    return f"{shown(found)} is wrong here: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _unknown(found: Any, field: tuple[int | str, ...]) -> str:
    """What is no step, pattern or operator."""
    known: Iterable[str]
    what, known = "a step", [*LAYERS, *Aggregate.marks, JOIN]
    if field in (("pattern",), ("operator",)):
        what, known = ("a pattern", PATTERNS) if field == ("pattern",) else ("an operator", OPERATORS)
    if not isinstance(found, Mapping):
        return f"{shown(found)} is not {what}"
    if not found:
        return "an empty object says nothing"
    key = str(next(iter(found)))
    return f"no {what.split()[1]} has the key '{truncate(key)}'{did_you_mean(key, known)}"


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    try:
        return truncate(json.dumps(thaw(value), default=str))
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in itself
        return f"this {type(value).__name__}"
