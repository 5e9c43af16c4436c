"""Which classes are written where they are used, by the lines that this takes."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.ir.tree import (
    Call,
    ClassCode,
    Expression,
    Number,
    Part,
    Use,
    children,
    walk,
)


def reachable(root: Part) -> list[ClassCode]:
    """The classes that a network uses, each behind those that it uses, with the parts that it has."""
    parts: dict[ClassCode, list[Part]] = {}
    pending = [root]
    while pending:
        part = pending.pop()
        parts.setdefault(part.code, []).append(part)
        pending += [use.parts[0] for use in _uses(part) if use.parts[0] is not None]
    order: list[ClassCode] = []

    def visit(code: ClassCode) -> None:
        if code in order:
            return
        for part in parts[code]:
            for use in _uses(part):
                visit(use.code)
        order.append(code)

    for code, reached in parts.items():
        code.parts = [part for part in code.parts if part in set(reached)]
    visit(root.code)
    return order


def _uses(part: Part) -> list[Use]:
    return [node for field in _fields(part).values() for node in walk(field) if isinstance(node, Use)]


def _fields(part: Part) -> dict[str, Expression]:
    if part.nodes is None:
        return {op.field: op.module for op in part.operations if op.module is not None}
    fields = {f"{node.number}.{name}": field for node in part.nodes for name, field in node.fields.items()}
    return fields | {f"output.{name}": field for name, field in part.output_fields.items()}


def count_sites(codes: list[ClassCode]) -> None:
    for code in reversed(codes):
        if code.parts[0].sequence and len(code.parts[0].operations) == 1:  # a name around a part
            for use in _uses(code.parts[0]):
                use.code.sites |= {(site, code.serial) for site in code.sites}
            continue
        for part in code.parts[:1] if code.parts[0].nodes is None else code.parts:
            for name, field in _fields(part).items():
                looped = isinstance(code_key(code), str)
                for node in walk(field):
                    if isinstance(node, Use):
                        node.code.sites.add((code, name.partition(".")[2] if looped else name))


def code_key(code: ClassCode) -> Any:
    """The form of a class whose nodes are written once; None otherwise."""
    return code.form if code.form in ("chain", "loop", "matched") else None


def is_short(code: ClassCode) -> bool:
    """True if a class is longer than what it stands for."""
    part, sites = code.parts[0], len(code.sites)
    if code.form == "chain":
        few = len(code.parts) == 1 and len(part.nodes or ()) <= 5
        short = few and all(_width(field) <= 90 for node in part.nodes or () for field in node.fields.values())
        return short or all(len(each.nodes or ()) <= 1 for each in code.parts)
    if not part.sequence or part.joins:
        return False
    width = sum(len(op.field) + _width(op.module) + 3 for op in part.operations if op.module) + 20
    lines = _line_count(part, width)
    return sites * lines <= len(part.operations) + 6 + sites


def _line_count(part: Part, width: int) -> int:
    """How many lines a sequence has where it is used."""
    if width <= 92:
        return 1
    lines = 3
    for op in part.operations:
        inner = op.module.parts[0] if isinstance(op.module, Use) else None
        if inner is not None and inner.code.inline and inner.nodes is None:
            lines += _line_count(inner, _width(op.module) + 20)
        else:
            lines += 1
    return lines


def _width(node: Expression) -> int:
    """About how long the text of an expression is."""
    if isinstance(node, Number):
        return 3
    if isinstance(node, Use):
        part = node.parts[0]
        assert part is not None
        if node.code.inline and part.nodes is None:
            return 7 + sum(len(op.field) + _width(op.module) + 3 for op in part.operations if op.module)
        return len(node.code.name) + 14
    if isinstance(node, Call):
        options = [
            (name, value)
            for name, value, default in node.options
            if not (isinstance(value, Number) and str(value.value) == default)
        ]
        return (
            len(node.function)
            + sum(_width(a) + 2 for a in node.arguments)
            + sum(len(n) + _width(v) + 3 for n, v in options)
        )
    return len(getattr(node, "form", "")) + sum(map(_width, children(node)))
