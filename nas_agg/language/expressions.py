"""Safe and exact evaluation of the expressions of numbers and schedules.

An expression is text such as ``floor(16 + 64*l/n)``. Arithmetic is exact (fractions: 0.2 is 1/5). Nothing is evaluated
before the whole syntax tree has been checked against a whitelist, and powers are bounded before they are computed.
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

from nas_agg.common.errors import GenotypeError, truncate

Number = int | Fraction

MAX_TEXT = 200
MAX_RESULT = 10**9
MAX_BITS = 1024
MAX_SIZE = 2000  # nodes of an expression's syntax tree after substitution
MAX_DEPTH = 150

#: Names that are defined in every expression, with their meanings.
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
_TOKENS = re.compile(
    r"(?:\s|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.])|[A-Za-z][A-Za-z0-9_]*|[-+*/%(),<>=!])*+\Z",
    re.ASCII,
)
_AT: Any = {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0}
_IN = "_in"  # `in` is a keyword of Python; no name of the language begins with an underscore


class ExpressionError(ValueError):
    """An invalid expression, or one that cannot be evaluated."""


def _number(value: Any) -> Number:
    """Return a number as the decimal that it is written as: 0.2 is 1/5."""
    exact = Fraction(repr(value))
    return exact.numerator if exact.denominator == 1 else exact


_SMALL = 1 << 64


def _bounded(value: Number) -> Number:
    """Return an intermediate value unless it is so long that arithmetic would take time."""
    if value.__class__ is int and -_SMALL < value < _SMALL:
        return value
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 2 * MAX_BITS:
        raise ExpressionError(f"an intermediate value exceeds {2 * MAX_BITS} bits")
    return value


def _divide(a: Number, b: Number) -> Number:
    if a.__class__ is int and b.__class__ is int and b and not a % b:
        return _bounded(a // b)
    value = _bounded(Fraction(a) / b)
    return value.numerator if value.denominator == 1 else value


def _power(base: Number, exponent: Number) -> Number:
    if Fraction(exponent).denominator != 1:
        raise ExpressionError(f"the exponent {exponent} is not an integer")
    value = Fraction(base)
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits * abs(int(exponent)) > MAX_BITS and value not in (0, 1, -1):
        raise ExpressionError(f"a power exceeds {MAX_BITS} bits")
    return value ** int(exponent)


def _gcd(*values: Number) -> int:
    for value in values:
        if value.__class__ is not int and Fraction(value).denominator != 1:
            raise ExpressionError(f"gcd takes integers, not {value}")
    return math.gcd(*(int(value) for value in values))


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "max": max,
    "min": min,
    "gcd": _gcd,
}
_VARIADIC = {"max", "min", "gcd"}  # take two or more arguments, the others one
_GLOBALS = {
    "__builtins__": {}, "_bounded": _bounded, "_divide": _divide, "_power": _power, "_Fraction": Fraction, **FUNCTIONS
}  # fmt: skip
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)

#: Words of expressions, which cannot be names.
WORDS = frozenset(VARIABLES) | frozenset(FUNCTIONS) | {"and", "or", "if", "else", "not"}


def is_name(text: str) -> bool:
    """Return whether a text is a valid name: a letter followed by letters, digits and underscores, not a keyword."""
    return bool(NAME.match(text)) and not keyword.iskeyword(text)


class Expression:
    """A checked expression.

    Attributes:
        text: The expression as it was written.
        names: The names that it needs, sorted.
        constant: Its value if it needs no names; else None.
        size: Number of nodes of its syntax tree after substitution.
    """

    __slots__ = ("_function", "_python", "constant", "names", "size", "text")

    def __init__(self, text: str, tree: ast.expr, python: str):
        self.text = text
        self._python = python  # after substitution; text, since a tree is ten times as large
        self.size, depth = _measure(tree)
        if self.size > MAX_SIZE or depth > MAX_DEPTH:
            raise ExpressionError(_too_large(text))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - FUNCTIONS.keys()
        self.names = tuple(sorted("in" if name == _IN else name for name in names))
        self.constant: Number | None = None
        if isinstance(tree, ast.Constant):
            self.constant = _number(tree.value)
        else:
            self._function = self._compile(tree)
            if not self.names:
                self.constant = self.value({})

    def _compile(self, tree: ast.expr) -> Callable[..., Number]:
        names = [ast.arg(_IN if name == "in" else name, **_AT) for name in self.names]
        arguments = ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[])
        try:
            function = ast.Expression(ast.Lambda(arguments, _exact(tree), **_AT))
            return eval(compile(function, "<expression>", "eval"), _GLOBALS)
        except (RecursionError, MemoryError):
            raise ExpressionError(f"{_quote(self.text)} is too large to evaluate") from None

    def value(self, scope: Mapping[str, Number]) -> Number:
        """Evaluate the expression.

        Args:
            scope: The value of each name that it needs.

        Returns:
            An int, or a Fraction if the value is not an integer.

        Raises:
            ExpressionError: Division by zero, a power that is too large, or a result above 10^9.
        """
        if self.constant is not None:
            return self.constant
        try:
            value = self._function(*[scope[name] for name in self.names])
        except ZeroDivisionError:
            raise ExpressionError(f"{_quote(self.text)} divides by zero") from None
        except (RecursionError, MemoryError, OverflowError):
            raise ExpressionError(f"{_quote(self.text)} is too large to evaluate") from None
        if value.__class__ is not int:
            value = Fraction(value)
            if value.denominator == 1:
                value = value.numerator
            elif max(abs(value.numerator), value.denominator).bit_length() > 2 * MAX_BITS:
                raise ExpressionError(f"{_quote(self.text)} has too many digits")
        if not -MAX_RESULT <= value <= MAX_RESULT:
            raise ExpressionError(f"{_quote(self.text)} exceeds 10^9")
        return value

    def substitute(self, meanings: Mapping[str, Expression]) -> Expression:
        """Return this expression with some names replaced by expressions."""
        if not meanings.keys() & set(self.names):
            return self
        tree = self.tree()
        used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in meanings]
        if self.size + sum(meanings[name].size for name in used) > MAX_SIZE:
            raise ExpressionError(_too_large(self.text))
        tree = _substitute(tree, {name: meanings[name].tree() for name in used})
        return Expression(self.text, tree, ast.unparse(tree))

    def tree(self) -> ast.expr:
        """Return its syntax tree after substitution, in which `in` is ``_in``."""
        return ast.parse(self._python, mode="eval").body

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def _substitute(node: ast.expr, meanings: Mapping[str, ast.expr]) -> ast.expr:
    if isinstance(node, ast.Name):
        return meanings.get(node.id, node)
    fields = {}
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            value = value if field == "func" else _substitute(value, meanings)
        elif isinstance(value, list) and value and isinstance(value[0], ast.expr):
            value = [_substitute(item, meanings) for item in value]
        fields[field] = value
    return type(node)(**fields)


@lru_cache(maxsize=2048)
def parse_text(text: str) -> Expression:
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"an expression may have at most {MAX_TEXT} characters, not {len(text)}")
    try:
        if not _TOKENS.match(text):
            raise SyntaxError
        python = " ".join(re.sub(r"\bin\b", _IN, text).split())
        tree = ast.parse(python, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"{_quote(text)} is not a valid expression") from None
    _Whitelist(text).check_number(tree)
    return Expression(text, tree, python)


def parse_expression(value: Any) -> Expression:
    """Parse a number or the text of an expression.

    Args:
        value: An int, a finite float (read as the decimal that it is written as) or text.

    Returns:
        The checked expression; equal texts give the same object.

    Raises:
        ExpressionError: It is not a valid expression, or its constant value is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ExpressionError(f"{_quote(repr(value))} is not a number or an expression")
    if isinstance(value, str):
        return parse_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"{value} is not a finite number")
    if abs(value) > MAX_RESULT:
        raise ExpressionError("a number exceeds 10^9")
    return parse_text(repr(value))


class _Whitelist:
    """Checks a syntax tree against the constructs that are allowed."""

    def __init__(self, text: str):
        self.text = text

    def error(self, reason: str) -> ExpressionError:
        return ExpressionError(f"{_quote(self.text)} is not a valid expression: {reason}")

    def check_number(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                if not -MAX_RESULT <= value <= MAX_RESULT:
                    raise self.error("a number exceeds 10^9")
            case ast.Name(id=name):
                if name in FUNCTIONS:
                    raise self.error(f"{name} is a function and needs arguments")
                if name != _IN and not is_name(name):
                    raise self.error(f"'{truncate(name)}' is not a valid name")
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
                self.check_number(operand)
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                self.check_number(left)
                self.check_number(right)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.check_condition(test)
                self.check_number(body)
                self.check_number(orelse)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                if (len(args) < 2) if name in _VARIADIC else (len(args) != 1):
                    count = "two or more arguments" if name in _VARIADIC else "one argument"
                    raise self.error(f"{name} takes {count}")
                for arg in args:
                    self.check_number(arg)
            case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
                raise self.error(f"unknown function '{truncate(name)}'; available are {', '.join(FUNCTIONS)}")
            case ast.Compare() | ast.BoolOp():
                raise self.error("a comparison is not a number; use 'a if p else b'")
            case _:
                allowed = "numbers, names, + - * / // % **, floor ceil round max min gcd and 'a if p else b'"
                raise self.error(f"allowed are {allowed}")

    def check_condition(self, node: ast.expr) -> None:
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self.check_condition(value)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(o, _COMPARISONS) for o in ops):
                for value in (left, *others):
                    self.check_number(value)
            case _:
                raise self.error("the condition of 'if' must be a comparison, or several with 'and' and 'or'")


def _exact(node: ast.expr) -> ast.expr:
    """Return a checked tree with exact constants and bounded intermediate values."""
    match node:
        case ast.Constant(value=value):
            exact = _number(value)
            if isinstance(exact, int):
                return ast.Constant(exact, **_AT)
            return _call("_Fraction", ast.Constant(exact.numerator, **_AT), ast.Constant(exact.denominator, **_AT))
        case ast.UnaryOp(op=op, operand=operand):
            return ast.UnaryOp(op, _exact(operand), **_AT)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _exact(left), _exact(right)
            if isinstance(op, (ast.Div, ast.Pow)):
                return _call("_divide" if isinstance(op, ast.Div) else "_power", a, b)
            return _call("_bounded", ast.BinOp(a, op, b, **_AT))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return ast.IfExp(_exact(test), _exact(body), _exact(orelse), **_AT)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call(name, *[_exact(arg) for arg in args])
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(op, [_exact(value) for value in values], **_AT)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return ast.Compare(_exact(left), ops, [_exact(other) for other in others], **_AT)
    return node


def _call(function: str, *values: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load(), **_AT), list(values), [], **_AT)


def _measure(tree: ast.expr) -> tuple[int, int]:
    """Return the number of nodes and the depth of a tree, without recursion."""
    size, depth, level = 0, 0, [tree]
    while level:
        size, depth = size + len(level), depth + 1
        if size > MAX_SIZE or depth > MAX_DEPTH:
            break
        level = [child for node in level for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return size, depth


def _quote(text: str) -> str:
    return f"'{truncate(text)}'"


def _too_large(text: str) -> str:
    return f"{_quote(text)} is too large or too deeply nested once its names are substituted"


def check_integer(value: Number, least: int, most: int, what: str, written: str) -> int:
    """Return a value if it is an integer within bounds.

    Args:
        value: The value.
        least: Lower bound.
        most: Upper bound.
        what: Name of the quantity, with its article.
        written: The expression as it was written.

    Raises:
        GenotypeError: The value is not an integer, or out of bounds; the caller adds the location.
    """
    if value.__class__ is not int:
        raise GenotypeError(f"{what} must be an integer, but {_quote(written)} is {float(value):.6g}; use floor(...)")
    if not least <= value <= most:
        given = f", not {value:,}" if str(value) == written else f", but {_quote(written)} is {value:,}"
        raise GenotypeError(f"{what} must be from {least:,} to {most:,}{given}")
    return value
