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

from nas_agg.common.errors import GenotypeError, truncate

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
_TOKENS = re.compile(
    r"(?:\s|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.])|[A-Za-z][A-Za-z0-9_]*|[-+*/%(),<>=!])*+\Z",
    re.ASCII,
)
_AT: Any = {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0}
_IN = "_in"  # `in` is a keyword of Python; no name of the language begins with an underscore


class ExpressionError(ValueError):
    """An expression is not one, or has no value; the message says which and why."""


def _number(value: Any) -> Number:
    """A number as it is written: 0.2 is 1/5."""
    exact = Fraction(repr(value))
    return exact.numerator if exact.denominator == 1 else exact


def _bounded(value: Number) -> Number:
    """A value on the way, if it is not absurdly long: arithmetic on it would take time."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 2 * MAX_BITS:
        raise ExpressionError(f"a number of more than {2 * MAX_BITS} bits")
    return value


def _divide(a: Number, b: Number) -> Number:
    value = _bounded(Fraction(a) / b)
    return value.numerator if value.denominator == 1 else value


def _power(base: Number, exponent: Number) -> Number:
    if Fraction(exponent).denominator != 1:
        raise ExpressionError(f"the power {exponent} is not whole")
    value = Fraction(base)
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits * abs(int(exponent)) > MAX_BITS and value not in (0, 1, -1):
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
_GLOBALS = {
    "__builtins__": {}, "_bounded": _bounded, "_divide": _divide, "_power": _power, "_Fraction": Fraction, **FUNCTIONS
}  # fmt: skip
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

    __slots__ = ("_python", "_work", "constant", "names", "size", "text")

    def __init__(self, text: str, tree: ast.expr, python: str):
        self.text = text
        self._python = python  # names put in; kept as text, since a tree is ten times as large
        self.size, depth = _measure(tree)
        if self.size > MAX_SIZE or depth > MAX_DEPTH:
            raise ExpressionError(f"{_short(text)} is too large, or too deep, once its names are put in")
        found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - FUNCTIONS.keys()
        self.names = tuple(sorted("in" if name == _IN else name for name in found))
        self.constant: Number | None = None
        if isinstance(tree, ast.Constant):
            self.constant = _number(tree.value)
        else:
            self._work = self._compiled(tree)
            if not self.names:
                self.constant = self.value({})

    def _compiled(self, tree: ast.expr) -> Callable[..., Number]:
        names = [ast.arg(_IN if name == "in" else name, **_AT) for name in self.names]
        arguments = ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[])
        try:
            work = ast.Expression(ast.Lambda(arguments, _exact(tree), **_AT))
            return eval(compile(work, "<expression>", "eval"), _GLOBALS)
        except (RecursionError, MemoryError):
            raise ExpressionError(f"{_short(self.text)} is too large to work out") from None

    def value(self, scope: Mapping[str, Number]) -> Number:
        """Works the expression out.

        Args:
            scope: The value of each name it needs.

        Returns:
            An int, or a Fraction where the value is not whole.

        Raises:
            ExpressionError: If there is no value: a division by zero, a power too large, a result over 10^9.
        """
        if self.constant is not None:
            return self.constant
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
        tree = self.tree()
        used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in meanings]
        if self.size + sum(meanings[name].size for name in used) > MAX_SIZE:
            raise ExpressionError(f"{_short(self.text)} is too large, or too deep, once its names are put in")
        tree = _with_names(tree, {name: meanings[name].tree() for name in used})
        return Expression(self.text, tree, ast.unparse(tree))

    def tree(self) -> ast.expr:
        """Its syntax tree, the names put in; `in` is ``_in`` in it."""
        return ast.parse(self._python, mode="eval").body

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def _with_names(node: ast.expr, meanings: Mapping[str, ast.expr]) -> ast.expr:
    if isinstance(node, ast.Name):
        return meanings.get(node.id, node)
    fields = {}
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            value = value if field == "func" else _with_names(value, meanings)
        elif isinstance(value, list) and value and isinstance(value[0], ast.expr):
            value = [_with_names(item, meanings) for item in value]
        fields[field] = value
    return type(node)(**fields)


@lru_cache(maxsize=2048)
def parsed(text: str) -> Expression:
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"an expression has at most {MAX_TEXT} characters, this one {len(text)}")
    try:
        if not _TOKENS.match(text):
            raise SyntaxError
        python = " ".join(re.sub(r"\bin\b", _IN, text).split())
        tree = ast.parse(python, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"{_short(text)} is not an expression") from None
    _Checked(text).number(tree)
    return Expression(text, tree, python)


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
        return parsed(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"{value} is not a number to compute with")
    if abs(value) > MAX_RESULT:
        raise ExpressionError("a number is beyond 10^9")
    return parsed(repr(value))


class _Checked:
    """Checks a tree against the whitelist."""

    def __init__(self, text: str):
        self.text = text

    def refuse(self, why: str) -> ExpressionError:
        return ExpressionError(f"{_short(self.text)} is not an expression: {why}")

    def number(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                if not -MAX_RESULT <= value <= MAX_RESULT:
                    raise self.refuse("a number is beyond 10^9")
            case ast.Name(id=name):
                if name in FUNCTIONS:
                    raise self.refuse(f"{name} is a function")
                if name != _IN and not is_name(name):
                    raise self.refuse(f"'{truncate(name)}' is not a name")
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
                self.number(operand)
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                self.number(left)
                self.number(right)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.truth(test)
                self.number(body)
                self.number(orelse)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                if (len(args) < 2) if name in _MANY else (len(args) != 1):
                    raise self.refuse(f"{name} takes {'two values or more' if name in _MANY else 'one value'}")
                for arg in args:
                    self.number(arg)
            case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
                raise self.refuse(f"there is no function {truncate(name)}; there are {', '.join(FUNCTIONS)}")
            case ast.Compare() | ast.BoolOp():
                raise self.refuse("a comparison is not a number; write 'a if p else b'")
            case _:
                wanted = "numbers, names, + - * / // % **, floor ceil round max min gcd and 'a if p else b'"
                raise self.refuse(f"it takes {wanted}")

    def truth(self, node: ast.expr) -> None:
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self.truth(value)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(o, _COMPARISONS) for o in ops):
                for value in (left, *others):
                    self.number(value)
            case _:
                raise self.refuse("the condition of an 'if' is a comparison, with 'and' and 'or'")


def _exact(node: ast.expr) -> ast.expr:
    """A checked tree as Python works it out: with fractions, and every value on the way bounded."""
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
    """The nodes and the depth of a tree, without recursion."""
    size, depth, level = 0, 0, [tree]
    while level:
        size, depth = size + len(level), depth + 1
        if size > MAX_SIZE or depth > MAX_DEPTH:
            break
        level = [child for node in level for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return size, depth


def _short(text: str) -> str:
    return f"'{truncate(text)}'"


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
    return value
