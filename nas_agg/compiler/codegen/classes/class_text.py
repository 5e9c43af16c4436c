"""The text of a class: what units and aggregates have in common."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes.fitting import Fitter
from nas_agg.compiler.codegen.classes.formatting import wrapped
from nas_agg.compiler.codegen.classes.naming import Domain, Names
from nas_agg.compiler.codegen.ir.parts import takes
from nas_agg.compiler.codegen.ir.tree import (
    SHORTCUT,
    ClassCode,
    Expression,
    Form,
    Node,
    NotExpressible,
    Number,
    Row,
    X,
    children,
    put,
    with_children,
)

LINE = 104  # of a forward, ahead of its indent


class ClassText:
    """Writes a class.

    Args:
        code: The class.
        root: Whether it is the network.
    """

    def __init__(self, code: ClassCode, root: bool):
        self.code, self.root, self.names = code, root, Names(code)
        self.init: list[str] = []
        self.forward: list[tuple[int, str]] = []
        self.inputs = ["x"]
        self.pending: list[str] = []
        self.raws: list[str] = []
        self.fits: dict[tuple[int, int, str], str] = {}
        self.base = "nn.Module"

    def lines(self) -> list[str]:
        self.write()
        parameters = self.names.finish()
        lines = [f"class {self.code.name}({self.base}):"]
        lines.append(f"    def __init__({', '.join(['self', *parameters])}):")
        lines.append("        super().__init__()")
        for line in self.init:
            indent = len(line) - len(line.lstrip())
            lines += wrapped(line.lstrip(), 8 + indent)
        if self.forward:
            lines += ["", f"    def forward({', '.join(['self', *self.inputs])}):"]
            for indent, line in self.forward:
                lines += wrapped(line, 8 + indent)
        return lines

    def show(self, node: Expression) -> str:
        return self.names.uses.show(node)

    def called(self, node: Node, place: str, x: str, shortcut: str, has_unit: bool, bare: bool | str = False) -> str:
        """A node's unit with the operations around it."""
        mean = node.shortcut is not None and node.shortcut.operator == "mean"
        joined = shortcut if not mean else shortcut[1:-1] if shortcut.startswith("[") else f"*{shortcut}"
        values: dict[Expression, Expression] = {X: Form(x), SHORTCUT: Form(joined)}
        current: Expression = values[X]
        if isinstance(bare, str):
            current = Form("y")
        for k, op in enumerate(node.unit.lead if not isinstance(bare, str) else []):
            if shortcut or not takes(op):
                current = put(self.around(node, place, "lead", k), {**values, X: current})
        if has_unit:
            extra = ", shortcut" if node.unit.joins and not shortcut else f", {shortcut}" if node.unit.joins else ""
            current = Form(f"{place}.unit({self.show(current)}{extra})")
        for k, op in enumerate(node.unit.tail if bare is not True else []):
            if not shortcut and takes(op):
                continue
            current = put(self.around(node, place, "tail", k), {**values, X: current})
        return self.show(current)

    def fixed(self, calls: list[Expression | None]) -> Expression:
        """The call of an operation that is written around a unit, given those at all parts.

        Its numbers are literals, expressions of the channels that enter, or attributes.
        """
        call = next(each for each in calls if each is not None)
        parts = list(children(call))
        for k, child in enumerate(parts):
            if isinstance(child, Number):
                row = Row(None if each is None else children(each)[k].value for each in calls)
                parts[k] = Form(self.forward_number(row, child.name))
        return with_children(call, tuple(parts))

    def forward_number(self, row: Row, name: str) -> str:
        domain = self.names.uses
        if len({value for value in row if value is not None}) <= 1:
            return domain.text(row, name)
        known = {"c": self.names.outer["in_"]}
        text = Fitter(known).fit(list(row))
        if text is not None:
            if (0, "c = x.shape[1]") not in self.forward:
                self.forward.insert(0, (0, "c = x.shape[1]"))
            return text
        text = domain.text(row, name)
        line = next((line for line in self.init if line.startswith("self.") and line.endswith(f" = {text}")), None)
        if line is None:
            taken = [each.partition(" = ")[0] for each in self.init]
            k = 1 + sum(each.startswith(f"self.{name}") for each in taken)
            line = f"self.{name}{k if k > 1 else ''} = {text}"
            self.init.append(line)
        return line.partition(" = ")[0]

    def around(self, node: Node, place: str, role: str, k: int) -> Expression:
        """The k-th operation ahead of or behind a node's unit."""
        calls: list[Expression | None] = []
        for part in self.code.parts:
            nodes = part.nodes or []
            if place.startswith("self["):
                nodes = [nodes[node.number - 1]]
            found = [getattr(each.unit, role)[k].applied(False) for each in nodes]
            if len(set(found)) > 1:
                raise NotExpressible
            calls.append(found[0] if found else None)
        return self.fixed(calls)

    def modules(self, fields: dict[str, Expression]) -> str:
        """The modules of a node, by path."""
        tree: dict[str, Any] = {}
        for name, field in fields.items():
            *path, last = name.split(".")
            inner = tree
            for step in path:
                inner = inner.setdefault(step, {})
            inner[last] = field
        return self.module_dict(tree, self.names.uses)

    def module_dict(self, tree: dict[str, Any], domain: Domain) -> str:
        items = [
            f'"{name}": {self.module_dict(value, domain) if isinstance(value, dict) else domain.show(value)}'
            for name, value in tree.items()
        ]
        return f"nn.ModuleDict({{{', '.join(items)}}})" if items else "nn.ModuleDict()"

    def write(self) -> None:
        """Write the constructor and the forward."""
        raise NotImplementedError


def varies(number: Number) -> bool:
    return isinstance(number.value, Row) and len(set(number.value)) > 1


def depth(node: Expression) -> int:
    """How many modules with weights are called inside each other."""
    own = isinstance(node, Form) and node.form.startswith("self.")
    return int(own) + max((depth(part) for part in children(node)), default=0)
