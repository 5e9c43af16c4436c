"""Emitted code as trees: expressions whose numbers can be lifted out, and parts of a network that use them.

An expression is written once per place in the network, with its numbers as literals. Places whose expressions are equal
but for numbers share a class; `naming.py` then finds what the numbers are called in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


class NotExpressible(Exception):
    """There is no text of this form."""


class Row(tuple):
    """The values of a number at the nodes of a loop; None where the expression does not occur."""

    __slots__ = ()


@dataclass(frozen=True)
class Number:
    """A number.

    Attributes:
        name: What a parameter for it is called.
        texts: The genotype's expressions for it.
        fallback: An expression that has its value.
    """

    value: Any
    name: str = "value"
    texts: tuple[str, ...] = field(default=(), compare=False)
    fallback: Expression | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Form:
    """A text with expressions in its braces."""

    form: str
    parts: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Call:
    """A call; options are (name, expression, default), and left out where they are equal to their default."""

    function: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any, str], ...] = ()


@dataclass(frozen=True)
class Use:
    """The construction of a part; ``parts``: those at the nodes of a loop."""

    parts: tuple[Part | None, ...]
    looped: bool = False

    @property
    def code(self) -> ClassCode:
        return next(part.code for part in self.parts if part is not None)


@dataclass(frozen=True)
class Pick:
    """What a position of an aggregate gathers, ahead of its unit or beside its main path.

    Attributes:
        sources: Features by number, oldest first.
        position: Who gathers.
        operator: ``cat``, ``add``, ``mean`` or ``mul``.
        place: Path of the gather's own fields below the node; ``norm``: of its sources; ``weight``: ``weights`` or
            ``gates`` that they have.
        matched: Sources that were made to fit, with where that was done, as (source, position, path).
        raw: Whether sources are pre-activations; ``main``: whether the last is the main path, without norm and weight;
            ``each``: whether they pass through a unit.
        pattern: The pattern's text, of a list `features`.
    """

    sources: tuple[int, ...]
    position: int
    operator: str = "cat"
    place: str = ""
    norm: str = ""
    weight: str = ""
    matched: tuple[tuple[int, int, str], ...] = ()
    raw: bool = False
    main: bool = False
    each: bool = False
    pattern: str = ""


Expression = Number | Form | Call | Use | Pick
SLICE = "{}[:, {}:{}]"  # the form of some channels
MEAN = "mean([{}, {}])"  # of sources, which are a list, and the main path
X, SHORTCUT = Form("x"), Form("shortcut")  # what enters an operation


@dataclass(eq=False)
class Part:
    """A unit or an aggregate at one place.

    Attributes:
        label: What its class is called.
        names: The genotype's names around it, with their values.
        operations: Of a unit, in order.
        joins: Whether the forward takes a shortcut.
        gives: Whether the forward returns a pre-activation beside its output; ``takes``: whether it takes one.
        is_node: Whether it is the unit of a node.
        lead: Operations ahead of a unit, which are written at its calls; ``tail``: those behind it.
        nodes: Of an aggregate; ``returned`` is its output.
    """

    label: str
    names: dict[str, Any]
    operations: list[Any] = field(default_factory=list)
    joins: bool = False
    gives: bool = False
    takes: bool = False
    is_node: bool = False
    lead: list[Any] = field(default_factory=list)
    tail: list[Any] = field(default_factory=list)
    nodes: list[Node] | None = None
    returned: Pick | None = None
    output_fields: dict[str, Expression] = field(default_factory=dict)
    run: Any = None
    code: ClassCode = field(init=False)

    @property
    def sequence(self) -> bool:
        """True for a unit whose operations are modules one after another."""
        last = self.operations[-1] if self.operations else None
        inner = [part for op in self.operations for part in _inner(op) if part.takes or (part.gives and op is not last)]
        if inner or self.nodes is not None or (self.gives and not any(part.gives for part in _inner(last))):
            return False
        own = {"append", "extend", "insert", "pop"}  # what a sequence has itself
        return all(op.module is not None and _plain(op) and op.field not in own for op in self.operations)

    @property
    def chain(self) -> bool:
        """True for an aggregate whose nodes are units one after another."""
        if self.nodes is None or self.output_fields or self.joins or self.takes or (self.gives and len(self.nodes) > 1):
            return False
        if any(node.unit.gives and not self.gives for node in self.nodes):
            return False
        picks = [pick for pick in (*[node.reads for node in self.nodes], self.returned) if pick is not None]
        plain = all(pick.sources == (pick.position - 1,) and not pick.weight and not pick.matched for pick in picks)
        return plain and all(not node.unit.tail and not node.unit.lead and node.shortcut is None for node in self.nodes)


def _inner(op: Any) -> list[Part]:
    """The part that an operation is."""
    return [part for part in op.module.parts if part] if op is not None and isinstance(op.module, Use) else []


def _plain(op: Any) -> bool:
    return not op.stateful or op.call is None or op.call == Form(f"self.{op.field}({{}})", (X,))


@dataclass(eq=False)
class Node:
    """A node: its unit, what it reads and what joins; ``fields`` are its modules by path; ``alike``: its output has the
    shape of the feature before it."""

    number: int
    unit: Part
    reads: Pick
    shortcut: Pick | None
    fields: dict[str, Expression]
    names: dict[str, Any]
    alike: bool
    made: int


@dataclass(eq=False)
class ClassCode:
    """A class, with its parts in the network.

    Attributes:
        parameters: Of the constructor, with the values for each part.
        texts: The genotype's expressions for parameters.
        inline: Whether it is written where it is used.
    """

    parts: list[Part] = field(default_factory=list)
    name: str = ""
    inline: bool = False
    parameters: dict[str, dict[Part, Any]] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sites: set[Any] = field(default_factory=set)
    form: str = ""
    serial: int = 0


def children(node: Expression) -> tuple[Any, ...]:
    if isinstance(node, Form):
        return node.parts
    if isinstance(node, Call):
        return (*node.arguments, *[option[1] for option in node.options])
    return ()


def with_children(node: Expression, parts: tuple[Any, ...]) -> Expression:
    if isinstance(node, Form):
        return Form(node.form, parts)
    if isinstance(node, Call):
        n = len(node.arguments)
        options = tuple((name, part, default) for (name, _, default), part in zip(node.options, parts[n:], strict=True))
        return Call(node.function, parts[:n], options)
    return node


def skeleton(node: Expression) -> Any:
    """An expression without its numbers: equal for those that can share a class."""
    if isinstance(node, Number):
        return Row if isinstance(node.value, Row) else Number
    if isinstance(node, Use):
        return (Use, node.looped, node.code.serial)
    if isinstance(node, Pick):
        return node
    head = node.form if isinstance(node, Form) else (node.function, tuple(option[0] for option in node.options))
    return (head, *map(skeleton, children(node)))


def operation_key(op: Any) -> Any:
    """An operation without its numbers; None for None."""
    return op and (op.field, op.module and skeleton(op.module), op.call and skeleton(op.call), op.stateful)


def walk(node: Expression) -> Iterator[Expression]:
    yield node
    for child in children(node):
        yield from walk(child)


def fold(nodes: Sequence[Any], pick: Callable[[list[Pick]], Expression]) -> Any:
    """One expression for those at the nodes of a loop, with rows of numbers.

    Args:
        nodes: The expressions, or None where there is none.
        pick: Finds the text of what is picked.

    Raises:
        NotExpressible: If they are not equal but for numbers.
    """
    known = [node for node in nodes if node is not None]
    first = known[0]
    if any(type(node) is not type(first) for node in known):
        raise NotExpressible
    if isinstance(first, Number):
        return _fold_numbers(nodes, known, pick)
    if isinstance(first, Use):
        if len({node.code.serial for node in known}) > 1:
            raise NotExpressible
        return Use(tuple(None if node is None else node.parts[0] for node in nodes), True)
    if isinstance(first, Pick):
        return pick(known)
    if len({(getattr(node, "form", ""), getattr(node, "function", ""), len(children(node))) for node in known}) > 1:
        raise NotExpressible
    empty = [None] * len(children(first))
    columns = zip(*[children(node) if node is not None else empty for node in nodes], strict=True)
    return with_children(first, tuple(fold(list(column), pick) for column in columns))


def _fold_numbers(nodes: Sequence[Any], known: list[Number], pick: Callable[[list[Pick]], Expression]) -> Number:
    row = Row(None if node is None else node.value for node in nodes)
    fallbacks = [node and node.fallback for node in nodes]
    alike = len({node.fallback and skeleton(node.fallback) for node in known}) == 1 and known[0].fallback is not None
    return Number(row, known[0].name, known[0].texts, fold(fallbacks, pick) if alike else None)


def put(node: Expression, values: dict[Expression, Expression]) -> Expression:
    """An expression with others in the place of some."""
    if node in (X, SHORTCUT):
        return values.get(node, node)
    parts = children(node)
    return with_children(node, tuple(put(part, values) for part in parts)) if parts else node
