"""Names and schedules of an aggregate's nodes: what the values of a node's scope are called in its class."""

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
    """The names of one aggregate's class.

    Args:
        calls: Of the constructors of other classes.
        made: The class; its fields are set.
        rolled: Whether its nodes are made in a loop.
    """

    def __init__(self, calls: Calls, code: EmittedClass, rolled: bool):
        self.calls, self.code, self.classes, self.rolled = calls, code, calls.classes, rolled
        self.runs: list[AggregateRun] = code.runs
        self.aggregate: Aggregate = code.part
        self.names = {
            name: self.classes.text(name)
            for name in self.aggregate.free_names
            if name not in ("l", "n")
            and not self.bound(name)
            and self.varies(name, [run.outer.get(name) for run in self.runs])
        }
        self.used: set[str] = set()
        self.texts: dict[Any, str] = {}
        self.loop: list[str] = []
        self.counted = False
        self.counts = [run.n for run in self.runs]
        for run in self.runs:
            run.let = dict(run.aggregate.let)  # type: ignore[attr-defined]

    def bound(self, name: str) -> bool:
        """True if the aggregate binds a name at any use."""
        field = _FIELDS.get(name)
        own = field and any(getattr(run.aggregate, field) is not None for run in self.runs)
        return bool(own) or name in dict(self.aggregate.let)

    def varies(self, name: str, values: list) -> bool:
        return None not in values and (name == "w" or not same(values))

    # ------------------------------------------------------------------ names

    def text_of(self, name: str, nodes: list[list[NodeRun]], k: int | None) -> str:
        """The expression of a name of a node's scope in the loop, or at node k where nodes are written one by one.

        Args:
            name: Of the scope.
            nodes: For each use the nodes in question.
            k: The node, or None in a loop.
        """
        key = (name, k)
        if key not in self.texts:
            self.texts[key] = self.worked_out(name, nodes, k)
        return self.texts[key]

    def worked_out(self, name: str, nodes: list[list[NodeRun]], k: int | None) -> str:
        values = [[self.value(run, node, name) for node in row] for run, row in zip(self.runs, nodes, strict=True)]
        flat = [value for row in values for value in row]
        if same(flat) and name != "w":
            return _number(flat[0])
        if name == "l":
            if k is not None:
                return str(k + 1)
            self.counted = True
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
        """The value of a name at a node, also where only other names need it."""
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
        """A name that the aggregate binds: as an argument, as an expression, or as a list of its values."""
        field = _FIELDS.get(name, self.classes.text(name))
        every = [[self.value(run, node, name) for node in run.nodes] for run in self.runs]
        schedules = [self.row(run, name) for run in self.runs]
        level = all(map(same, every))
        stepped = not level and self.is_stepped(name, every)
        alike = all(isinstance(one, NumberField) for one in schedules) and same([expression(one) for one in schedules])
        sites: dict[Any, list] = {}
        for run, site, row in zip(self.runs, self.code.sites, every, strict=True):
            if run.nodes:
                sites.setdefault(site, []).append(row)
        fixed = all(same([row[0] for row in rows]) for rows in sites.values())
        if alike and not stepped and not (level and fixed):
            try:
                return self.local(name, schedules[0], nodes, k)
            except NotExpressible:
                pass
        if level or stepped:
            return self.argument(name, field, stepped, k)
        if all(map(same, sites.values())):
            return self.listed(name, field, every, k)
        raise NotExpressible

    def is_stepped(self, name: str, every: list[list]) -> bool:
        """True if a stride is the first node's alone."""
        first = name == "s" and not all(run.aggregate.stride_per_node for run in self.runs)
        return first and all(same([1, *row[1:]]) for row in every)

    def row(self, run: AggregateRun, name: str) -> Any:
        return run.let[name] if name in run.let else getattr(run.aggregate, _FIELDS[name])  # type: ignore[attr-defined]

    def argument(self, name: str, field: str, first: bool, k: int | None) -> str:
        """A value that is the same at all nodes, or but at the first, comes as an argument."""
        code = self.code
        with_nodes = [run for run in self.runs if run.nodes]
        values = [self.value(run, run.nodes[0], name) for run in with_nodes]

        def value(run: AggregateRun) -> Any:
            return self.value(run, run.nodes[0], name) if run.nodes else values[0]

        def tree(run: AggregateRun) -> Any:
            row = self.row(run, name)
            if row is None:  # it comes from outside
                return name, {name: run.outer[name]}, ast.Name(name)
            if not isinstance(row, NumberField):
                return None
            known: dict[str, Any] = {}
            tree = self.unfolded(run, name, row, known).tree()
            return ast.unparse(tree), known, tree

        code.fields[field] = (value, tree)
        if same(values):
            code.defaults[field] = _number(values[0])
        if not first or k is not None:
            return field if not first or k == 0 else "1"
        self.counted = True
        text = self.local_name(name)
        self.loop.append(f"{text} = {field} if {self.classes.counter} == 1 else 1")
        return text

    def unfolded(self, run: AggregateRun, name: str, row: NumberField, known: dict[str, Any]) -> Expression:
        """A schedule's expression with the aggregate's own names put in; `known` is told the values of the others."""
        scope, put = ScheduleScope(NodeScope(run, 1), self.seen(name)), {}  # type: ignore[arg-type]
        for inner in row.expression.names:
            own = run.let.get(inner)  # type: ignore[attr-defined]
            if isinstance(own, NumberField) and inner != name:
                put[inner] = self.unfolded(run, inner, own, known)
            else:
                known[inner] = scope[inner]
        return row.expression.substitute(put)

    def seen(self, name: str) -> tuple[str, ...]:
        if name in dict(self.aggregate.let):
            return ("w", "g", "s")
        return {"w": ("g",), "g": ("w",)}.get(name, ())

    def local_name(self, name: str) -> str:
        return self.classes.text(name) if name not in self.names else _LOCALS.get(name, f"{name}_")

    def local(self, name: str, number: NumberField, nodes: list[list[NodeRun]], k: int | None) -> str:
        """A value that is worked out at each node."""
        uses, names = [], {"_in": "in_", "n": "nodes"}
        if k is None:
            names["l"] = self.classes.counter
        for run, row in zip(self.runs, nodes, strict=True):
            for node in row:
                scope = NodeScope(run, node.l)  # type: ignore[arg-type]
                seen = scope if name in run.let else ScheduleScope(scope, self.seen(name))  # type: ignore[attr-defined]
                uses.append({("_in" if n == "in" else n): seen[n] for n in number.expression.names})
        own = {n for n, _ in self.aggregate.let}
        own |= {n for n in ("w", "g", "s") if self.bound(n)} & set(self.seen(name))
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
        self.counted = self.counted or ("l" in result.used)
        if result.text.isidentifier() or result.text.isdigit():
            return result.text
        text = self.local_name(name)
        if k is not None:
            return result.text
        self.loop.append(f"{text} = {result.text}")
        return text

    def listed(self, name: str, field: str, every: list[list], k: int | None) -> str:
        """A value that is listed for the nodes."""
        text = self.local_name(name)
        field = f"{field}_at" if field == text else field
        lists = {id(run): row for run, row in zip(self.runs, every, strict=True)}
        self.code.fields[field] = (lambda run: tuple(lists[id(run)]), lambda run: None)
        if k is not None:
            return f"{field}[{k}]"
        self.counted = True
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

    def leaving(self, text: str) -> str | None:
        """The channels that leave as a parameter of the constructor, `text` if that is one; None if it is none."""
        outs = [self.classes.channels(run.out) for run in self.runs]
        if self.values(text) == outs:
            return text
        return "in_" if outs == [self.classes.channels(run.x) for run in self.runs] else None

    def values(self, text: str) -> list | None:
        """The values of a parameter of the constructor, or of a number, at each use."""
        given = {self.names[name]: [run.outer[name] for run in self.runs] for name in self.used}
        given |= {name: [values(run) for run in self.runs] for name, (values, _) in self.code.fields.items()}
        number, _, name = text.rpartition(" * ")
        result = [int(name)] * len(self.runs) if name.isdigit() else given.get(name)
        return [int(number) * value for value in result] if result and number.isdigit() else None if number else result

    def unit_call(
        self, units: list[Any], channels: str, nodes: list[list[NodeRun]], k: int | None
    ) -> tuple[EmittedClass, str]:
        """The class of the units in question, and the call that makes one."""
        code = self.calls.written_for(units)
        return code, self.calls.arguments(code, channels, lambda name: self.text_of(name, nodes, k))


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
