"""Expressions of the genotype as Python texts in the names of emitted code."""

from __future__ import annotations

import ast

_NAMES = {"_in": "in_", "l": "i", "n": "nodes"}  # the genotype's, and those of emitted code


class _Unguarded(ast.NodeTransformer):
    """The genotype's expression in Python's integers, without guards.

    Args:
        strict: Keep a lower limit, as in ``max(1, w // 4)``.
        division: How numbers are divided.
    """

    def __init__(self, strict: bool, division: type[ast.operator]):
        self.strict, self.division = strict, division

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(_NAMES.get(node.id, node.id))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        kept = [value for value in node.values if not any(getattr(n, "id", "") == "h" for n in ast.walk(value))]
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept or node.values)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            node.op = self.division()
        return _constant(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "id", "")
        if name == "round":
            inner = ast.unparse(self.visit(node.args[0])).replace("//", "/")
            return ast.parse(f"round({inner})", mode="eval").body
        if name == "floor" and any(isinstance(getattr(n, "value", None), float) for n in ast.walk(node)):
            return ast.Call(ast.Name("int"), [_Unguarded(self.strict, ast.Div).visit(node.args[0])], [])
        self.generic_visit(node)
        if name == "floor" or (name == "max" and not self.strict and isinstance(node.args[0], ast.Constant)):
            return node.args[-1]
        return node


def _constant(node: ast.BinOp) -> ast.AST:
    if isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant):
        value = eval(ast.unparse(node))  # of two numbers
        return ast.Constant(value) if abs(value) < 10**6 else node
    return node


def schedule_texts(tree: ast.expr) -> list[str]:
    """Texts of an expression of the genotype, to be verified: without guards first."""
    texts = []
    for strict, division in ((False, ast.FloorDiv), (True, ast.FloorDiv), (True, ast.Div)):
        copy = ast.parse(ast.unparse(tree), mode="eval")
        try:
            texts.append(ast.unparse(ast.fix_missing_locations(_Unguarded(strict, division).visit(copy))))
        except (ValueError, ZeroDivisionError, OverflowError):
            continue
    return texts
