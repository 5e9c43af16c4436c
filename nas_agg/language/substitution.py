"""Substitution of names: the text that a name stands for, expressions without names of `let`, and their limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from nas_agg.common.errors import GenotypeError, GenotypeSyntaxError, did_you_mean, truncate
from nas_agg.common.values import MAX_NESTING
from nas_agg.language.expressions import VARIABLES, Expression, ExpressionError, parse_expression
from nas_agg.language.genotype import ADAPTERS, JOIN, Genotype, format_value, validate
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS
from nas_agg.language.patterns import PATTERNS
from nas_agg.language.resolved import NumberField, Schedule
from nas_agg.language.schema import Bounds, Choice

MAX_VALUES = 50_000
MAX_TERMS = 100_000  # nodes of all distinct expressions


@lru_cache(maxsize=4096)
def substitute_names(expression: Expression, meanings: tuple[tuple[str, Expression], ...]) -> Expression:
    """Return an expression with names replaced by expressions; cached."""
    return expression.substitute(dict(meanings))


def check_size(size: int, where: str) -> None:
    """Raise an error if a genotype has more than ``MAX_VALUES`` values."""
    if size > MAX_VALUES:
        raise GenotypeError(f"more than {MAX_VALUES:,} values once names are substituted", where)


class Substitution:
    """Substitutes the names of one genotype, and bounds the work of doing so.

    Args:
        genotype: A genotype.

    Attributes:
        genotype: The genotype.
        cache: Results by what they depend on; other resolvers of the genotype may use it, too.
    """

    def __init__(self, genotype: Genotype):
        self.genotype = genotype
        self.cache: dict[tuple, Any] = {}
        self._active: list[str] = []
        self._depth = 0
        self._values = 0
        self._terms = 0

    def reset(self) -> None:
        """Forget the work that was counted so far."""
        self._values = self._terms = 0

    # ------------------------------------------------------------------ names

    @contextmanager
    def meaning_of(self, name: str, where: str) -> Iterator[tuple[Any, str]]:
        """Give the text that a name stands for, and the path where it was written.

        Raises:
            GenotypeError: There is no such name, or it stands for itself.
        """
        if name not in self.genotype.let:
            if name in (self.genotype.open or ()):
                raise GenotypeError(
                    f"'{name}' is a search variable; choose a point of the space, or give it a value", where
                )
            if any(name in kind.bare for words in (LAYERS, PATTERNS, OPERATORS) for kind in words.values()):
                raise GenotypeError(f"the word '{name}' is not allowed here", where)
            words = [*LAYERS, *PATTERNS, *OPERATORS, JOIN, *self.genotype.let]
            hint = did_you_mean(name, words)
            raise GenotypeSyntaxError(
                f"'{truncate(name)}' is neither a word of the language nor a name in 'let'{hint}", where
            )
        self.check_cycle(name)
        with self.substituting((name,)), self.nesting(where):
            yield self.genotype.let[name], f"let.{name}"

    def check_cycle(self, name: str) -> None:
        """Raise an error if a name is used within its own text."""
        if name in self._active:
            cycle = [*self._active[self._active.index(name) :], name]
            raise GenotypeError(f"circular names: {truncate(' -> '.join(cycle))}", f"let.{name}")

    @contextmanager
    def substituting(self, names: tuple[str, ...]) -> Iterator[None]:
        """Mark names whose text is being substituted."""
        self._active.extend(names)
        try:
            yield
        finally:
            del self._active[len(self._active) - len(names) :]

    def validate(self, adapter: str, value: Any, where: str) -> Any:
        """Convert the text of a name to a type of the language, once per type and path."""
        key = ("validate", adapter, where)
        if key not in self.cache:
            self.cache[key] = validate(ADAPTERS[adapter], value, where)
        return self.cache[key]

    @contextmanager
    def nesting(self, where: str) -> Iterator[None]:
        """Count a level of nesting."""
        self._depth += 1
        if self._depth > 2 * MAX_NESTING:  # a name and its text are a level each
            raise GenotypeError(f"nested more than {MAX_NESTING} levels deep once names are substituted", where)
        try:
            yield
        finally:
            self._depth -= 1

    def count_values(self, values: int, where: str) -> None:
        """Count values that are substituted."""
        self._values += values
        check_size(self._values, where)

    # ------------------------------------------------------------------ numbers

    def number(self, value: Any, where: str, bounds: Bounds, bound: frozenset[str]) -> NumberField:
        """Resolve a number field.

        Args:
            value: The field as it was written.
            where: Path of the field.
            bounds: Its bounds.
            bound: Names bound by enclosing aggregates; others are looked up in the genotype's ``let``.
        """
        if isinstance(value, str) and value in self.genotype.let and value not in bound:
            with self.meaning_of(value, where) as (meaning, place):
                if not _is_expression_text(meaning):
                    message = f"{bounds.what} must be a number, but {truncate(place)} is {format_value(meaning)}"
                    raise GenotypeError(message, where)
                return self.number(meaning, place, bounds, bound)
        number = NumberField(self.expression(value, where, bound), where, bounds)
        if number.expression.constant is not None:
            number.value({})  # reports a constant that is out of bounds
        return number

    def expression(self, value: Any, where: str, bound: frozenset[str]) -> Expression:
        """Parse a number or an expression, and substitute its names of the genotype's ``let``."""
        key = ("expression", value, bound)
        if key not in self.cache:
            expression = self.cache[key] = self._substitute(value, where, bound)
            self._terms += expression.size
            if self._terms > MAX_TERMS:
                raise GenotypeError("the genotype has too many expressions to evaluate", where)
        return self.cache[key]

    def _substitute(self, value: Any, where: str, bound: frozenset[str]) -> Expression:
        try:
            expression = parse_expression(value)
            meanings = []
            for name in expression.names:
                if name in VARIABLES or name in bound:
                    continue
                with self.meaning_of(name, where) as (meaning, place):
                    if not _is_expression_text(meaning):
                        raise GenotypeError(
                            f"'{name}' in an expression must be a number, not {format_value(meaning)}", where
                        )
                    meanings.append((name, self.expression(meaning, place, bound)))
            return substitute_names(expression, tuple(meanings)) if meanings else expression
        except ExpressionError as error:
            raise GenotypeError(str(error), where) from None

    def schedule(self, value: Any, where: str, bounds: Bounds, bound: frozenset[str]) -> Schedule:
        """Resolve a schedule: a number, an expression, or a list with one entry per node."""
        if isinstance(value, str) and value not in bound and isinstance(self.genotype.let.get(value), tuple):
            with self.meaning_of(value, where) as (meaning, place):
                return self.schedule(meaning, place, bounds, bound)
        if isinstance(value, tuple):
            self.count_values(len(value), where)
            return tuple(self.number(item, f"{where}[{i}]", bounds, bound) for i, item in enumerate(value))
        return self.number(value, where, bounds, bound)

    # ------------------------------------------------------------------ choices and flags

    def choice(self, value: str, where: str, choice: Choice) -> str:
        """Resolve a field that takes one of some words, or a name for one."""
        options = ", ".join(choice.words)
        if value in choice.words:
            return value
        if value in self.genotype.let or value in (self.genotype.open or ()):
            with self.meaning_of(value, where) as (meaning, place):
                if isinstance(meaning, str):
                    return self.choice(meaning, place, choice)
                raise GenotypeError(f"expected one of {options}, not {format_value(meaning)}", place)
        hint = did_you_mean(value, choice.words)
        raise GenotypeError(f"'{truncate(value)}' is not one of {options}{hint}", where)

    def flag(self, value: Any, where: str) -> bool:
        """Resolve a field that takes true, false, or a name for one."""
        if isinstance(value, bool):
            return value
        with self.meaning_of(value, where) as (meaning, place):
            if not isinstance(meaning, (bool, str)):
                raise GenotypeError(f"expected true or false, not {format_value(meaning)}", place)
            return self.flag(meaning, place)


def _is_expression_text(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)
