"""The values of names inside an aggregate, evaluated lazily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nas_agg.common.errors import GenotypeError
from nas_agg.language.resolved import Aggregate, NumberField, Schedule


class Nodes(Protocol):
    """An aggregate at one place: its text, the numbers of its `let`, the enclosing names and, once known, `n`."""

    aggregate: Aggregate
    let: dict[str, Schedule]
    outer: dict[str, Any]
    n: int


class NodeScope(Mapping[str, Any]):
    """The names in an aggregate at node l (None: at no node, as in `nodes` and `match`), evaluated lazily."""

    def __init__(self, nodes: Nodes, l: int | None):
        self.nodes, self.l = nodes, l
        self.known: dict[str, Any] = {}
        self.evaluating: list[str] = []

    def __getitem__(self, name: str) -> Any:
        if name in self.known:
            return self.known[name]
        if name in self.evaluating:
            cycle = " -> ".join([*self.evaluating, name])
            raise GenotypeError(f"circular definition: {cycle}", self.nodes.aggregate.where)
        self.evaluating.append(name)
        try:
            value = self.known[name] = self.evaluate(name)
        finally:
            self.evaluating.pop()
        return value

    def evaluate(self, name: str) -> Any:
        nodes, l = self.nodes, self.l
        aggregate = nodes.aggregate
        if name in nodes.let:
            return self.at_node(nodes.let[name], self)
        if l is None and not hasattr(nodes, "n"):
            return nodes.outer[name]  # `nodes` is evaluated with the outer names
        if name == "n":
            return nodes.n
        if name == "l":
            if l is None:
                raise KeyError(name)
            return l
        schedules = {"w": aggregate.growth, "g": aggregate.cardinality, "s": aggregate.stride}
        schedule = schedules.get(name)
        if schedule is None or l == 0:
            return nodes.outer[name]
        if name == "s" and not aggregate.stride_per_node and l != 1:
            return 1
        return self.at_node(schedule, ScheduleScope(self, {"w": ("g",), "g": ("w",)}.get(name, ())))

    def at_node(self, schedule: Schedule, scope: Mapping[str, Any]) -> Any:
        if isinstance(schedule, NumberField):
            return schedule.value(scope)
        if not self.l:
            raise KeyError("l")
        return schedule[self.l - 1].value(scope)

    def __iter__(self) -> Any:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


class ScheduleScope(Mapping[str, Any]):
    """The names in a schedule: w, g and s are the outer ones, except for the aggregate's own ones in ``visible``."""

    def __init__(self, own: NodeScope, visible: tuple[str, ...]):
        self.own, self.visible = own, visible

    def __getitem__(self, name: str) -> Any:
        if name in ("w", "g", "s") and name not in self.own.nodes.let and name not in self.visible:
            return self.own.nodes.outer[name]
        return self.own[name]

    def __iter__(self) -> Any:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)
