"""Numbers of a genotype as Python expressions: as simple as possible, with the exact value at every use."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import reduce
from typing import Any

from nas_agg.compiler.codegen.syntax.ir import parse, replace_names, show

Env = Mapping[str, Any]


class NotExpressible(Exception):
    """Something cannot be written in a form, for instance a number that no expression has as value at every use."""


def same(values: list) -> bool:
    return all(value == values[0] for value in values)


class Simplified:
    """A simplified expression, and the names used in it.

    Parts that are equal at every use become numbers; guards that never take effect and alternatives that are never
    taken are removed. The result is checked at each use, in Python's arithmetic.

    Args:
        tree: The expression, in which `in` is ``_in``.
        uses: The values of names at each use.
        names: The Python names of the names that may be used.

    Raises:
        NotExpressible: No expression of these names has the right value at every use.
    """

    def __init__(self, tree: ast.expr, uses: Sequence[Env], names: Mapping[str, str]):
        uses = list(uses)
        self.names = names
        self.used: set[str] = set()
        try:
            values = [exact(tree, env) for env in uses]
        except KeyError:
            raise NotExpressible from None
        self.integers = all(type(value) is int for value in values)
        if not self.integers and same(values):
            self.text = repr(float(values[0]))
            return
        for self.decimals in (True, False):  # whole numbers where floating point is not exact
            self.used = set()
            result = self.part(tree, uses, self.integers)
            if self.is_right(show(result), uses, values):
                break
        else:
            raise NotExpressible
        self.text = show(replace_names(result, {_mark(name): parse(names[name]) for name in self.used}))

    def is_right(self, text: str, uses: list[Env], values: list) -> bool:
        """Whether an expression has the right value at each use."""
        code = compile(text, "schedule", "eval")
        for env, value in zip(uses, values, strict=True):
            values_of_names = {_mark(name): number(env[name]) for name in self.used}
            try:
                result = eval(code, {"__builtins__": {}, **_PYTHON}, values_of_names)  # validated arithmetic only
            except ArithmeticError:
                return False
            if result != number(value) or (type(result) is not int and self.integers):
                return False
        return True

    # ------------------------------------------------------------------ parts

    def part(self, tree: ast.expr, uses: list[Env], whole: bool = False) -> ast.expr:
        """Simplify a part: in integers if all its values are or must be (``whole``), else in floating point."""
        values = [exact(tree, env) for env in uses]
        whole = whole or all(type(value) is int for value in values)
        if same(values) and not (whole and self.is_plain(tree)):
            return _constant(values[0])
        match tree:
            case ast.Name(id=name):
                return self.name(name)
            case ast.IfExp():
                return self.choice(tree, uses, whole)
            case ast.Call(func=ast.Name(id="floor" | "round" | "ceil" as function), args=[inner]) if whole:
                return self.rounded(function, inner, uses)
            case ast.Call(func=ast.Name(id=function), args=args) if whole:
                return self.called(function, args, uses)
            case ast.Call(func=ast.Name(id="max" | "min" as function), args=args):
                return _call(function, [self.part(arg, uses) for arg in args])
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right) if whole:
                if all(exact(right, env) == 1 for env in uses):
                    return self.floored(left, uses)
                return ast.BinOp(self.part(left, uses, True), ast.FloorDiv(), self.part(right, uses, True))
            case ast.BinOp(left=left, op=ast.Mod(), right=right) if whole:
                return ast.BinOp(self.part(left, uses, True), ast.Mod(), self.part(right, uses, True))
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                if whole and any(exact(right, env) < 0 for env in uses):
                    raise NotExpressible
                return ast.BinOp(self.part(left, uses, whole), ast.Pow(), self.part(right, uses, True))
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                return self.divided(*self.factors(tree, uses), uses, whole)
            case ast.BinOp(op=ast.Add() | ast.Sub()) | ast.UnaryOp():
                return self.summed(_terms(tree), uses, whole)
        raise NotExpressible

    def is_plain(self, tree: ast.expr) -> bool:
        """Whether an expression is kept even if it has a single value: a name, or a number times a name."""
        match tree:
            case ast.Name(id=name):
                return name in self.names
            case ast.BinOp(left=ast.Constant(value=int()), op=ast.Mult(), right=ast.Name(id=name)):
                return name in self.names
        return False

    def name(self, name: str) -> ast.expr:
        if name not in self.names:
            raise NotExpressible
        self.used.add(name)
        return ast.Name(_mark(name))

    def choice(self, tree: ast.IfExp, uses: list[Env], whole: bool) -> ast.expr:
        """Simplify a conditional expression; without its condition if only one of the two is ever taken."""
        true = [env for env in uses if holds(tree.test, env)]
        false = [env for env in uses if not holds(tree.test, env)]
        if not false or not true:
            return self.part(tree.body if true else tree.orelse, uses, whole)
        yes, no = self.part(tree.body, true, whole), self.part(tree.orelse, false, whole)
        return ast.IfExp(self.truth(tree.test, uses), yes, no)

    def truth(self, test: ast.expr, uses: list[Env]) -> ast.expr:
        """Simplify a condition, without the parts that are equal at every use."""
        if isinstance(test, ast.BoolOp):
            both = isinstance(test.op, ast.And)
            parts, left = [], uses
            for part in test.values:
                result = [holds(part, env) for env in left]
                if left and not all(value == both for value in result):
                    parts.append(self.truth(part, left))
                    left = [env for env, value in zip(left, result, strict=True) if value == both]
            return parts[0] if len(parts) == 1 else ast.BoolOp(test.op, parts)
        assert isinstance(test, ast.Compare)
        sides = [self.part(part, uses) for part in (test.left, *test.comparators)]
        return ast.Compare(sides[0], test.ops, sides[1:])

    def rounded(self, function: str, inner: ast.expr, uses: list[Env]) -> ast.expr:
        if all(type(exact(inner, env)) is int for env in uses):
            result = self.part(inner, uses, True)
            broken = any(type(env[name]) is not int for env in uses for name in self.used)
            return _call("round", [result]) if broken else result
        if function == "floor":
            return self.floored(inner, uses)
        return _call("round" if function == "round" else "math.ceil", [self.part(inner, uses)])

    def floored(self, inner: ast.expr, uses: list[Env]) -> ast.expr:
        """The floor, by `//` if that is simple, else of a floating-point number."""
        terms = _terms(inner)
        whole = [t for t in terms if all(type(exact(t[1], env)) is int for env in uses)]
        rest = [t for t in terms if t not in whole]
        if len(rest) == 1 and rest[0][0] > 0:
            factor, over, under = self.factors(rest[0][1], uses)
            exactly = all(type(exact(part, env)) is int for part in (*over, *under) for env in uses)
            decimal = self.decimals and factor.denominator > 10 and factor.numerator > 1  # more readable
            if exactly and not decimal:
                return self.summed(whole, uses, True, self.divided(factor, over, under, uses, True))
        result = self.part(inner, uses)
        return _call("int" if min(exact(inner, env) for env in uses) >= 0 else "math.floor", [result])

    # ------------------------------------------------------------------ arithmetic

    def called(self, function: str, args: list[ast.expr], uses: list[Env]) -> ast.expr:
        """Simplify a call with integers, without the arguments that never determine its value."""
        functions: dict[str, Callable] = {"max": max, "min": min, "gcd": math.gcd}
        best = functions[function]

        def values(parts: list[ast.expr]) -> list:
            return [best(*[exact(part, env) for part in parts], *[exact(parts[0], env)]) for env in uses]

        left = list(args)
        for arg in args:  # the first argument is removed first, as in guards such as `max(1, ...)`
            others = [other for other in left if other is not arg]
            if function != "gcd" and others and values(others) == values(args):
                left = others
            if function == "gcd" and [exact(arg, env) for env in uses] == values(args):
                return self.part(arg, uses, True)  # a divisor of the others at every use
        if len(left) == 1:
            return self.part(left[0], uses, True)
        return _call("math.gcd" if function == "gcd" else function, [self.part(arg, uses, True) for arg in left])

    def factors(self, tree: ast.expr, uses: list[Env]) -> tuple[Fraction, list[ast.expr], list[ast.expr]]:
        """Split a product into a number, factors and divisors."""
        match tree:
            case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as op, right=right) if not self.is_plain(tree):
                a, b = self.factors(left, uses), self.factors(right, uses)
                if isinstance(op, ast.Mult):
                    return a[0] * b[0], a[1] + b[1], a[2] + b[2]
                return a[0] / b[0], a[1] + b[2], a[2] + b[1]
            case ast.BinOp(left=ast.Constant(value=int() as factor), op=ast.Mult(), right=name) if self.is_plain(tree):
                return Fraction(factor), [name], []
        values = [exact(tree, env) for env in uses]
        if same(values) and not self.is_plain(tree) and values[0] != 0:
            return Fraction(values[0]), [], []
        return Fraction(1), [tree], []

    def divided(
        self, factor: Fraction, over: list[ast.expr], under: list[ast.expr], uses: list[Env], whole: bool
    ) -> ast.expr:
        top = [self.part(tree, uses, whole) for tree in over]
        bottom = [self.part(tree, uses, whole) for tree in under]
        if not whole and factor.denominator != 1 and (decimal := _decimal(factor)) is not None:
            top.insert(0, ast.Constant(decimal))
        else:
            if factor.numerator != 1 or not top:
                top.insert(0, _constant(factor.numerator))
            if factor.denominator != 1:
                bottom.insert(0, ast.Constant(factor.denominator))
        product = reduce(lambda a, b: ast.BinOp(a, ast.Mult(), b), top)
        if not bottom:
            return product
        divisor = reduce(lambda a, b: ast.BinOp(a, ast.Mult(), b), bottom)
        return ast.BinOp(product, ast.FloorDiv() if whole else ast.Div(), divisor)

    def summed(
        self, terms: list[tuple[int, ast.expr]], uses: list[Env], whole: bool, last: ast.expr | None = None
    ) -> ast.expr:
        if whole and any(type(exact(tree, env)) is not int for _, tree in terms for env in uses):
            raise NotExpressible
        total: Fraction | int = 0
        place = 0  # position of the last number among the other terms
        express: list[tuple[int, ast.expr]] = []
        for sign, tree in terms:
            values = [exact(tree, env) for env in uses]
            if same(values) and not self.is_plain(tree):
                total += sign * values[0]
                place = len(express)
            else:
                express.append((sign, self.part(tree, uses, whole)))
        if last is not None:
            express.append((1, last))
        if total:
            first = isinstance(terms[0][1], ast.Constant) or (place == 0 and express and express[0][0] < 0)
            entry = (1 if total > 0 else -1, _constant(abs(total)))
            express.insert(0 if first and total > 0 else len(express), entry)
        if not express:
            return ast.Constant(0)
        result = express[0][1] if express[0][0] > 0 else ast.UnaryOp(ast.USub(), express[0][1])
        for sign, part in express[1:]:
            result = ast.BinOp(result, ast.Sub() if sign < 0 else ast.Add(), part)
        return result


def number(value: Any) -> Any:
    """A value in the emitted file's arithmetic."""
    return value if isinstance(value, int) else float(value)


def _mark(name: str) -> str:
    """The placeholder of a name, which is a name neither of the language nor of Python."""
    return f"__{name}__"


_PYTHON = {"max": max, "min": min, "round": round, "int": int, "math": math}


def _call(function: str, args: list[ast.expr]) -> ast.expr:
    return ast.Call(parse(function), args, [])


def _constant(value: Any) -> ast.expr:
    if type(value) is int:
        return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))
    decimal = _decimal(value)
    if decimal is not None:
        return ast.Constant(decimal)
    return ast.BinOp(_constant(value.numerator), ast.Div(), ast.Constant(value.denominator))


def _decimal(value: Fraction) -> float | None:
    """A fraction as a short decimal; None if it is not one."""
    text = repr(float(value))
    return float(value) if len(text) <= 8 and Fraction(text) == value else None


def _terms(tree: ast.expr) -> list[tuple[int, ast.expr]]:
    """Split a sum into signed terms."""
    match tree:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            sign = 1 if isinstance(op, ast.Add) else -1
            return _terms(left) + [(sign * factor, term) for factor, term in _terms(right)]
        case ast.UnaryOp(op=op, operand=operand):
            sign = -1 if isinstance(op, ast.USub) else 1
            return [(sign * factor, term) for factor, term in _terms(operand)]
    return [(1, tree)]


_COMPARED: dict[type, Callable] = {
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b, ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b,
}  # fmt: skip


def exact(tree: ast.expr, env: Env) -> Any:
    """Evaluate an expression to an int or a Fraction."""
    match tree:
        case ast.Constant(value=value):
            return _int(Fraction(repr(value)))
        case ast.Name(id=name):
            return env[name]
        case ast.UnaryOp(op=op, operand=operand):
            value = exact(operand, env)
            return -value if isinstance(op, ast.USub) else value
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return exact(body if holds(test, env) else orelse, env)
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [exact(arg, env) for arg in args]
            return _int(Fraction(_FUNCTIONS[name](*values)))
        case ast.BinOp(left=left, op=op, right=right):
            return _int(Fraction(_OPERATIONS[type(op)](exact(left, env), exact(right, env))))
    raise NotExpressible


def holds(test: ast.expr, env: Env) -> bool:
    """Evaluate a condition."""
    if isinstance(test, ast.BoolOp):
        result = (holds(part, env) for part in test.values)
        return all(result) if isinstance(test.op, ast.And) else any(result)
    assert isinstance(test, ast.Compare)
    values = [exact(part, env) for part in (test.left, *test.comparators)]
    return all(_COMPARED[type(op)](a, b) for op, a, b in zip(test.ops, values, values[1:], strict=False))


def _int(value: Fraction) -> Any:
    return value.numerator if value.denominator == 1 else value


_FUNCTIONS: dict[str, Callable] = {
    "floor": math.floor, "ceil": math.ceil, "round": round, "max": max, "min": min,
    "gcd": lambda *values: math.gcd(*map(int, values)),
}  # fmt: skip
_OPERATIONS: dict[type, Callable] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: Fraction(a) / b, ast.FloorDiv: lambda a, b: a // b, ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: Fraction(a) ** b,
}  # fmt: skip
