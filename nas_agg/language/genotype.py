"""The types of the language: units, aggregates, gathers and the genotype; `docs/language.md` defines their meaning.

A genotype keeps its text as it was written; `resolver.py` substitutes its names. Unions are discriminated by the keys
of an object, so that one mistake gives one error.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterable, Mapping
from itertools import islice
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

from nas_agg.common.display import Displayed
from nas_agg.common.errors import GenotypeError, GenotypeSyntaxError, did_you_mean, truncate
from nas_agg.common.files import canonical_json
from nas_agg.common.values import MAX_NESTING
from nas_agg.graph.primitives import MAX_CHANNELS, MAX_SIDE
from nas_agg.language.expressions import WORDS as EXPRESSION_WORDS
from nas_agg.language.expressions import is_name
from nas_agg.language.frozen import FrozenDict, freeze, thaw
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS, SOURCE_NORMS, WEIGHT_START
from nas_agg.language.patterns import MAX_NODES, PATTERNS
from nas_agg.language.schema import Bounds, Choice, Flag, Model, Number, Word

VERSION = 1
JOIN = "join"

#: Words that cannot be names.
RESERVED = (
    EXPRESSION_WORDS
    | {word for words in (LAYERS, PATTERNS, OPERATORS) for kind in words.values() for word in kind.bare}
    | {JOIN, "skip", "none", "front", "back"}
)


def _tag(words: Mapping[str, type[Word]], aggregate_keys: Iterable[str] = ()) -> Any:
    """Return the discriminator of a union of words, which gives the kind of a text, a list or an object."""

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
            if any(key in value for key in aggregate_keys):
                return "<Aggregate>"
        return ""

    return Discriminator(tag)


def _union(words: Mapping[str, type[Word]], *others: Any) -> Any:
    """Return the type of a name, a bare word, an object of some words, or other types."""
    kinds: Any = Annotated[StrictStr, Tag("<name>")]
    for kind in dict.fromkeys(kind for kind in words.values() if kind.key):
        kinds |= Annotated[kind, Tag(f"<{kind.__name__}>")]
    for other in others:
        kinds |= other
    return kinds


PatternText: Any = Annotated[_union(PATTERNS), _tag(PATTERNS)]
OperatorText: Any = Annotated[_union(OPERATORS), _tag(OPERATORS)]


class Gather(Model):
    """How earlier features are combined: what a node reads, what its shortcut joins, or what the aggregate outputs."""

    pattern: PatternText = "previous"
    operator: OperatorText = "sum"
    each: Unit | StrictStr | None = None
    norm: Annotated[StrictStr, Choice(SOURCE_NORMS)] | None = None
    weight: Flag | None = None
    start: Annotated[Number, WEIGHT_START] = "1/k"
    match: Unit | StrictStr | None = None
    raw: Flag = False


Schedule = Number | tuple[Number, ...]


class Aggregate(Model):
    """Nodes that gather earlier features, apply a unit, and join a shortcut."""

    keys: ClassVar[tuple[str, ...]] = ("unit", "units", "like")

    unit: Unit | StrictStr | None = None
    units: tuple[Unit | StrictStr, ...] | StrictStr | None = None
    nodes: Annotated[Number, Bounds(0, MAX_NODES, "the number of nodes")] | None = None
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
            _tag(LAYERS, Aggregate.keys),
        ],
    )
    Unit = TypeAliasType("Unit", tuple[Step, ...])

JsonObject = Annotated[
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
    """Check that a text can be a name of ``let`` or ``open``.

    Raises:
        GenotypeError: It is a word of the language, or not a valid name.
    """
    where = truncate(where)
    if name in RESERVED:
        raise GenotypeError(f"'{name}' is a word of the language and cannot be a name", where)
    if keyword.iskeyword(name):
        raise GenotypeError(f"'{name}' is a Python keyword and cannot be a name", where)
    if len(name) > MAX_NAME_LENGTH:
        raise GenotypeError(f"'{truncate(name)}' is longer than {MAX_NAME_LENGTH} characters", where)
    if not is_name(name):
        raise GenotypeError(
            f"'{truncate(name)}' is not a valid name; use a letter followed by letters, digits and underscores", where
        )


MAX_NAME_LENGTH = 100  # paths repeat the names that lead to them
Channels = Annotated[StrictInt, Field(ge=1, le=MAX_CHANNELS)]
Side = Annotated[StrictInt, Field(ge=1, le=MAX_SIDE)]


class Genotype(Displayed, Model):
    """A network written in the language.

    Attributes:
        version: Version of the language.
        input: Channels, height and width of an image.
        classes: Number of classes.
        let: The text that each name stands for, as JSON.
        net: The whole network, from stem to classifier.
        open: The values of each search variable; only in a space.
    """

    version: Annotated[StrictInt, Field(ge=VERSION, le=VERSION)] = VERSION
    input: tuple[Channels, Side, Side]
    classes: Channels
    let: JsonObject = Field(default_factory=FrozenDict)
    net: Unit
    open: JsonObject | None = None

    @classmethod
    def from_dict(cls, value: Any) -> Genotype:
        """Read a genotype from JSON values.

        Raises:
            GenotypeError: It is not valid; the error has the path of the first mistake.
        """
        if not isinstance(value, Mapping):
            raise GenotypeError("a genotype must be an object with 'input', 'classes' and 'net'")
        _check_nesting(value)
        genotype = validate(_GENOTYPE, value)
        for part in ("let", "open"):
            for name in getattr(genotype, part) or ():
                check_name(name, f"{part}.{name}")
        return genotype

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as JSON values, as it was written."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def to_json(self) -> str:
        """Return compact JSON with sorted keys, so that equal genotypes give equal text."""
        return canonical_json(self.to_dict())

    def with_task(self, input: tuple[int, int, int] | None = None, classes: int | None = None) -> Genotype:
        """Return the same network for another image shape or number of classes."""
        return Genotype.from_dict(
            {**self.to_dict(), **({"input": input} if input else {}), **({"classes": classes} if classes else {})}
        )

    def fill(self, values: Mapping[str, Any]) -> Genotype:
        """Return the genotype with a value for each search variable; they move into ``let``."""
        let = FrozenDict({**self.let, **{name: freeze(value) for name, value in values.items()}})
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


def validate(adapter: TypeAdapter, value: Any, where: str = "") -> Any:
    """Convert a value to a type of the language.

    Raises:
        GenotypeError: It is not valid; the error has the path of the first mistake.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _convert_error(error, where) from None
    except RecursionError:
        raise GenotypeError("is nested too deeply", where) from None


def _convert_error(error: ValidationError, where: str) -> GenotypeError:
    # A union reports an issue for each of its kinds; the deepest field is the one that was meant.
    outermost = error.title if error.title in MODELS else ""
    issues = [(*_locate(issue, outermost), issue) for issue in error.errors(include_url=False)]
    # Of issues in one object, an unknown field is more informative than the missing field that it was meant to be.
    path, model, _ = max(issues, key=lambda issue: (len(issue[0]), issue[2]["type"] == "extra_forbidden"))
    message = _describe([issue for issue_path, _, issue in issues if issue_path == path], path, model)
    for part in path:
        word = f"[{part}]" if isinstance(part, int) else truncate(part) or "''"
        where += f".{word}" if where and not isinstance(part, int) else word
    return GenotypeSyntaxError(message, where)


_TYPES = ("str", "int", "float", "bool")
_KINDS = ("tuple[", "function-", "json-or-", "union[", "tagged-union[", "nullable[")


def _locate(issue: Any, model: str) -> tuple[tuple[int | str, ...], str]:
    """Return the path of fields and the innermost model of one of pydantic's issues.

    Its location mixes fields and keys with types and tags. Keys may have any text, also that of a type, so they are
    recognised by their place: the last part where the key itself is the issue, and what follows ``let`` or ``open``.

    Args:
        issue: The issue.
        model: The outermost model; ``""`` if the outermost type is none.
    """
    parts = list(issue["loc"])
    last: list[int | str] = []
    if parts[-1:] == ["[key]"] and issue["type"] == "string_type":
        parts.pop()
        last = [parts.pop()]
    elif issue["type"] in ("extra_forbidden", "invalid_key"):
        last = [parts.pop()]
    path: list[int | str] = []
    rest = iter(parts)
    for part in rest:
        if isinstance(part, int):
            path.append(part)
        elif part in MODELS or part.startswith("<"):
            model = part.strip("<>")
        elif part not in _TYPES and not part.startswith(_KINDS):
            path.append(part)
            if part in ("let", "open"):
                path.extend(islice(rest, 1))
                if model == "Genotype":  # JSON: for each value its type, then its key or index
                    path.extend(islice(rest, 1, None, 2))
    return (*path, *last), model


_MODELS: list[type[Model]] = [Genotype, Aggregate, Gather, *LAYERS.values(), *PATTERNS.values(), *OPERATORS.values()]
MODELS = {kind.__name__: kind for kind in _MODELS}


#: What a field expects, by the types of pydantic's issues with it.
_NUMBER = {"int_type", "float_type", "string_type"}
_EXPECTED = (
    ({*_NUMBER, "tuple_type"}, "a number, an expression or a list with one entry per node"),
    (_NUMBER, "a number or an expression"),
    ({"bool_type", "string_type"}, "true, false or a name for one of them"),
    ({"tuple_type", "string_type"}, "a list or the name of one"),
    ({"model_type", "string_type"}, "an object or the name of one"),
    ({"tuple_type"}, "a list"),
    ({"dict_type"}, "an object"),
    ({"model_type"}, "an object"),
    ({"int_type"}, "an integer"),
    ({"string_type"}, "a string"),
)


def _describe(issues: list[Any], path: tuple[int | str, ...], model: str) -> str:
    """Return the message for the issues that pydantic has with one field."""
    issue = issues[0]
    kinds, value = {one["type"] for one in issues}, issue["input"]
    if path == ("input",) and kinds & {"too_long", "tuple_type"}:
        return f"expected [channels, height, width], not {format_value(value)}"
    if path[:1] == ("input",) and len(path) == 2 and "missing" in kinds:
        return "is missing; expected [channels, height, width]"
    for kind in ("extra_forbidden", "invalid_key"):
        if kind in kinds:
            fields = [field.alias or name for name, field in MODELS[model].model_fields.items()]
            return "unknown field" + did_you_mean(str(path[-1]), fields)
    if "missing" in kinds:
        return "is missing"
    if kinds & {"union_tag_invalid", "union_tag_not_found"}:
        return _describe_unknown(next(one["input"] for one in issues if one["type"].startswith("union_tag")), path[-1:])
    if kinds & {"greater_than_equal", "less_than_equal"}:
        if path[-1:] == ("version",):
            return f"unsupported version {format_value(value)}; expected {VERSION}"
        most = MAX_SIDE if path in (("input", 1), ("input", 2)) else MAX_CHANNELS
        return f"expected an integer from 1 to {most:,}, not {format_value(value)}"
    if "finite_number" in kinds:
        return f"{format_value(value)} is not a finite number"
    for types, expected in _EXPECTED:
        if types <= kinds:
            return f"expected {expected}, not {format_value(value)}"
    return f"invalid value {format_value(value)}: {issue['msg'][0].lower()}{issue['msg'][1:]}"


def _describe_unknown(value: Any, field: tuple[int | str, ...]) -> str:
    """Return the message for a value that is not a step, a pattern or an operator."""
    words: Iterable[str]
    what, words = "a step", [*LAYERS, *Aggregate.keys, JOIN]
    if field in (("pattern",), ("operator",)):
        what, words = ("a pattern", PATTERNS) if field == ("pattern",) else ("an operator", OPERATORS)
    if not isinstance(value, Mapping):
        return f"{format_value(value)} is not {what}"
    if not value:
        return "an object must not be empty"
    key = str(next(iter(value)))
    return f"unknown {what.split()[1]} '{truncate(key)}'{did_you_mean(key, words)}"


def format_value(value: Any) -> str:
    """Format a value for an error message, truncated if it is long."""
    try:
        return truncate(json.dumps(thaw(value), default=str))
    except (ValueError, RecursionError):  # a number of thousands of digits, a list that contains itself
        return f"this {type(value).__name__}"
