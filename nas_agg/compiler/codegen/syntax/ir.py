"""The intermediate representation of emitted classes: trees of statements and expressions, and the printer table.

Writers exchange expressions as text in the printed form and parse them where they inspect them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from nas_agg.compiler.codegen.syntax.formatting import wrapped

Rule = Callable[[ast.AST], "ast.AST | None"]


@dataclass(eq=False)
class ClassDef:
    """A class of the emitted file.

    Attributes:
        name: Its name.
        parameters: Parameters of its constructor after `self`.
        defaults: Default values of parameters.
        base: Its base class.
        init: Statements of the constructor.
        forward: Statements of the forward; empty if it is inherited.
        forward_parameters: Parameters of the forward after `self`.
        keeps_width: Whether it stores its output channels for its callers.
    """

    name: str
    parameters: list[str]
    defaults: dict[str, str]
    base: str
    init: list[ast.stmt]
    forward: list[ast.stmt] = field(default_factory=list)
    forward_parameters: str = "x"
    keeps_width: bool = False

    def lines(self) -> list[str]:
        """The printed class."""
        parameters = [f"{name}={self.defaults[name]}" if name in self.defaults else name for name in self.parameters]
        lines = [f"class {self.name}({self.base}):"]
        lines += [*wrapped(f"def __init__({', '.join(['self', *parameters])}):", 4), "        super().__init__()"]
        lines += print_statements(self.init, 8)
        if self.forward:
            lines += ["", f"    def forward(self, {self.forward_parameters}):", *print_statements(self.forward, 8)]
        return lines


# ---------------------------------------------------------------------- trees


@lru_cache(20_000)
def parse(text: str) -> ast.expr:
    """Parse an expression; the tree is cached and must not be modified."""
    return ast.parse(text, mode="eval").body


def statements(lines: Iterable[str]) -> list[ast.stmt]:
    """Parse statements, one per line, indented by four within a loop or a condition."""
    return ast.parse("\n".join(lines)).body


def walk(parts: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield all nodes of some trees, in the order of their text."""
    for part in parts:
        yield part
        yield from walk(ast.iter_child_nodes(part))


def names(text: str) -> list[str]:
    """The names that an expression reads, each as often as it reads it."""
    return [part.id for part in walk([parse(text)]) if isinstance(part, ast.Name)]


def rewrite(node: Any, rule: Rule) -> Any:
    """Copy a tree, replacing each node for which the rule returns another one."""
    if isinstance(node, list):
        return [rewrite(part, rule) for part in node]
    if not isinstance(node, ast.AST):
        return node
    replacement = rule(node)
    if replacement is not None:
        return replacement
    return type(node)(**{name: rewrite(value, rule) for name, value in ast.iter_fields(node)})


def replace_names(node: Any, replacements: Mapping[str, ast.AST]) -> Any:
    """Copy a tree, replacing some names by expressions."""
    return rewrite(node, lambda part: replacements.get(part.id) if isinstance(part, ast.Name) else None)


def substitute(text: str, replacements: Mapping[str, str]) -> str:
    """Replace some names of an expression by expressions."""
    trees = {name: parse(value) for name, value in replacements.items()}
    return show(replace_names(parse(text), trees)) if trees else text


def replace_part(text: str, part: str, name: str) -> str:
    """Replace a part of an expression by a name."""
    new = ast.Name(name)
    return show(rewrite(parse(text), lambda node: new if isinstance(node, ast.expr) and show(node) == part else None))


def is_simple(text: str) -> bool:
    """Whether an expression is a name, an attribute, an item, or a number times one of these."""
    tree = parse(text)
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult) and isinstance(tree.left, ast.Constant):
        tree = tree.right
    while isinstance(tree, (ast.Attribute, ast.Subscript)):
        tree = tree.value
    return isinstance(tree, (ast.Name, ast.Constant))


def functions(body: list[ast.stmt]) -> set[str]:
    """The names of the functions and classes that statements call."""
    called = [part.func for part in walk(body) if isinstance(part, ast.Call)]
    return {function.id for function in called if isinstance(function, ast.Name)}


# ---------------------------------------------------------------------- printing

CHOICE, OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, POWER, ATOM = range(10)  # levels of precedence

_BINARY = {
    ast.Add: ("+", SUM), ast.Sub: ("-", SUM), ast.Mult: ("*", PRODUCT), ast.Div: ("/", PRODUCT),
    ast.FloorDiv: ("//", PRODUCT), ast.Mod: ("%", PRODUCT), ast.Pow: ("**", POWER),
}  # fmt: skip
_COMPARISONS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip


def show(node: ast.AST | None, level: int = CHOICE) -> str:
    """The text of an expression, in parentheses if its precedence is below ``level``."""
    if node is None:
        return ""
    text, binds = _PRINTERS[type(node)](node)
    return text if binds >= level else f"({text})"


def _listed(nodes: Iterable[ast.AST]) -> str:
    return ", ".join(map(show, nodes))


def _binary(node: ast.BinOp) -> tuple[str, int]:
    sign, level = _BINARY[type(node.op)]
    if isinstance(node.op, ast.Pow):
        gap = "" if _bare(node.left) and _bare(node.right) else " "
        return f"{show(node.left, ATOM)}{gap}**{gap}{show(node.right, UNARY)}", POWER
    return f"{show(node.left, level)} {sign} {show(node.right, level + 1)}", level


def _bare(node: ast.AST | None) -> bool:
    """Whether the formatter puts no spaces around an operand or a bound of a slice."""
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return node is None or isinstance(node, (ast.Name, ast.Constant))


def _boolean(node: ast.BoolOp) -> tuple[str, int]:
    sign, level = (" and ", AND) if isinstance(node.op, ast.And) else (" or ", OR)
    return sign.join(show(value, level + 1) for value in node.values), level


def _compare(node: ast.Compare) -> tuple[str, int]:
    pairs = zip(node.ops, node.comparators, strict=True)
    parts = [show(node.left, SUM), *[f"{_COMPARISONS[type(op)]} {show(other, SUM)}" for op, other in pairs]]
    return " ".join(parts), COMPARE


def _unary(node: ast.UnaryOp) -> tuple[str, int]:
    if isinstance(node.op, ast.Not):
        return f"not {show(node.operand, NOT)}", NOT
    return f"{'-' if isinstance(node.op, ast.USub) else '+'}{show(node.operand, UNARY)}", UNARY


def _slice(node: ast.Slice) -> tuple[str, int]:
    gap = "" if _bare(node.lower) and _bare(node.upper) else " "
    text = f"{show(node.lower)}{gap if node.lower else ''}:{gap if node.upper else ''}{show(node.upper)}"
    return text, ATOM


def _subscript(node: ast.Subscript) -> tuple[str, int]:
    inner = _listed(node.slice.elts) if isinstance(node.slice, ast.Tuple) else show(node.slice)
    return f"{show(node.value, ATOM)}[{inner}]", ATOM


def _call(node: ast.Call) -> tuple[str, int]:
    if len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp) and not node.keywords:
        return f"{show(node.func, ATOM)}{show(node.args[0])}", ATOM
    return f"{show(node.func, ATOM)}({_listed([*node.args, *node.keywords])})", ATOM


def _loop(node: ast.comprehension) -> tuple[str, int]:
    tests = "".join(f" if {show(test, OR)}" for test in node.ifs)
    return f" for {_open(node.target)} in {show(node.iter, OR)}{tests}", CHOICE


def _comprehension(node: Any) -> str:
    return show(node.elt) + "".join(map(show, node.generators))


def _dict(node: ast.Dict) -> tuple[str, int]:
    pairs = zip(node.keys, node.values, strict=True)
    return "{" + ", ".join(
        f"{show(key)}: {show(value)}" if key else f"**{show(value)}" for key, value in pairs
    ) + "}", ATOM


def _open(node: ast.AST) -> str:
    """A tuple without parentheses."""
    return _listed(node.elts) if isinstance(node, ast.Tuple) else show(node)


def _constant(node: ast.Constant) -> tuple[str, int]:
    return f'"{node.value}"' if isinstance(node.value, str) else repr(node.value), ATOM


_PRINTERS: dict[type, Callable[[Any], tuple[str, int]]] = {
    ast.Name: lambda node: (node.id, ATOM),
    ast.Constant: _constant,
    ast.Attribute: lambda node: (f"{show(node.value, ATOM)}.{node.attr}", ATOM),
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.Call: _call,
    ast.keyword: lambda node: (f"{node.arg}={show(node.value)}" if node.arg else f"**{show(node.value)}", ATOM),
    ast.Starred: lambda node: (f"*{show(node.value, CHOICE)}", ATOM),
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.Compare: _compare,
    ast.UnaryOp: _unary,
    ast.IfExp: lambda node: (f"{show(node.body, OR)} if {show(node.test, OR)} else {show(node.orelse)}", CHOICE),
    ast.List: lambda node: (f"[{_listed(node.elts)}]", ATOM),
    ast.Tuple: lambda node: (f"({_listed(node.elts)}{',' * (len(node.elts) == 1)})", ATOM),
    ast.Dict: _dict,
    ast.comprehension: _loop,
    ast.ListComp: lambda node: (f"[{_comprehension(node)}]", ATOM),
    ast.GeneratorExp: lambda node: (f"({_comprehension(node)})", ATOM),
    ast.DictComp: lambda node: (
        f"{{{show(node.key)}: {show(node.value)}{''.join(map(show, node.generators))}}}", ATOM),
    ast.Assign: lambda node: (f"{_open(node.targets[0])} = {_open(node.value)}", CHOICE),
    ast.Expr: lambda node: (show(node.value), CHOICE),
    ast.Return: lambda node: (f"return {_open(node.value)}", CHOICE),
    ast.For: lambda node: (f"for {_open(node.target)} in {show(node.iter)}:", CHOICE),
    ast.If: lambda node: (f"if {show(node.test)}:", CHOICE),
}  # fmt: skip


def print_statements(body: Iterable[ast.stmt], indent: int) -> list[str]:
    """The lines of statements."""
    lines: list[str] = []
    for statement in body:
        lines += wrapped(show(statement), indent)
        lines += print_statements(getattr(statement, "body", ()), indent + 4)
    return lines


def line_count(body: Iterable[ast.stmt], indent: int) -> int:
    """The number of lines of statements."""
    return len(print_statements(body, indent))
