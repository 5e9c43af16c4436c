"""Rewrites of emitted classes: short sequences are written where they are called, repeated statements become loops,
and names that are not needed go.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from nas_agg.compiler.codegen.syntax.formatting import WIDTH
from nas_agg.compiler.codegen.syntax.ir import (
    ClassDef,
    functions,
    height,
    parse,
    replaced,
    rewrite,
    show,
    statements,
    walk,
)

LAYERS = 3  # that a sequence in a call may have
SEQUENTIAL = statements(["for node in self:", "    x = node.unit(x)", "return x"])
_BRANCHES = statements(["features = [x]", "for node in self:", "    features.append(node.unit(x))"])


def reads(parts: Iterable[ast.AST]) -> Counter[str]:
    """The number of times that trees read each name."""
    return Counter(
        part.id
        for part in walk(parts)
        if isinstance(part, ast.Name) and not isinstance(getattr(part, "ctx", None), ast.Store)
    )


def text(body: list[ast.stmt]) -> list[str]:
    return [show(part) for part in _simple(body)]


def _simple(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements and the heads of loops and conditions, in their order."""
    for statement in body:
        yield statement
        yield from _simple(getattr(statement, "body", []))


def _with_body(statement: ast.stmt, body: list[ast.stmt]) -> ast.stmt:
    fields = dict(ast.iter_fields(statement))
    return type(statement)(**{**fields, "body": body})


# ---------------------------------------------------------------------- sequences where they are called


def inline_sequences(classes: list[ClassDef]) -> list[ClassDef]:
    """Write short sequences into their callers.

    Args:
        classes: In the order in which they need one another; the callers' constructors are changed.

    Returns:
        The classes that are left.
    """
    left = list(classes)
    known = {code.name: code for code in classes}
    for code in classes[:-1]:
        callers = [other for other in left if other is not code and code.name in functions(other.init)]
        if not callers or code.base != "nn.Sequential" or code.forward or code.keeps_width:
            continue
        changed = [_inlined(code, other.init, known) for other in callers]
        if any(new is None for new in changed):
            continue
        pairs = [(_heights(other.init), _heights(new or [])) for other, new in zip(callers, changed, strict=True)]
        before = sum(sum(old) for old, _ in pairs) + sum(_heights(code.init)) + 5
        if all(max(new) <= max(6, *old) for old, new in pairs) and sum(sum(new) for _, new in pairs) < before:
            for other, new in zip(callers, changed, strict=True):
                other.init = new or []
            left.remove(code)
    return left


def _heights(body: list[ast.stmt], indent: int = 8) -> list[int]:
    """The lines that each statement and each head takes."""
    result: list[int] = []
    for statement in body:
        inner = getattr(statement, "body", [])
        result += [height([statement], indent) - height(inner, indent + 4), *_heights(inner, indent + 4)]
    return result


def _inlined(
    code: ClassDef, body: list[ast.stmt], known: Mapping[str, ClassDef], indent: int = 8
) -> list[ast.stmt] | None:
    """Statements with what a class does in the place of its calls; None if that does not read well."""
    result: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, (ast.For, ast.If)):
            inner = _inlined(code, statement.body, known, indent + 4)
            if inner is None:
                return None
            result.append(_with_body(statement, inner))
            continue
        while (call := _first_call(code.name, statement)) is not None:
            value = _sequence(code, known, call)
            if value is None:
                return None
            statement, ahead = _placed(statement, call, value, code.name, indent, result)
            result += ahead
        result.append(statement)
    return result


def _first_call(name: str, statement: ast.stmt) -> ast.Call | None:
    calls = (part for part in walk([statement]) if isinstance(part, ast.Call))
    return next((call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name), None)


def _placed(
    statement: ast.stmt, call: ast.Call, value: ast.expr, class_name: str, indent: int, ahead: list[ast.stmt]
) -> tuple[ast.stmt, list[ast.stmt]]:
    """A statement with a value in the place of a call, by a name that is given ahead where that is shorter."""

    def put(new: ast.expr) -> ast.stmt:
        placed: ast.stmt = rewrite(statement, lambda part: new if part is call else None)
        return placed

    pairs = [pair for part in walk([statement]) if isinstance(part, ast.Dict) for pair in zip(part.keys, part.values)]  # noqa: B905
    as_unit = any(other is call and isinstance(key, ast.Constant) and key.value == "unit" for key, other in pairs)
    name = "unit" if as_unit else "".join("_" * (c.isupper() and k > 0) + c.lower() for k, c in enumerate(class_name))
    named: list[ast.stmt] = [ast.Assign([ast.Name(name, ast.Store())], value)]
    whole = isinstance(statement, ast.Assign) and statement.value is call
    looped = any(isinstance(part, ast.comprehension) for part in walk([statement]))
    taken = any(isinstance(part, ast.Name) and part.id == name for part in walk([*ahead, statement]))
    short, long = put(ast.Name(name, ast.Load())), put(value)
    if not (whole or looped or taken) and height([*named, short], indent) < height([long], indent):
        return short, named
    return long, []


def _sequence(code: ClassDef, known: Mapping[str, ClassDef], call: ast.Call) -> ast.expr | None:
    """A sequence as an expression, its class called with some arguments; None if that does not read well."""
    given: dict[str, ast.AST] = {name: parse(value) for name, value in code.defaults.items()}
    given |= dict(zip(code.parameters, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    counts = reads(code.init)
    if any(counts[name] > 1 and len(show(value)) > 12 for name, value in given.items()):
        return None
    layers: list[ast.keyword] = []
    for statement in code.init:
        if not isinstance(statement, ast.Assign):
            return None
        target, value = statement.targets[0], replaced(statement.value, given)
        if isinstance(target, ast.Name):
            given[target.id] = value
        elif isinstance(target, ast.Attribute) and "self" not in reads([statement.value]) and nameable(target.attr):
            layers.append(ast.keyword(target.attr, value))
        else:
            return None
    layers = [rewrite(layer, lambda part: _keyed(part, known)) for layer in layers]
    result = ast.Call(ast.Name("named"), [], layers) if layers else parse("nn.Sequential()")
    if len(layers) > LAYERS or len(show(result)) >= 2 * WIDTH or any(map(_is_worked_out, walk(layers))):
        return None
    return result


def nameable(label: str) -> bool:
    """True if a label can name a child of a sequence."""
    return not hasattr(nn.Sequential, label)


def _keyed(node: ast.AST, known: Mapping[str, ClassDef]) -> ast.AST | None:
    """A call of a class in which numbers behind the first argument stand with their names."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known):
        return None
    first = next((k for k, part in enumerate(node.args) if k and isinstance(part, ast.Constant)), None)
    if first is None:
        return None
    named = zip(known[node.func.id].parameters[first:], node.args[first:], strict=False)
    return ast.Call(node.func, node.args[:first], [*[ast.keyword(*pair) for pair in named], *node.keywords])


def _is_worked_out(node: ast.AST) -> bool:
    """True for arithmetic on numbers alone, whose value would read better."""
    if isinstance(node, ast.BinOp):
        left, right = node.left, node.right
    elif isinstance(node, ast.Compare):
        left, right = node.left, node.comparators[0]
    else:
        return False
    while isinstance(left, ast.BinOp):
        left = left.right
    while isinstance(right, ast.BinOp):
        right = right.left
    return isinstance(left, ast.Constant) and isinstance(right, ast.Constant)


# ---------------------------------------------------------------------- loops


def fold_loops(body: list[ast.stmt], counter: str) -> list[ast.stmt]:
    """Make three or more modules appended in a row, alike but for the number of their node, a loop."""
    result: list[ast.stmt] = []
    shapes = [show(rewrite(statement, lambda part: ast.Name("_") if _is_number(part) else None)) for statement in body]
    begin = 0
    while begin < len(body):
        end = begin + 1
        while end < len(body) and shapes[end] == shapes[begin]:
            end += 1
        loop = _loop(body[begin:end], counter) if end - begin > 2 and shapes[begin].startswith("self.append(") else None
        result += loop or body[begin : begin + 1]
        begin = end if loop else begin + 1
    return result


def fold_branches(body: list[ast.stmt]) -> list[ast.stmt]:
    """Make a loop over nodes that all read the input, and whose features leave, one expression."""
    *loop, last = body
    if text(loop) != text(_BRANCHES):
        return body
    branches = parse("[node.unit(x) for node in self]")

    def branch(part: ast.AST) -> ast.AST | None:
        return branches if isinstance(part, ast.Subscript) and show(part) == "features[1:]" else None

    result = rewrite(last, branch)
    return body if reads([result])["features"] else [result]


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _loop(body: list[ast.stmt], counter: str) -> list[ast.stmt] | None:
    """A loop that does what statements do, each number in which stays or rises by one; None if there is none."""
    numbers = [[part.value for part in walk([statement]) if _is_number(part)] for statement in body]  # type: ignore[attr-defined]
    fixed = [len(set(column)) == 1 for column in zip(*numbers, strict=True)]
    rising = [column for column, same in zip(zip(*numbers, strict=True), fixed, strict=True) if not same]
    counts = range(rising[0][0], rising[0][0] + len(body)) if rising else range(len(body))
    if any(column != tuple(counts) for column in rising):
        return None
    places = iter(fixed)
    inner = rewrite(body[0], lambda part: (None if next(places) else ast.Name(counter)) if _is_number(part) else None)
    span = f"range({counts.start}, {counts.stop})" if rising else f"range({len(body)})"
    loop = ast.parse(f"for {counter if rising else '_'} in {span}: pass").body[0]
    return [_with_body(loop, [rewrite(inner, lambda part: _unkeyed(part, counter))])]


def _unkeyed(node: ast.AST, counter: str) -> ast.AST | None:
    """A call whose first argument by name is the counter, for a parameter that is called as the counter is."""
    if not (isinstance(node, ast.Call) and node.keywords and node.keywords[0].arg == counter):
        return None
    value = node.keywords[0].value
    return ast.Call(node.func, [*node.args, value], node.keywords[1:]) if show(value) == counter else None


# ---------------------------------------------------------------------- names that are not needed


def inline_names(body: list[ast.stmt], temporary: set[str], nodes: set[str]) -> list[ast.stmt]:
    """Put names that are used in the next statement alone into it.

    Args:
        body: Of a forward.
        temporary: Names that may go.
        nodes: Names of nodes' outputs: they may where theirs is the first call of that statement, so that nodes still
            run in their order.
    """
    result: list[ast.stmt] = []
    for statement in reversed(body):
        inner = getattr(statement, "body", None)
        if inner is not None:
            statement = _with_body(statement, inline_names(inner, temporary, nodes))
        elif result and isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, following = statement.targets[0].id, result[-1]
            here = [] if hasattr(following, "body") else [following]
            used = reads(result)[name] == 1 == reads(here)[name]
            fits = len(show(following)) + len(show(statement.value)) < WIDTH - 12
            call = show(statement.value).startswith("self[") and _is_first(name, following)
            if used and fits and (name in temporary or (name in nodes and call)):
                result[-1] = replaced(following, {name: statement.value})
                continue
        result.append(statement)
    return result[::-1]


def _is_first(name: str, statement: ast.stmt) -> bool:
    """True if a statement reads a name before it calls any node."""
    for part in walk([statement]):
        if isinstance(part, ast.Name) and part.id == name:
            return True
        if isinstance(part, ast.Subscript) and show(part.value) == "self":
            return False
    return False


def drop_pairs(body: list[ast.stmt], given: set[str]) -> list[ast.stmt]:
    """Call `_` the second of two values that nothing reads."""
    unread = {name for name in given if not reads(body)[name]}
    drop = lambda part: ast.Name("_") if isinstance(part, ast.Name) and part.id in unread else None  # noqa: E731
    return [rewrite(statement, drop) for statement in body]


def drop_records(init: list[ast.stmt], out: str) -> list[ast.stmt]:
    """A constructor without the record of channels that nothing reads."""
    further = [parse(out)] if out else []
    for record in ("widths", "c"):
        kept = _without(init, record)
        if not reads([*kept, *further])[record]:
            init = kept
    return init


def _without(body: list[ast.stmt], record: str) -> list[ast.stmt]:
    kept = []
    for statement in body:
        head = show(statement)
        if head.startswith((f"{record} = ", f"{record}.append(")):
            continue
        inner = getattr(statement, "body", None)
        kept.append(_with_body(statement, _without(inner, record)) if inner else statement)
    return kept
