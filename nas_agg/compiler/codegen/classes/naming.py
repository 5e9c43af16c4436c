"""Names for the numbers of a class: its parameters, and expressions over them that hold at every use."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from nas_agg.compiler.codegen.classes.fitting import Fitter, literal
from nas_agg.compiler.codegen.ir.tree import (
    SLICE,
    Call,
    ClassCode,
    Expression,
    Form,
    NotExpressible,
    Number,
    Part,
    Pick,
    Row,
    Use,
    fold,
)

_TAKEN = {"in_", "x", "i", "c", "features", "widths", "node", "shortcut", "sum", "nodes", "reduce", "map", "torch"}
_ORDER = {"nodes": 0, "growth": 1, "w": 1, "cardinality": 2, "g": 2, "stride": 3, "s": 3}


class Names:
    """The names of a class that is being written.

    Args:
        code: The class.
        rows: For each iteration of its loop, the index of its part; the order of parts for a class without one.
    """

    def __init__(self, code: ClassCode, literal_only: bool = False):
        self.code, self.parts = code, code.parts
        self.literal_only = literal_only
        common = set.intersection(*[set(part.names) for part in self.parts])
        self.outer = {name: [part.names[name] for part in self.parts] for name in sorted(common, key=_order)}
        self.outer = {name: values for name, values in self.outer.items() if name not in ("l", "n")}
        self.used: list[str] = []
        self.hidden: set[str] = set()  # names of a loop
        self.uses = Domain(self, list(range(len(self.parts))))

    def add_parameter(self, name: str, values: list[Any]) -> str:
        """A new parameter, or one that has these values."""
        for known, existing in self.outer.items():
            if existing == values:
                return known
        unique, k = name, 2
        while unique in self.outer or unique in _TAKEN or unique in self.hidden:
            unique, k = f"{name}{k}", k + 1
        self.outer[unique] = values
        self.uses.fitter = None
        return unique

    def use(self, text: str) -> None:
        for node in ast.walk(ast.parse(text, mode="eval")):
            if isinstance(node, ast.Name) and node.id in self.outer and node.id not in self.used:
                self.used.append(node.id)

    def finish(self) -> list[str]:
        """Fix the parameters of the class and return their names."""
        names = sorted(self.used, key=lambda name: (name != "in_", _order(name)))
        self.code.parameters = {name: dict(zip(self.parts, self.outer[name], strict=True)) for name in names}
        return names


def _order(name: str) -> Any:
    return (_ORDER.get(name, 9) if name != "in_" else -1), name


class Domain:
    """Where numbers are written: once for each part, or at each iteration of a loop.

    Args:
        names: Those of the class.
        owners: For each value of a number, the index of its part.
        extra: Names of the loop, with their values; a loop has ``i``.
    """

    def __init__(self, names: Names, owners: list[int], extra: dict[str, list[Any]] | None = None):
        self.names, self.owners, self.extra = names, owners, extra or {}
        self.schedules: tuple[str, ...] = ()
        self.fitter: Fitter | None = None
        self.used: set[str] = set()
        self.count = -1

    def text(
        self,
        row: tuple[Any, ...],
        name: str,
        hidden: str = "",
        texts: tuple[str, ...] = (),
        fallback: Expression | None = None,
    ) -> str:
        """The text of a number; a new parameter where no expression has its values."""
        names = self.names
        truth = any(isinstance(value, bool) for value in row)
        if self.fitter is None or self.count != len(names.outer) or hidden:
            known = {key: [values[owner] for owner in self.owners] for key, values in names.outer.items()}
            known |= {key: values for key, values in self.extra.items() if key != hidden}
            fitter = Fitter(known, self.schedules)
            if not hidden:
                self.fitter, self.count = fitter, len(names.outer)
        else:
            fitter = self.fitter
        text = fitter.condition(list(row), {}) if truth else fitter.fit(list(row), texts, fallback is None)
        if text is None:
            return self.show(fallback) if fallback else self.use(self.lift(row, name, texts))
        if text in texts and text not in self.schedules:
            self.schedules = fitter.schedules = (*self.schedules, text)  # other numbers may be equal
        return self.use(text)

    def use(self, text: str) -> str:
        """Note that the names of a text are used, and return it."""
        self.names.use(text)
        self.used |= {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
        return text

    def lift(self, row: tuple[Any, ...], name: str, texts: tuple[str, ...] = ()) -> str:
        """A parameter for values without an expression: one number for each part, or a list of them."""
        lists: list[list[Any]] = [[] for _ in self.names.parts]
        for owner, value in zip(self.owners, row, strict=True):
            lists[owner].append(value)
        other = next(value for value in row if value is not None)  # where there is no value, any is right
        if all(len(set(part) - {None}) <= 1 for part in lists):
            parameter = self.names.add_parameter(name, [_first(part, other) for part in lists])
            if not self.extra:
                self.names.code.texts[parameter] = texts
            return parameter
        if "i" not in self.extra:
            raise NotExpressible
        if name in self.extra:
            name = f"{name}s" if not name.endswith("s") else f"{name}_of_nodes"
        filled = [tuple(_first([value, *part], other) for value in part) for part in lists]
        return f"{self.names.add_parameter(name, filled)}[i - 1]"

    def show(self, node: Expression) -> str:
        """The text of an expression whose numbers have a value for each place."""
        if isinstance(node, Number):
            row = node.value if isinstance(node.value, Row) else (node.value,) * len(self.owners)
            return self.text(row, node.name, texts=node.texts, fallback=node.fallback)
        if isinstance(node, Form):
            return self.show_form(node)
        if isinstance(node, Use):
            return self.show(construction(node))
        assert isinstance(node, Call)
        shown = [self.show(argument) for argument in node.arguments]
        for name, value, default in node.options:
            text = self.show(value)
            if default.startswith("@"):
                default = shown[int(default[1:])]
            if text != default or not default:
                keyword = default or takes_keywords(node.function) or "=" in "".join(shown) or text[0] in "0123456789[-"
                shown.append(f"{name}={text}" if keyword else text)
        return f"{node.function}({', '.join(shown)})"

    def show_form(self, node: Form) -> str:
        shown = [self.show(part) for part in node.parts]
        if node.form == SLICE:
            return sliced(*shown)
        if "* {}" in node.form:  # a factor
            is_sum = [isinstance(part, Number) and " " in text for part, text in zip(node.parts, shown, strict=True)]
            shown = [f"({text})" if wrap else text for text, wrap in zip(shown, is_sum, strict=True)]
        return node.form.format(*shown) if shown else node.form


def _first(values: list[Any], other: Any) -> Any:
    return next((value for value in values if value is not None), other)


def sliced(x: str, first: str, last: str) -> str:
    """Some channels of a tensor, with spaces around the colon where bounds are expressions."""
    space = " " * any(not bound.isalnum() for bound in (first, last))
    first = "" if first == "0" else f"{first}{space}"
    return f"{x}[:, {first}:{space if first or space else ''}{last}]"


def takes_keywords(name: str) -> bool:
    """True for calls whose options are written with their names."""
    return name.startswith("nn.") or name in ("named", "SE")


def construction(use: Use) -> Expression:
    """The call that constructs a part, or its modules where its class is written inline."""
    code, parts = use.code, use.parts
    if code.inline:
        return _inline_unit(parts) if code.parts[0].nodes is None else _inline_chain(parts)
    rows = {name: Row(values[part] if part else None for part in parts) for name, values in code.parameters.items()}
    arguments = tuple(Number(row, name) for name, row in rows.items() if name == "in_")
    options = [(name, Number(row, name, code.texts.get(name, ())), "") for name, row in rows.items() if name != "in_"]
    return Call(code.name, arguments, tuple(options))


def _inline_unit(parts: tuple[Part | None, ...]) -> Expression:
    operations = [part.operations if part else None for part in parts]
    first = next(each for each in operations if each is not None)
    columns = [fold([each[k].module if each else None for each in operations], no_pick) for k in range(len(first))]
    if not first:
        return Form("nn.Sequential()")
    return Call("named", (), tuple((op.field, module, "") for op, module in zip(first, columns, strict=True)))


def _inline_chain(parts: tuple[Part | None, ...]) -> Expression:
    nodes = [part.nodes if part else None for part in parts]
    counts = {len(each) for each in nodes if each is not None}
    units = [
        fold([each[k].fields.get("unit", Form("nn.Sequential()")) if each else None for each in nodes], no_pick)
        for k in range(max(counts))
    ]
    if len(counts) == 1:
        return Call("chain", tuple(units))
    there = Number(Row(None if each is None else bool(each) for each in nodes))  # a single node, or none
    return Form("chain(*[{}] if {} else [])", (units[0], there))


def no_pick(picks: list[Pick]) -> Expression:
    raise AssertionError


Show = Callable[[Expression], str]
__all__ = ["Domain", "Names", "Part", "construction", "literal"]
