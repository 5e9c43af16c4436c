"""Names and schedules of an aggregate: expressions for the values of its nodes' scopes in the emitted class."""

from __future__ import annotations

import ast
from typing import Any

from nas_agg.compiler.codegen.calls import Calls
from nas_agg.compiler.codegen.classes import EmittedClass, expression
from nas_agg.compiler.codegen.syntax.numbers import NotExpressible, Simplified, same
from nas_agg.expansion.scope import NodeScope, ScheduleScope
from nas_agg.expansion.trace import AggregateRun, NodeRun
from nas_agg.language.expressions import Expression
from nas_agg.language.resolved import Aggregate, NumberField

_FIELDS = {"w": "growth", "g": "cardinality", "s": "stride"}
_LOCALS = {"w": "width", "g": "groups", "s": "step"}


class Schedules:
    """The names and schedules of one aggregate's class.

    Args:
        calls: Calls of the constructors of other classes.
        code: The class; its fields are set.
        rolled: Whether its nodes are created in a loop.
    """

    def __init__(self, calls: Calls, code: EmittedClass, rolled: bool):
        self.calls, self.code, self.classes, self.rolled = calls, code, calls.classes, rolled
        self.runs: list[AggregateRun] = code.runs
        self.aggregate: Aggregate = code.part
        self.names = {
            name: self.classes.python_name(name)
            for name in self.aggregate.free_names
            if name not in ("l", "n")
            and not self.bound(name)
            and self.varies(name, [run.outer.get(name) for run in self.runs])
        }
        self.used: set[str] = set()
        self.texts: dict[Any, str] = {}
        self.loop: list[str] = []
        self.uses_counter = False
        self.counts = [run.n for run in self.runs]
        for run in self.runs:
            run.let = dict(run.aggregate.let)  # type: ignore[attr-defined]

    def bound(self, name: str) -> bool:
        """Whether the aggregate binds a name at any use."""
        field = _FIELDS.get(name)
        own = field and any(getattr(run.aggregate, field) is not None for run in self.runs)
        return bool(own) or name in dict(self.aggregate.let)

    def varies(self, name: str, values: list) -> bool:
        return None not in values and (name == "w" or not same(values))

    # ------------------------------------------------------------------ names

    def text_of(self, name: str, nodes: list[list[NodeRun]], k: int | None) -> str:
        """The expression of a name of a node's scope.

        Args:
            name: The name.
            nodes: For each use, the nodes for which it must hold.
            k: Index of the node if nodes are written one by one; None in a loop.
        """
        key = (name, k)
        if key not in self.texts:
            self.texts[key] = self._text_of(name, nodes, k)
        return self.texts[key]

    def _text_of(self, name: str, nodes: list[list[NodeRun]], k: int | None) -> str:
        values = [[self.value(run, node, name) for node in row] for run, row in zip(self.runs, nodes, strict=True)]
        flat = [value for row in values for value in row]
        if same(flat) and name != "w":
            return _number(flat[0])
        if name == "l":
            if k is not None:
                return str(k + 1)
            self.uses_counter = True
            return self.classes.counter
        if name == "n":
            return self.nodes_text()
        if not self.bound(name):
            if name in self.names:
                self.used.add(name)
                return self.names[name]
            raise NotExpressible
        return self.schedule(name, nodes, k)

    def value(self, run: AggregateRun, node: NodeRun, name: str) -> Any:
        """The value of a name at a node, even if only other names depend on it."""
        if name in node.scope:
            return node.scope[name]
        try:
            return NodeScope(run, node.l)[name]  # type: ignore[arg-type]
        except KeyError:
            raise NotExpressible from None

    def nodes_text(self) -> str:
        if not self.rolled:
            raise NotExpressible
        return "nodes"

    def schedule(self, name: str, nodes: list[list[NodeRun]], k: int | None) -> str:
        """The expression of a name that the aggregate binds: an argument, an expression, or an entry of a list."""
        field = _FIELDS.get(name, self.classes.python_name(name))
        rows = [[self.value(run, node, name) for node in run.nodes] for run in self.runs]
        schedules = [self.row(run, name) for run in self.runs]
        constant = all(map(same, rows))
        stepped = not constant and self.is_stepped(name, rows)
        equal = all(isinstance(one, NumberField) for one in schedules) and same([expression(one) for one in schedules])
        sites: dict[Any, list] = {}
        for run, site, row in zip(self.runs, self.code.sites, rows, strict=True):
            if run.nodes:
                sites.setdefault(site, []).append(row)
        fixed = all(same([row[0] for row in rows_of_site]) for rows_of_site in sites.values())
        if equal and not stepped and not (constant and fixed):
            try:
                return self.computed(name, schedules[0], nodes, k)
            except NotExpressible:
                pass
        if constant or stepped:
            return self.argument(name, field, stepped, k)
        if all(map(same, sites.values())):
            return self.as_list(name, field, rows, k)
        raise NotExpressible

    def is_stepped(self, name: str, rows: list[list]) -> bool:
        """Whether a name is a stride of the first node only."""
        first = name == "s" and not all(run.aggregate.stride_per_node for run in self.runs)
        return first and all(same([1, *row[1:]]) for row in rows)

    def row(self, run: AggregateRun, name: str) -> Any:
        return run.let[name] if name in run.let else getattr(run.aggregate, _FIELDS[name])  # type: ignore[attr-defined]

    def argument(self, name: str, field: str, first: bool, k: int | None) -> str:
        """Pass a value that is the same at all nodes, or at all but the first, as an argument."""
        code = self.code
        with_nodes = [run for run in self.runs if run.nodes]
        values = [self.value(run, run.nodes[0], name) for run in with_nodes]

        def value(run: AggregateRun) -> Any:
            return self.value(run, run.nodes[0], name) if run.nodes else values[0]

        def tree(run: AggregateRun) -> Any:
            row = self.row(run, name)
            if row is None:  # the name of the enclosing scope
                return name, {name: run.outer[name]}, ast.Name(name)
            if not isinstance(row, NumberField):
                return None
            outer: dict[str, Any] = {}
            tree = self.inline_own_names(run, name, row, outer).tree()
            return ast.unparse(tree), outer, tree

        code.fields[field] = (value, tree)
        if same(values):
            code.defaults[field] = _number(values[0])
        if not first or k is not None:
            return field if not first or k == 0 else "1"
        self.uses_counter = True
        text = self.local_name(name)
        self.loop.append(f"{text} = {field} if {self.classes.counter} == 1 else 1")
        return text

    def inline_own_names(self, run: AggregateRun, name: str, row: NumberField, outer: dict[str, Any]) -> Expression:
        """A schedule's expression with the aggregate's own names substituted; `outer` receives all other values."""
        scope, replacements = ScheduleScope(NodeScope(run, 1), self.visible(name)), {}  # type: ignore[arg-type]
        for inner in row.expression.names:
            own = run.let.get(inner)  # type: ignore[attr-defined]
            if isinstance(own, NumberField) and inner != name:
                replacements[inner] = self.inline_own_names(run, inner, own, outer)
            else:
                outer[inner] = scope[inner]
        return row.expression.substitute(replacements)

    def visible(self, name: str) -> tuple[str, ...]:
        if name in dict(self.aggregate.let):
            return ("w", "g", "s")
        return {"w": ("g",), "g": ("w",)}.get(name, ())

    def local_name(self, name: str) -> str:
        return self.classes.python_name(name) if name not in self.names else _LOCALS.get(name, f"{name}_")

    def computed(self, name: str, number: NumberField, nodes: list[list[NodeRun]], k: int | None) -> str:
        """The expression of a value that is computed at each node."""
        uses, names = [], {"_in": "in_", "n": "nodes"}
        if k is None:
            names["l"] = self.classes.counter
        for run, row in zip(self.runs, nodes, strict=True):
            for node in row:
                scope = NodeScope(run, node.l)  # type: ignore[arg-type]
                own_scope = scope if name in run.let else ScheduleScope(scope, self.visible(name))  # type: ignore[attr-defined]
                uses.append({("_in" if n == "in" else n): own_scope[n] for n in number.expression.names})
        own = {n for n, _ in self.aggregate.let}
        own |= {n for n in ("w", "g", "s") if self.bound(n)} & set(self.visible(name))
        for inner in number.expression.names:
            if inner in own:
                if inner == name:
                    raise NotExpressible
                names[inner] = self.text_of(inner, nodes, k)
            elif inner in self.names:
                names[inner] = self.names[inner]
        for inner in ("n",):
            if inner in names and same([use.get(inner) for use in uses]) and same(self.counts) and not self.rolled:
                del names[inner]
        result = Simplified(number.expression.tree(), uses, names)
        self.used |= result.used & set(self.names)
        self.uses_counter = self.uses_counter or ("l" in result.used)
        if result.text.isidentifier() or result.text.isdigit():
            return result.text
        text = self.local_name(name)
        if k is not None:
            return result.text
        self.loop.append(f"{text} = {result.text}")
        return text

    def as_list(self, name: str, field: str, rows: list[list], k: int | None) -> str:
        """Pass the values at the nodes as a list."""
        text = self.local_name(name)
        field = f"{field}_at" if field == text else field
        lists = {id(run): row for run, row in zip(self.runs, rows, strict=True)}
        self.code.fields[field] = (lambda run: tuple(lists[id(run)]), lambda run: None)
        if k is not None:
            return f"{field}[{k}]"
        self.uses_counter = True
        self.loop.append(f"{text} = {field}[{self.classes.counter} - 1]")
        return text

    def count_argument(self) -> None:
        code = self.code

        def tree(run: AggregateRun) -> Any:
            number = run.aggregate.nodes
            if number is None:
                return None
            own = set(dict(run.aggregate.let))
            if own & set(number.expression.names):
                return None
            return expression(number), run.outer, number.expression.tree()

        code.fields["nodes"] = (lambda run: run.n, tree)
        if same(self.counts):
            code.defaults["nodes"] = str(self.counts[0])

    def output_width(self, text: str) -> str | None:
        """The output channels as a parameter of the constructor, preferably `text`; None if they are not one."""
        outs = [self.classes.channels(run.out) for run in self.runs]
        if self.values(text) == outs:
            return text
        return "in_" if outs == [self.classes.channels(run.x) for run in self.runs] else None

    def values(self, text: str) -> list | None:
        """The values of a parameter of the constructor, or of a number, at each use."""
        parameters = {self.names[name]: [run.outer[name] for run in self.runs] for name in self.used}
        parameters |= {name: [values(run) for run in self.runs] for name, (values, _) in self.code.fields.items()}
        number, _, name = text.rpartition(" * ")
        result = [int(name)] * len(self.runs) if name.isdigit() else parameters.get(name)
        return [int(number) * value for value in result] if result and number.isdigit() else None if number else result

    def unit_call(
        self, units: list[Any], channels: str, nodes: list[list[NodeRun]], k: int | None
    ) -> tuple[EmittedClass, str]:
        """The class of some units, and the call that creates one."""
        code = self.calls.written_class_of(units)
        return code, self.calls.arguments(code, channels, lambda name: self.text_of(name, nodes, k))


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
