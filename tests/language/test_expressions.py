"""Expressions: exact, whitelisted, bounded."""

from __future__ import annotations

import contextlib
import math
import operator
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_agg.common.errors import GenotypeError
from nas_agg.language.expressions import MAX_RESULT, ExpressionError, check_integer, is_name, parse_expression

NAMES = {"in": 48, "c": Fraction(7, 2), "w": 3, "l": 5, "n": 12, "k": -2}

VALUES = [
    ("floor(16 + 64*l/n)", {"l": 7, "n": 30}, 30),
    ("floor(16*1.2**l)", {"l": 4}, 33),
    ("round(5/2)", {}, 2),
    ("round(7/2)", {}, 4),
    ("round(-1.5)", {}, -2),
    ("ceil(-7/2)", {}, -3),
    ("-7 // 2", {}, -4),
    ("-7 % 3", {}, 2),
    ("7 // 0.2", {}, 35),
    ("0.1 + 0.2", {}, Fraction(3, 10)),
    ("0.2*15", {}, 3),
    ("2**-3", {}, Fraction(1, 8)),
    ("-2**2", {}, -4),
    ("2**3**2", {}, 512),
    ("gcd(12, 18, 8)", {}, 2),
    ("max(1, in//4)", {"in": 3}, 1),
    ("min(in, 5, 4/3)", {"in": 3}, Fraction(4, 3)),
    ("4 if s > 1 else 1", {"s": 2}, 4),
    ("2 if l > 1 and l % 10 == 1 else 1", {"l": 11}, 2),
    ("2 if l > 1 and l % 10 == 1 else 1", {"l": 1}, 1),
    ("1 if l < 3 or l >= 8 else 0", {"l": 8}, 1),
    ("1 if 1 < l <= 3 != 4 else 0", {"l": 3}, 1),
    ("in*in", {"in": 3}, 9),
    ("  ( 1 +\n 2 ) ", {}, 3),
    ("1e3", {}, 1000),
    (".5", {}, Fraction(1, 2)),
    ("5.", {}, 5),
]


@pytest.mark.parametrize(("text", "scope", "value"), VALUES)
def test_values(text: str, scope: dict[str, int], value: int | Fraction) -> None:
    found = parse_expression(text).value(scope)
    assert found == value
    assert isinstance(found, int) == (Fraction(value).denominator == 1)


REFUSED = [
    *["", " ", "(", "4*+", "3 4", "1..2", "3.14.1", "2e", "1e5x", "4if 1 > 2 else 3", "x:=3", "a = 1", "lambda: 1"],
    *["0x10", "1_000", "1j", "007", "'a'", "w.x", "x[1]", "[1]", "{1}", "a in b", "a is b", "~1", "1 << 3", "1 | 2"],
    *[
        "True",
        "None",
        "not 1 > 2",
        "1 < 2",
        "1 > 2 or 2",
        "1 if 1 else 2",
        "a if b else c",
        "f(3)",
        "floor",
        "floor(1, 2)",
    ],
    *[
        "max(1)",
        "gcd(4)",
        "max(*a)",
        "max(1, key=3)",
        "(1)(2)",
        "await 1",
        "__import__",
        "_in",
        "a__b.c",
        "4 # hi",
        "1 \\\n + 1",
    ],
    *[
        "ｗ + 1",
        "_ｉn",
        "µ",
        "é",
        "\x00",
        "1;2",
        "1,2",
        "1e400",
        "10**10",
        "1000000001",
        "2**2000",
        "9**9**9",
        "1/0",
        "0**-1",
    ],
    *["gcd(1.5, 2)", "2**0.5", "x" * 201, "(" * 99 + "1", "1 if 1 < 2", "w(1)", "max(1, 2).real"],
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_an_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [True, None, [1], {}, float("nan"), float("inf"), 10**400, -(10**10), 1e300], ids=str)
def test_values_that_are_no_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(value)


def test_numbers_stand_for_themselves_and_floats_for_their_decimals() -> None:
    assert parse_expression(7).constant == 7
    assert parse_expression(0.2875).constant == Fraction(23, 80)
    assert parse_expression(2.0).constant == 2 and isinstance(parse_expression(2.0).constant, int)


def test_an_expression_knows_the_names_it_needs() -> None:
    found = parse_expression("max(w, l) + in*w if c > k else n")
    assert found.names == ("c", "in", "k", "l", "n", "w") and found.constant is None
    with pytest.raises(KeyError):
        found.value({"w": 1})


def test_names_put_in_are_worked_out_where_they_stand() -> None:
    found = parse_expression("2*a + in").substitute(
        {"a": parse_expression("b - in").substitute({"b": parse_expression("7/2")})}
    )
    assert found.names == ("in",) and found.value({"in": 3}) == 4
    assert found.text == "2*a + in"
    assert parse_expression("a*a").substitute({"a": parse_expression("1 + 2")}).constant == 9
    assert parse_expression("2**a").substitute({"a": parse_expression("-1")}).constant == Fraction(1, 2)
    assert parse_expression("w + 1").substitute({"a": parse_expression("1")}).names == ("w",)


def test_names_that_grow_without_end_are_refused() -> None:
    found = parse_expression("l")
    with pytest.raises(ExpressionError, match="too large"):
        for _ in range(60):
            found = parse_expression("a + a").substitute({"a": found})


def test_two_hundred_characters_are_allowed() -> None:
    assert parse_expression("1" + "+1" * 99).constant == 100
    assert parse_expression("(" * 99 + "4" + ")" * 99).constant == 4


@pytest.mark.parametrize(
    "text",
    ["1.01**(l%100)" + "*1.01**l" * 20, "l" + "*l" * 60, "(l/7)" + "+l/(7+l)" * 20, "2**(l*10)" + "*2**(l*10)" * 14],
)
def test_no_value_on_the_way_may_grow_so_long_that_it_takes_time(text: str) -> None:
    found, began = parse_expression(text), time.process_time()
    for _ in range(20):
        with contextlib.suppress(ExpressionError):
            assert abs(found.value({"l": 99})) <= MAX_RESULT
    assert time.process_time() - began < 1


def test_whole_numbers_within_bounds() -> None:
    assert check_integer(4, 1, 9, "the kernel", "l") == 4
    with pytest.raises(GenotypeError, match=r"the kernel must be an integer, but 'in/2' is 1.5; use floor"):
        check_integer(Fraction(3, 2), 1, 9, "the kernel", "in/2")
    with pytest.raises(GenotypeError, match=r"the kernel must be from 1 to 9, but 'l' is 10"):
        check_integer(10, 1, 9, "the kernel", "l")
    with pytest.raises(GenotypeError, match=r"^the kernel must be from 1 to 9, not 0"):
        check_integer(0, 1, 9, "the kernel", "0")


def test_names() -> None:
    assert is_name("k1") and is_name("from_") and is_name("Block_2")
    assert not any(map(is_name, ("", "1k", "_k", "é", "a-b", "lambda", "a b", "a\n")))


# ---------------------------------------------------------------------- equal to exact arithmetic

TREES = st.recursive(
    st.integers(0, 40) | st.sampled_from([0.5, 0.2, 1.25, 3.0]) | st.sampled_from(sorted(NAMES)),
    lambda inner: (
        st.tuples(st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner, inner)
        | st.tuples(st.just("**"), inner, st.integers(0, 4))
        | st.tuples(st.sampled_from(["floor", "ceil", "round", "-"]), inner)
        | st.tuples(st.sampled_from(["min", "max"]), inner, inner)
        | st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner, inner, inner, inner)
    ),
    max_leaves=8,
)
WORK: dict[str, Callable] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow, "floor": math.floor, "ceil": math.ceil, "round": round, "min": min,
    "max": max, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip


def written(tree: Any) -> str:
    match tree:
        case (word, a) if word == "-":
            return f"(-{written(a)})"
        case (word, a):
            return f"{word}({written(a)})"
        case (word, a, b) if word in ("min", "max"):
            return f"{word}({written(a)}, {written(b)})"
        case (word, a, b):
            return f"({written(a)} {word} {written(b)})"
        case (word, a, b, x, y):
            return f"({written(x)} if {written(a)} {word} {written(b)} else {written(y)})"
    return str(tree)


def worked_out(tree: Any) -> Fraction:
    match tree:
        case ("-", a):
            return -worked_out(a)
        case (word, a, b, x, y):
            return worked_out(x) if WORK[word](worked_out(a), worked_out(b)) else worked_out(y)
        case (word, *parts):
            return Fraction(WORK[word](*[worked_out(part) for part in parts]))
    return Fraction(NAMES[tree] if isinstance(tree, str) else str(tree))


@settings(max_examples=300)
@given(TREES)
def test_equal_to_exact_arithmetic(tree: Any) -> None:
    text = written(tree)
    try:
        value = worked_out(tree)
    except ZeroDivisionError:
        value = None
    if len(text) > 200:
        with pytest.raises(ExpressionError, match="at most 200 characters"):
            parse_expression(text)
    elif value is None or abs(value) > MAX_RESULT:
        with pytest.raises(ExpressionError, match=r"by zero|exceeds"):
            parse_expression(text).value(NAMES)
    else:
        found = parse_expression(text).value(NAMES)
        assert found == value and isinstance(found, int) == (value.denominator == 1)
