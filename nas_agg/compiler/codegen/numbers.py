"""Numbers of a genotype as Python text: as plain as they can be where every use in this network has its exact value."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

Env = Mapping[str, Any]

ATOM, POWER, UNARY, PRODUCT, SUM, TEST, CHOICE = range(7)  # how loosely a text holds together


class Unsaid(Exception):
    """There is no text whose value is right at every use."""


def same(values: list) -> bool:
    return all(value == values[0] for value in values)


class Said:
    """The text of an expression, and the names used in it.

    Args:
        tree: Of the expression; `in` is called ``_in`` in it.
        uses: The values of names at each use.
        names: What the names that may be used are called.

    Raises:
        Unsaid: If no text of these names has the right value everywhere.
    """

    def __init__(self, tree: ast.expr, uses: Sequence[Env], names: Mapping[str, str]):
        uses = list(uses)
        self.names = names
        self.used: set[str] = set()
        try:
            values = [exact(tree, env) for env in uses]
        except KeyError:
            raise Unsaid from None
        self.integers = all(type(value) is int for value in values)
        if not self.integers and same(values):
            self.text = repr(float(values[0]))
            return
        for self.decimals in (True, False):  # where floating point is not exact there may be whole numbers
            self.used = set()
            text = _held((self.whole if self.integers else self.broken)(tree, uses), CHOICE)
            if self.right(text, uses, values):
                break
        else:
            raise Unsaid
        whole = text.startswith("__") and text.endswith("__") and text[2:-2].isidentifier()
        self.text = _MARK.sub(lambda mark: self.called_as(mark.group(1), whole), text)

    def right(self, text: str, uses: list[Env], values: list) -> bool:
        """Whether a text has the right value at each use."""
        for env, value in zip(uses, values, strict=True):
            known = {_mark(name): _number(env[name]) for name in self.used}
            try:
                found = eval(text, {"__builtins__": {}, **_PYTHON}, known)  # arithmetic of checked names alone
            except ArithmeticError:
                return False
            if found != _number(value) or (type(found) is not int and self.integers):
                return False
        return True

    def called_as(self, name: str, alone: bool) -> str:
        text = self.names[name]
        return text if alone or re.fullmatch(r"[\w.]+", text) else f"({text})"

    # ------------------------------------------------------------------ parts, each as (text, how loosely it holds)

    def whole(self, tree: ast.expr, uses: list[Env]) -> tuple[str, int]:
        """A part whose values are whole."""
        values = [exact(tree, env) for env in uses]
        if same(values) and not self.plain(tree):
            return _constant(values[0])
        match tree:
            case ast.Name(id=name):
                return self.name(name), ATOM
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.choice(test, body, orelse, uses, self.whole)
            case ast.Call(func=ast.Name(id="floor" | "round" | "ceil" as function), args=[inner]):
                return self.rounded(function, inner, uses)
            case ast.Call(func=ast.Name(id=function), args=args):
                return self.called(function, args, uses)
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return self.binary(left, "//", right, uses, PRODUCT)
            case ast.BinOp(left=left, op=ast.Mod(), right=right):
                return self.binary(left, "%", right, uses, PRODUCT)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self.power(left, right, uses)
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                return self.product(tree, uses, "//")
            case ast.BinOp(op=ast.Add() | ast.Sub()) | ast.UnaryOp():
                return self.total(tree, uses, "//")
        raise Unsaid

    def broken(self, tree: ast.expr, uses: list[Env]) -> tuple[str, int]:
        """A part whose values need not be whole, in floating point."""
        values = [exact(tree, env) for env in uses]
        if all(type(value) is int for value in values):
            return self.whole(tree, uses)
        if same(values):
            return _constant(values[0])
        match tree:
            case ast.Name(id=name):
                return self.name(name), ATOM
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.choice(test, body, orelse, uses, self.broken)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                base, exponent = self.broken(left, uses), self.whole(right, uses)
                return f"{_held(base, ATOM)}**{_held(exponent, ATOM)}", POWER
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                return self.product(tree, uses, "/")
            case ast.BinOp(op=ast.Add() | ast.Sub()) | ast.UnaryOp():
                return self.total(tree, uses, "/")
            case ast.Call(func=ast.Name(id="max" | "min" as function), args=args):
                return f"{function}({', '.join(self.broken(arg, uses)[0] for arg in args)})", ATOM
        raise Unsaid

    def plain(self, tree: ast.expr) -> bool:
        """Whether an expression of one value reads well as it is: a name, or a name times a number."""
        match tree:
            case ast.Name(id=name):
                return name in self.names
            case ast.BinOp(left=ast.Constant(value=int()), op=ast.Mult(), right=ast.Name(id=name)):
                return name in self.names
        return False

    def name(self, name: str) -> str:
        if name not in self.names:
            raise Unsaid
        self.used.add(name)
        return _mark(name)

    def choice(self, test: ast.expr, body: ast.expr, orelse: ast.expr, uses: list[Env], part: Callable) -> Any:
        true = [env for env in uses if holds(test, env)]
        false = [env for env in uses if not holds(test, env)]
        if not false or not true:
            return part(body if true else orelse, uses)
        yes, no = part(body, true), part(orelse, false)
        return f"{_held(yes, TEST)} if {self.truth(test, uses)[0]} else {_held(no, CHOICE)}", CHOICE

    def truth(self, test: ast.expr, uses: list[Env]) -> tuple[str, int]:
        """A condition without the parts that are the same at every use."""
        if isinstance(test, ast.BoolOp):
            both = isinstance(test.op, ast.And)
            texts, left = [], uses
            for part in test.values:
                found = [holds(part, env) for env in left]
                if left and not all(value == both for value in found):
                    texts.append(_held(self.truth(part, left), TEST))
                    left = [env for env, value in zip(left, found, strict=True) if value == both]
            if len(texts) == 1:
                return texts[0], TEST
            return (" and " if both else " or ").join(texts), CHOICE
        assert isinstance(test, ast.Compare)
        texts = [_held(self.broken(part, uses), SUM) for part in (test.left, *test.comparators)]
        signs = [_SIGNS[type(op)] for op in test.ops]
        return texts[0] + "".join(f" {sign} {text}" for sign, text in zip(signs, texts[1:], strict=True)), TEST

    def rounded(self, function: str, inner: ast.expr, uses: list[Env]) -> tuple[str, int]:
        if all(type(exact(inner, env)) is int for env in uses):
            text, loose = self.whole(inner, uses)
            broken = any(type(env[name]) is not int for env in uses for name in self.used)
            return (f"round({text})", ATOM) if broken else (text, loose)
        if function == "floor":
            return self.floored(inner, uses)
        return f"{'round' if function == 'round' else 'math.ceil'}({self.broken(inner, uses)[0]})", ATOM

    def floored(self, inner: ast.expr, uses: list[Env]) -> tuple[str, int]:
        """The floor: by `//` where that is plain, else of floating point."""
        terms = _terms(inner)
        whole = [t for t in terms if all(type(exact(t[1], env)) is int for env in uses)]
        rest = [t for t in terms if t not in whole]
        if len(rest) == 1 and rest[0][0] > 0:
            try:
                said = self.quotient(rest[0][1], uses)
            except Unsaid:
                said = None
            if said is not None:
                return self.summed(whole, uses, said)
        text = _held(self.broken(inner, uses), CHOICE)
        return (f"int({text})" if min(exact(inner, env) for env in uses) >= 0 else f"math.floor({text})"), ATOM

    def quotient(self, tree: ast.expr, uses: list[Env]) -> tuple[str, int] | None:
        number, over, under = self.factors(tree, uses)
        if any(type(exact(part, env)) is not int for part in (*over, *under) for env in uses):
            return None
        decimal = self.decimals and number.denominator > 10 and number.numerator > 1  # which reads better
        return None if decimal else self.divided(number, over, under, uses, "//")

    # ------------------------------------------------------------------ arithmetic

    def binary(self, left: ast.expr, sign: str, right: ast.expr, uses: list[Env], level: int) -> tuple[str, int]:
        if sign == "//" and all(exact(right, env) == 1 for env in uses):
            return self.floored(left, uses)
        a, b = self.whole(left, uses), self.whole(right, uses)
        return f"{_held(a, level)} {sign} {_held(b, level - 1)}", level

    def power(self, left: ast.expr, right: ast.expr, uses: list[Env]) -> tuple[str, int]:
        if all(exact(right, env) >= 0 for env in uses):
            base, exponent = self.whole(left, uses), self.whole(right, uses)
            sign = "**" if exponent[1] == ATOM and base[1] == ATOM and "(" not in base[0] + exponent[0] else " ** "
            return f"{_held(base, ATOM)}{sign}{_held(exponent, ATOM)}", POWER
        raise Unsaid

    def called(self, function: str, args: list[ast.expr], uses: list[Env]) -> tuple[str, int]:
        if function in ("max", "min"):
            best = max if function == "max" else min
            values = [best(exact(arg, env) for arg in args) for env in uses]
            left = list(args)
            for arg in args:
                others = [other for other in left if other is not arg]
                if others and [best(exact(other, env) for other in others) for env in uses] == values:
                    left = others
            # What is first to be left out is what comes first: the guards `max(1, ...)` are written so.
            if len(left) == 1:
                return self.whole(left[0], uses)
            args = left
        if function == "gcd":
            values = [math.gcd(*[exact(arg, env) for arg in args]) for env in uses]
            for arg in args:
                if [exact(arg, env) for env in uses] == values:
                    return self.whole(arg, uses)  # it divides the others at every use
        texts = [_held(self.whole(arg, uses), CHOICE) for arg in args]
        return f"{'math.' if function == 'gcd' else ''}{function}({', '.join(texts)})", ATOM

    def factors(self, tree: ast.expr, uses: list[Env]) -> tuple[Fraction, list[ast.expr], list[ast.expr]]:
        """A product as a number, factors and divisors."""
        match tree:
            case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as op, right=right) if not self.plain(tree):
                a, b = self.factors(left, uses), self.factors(right, uses)
                if isinstance(op, ast.Mult):
                    return a[0] * b[0], a[1] + b[1], a[2] + b[2]
                return a[0] / b[0], a[1] + b[2], a[2] + b[1]
            case ast.BinOp(left=ast.Constant(value=int() as number), op=ast.Mult(), right=name) if self.plain(tree):
                return Fraction(number), [name], []
        values = [exact(tree, env) for env in uses]
        if same(values) and not self.plain(tree) and values[0] != 0:
            return Fraction(values[0]), [], []
        return Fraction(1), [tree], []

    def product(self, tree: ast.expr, uses: list[Env], sign: str) -> tuple[str, int]:
        number, over, under = self.factors(tree, uses)
        return self.divided(number, over, under, uses, sign)

    def divided(
        self, number: Fraction, over: list[ast.expr], under: list[ast.expr], uses: list[Env], sign: str
    ) -> tuple[str, int]:
        part = self.whole if sign == "//" else self.broken
        top = [_held(part(tree, uses), PRODUCT if not i and number.numerator == 1 else UNARY)
               for i, tree in enumerate(over)]  # fmt: skip
        bottom = [_held(part(tree, uses), UNARY) for tree in under]
        if sign == "/" and number.denominator != 1 and _decimal(number) is not None:
            top.insert(0, _decimal(number) or "")
        else:
            if number.numerator != 1 or not top:
                top.insert(0, str(number.numerator))
            if number.denominator != 1:
                bottom.insert(0, str(number.denominator))
        text = " * ".join(top)
        if len(bottom) == 1:
            return f"{text} {sign} {bottom[0]}", PRODUCT
        if bottom:
            return f"{text} {sign} ({' * '.join(bottom)})", PRODUCT
        return text, PRODUCT if len(top) > 1 else ATOM if top[0].isidentifier() or top[0].isdigit() else PRODUCT

    def total(self, tree: ast.expr, uses: list[Env], sign: str) -> tuple[str, int]:
        return self.summed(_terms(tree), uses, None, sign)

    def summed(self, terms: list, uses: list[Env], last: tuple[str, int] | None, sign: str = "//") -> tuple[str, int]:
        text = ""
        part = self.whole if sign == "//" else self.broken
        if sign == "//" and any(type(exact(tree, env)) is not int for _, tree in terms for env in uses):
            raise Unsaid
        constants: Fraction | int = 0
        said: list[tuple[int, str]] = []
        for factor, tree in terms:
            values = [exact(tree, env) for env in uses]
            if same(values) and not self.plain(tree):
                constants += factor * values[0]
                at = len(said)
            else:
                said.append((factor, _held(part(tree, uses), PRODUCT)))
        if last is not None:
            said.append((1, _held(last, PRODUCT)))
        if constants:
            first = isinstance(terms[0][1], ast.Constant) or (at == 0 and said and said[0][0] < 0)
            entry = (1 if constants > 0 else -1, _constant(abs(constants))[0])
            said.insert(0 if first and constants > 0 else len(said), entry)
        if not said:
            return "0", ATOM
        if len(said) == 1 and said[0][0] > 0:
            return said[0][1], PRODUCT
        for k, (factor, one) in enumerate(said):
            text += (("-" if factor < 0 else "") if not k else (" - " if factor < 0 else " + ")) + one
        return text, SUM


def _number(value: Any) -> Any:
    """A value as the emitted file has it."""
    return value if isinstance(value, int) else float(value)


_MARK = re.compile(r"__(\w+?)__")


def _mark(name: str) -> str:
    """How a name is written until its text is put in: as no name of the language or of Python is."""
    return f"__{name}__"


_PYTHON = {"max": max, "min": min, "round": round, "int": int, "math": math}
_SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_COMPARED: dict[type, Callable] = {
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b, ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b,
}  # fmt: skip


def _held(part: tuple[str, int], level: int) -> str:
    """A part's text, in brackets where it holds together less than wanted."""
    text, loose = part
    return text if loose <= level else f"({text})"


def _constant(value: Any) -> tuple[str, int]:
    if type(value) is int:
        return str(value), ATOM if value >= 0 else UNARY
    decimal = _decimal(value)
    return (decimal, ATOM) if decimal else (f"{value.numerator} / {value.denominator}", PRODUCT)


def _decimal(value: Fraction) -> str | None:
    """A fraction as a short decimal, where it is one."""
    text = repr(float(value))
    return text if len(text) <= 8 and Fraction(text) == value else None


def _terms(tree: ast.expr) -> list[tuple[int, ast.expr]]:
    """A sum as signed terms."""
    match tree:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            sign = 1 if isinstance(op, ast.Add) else -1
            return _terms(left) + [(sign * factor, term) for factor, term in _terms(right)]
        case ast.UnaryOp(op=op, operand=operand):
            sign = -1 if isinstance(op, ast.USub) else 1
            return [(sign * factor, term) for factor, term in _terms(operand)]
    return [(1, tree)]


def exact(tree: ast.expr, env: Env) -> Any:
    """The value of an expression: an int or a Fraction."""
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
    raise Unsaid


def holds(test: ast.expr, env: Env) -> bool:
    """Whether a condition is true."""
    if isinstance(test, ast.BoolOp):
        found = (holds(part, env) for part in test.values)
        return all(found) if isinstance(test.op, ast.And) else any(found)
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
