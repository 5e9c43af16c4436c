"""Finds an expression in the names of a class for a number that differs between its uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, compress
from typing import Any

Vector = list[Any]
_DIVISORS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 32, 64)


def literal(value: Any) -> str:
    """The text of a number or of a list of numbers."""
    if isinstance(value, Fraction):
        value = int(value) if value.denominator == 1 else float(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


class Fitter:
    """Expressions over some names.

    Args:
        names: The values of each name, in order of preference; None where a value is not known.
        schedules: Expressions of the genotype, to be tried as they are.
    """

    def __init__(self, names: dict[str, Vector], schedules: tuple[str, ...] = ()):
        self.names, self.schedules = names, schedules
        self.cache: dict[tuple, str | None] = {}

    def fit(self, wanted: Vector, texts: tuple[str, ...] = (), choices: bool = True) -> str | None:
        """The shortest text found that has the wanted value everywhere; None in `wanted` is any value."""
        key = (choices, *((type(value), value) for value in wanted))
        if self.cache.get(key) is None:
            self.cache[key] = self._fit(wanted, texts, choices)
        return self.cache[key]

    def _fit(self, wanted: Vector, texts: tuple[str, ...], choices: bool) -> str | None:
        places = [i for i, value in enumerate(wanted) if value is not None]
        target = [wanted[i] for i in places]
        if len(set(target)) <= 1:
            return literal(target[0]) if target else "0"
        known = {name: [values[i] for i in places] for name, values in self.names.items()}
        names = {name: values for name, values in known.items() if _comparable(values, target)}
        equal = next((name for name, values in names.items() if values == target), None)
        if equal is not None or not _numeric(target):
            return equal
        candidates = (
            (text for text in self.schedules if _holds(text, names, target)),
            _candidates(target, names),
            (text for text in texts if _holds(text, names, target)),
            _choices(target, names) if choices else (),
        )
        return next(chain.from_iterable(candidates), None)

    def condition(self, wanted: Vector, extra: dict[str, Vector]) -> str | None:
        """A test that holds exactly where it is wanted; None in `wanted` is either.

        Args:
            wanted: Whether the test holds, at each place.
            extra: More names, with their values.
        """
        places = [k for k, want in enumerate(wanted) if want is not None]
        names = {name: [values[k] for k in places] for name, values in {**self.names, **extra}.items()}
        wanted = [wanted[k] for k in places]
        if len(set(wanted)) <= 1:
            return str(wanted[0])
        return next((text for text, holds in _conditions(names, wanted) if holds == wanted), None)


def _numeric(values: Vector) -> bool:
    return all(isinstance(value, (int, float, Fraction)) for value in values)


def _comparable(values: Vector, target: Vector) -> bool:
    """True if both are numbers, or both are not; 1 and 1.0 are equal, but not in what is written."""
    if not _numeric(target):
        return True
    whole = not any(isinstance(value, float) for value in target)
    return _numeric(values) and not (whole and any(isinstance(value, float) for value in values))


_BUILTINS = {"round": round, "min": min, "max": max, "int": int, "math": math}


def _holds(text: str, names: dict[str, Vector], target: Vector) -> bool:
    try:
        code = compile(text, "schedule", "eval")
        rows = zip(*names.values(), strict=True) if names else [()] * len(target)
        values = [eval(code, dict(_BUILTINS), dict(zip(names, row, strict=True))) for row in rows]
        return all(
            isinstance(value, float) is isinstance(wanted, float) and math.isclose(value, wanted, rel_tol=1e-12)
            for value, wanted in zip(values, target, strict=True)
        )
    except Exception:
        return False


_FORMS: tuple[tuple[str, Callable[[int, int, int], int]], ...] = (
    ("{k} * {a}", lambda p, q, k: k * p),
    ("{k} * ({a} - 1)", lambda p, q, k: k * (p - 1)),
    ("{a} // {k}", lambda p, q, k: p // k if k > 1 else -1),
    ("{a} + {k}", lambda p, q, k: p + k),
    ("{a} - {k}", lambda p, q, k: p - k),
    ("{g} * ({a} // {k})", lambda p, q, k: p // k if k > 1 else -1),
    ("{g} * {a} // {k}", lambda p, q, k: p // k if k > 1 else -1),
    ("{a} + {b}", lambda p, q, k: p + q),
    ("{a} * {b}", lambda p, q, k: p * q),
    ("min({a}, {b})", lambda p, q, k: min(p, q)),
    ("{a} - {b}", lambda p, q, k: p - q),
    ("max({a} - {b}, 0)", lambda p, q, k: max(p - q, 0)),
    ("{a} // {b}", lambda p, q, k: p // q if q else -1),
    ("({a} - 1) * {b}", lambda p, q, k: (p - 1) * q),
    ("{b} + {k} * {a}", lambda p, q, k: q + k * p),
    ("{a} * {b} // {k}", lambda p, q, k: p * q // k if k else -1),
    ("({a} + 1) * {b} // {k}", lambda p, q, k: (p + 1) * q // k if k else -1),
)  # expressions of one or two names, the simplest first


def _candidates(target: Vector, names: dict[str, Vector]) -> Iterator[str]:
    """Texts that have the values of the target, the simplest first."""
    integers = {n: v for n, v in names.items() if all(type(x) is int for x in v)}
    if all(isinstance(value, int) for value in target):
        for text, value in _FORMS:
            for a, x in integers.items():
                for b, y in integers.items() if "{b}" in text else [("", x)]:
                    for k, g in _constants(text, target, x[0], y[0]):
                        if _equal(target, x, y, k, g, text, value):
                            yield text.format(a=a, b=b, k=k, g=g).removeprefix("1 * ").replace("+ 1 * ", "+ ")
        if "i" in integers:
            yield from _of_index(target, integers)
        for name, values in integers.items():
            yield from _decimals(target, name, values)


def _equal(
    target: Vector, x: Vector, y: Vector, k: int, g: int, text: str, value: Callable[[int, int, int], int]
) -> bool:
    if text == "{g} * {a} // {k}":
        return [g * p // k for p in x] == target
    return [value(p, q, k) * g for p, q in zip(x, y, strict=True)] == target


def _constants(text: str, target: Vector, p: int, q: int) -> Iterator[tuple[int, int]]:
    """Values of k and g that may be those of a form."""
    t = target[0]
    if "{g}" in text:
        factor = math.gcd(*target)
        yield from ((k, factor) for k in _DIVISORS)
    elif "{k}" not in text:
        yield 0, 1
    elif "{b}" in text:
        yield from (
            (k, 1) for k in dict.fromkeys(((t - q) // p if p else 0, (q - t) // p if p else 0, *_DIVISORS)) if k > 0
        )
    else:
        yield from (
            (k, 1) for k in {t // p if p else 0, p // t if t else 0, t - p, p - t, t + p, math.gcd(*target)} if k > 0
        )


def _decimals(target: Vector, name: str, values: Vector) -> Iterator[str]:
    """A multiple of a rounded fraction: ``4 * int(0.2175 * in_)``."""
    factor = math.gcd(*target)
    if not factor or min(values) < 1:
        return
    counts = [t // factor for t in target]
    low = max(Fraction(t, v) for t, v in zip(counts, values, strict=True))
    high = min(Fraction(t + 1, v) for t, v in zip(counts, values, strict=True))
    for digits in range(1, 5):
        decimal = math.ceil(low * 10**digits) / 10**digits
        if decimal < high and [int(decimal * v) for v in values] == counts:
            yield f"{factor} * int({decimal} * {name})" if factor > 1 else f"int({decimal} * {name})"
            return


def _of_index(target: Vector, names: dict[str, Vector]) -> Iterator[str]:
    """A width that grows with the node: ``in_ + (i + 2) * k``."""
    index = names["i"]
    for a, x in names.items():
        for b, y in names.items():
            if "i" in (a, b) or not y[0] or (target[0] - x[0]) % y[0]:
                continue
            shift = (target[0] - x[0]) // y[0] - index[0]
            if [p + (i + shift) * q for p, q, i in zip(x, y, index, strict=True)] == target:
                yield f"{a} + (i {'+' if shift > 0 else '-'} {abs(shift)}) * {b}" if shift else f"{a} + i * {b}"


def _conditions(names: dict[str, Vector], wanted: Vector) -> Iterator[tuple[str, Vector]]:
    """Tests on one name, then on two and on three, with where they hold; values are taken from where it is wanted."""
    for name, values in names.items():
        yield from _conditions_of(name, values, wanted)
    pairs = [(a, b) for a in names for b in names if a < b]
    differ = {f"{a} != {b}": [x != y for x, y in zip(names[a], names[b], strict=True)] for a, b in pairs}
    yield from differ.items()
    for text, holds in differ.items():
        for name, values in names.items():
            above = [isinstance(value, int) and value > 1 for value in values]
            yield f"{text} or {name} > 1", [x or y for x, y in zip(holds, above, strict=True)]


def _conditions_of(name: str, values: Vector, wanted: Vector) -> Iterator[tuple[str, Vector]]:
    """Tests on one name."""
    if all(isinstance(value, bool) for value in values):
        yield name, values
        yield f"not {name}", [not value for value in values]
    elif all(isinstance(value, int) for value in values):
        there = sorted(set(compress(values, wanted)))
        yield from ((f"{name} == {value}", [v == value for v in values]) for value in there[:2])
        yield f"{name} > {there[0] - 1}", [v >= there[0] for v in values]


def _choices(target: Vector, names: dict[str, Vector]) -> Iterator[str]:
    """One of two values, by a test."""
    for test, holds in _tests(names):
        texts = [_constant_or_name(target, names, [h is side for h in holds]) for side in (True, False)]
        if all(texts):
            yield f"{texts[0]} if {test} else {texts[1]}"


def _tests(names: dict[str, Vector]) -> Iterator[tuple[str, Vector]]:
    for name, values in names.items():
        for value in sorted(set(values))[:6]:
            yield f"{name} == {literal(value)}", [v == value for v in values]
        if any(v > 1 for v in values):
            yield f"{name} > 1", [v > 1 for v in values]
    for a, x in names.items():
        yield from ((f"{a} == {b}", [p == q for p, q in zip(x, y, strict=True)]) for b, y in names.items() if a < b)


def _constant_or_name(target: Vector, names: dict[str, Vector], where: list[bool]) -> str:
    """The text of a number that is the same at some places, or else the name that has its values there."""
    part = list(compress(target, where))
    if len(set(part)) == 1:
        return literal(part[0])
    return next((name for name, values in names.items() if part and list(compress(values, where)) == part), "")
