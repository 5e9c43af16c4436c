"""Numbers and schedules, safely and exactly worked out.

An expression is text such as ``floor(16 + 64*l/n)``. Arithmetic is exact (fractions: 0.2 is 1/5). Nothing is evaluated
before the whole tree has been checked against a whitelist, and powers are bounded before they are taken.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from nas_agg.errors import GenotypeError

Number = int | Fraction

MAX_TEXT = 200
MAX_RESULT = 10**9
MAX_BITS = 1024
MAX_SIZE = 2000  # nodes of one expression's tree, names put in
MAX_DEPTH = 150

#: Names that every expression knows, with their meaning.
VARIABLES = {
    "in": "channels entering this unit",
    "c": "channels entering this layer",
    "h": "height of the map entering this layer",
    "w": "width of this node",
    "g": "groups of this node",
    "s": "stride of this node",
    "l": "number of this node",
    "n": "number of nodes",
    "classes": "number of classes",
}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_IN = "_in"  # `in` is a keyword of Python; no name of the language begins with an underscore


class ExpressionError(ValueError):
    """An expression is not one, or has no value; the message says which and why."""


def _divide(a: Number, b: Number) -> Number:
    value = Fraction(a) / b
    return value.numerator if value.denominator == 1 else value


def _power(base: Number, exponent: Number) -> Number:
    if Fraction(exponent).denominator != 1:
        raise ExpressionError(f"the power {exponent} is not whole")
    value = Fraction(base)
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS and value not in (0, 1, -1):
        raise ExpressionError(f"a power of more than {MAX_BITS} bits")
    return value ** int(exponent)


def _gcd(*values: Number) -> int:
    for value in values:
        if Fraction(value).denominator != 1:
            raise ExpressionError(f"gcd takes whole numbers, not {value}")
    return math.gcd(*(int(value) for value in values))


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "max": max,
    "min": min,
    "gcd": _gcd,
}
_MANY = {"max", "min", "gcd"}  # these take two values or more, the others one
_GLOBALS = {"__builtins__": {}, "_divide": _divide, "_power": _power, "_Fraction": Fraction, **FUNCTIONS}
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)

#: Words that a name may not be: expressions' own.
WORDS = frozenset(VARIABLES) | frozenset(FUNCTIONS) | {"and", "or", "if", "else", "not"}


def is_name(text: str) -> bool:
    """Whether a text may be a name: a letter, then letters, digits and underscores; no keyword of Python."""
    return bool(NAME.match(text)) and not keyword.iskeyword(text)


class Expression:
    """A checked expression.

    Attributes:
        text: The expression as it was written.
        names: The names it needs, sorted.
        constant: Its value, if it needs no name; else None.
        size: Nodes of its tree, the names put in included.
    """

    __slots__ = ("_tree", "_work", "constant", "names", "size", "text")

    def __init__(self, text: str, tree: ast.expr):
        self.text = text
        self._tree = tree
        self.size, depth = _measure(tree)
        if self.size > MAX_SIZE or depth > MAX_DEPTH:
            raise ExpressionError(f"{_short(text)} grows too large once its names are put in")
        found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        self.names = tuple(sorted("in" if name == _IN else name for name in found - set(_GLOBALS)))
        self._work = self._compiled()
        self.constant = self.value({}) if not self.names else None

    def _compiled(self) -> Callable[..., Number]:
        names = [ast.arg(_IN if name == "in" else name) for name in self.names]
        arguments = ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[])
        work = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, self._tree)))
        return eval(compile(work, "<expression>", "eval"), _GLOBALS)

    def value(self, scope: Mapping[str, Number]) -> Number:
        """Works the expression out.

        Args:
            scope: The value of each name it needs.

        Returns:
            An int, or a Fraction where the value is not whole.

        Raises:
            ExpressionError: If there is no value: a division by zero, a power too large, a result over 10^9.
        """
        try:
            value = self._work(*[scope[name] for name in self.names])
        except ZeroDivisionError:
            raise ExpressionError(f"{_short(self.text)} divides by zero") from None
        except (RecursionError, MemoryError, OverflowError):
            raise ExpressionError(f"{_short(self.text)} is too large to work out") from None
        if value.__class__ is not int:
            value = Fraction(value)
            if value.denominator == 1:
                value = value.numerator
            elif max(abs(value.numerator), value.denominator).bit_length() > 2 * MAX_BITS:
                raise ExpressionError(f"{_short(self.text)} has too many digits")
        if not -MAX_RESULT <= value <= MAX_RESULT:
            raise ExpressionError(f"{_short(self.text)} is beyond 10^9")
        return value

    def with_names(self, meanings: Mapping[str, Expression]) -> Expression:
        """This expression with the text of some names put in."""
        if not meanings.keys() & set(self.names):
            return self
        size = self.size + sum(
            meanings[node.id].size
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Name) and node.id in meanings
        )
        if size > MAX_SIZE:
            raise ExpressionError(f"{_short(self.text)} grows too large once its names are put in")
        return Expression(self.text, _PutIn(meanings).visit(ast.parse(ast.unparse(self._tree), mode="eval").body))

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    @property
    def key(self) -> str:
        """The tree as text, names put in: equal for equal expressions."""
        return ast.unparse(self._tree)


class _PutIn(ast.NodeTransformer):
    def __init__(self, meanings: Mapping[str, Expression]):
        self.meanings = meanings

    def visit_Name(self, node: ast.Name) -> ast.expr:
        meaning = self.meanings.get(node.id)
        return meaning._tree if meaning else node


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Expression:
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"an expression has at most {MAX_TEXT} characters, this one {len(text)}")
    if "_in" in re.findall(r"[A-Za-z0-9_]+", text):
        raise ExpressionError(f"'{text}' is not an expression: a name begins with a letter")
    try:
        tree = ast.parse(re.sub(r"\bin\b", _IN, text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"'{text}' is not an expression") from None
    return Expression(text, _Checked(text).number(tree))


def parse(value: Any) -> Expression:
    """Reads a number or the text of an expression.

    Args:
        value: An int, a finite float (taken as the decimal it is written as) or text.

    Returns:
        The checked expression; equal texts give the same object.

    Raises:
        ExpressionError: If it is not an expression, or its constant value is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ExpressionError(f"{_short(repr(value))} is not a number or an expression")
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"{value} is not a number to compute with")
    if abs(value) > MAX_RESULT:
        raise ExpressionError(f"{value:.3g} is beyond 10^9")
    return _parsed(repr(value))


class _Checked:
    """Checks a tree against the whitelist, and rewrites what must be exact."""

    def __init__(self, text: str):
        self.text = text

    def refuse(self, why: str) -> ExpressionError:
        return ExpressionError(f"'{self.text}' is not an expression: {why}")

    def number(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=value) if type(value) in (int, float):
                return self._constant(value)
            case ast.Name(id=name):
                if name in FUNCTIONS:
                    raise self.refuse(f"{name} is a function")
                if name != _IN and not is_name(name):
                    raise self.refuse(f"'{name}' is not a name")
                return ast.Name(name, ast.Load())
            case ast.UnaryOp(op=ast.UAdd() | ast.USub() as op, operand=operand):
                return ast.UnaryOp(op, self.number(operand))
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                a, b = self.number(left), self.number(right)
                if isinstance(op, ast.Div):
                    return _call("_divide", a, b)
                return _call("_power", a, b) if isinstance(op, ast.Pow) else ast.BinOp(a, op, b)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return ast.IfExp(self.truth(test), self.number(body), self.number(orelse))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                if (len(args) < 2) if name in _MANY else (len(args) != 1):
                    raise self.refuse(f"{name} takes {'two values or more' if name in _MANY else 'one value'}")
                return _call(name, *[self.number(arg) for arg in args])
            case ast.Call(func=ast.Name(id=name)):
                raise self.refuse(f"there is no function {name}; there are {', '.join(FUNCTIONS)}")
            case ast.Compare() | ast.BoolOp():
                raise self.refuse("a comparison is not a number; write 'a if p else b'")
        raise self.refuse("it takes numbers, names, + - * / // % **, floor ceil round max min gcd and 'a if p else b'")

    def truth(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op, [self.truth(value) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(o, _COMPARISONS) for o in ops):
                return ast.Compare(self.number(left), ops, [self.number(other) for other in others])
        raise self.refuse("the condition of an 'if' is a comparison, with 'and' and 'or'")

    def _constant(self, value: int | float) -> ast.expr:
        if isinstance(value, float) and not math.isfinite(value) or abs(value) > MAX_RESULT:
            raise self.refuse("a number is beyond 10^9")
        exact = Fraction(repr(value))
        if exact.denominator == 1:
            return ast.Constant(exact.numerator)
        return _call("_Fraction", ast.Constant(exact.numerator), ast.Constant(exact.denominator))


def _call(function: str, *values: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(values), [])


def _measure(tree: ast.expr) -> tuple[int, int]:
    """The nodes and the depth of a tree, without recursion."""
    size, depth, level = 0, 0, [tree]
    while level:
        size, depth = size + len(level), depth + 1
        if size > MAX_SIZE or depth > MAX_DEPTH:
            break
        level = [child for node in level for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return size, depth


def _short(text: str) -> str:
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"


def whole(value: Number, least: int, most: int, what: str, shown: str) -> int:
    """A count: the value, if it is whole and within bounds.

    Raises:
        GenotypeError: Without a place; the caller adds it.
    """
    if value.__class__ is not int:
        raise GenotypeError(f"{_short(shown)} is {float(value):.6g}, and {what} must be whole; write floor(...)")
    if not least <= value <= most:
        where = f"from {least:,} to {most:,}"
        given = "" if str(value) == shown else f"{_short(shown)} is "
        raise GenotypeError(f"{given}{value:,}, and {what} goes {where}")
    return value  # type: ignore[return-value]
