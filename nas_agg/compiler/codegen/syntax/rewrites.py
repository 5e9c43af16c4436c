"""Rewrites of emitted classes: inlining of short sequences, folding of repeated statements into loops, and removal of
unnecessary names.
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
    line_count,
    parse,
    replace_names,
    rewrite,
    show,
    statements,
    walk,
)

MAX_LAYERS = 3  # of an inlined sequence
SEQUENTIAL = statements(["for node in self:", "    x = node.unit(x)", "return x"])
_BRANCHES = statements(["features = [x]", "for node in self:", "    features.append(node.unit(x))"])


def reads(parts: Iterable[ast.AST]) -> Counter[str]:
    """How often trees read each name."""
    return Counter(
        part.id
        for part in walk(parts)
        if isinstance(part, ast.Name) and not isinstance(getattr(part, "ctx", None), ast.Store)
    )


def text(body: list[ast.stmt]) -> list[str]:
    return [show(part) for part in _simple(body)]


def _simple(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield simple statements and the headers of loops and conditions, in order."""
    for statement in body:
        yield statement
        yield from _simple(getattr(statement, "body", []))


def _with_body(statement: ast.stmt, body: list[ast.stmt]) -> ast.stmt:
    fields = dict(ast.iter_fields(statement))
    return type(statement)(**{**fields, "body": body})


# ---------------------------------------------------------------------- inlining of sequences


def inline_sequences(classes: list[ClassDef]) -> list[ClassDef]:
    """Inline short sequences into their callers.

    Args:
        classes: The classes in order of their dependencies; the constructors of callers are changed.

    Returns:
        The remaining classes.
    """
    remaining = list(classes)
    by_name = {code.name: code for code in classes}
    for code in classes[:-1]:
        callers = [other for other in remaining if other is not code and code.name in functions(other.init)]
        if not callers or code.base != "nn.Sequential" or code.forward or code.keeps_width:
            continue
        changed = [_inline(code, other.init, by_name) for other in callers]
        if any(new is None for new in changed):
            continue
        pairs = [
            (_line_counts(other.init), _line_counts(new or [])) for other, new in zip(callers, changed, strict=True)
        ]
        before = sum(sum(old) for old, _ in pairs) + sum(_line_counts(code.init)) + 5
        if all(max(new) <= max(6, *old) for old, new in pairs) and sum(sum(new) for _, new in pairs) < before:
            for other, new in zip(callers, changed, strict=True):
                other.init = new or []
            remaining.remove(code)
    return remaining


def _line_counts(body: list[ast.stmt], indent: int = 8) -> list[int]:
    """The number of lines of each simple statement and each header."""
    result: list[int] = []
    for statement in body:
        inner = getattr(statement, "body", [])
        result += [line_count([statement], indent) - line_count(inner, indent + 4), *_line_counts(inner, indent + 4)]
    return result


def _inline(
    code: ClassDef, body: list[ast.stmt], by_name: Mapping[str, ClassDef], indent: int = 8
) -> list[ast.stmt] | None:
    """Inline a class into statements; None if the result is hard to read."""
    result: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, (ast.For, ast.If)):
            inner = _inline(code, statement.body, by_name, indent + 4)
            if inner is None:
                return None
            result.append(_with_body(statement, inner))
            continue
        while (call := _first_call(code.name, statement)) is not None:
            value = _sequence(code, by_name, call)
            if value is None:
                return None
            statement, assignments = _replace_call(statement, call, value, code.name, indent, result)
            result += assignments
        result.append(statement)
    return result


def _first_call(name: str, statement: ast.stmt) -> ast.Call | None:
    calls = (part for part in walk([statement]) if isinstance(part, ast.Call))
    return next((call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name), None)


def _replace_call(
    statement: ast.stmt, call: ast.Call, value: ast.expr, class_name: str, indent: int, before: list[ast.stmt]
) -> tuple[ast.stmt, list[ast.stmt]]:
    """Replace a call in a statement by a value, or by a new name that is assigned first if that is shorter.

    Returns:
        The statement, and the assignment if there is one.
    """

    def replaced_by(new: ast.expr) -> ast.stmt:
        replaced: ast.stmt = rewrite(statement, lambda part: new if part is call else None)
        return replaced

    pairs = [pair for part in walk([statement]) if isinstance(part, ast.Dict) for pair in zip(part.keys, part.values)]  # noqa: B905
    as_unit = any(other is call and isinstance(key, ast.Constant) and key.value == "unit" for key, other in pairs)
    name = "unit" if as_unit else "".join("_" * (c.isupper() and k > 0) + c.lower() for k, c in enumerate(class_name))
    assignment: list[ast.stmt] = [ast.Assign([ast.Name(name, ast.Store())], value)]
    is_assigned = isinstance(statement, ast.Assign) and statement.value is call
    in_loop = any(isinstance(part, ast.comprehension) for part in walk([statement]))
    in_use = any(isinstance(part, ast.Name) and part.id == name for part in walk([*before, statement]))
    short, long = replaced_by(ast.Name(name, ast.Load())), replaced_by(value)
    is_shorter = line_count([*assignment, short], indent) < line_count([long], indent)
    if is_shorter and not (is_assigned or in_loop or in_use):
        return short, assignment
    return long, []


def _sequence(code: ClassDef, by_name: Mapping[str, ClassDef], call: ast.Call) -> ast.expr | None:
    """The expression of a sequence whose class is called with some arguments; None if it is hard to read."""
    values: dict[str, ast.AST] = {name: parse(value) for name, value in code.defaults.items()}
    values |= dict(zip(code.parameters, call.args, strict=False))
    values |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    counts = reads(code.init)
    if any(counts[name] > 1 and len(show(value)) > 12 for name, value in values.items()):
        return None
    layers: list[ast.keyword] = []
    for statement in code.init:
        if not isinstance(statement, ast.Assign):
            return None
        target, value = statement.targets[0], replace_names(statement.value, values)
        if isinstance(target, ast.Name):
            values[target.id] = value
        elif isinstance(target, ast.Attribute) and "self" not in reads([statement.value]) and nameable(target.attr):
            layers.append(ast.keyword(target.attr, value))
        else:
            return None
    layers = [rewrite(layer, lambda part: _add_keywords(part, by_name)) for layer in layers]
    result = ast.Call(ast.Name("named"), [], layers) if layers else parse("nn.Sequential()")
    if len(layers) > MAX_LAYERS or len(show(result)) >= 2 * WIDTH or any(map(_is_constant_arithmetic, walk(layers))):
        return None
    return result


def nameable(label: str) -> bool:
    """Whether a label can name a child of a sequence."""
    return not hasattr(nn.Sequential, label)


def _add_keywords(node: ast.AST, by_name: Mapping[str, ClassDef]) -> ast.AST | None:
    """Pass the arguments of a class's call by keyword from the first number after the first argument on."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in by_name):
        return None
    first = next((k for k, part in enumerate(node.args) if k and isinstance(part, ast.Constant)), None)
    if first is None:
        return None
    named = zip(by_name[node.func.id].parameters[first:], node.args[first:], strict=False)
    return ast.Call(node.func, node.args[:first], [*[ast.keyword(*pair) for pair in named], *node.keywords])


def _is_constant_arithmetic(node: ast.AST) -> bool:
    """Whether a node is arithmetic on two numbers, whose value would be more readable."""
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
    """Fold three or more consecutive appends of modules that differ only in the number of their node into a loop."""
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
    """Replace a loop over parallel branches, whose features are the output, by one expression."""
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
    """A loop equivalent to statements whose numbers are constant or rise by one; None if there is none."""
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
    return [_with_body(loop, [rewrite(inner, lambda part: _drop_keyword(part, counter))])]


def _drop_keyword(node: ast.AST, counter: str) -> ast.AST | None:
    """Pass the first keyword argument of a call by position if it is the loop counter."""
    if not (isinstance(node, ast.Call) and node.keywords and node.keywords[0].arg == counter):
        return None
    value = node.keywords[0].value
    return ast.Call(node.func, [*node.args, value], node.keywords[1:]) if show(value) == counter else None


# ---------------------------------------------------------------------- removal of names


def inline_names(body: list[ast.stmt], temporary: set[str], nodes: set[str]) -> list[ast.stmt]:
    """Inline names that are used only in the next statement.

    Args:
        body: Statements of a forward.
        temporary: Names that may be inlined.
        nodes: Names of the outputs of nodes; inlined only if the node stays the first one that the statement calls, so
            that nodes run in their order.
    """
    result: list[ast.stmt] = []
    for statement in reversed(body):
        inner = getattr(statement, "body", None)
        if inner is not None:
            statement = _with_body(statement, inline_names(inner, temporary, nodes))
        elif result and isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, following = statement.targets[0].id, result[-1]
            simple = [] if hasattr(following, "body") else [following]
            used = reads(result)[name] == 1 == reads(simple)[name]
            fits = len(show(following)) + len(show(statement.value)) < WIDTH - 12
            call = show(statement.value).startswith("self[") and _is_first(name, following)
            if used and fits and (name in temporary or (name in nodes and call)):
                result[-1] = replace_names(following, {name: statement.value})
                continue
        result.append(statement)
    return result[::-1]


def _is_first(name: str, statement: ast.stmt) -> bool:
    """Whether a statement reads a name before it calls any node."""
    for part in walk([statement]):
        if isinstance(part, ast.Name) and part.id == name:
            return True
        if isinstance(part, ast.Subscript) and show(part.value) == "self":
            return False
    return False


def drop_pairs(body: list[ast.stmt], candidates: set[str]) -> list[ast.stmt]:
    """Rename the second of two returned values to `_` if nothing reads it."""
    unread = {name for name in candidates if not reads(body)[name]}
    drop = lambda part: ast.Name("_") if isinstance(part, ast.Name) and part.id in unread else None  # noqa: E731
    return [rewrite(statement, drop) for statement in body]


def drop_records(init: list[ast.stmt], out: str) -> list[ast.stmt]:
    """Remove records of channels (`widths`, `c`) that nothing reads from a constructor."""
    outputs = [parse(out)] if out else []
    for record in ("widths", "c"):
        shorter = _without(init, record)
        if not reads([*shorter, *outputs])[record]:
            init = shorter
    return init


def _without(body: list[ast.stmt], record: str) -> list[ast.stmt]:
    result = []
    for statement in body:
        header = show(statement)
        if header.startswith((f"{record} = ", f"{record}.append(")):
            continue
        inner = getattr(statement, "body", None)
        result.append(_with_body(statement, _without(inner, record)) if inner else statement)
    return result
