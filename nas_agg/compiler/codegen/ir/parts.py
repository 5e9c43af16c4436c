"""The trace of an expansion as parts: units and aggregates with modules and forwards, numbers as literals."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.ir.class_keys import loop_key
from nas_agg.compiler.codegen.ir.facts import Facts
from nas_agg.compiler.codegen.ir.gathers import join_call, operator_name, pattern_text, prepare
from nas_agg.compiler.codegen.ir.layers import Operation, layer
from nas_agg.compiler.codegen.ir.pre_activation import PreActivations
from nas_agg.compiler.codegen.ir.tree import (
    SHORTCUT,
    ClassCode,
    Expression,
    Form,
    Node,
    NotExpressible,
    Part,
    Pick,
    Use,
    X,
    operation_key,
    walk,
)
from nas_agg.expansion.trace import AggregateRun, GatherRun, NodeRun, StepRun, Trace, UnitRun
from nas_agg.language.resolved import Join, ResolvedWord


class Parts:
    """The parts of a network and their classes.

    Attributes:
        codes: Classes, each behind those that it uses.
    """

    def __init__(self, trace: Trace, failed: set[tuple[Any, str]], labelled: bool = True):
        self.trace, self.failed, self.labelled = trace, failed, labelled
        self.codes: dict[Any, ClassCode] = {}
        self.serials: dict[Any, int] = {}
        self.matched: set[Any] = set()  # keys of aggregates that are loops over matched sources
        self.filled: dict[Any, Any] = {}  # the classes of aggregates that have nodes somewhere
        self.facts = Facts(trace)
        self.pre_activations = PreActivations(trace)
        self.dissolved: set[Any] = set()  # aggregates without parameters, which are written where they are
        before: Any = None
        while before != (self.filled, self.dissolved, len(self.matched), gives := len(self.pre_activations.gives)):
            before, self.codes = (self.filled, set(self.dissolved), len(self.matched), gives), {}
            self.found: dict[Any, Any] = {}
            self.givers: dict[Any, list[Part]] = {}
            self.root = self.unit(trace.root, "Network")
            self.give_alike()
            self.filled = self.found

    # ------------------------------------------------------------------ units

    def unit(self, run: UnitRun, label: str, is_node: bool = False, listed: bool = False) -> Part:
        _, _, name = run.unit.where.partition("let.")
        label = _camel_case(name) if name.isidentifier() else label  # units of the genotype's own names
        part = Part(label, _names(run.scope, self.trace.shape(run.x)[0]), run=run, is_node=is_node)
        part.gives = run.unit in self.pre_activations.gives
        for step in run.steps:
            part.operations += self.step(step, run, is_node)
        if is_node:
            _hoist(part, run.joined is not None and not run.joined.sources)
        if (
            listed
            and not part.lead
            and part.operations
            and getattr(part.operations[0].module, "function", "") == "Slice"
        ):
            part.lead = [part.operations.pop(0)]
        part.joins = any(takes(op) for op in part.operations)
        if part.joins and not is_node and run.joined is not None:
            raise NotExpressible
        self.intern(part)
        return part

    def step(self, step: StepRun, run: UnitRun, is_node: bool) -> list[Operation]:
        """The operations of a step: those of a part without parameters are written where it is."""
        if isinstance(step.step, ResolvedWord):
            active = step.step in self.facts.active
            return [layer(step, self.trace.shape(step.x), self.facts.single_squeeze)] if active else []
        if isinstance(step.step, Join):
            nothing = step.out == step.x and (run.joined is None or not is_node)
            return [] if nothing else [Operation("", None, join_call(run.joined), False)]
        sub = self.inner(step)
        if sub is None or (sub.nodes is None and not sub.operations):
            return []
        if operations := self.dissolve(sub, step.label):
            return operations
        if sub.takes and sub.joins:
            raise NotExpressible
        call = Form(f"self.{step.label}({{}}, {{}})", (X, SHORTCUT)) if sub.joins else None
        return [Operation(step.label, Use((sub,)), Form(f"self.{step.label}({{}}, raw)", (X,)) if sub.takes else call)]

    def dissolve(self, sub: Part, label: str) -> list[Operation]:
        """The operations of a part without parameters, which is written where it is; none for other parts."""
        units = [sub] if sub.nodes is None else [node.unit for node in sub.nodes]
        operations = [op for unit in units for op in unit.operations]
        chained = not sub.joins if sub.nodes is None else sub.chain and sub.run.aggregate not in self.facts.empty
        if not chained or any(op.stateful for op in operations):
            return []
        if sub.nodes:
            self.dissolved.add(sub.run.aggregate)
            self.found.pop(sub.run.aggregate, None)
        for op in operations:
            op.field = f"{label}_{op.field}"
        return operations

    def inner(self, step: StepRun) -> Part | None:
        """The part that a step is; None for an aggregate that has nowhere a node."""
        assert step.run is not None
        find = self.aggregate if isinstance(step.run, AggregateRun) else self.unit
        return find(step.run, _class_name(step.label))  # type: ignore[arg-type]

    # ------------------------------------------------------------------ aggregates

    def aggregate(self, run: AggregateRun, label: str) -> Part | None:
        if not run.n and (run.aggregate not in self.filled or run.aggregate in self.dissolved):
            return None
        channels = self.trace.shape(run.x)[0]
        part = Part(label, _names(run.outer, channels) | {"nodes": run.n}, nodes=[], run=run)
        assert run.output is not None and part.nodes is not None
        where: dict[int, tuple[int, int, str]] = {}
        part.nodes += [self.node(node, run, where, label) for node in run.nodes]
        if run.aggregate not in self.facts.joined:
            for written in part.nodes:
                written.unit.tail = [op for op in written.unit.tail if not takes(op)]
        part.names = _equal_names(part.nodes) | part.names
        part.returned = self.gather(run.output, run.features, "output", part.output_fields, where, label)
        part.joins = run.split
        part.gives = run.aggregate in self.pre_activations.gives
        part.takes = run.aggregate in self.pre_activations.takes
        if part.gives and (part.returned.norm or part.returned.weight):
            raise NotExpressible
        self.intern(part)
        return part

    def node(self, run: NodeRun, around: AggregateRun, where: dict, label: str) -> Node:
        unit = self.unit(run.unit, f"{label}Unit", True, around.aggregate.unit_per_node)
        fields: dict[str, Expression] = {"unit": Use((unit,))} if unit.operations else {}
        reads = self.gather(run.reads, around.features, "reads", fields, where, label)
        shortcut = None
        if run.shortcut is not None and run.shortcut.sources:
            shortcut = self.gather(run.shortcut, around.features, "shortcut", fields, where, label)
        before, made = (self.trace.shape(around.features[k]) for k in (run.l - 1, run.l))
        names = _names(run.scope, self.trace.shape(run.unit.x)[0])
        return Node(run.l, unit, reads, shortcut, fields, names, before == made, made[0])

    def gather(self, run: GatherRun, features: list[int], place: str, fields: dict, where: dict, label: str) -> Pick:
        if run.eaches and run.matches:
            raise NotExpressible
        if run.eaches:
            fields[f"{place}.each"] = Use((self.unit(next(iter(run.eaches.values())), f"{label}Each"),))
        for source, unit in run.matches.items():
            fields[f"{place}.match.{source}"] = Use((self.unit(unit, f"{label}Match"),))
            where[unit.out] = (source, run.position, f"{place}.match")
        operator = operator_name(run)
        norm, weight = prepare(run, self.trace, self.facts.aligned, place, fields)
        sources = tuple(source for source, _ in run.sources)
        matched = tuple(
            where[tensor] for source, tensor in run.sources if tensor in where and tensor != features[source]
        )
        main = not run.join and run.main is not None
        if main:
            sources = (*sources, run.position - 1)
        return Pick(
            sources, run.position, operator, place, norm, weight, matched, run.gather.raw,
            main and (bool(norm or weight) or operator == "mixed"), bool(run.eaches), pattern_text(run),
        )  # fmt: skip

    # ------------------------------------------------------------------ classes

    def intern(self, part: Part) -> None:
        key = self.key(part)
        serial = self.serials.setdefault(key, len(self.serials))
        if part.nodes is None or part.nodes:
            plain = tuple(each for each in key if each is not True and each is not False)
            self.givers.setdefault((part.label if part.nodes is None else "", plain), []).append(part)
        part.code = self.codes.setdefault(key, ClassCode(form=key[0], serial=serial))
        part.code.parts.append(part)

    def give_alike(self) -> None:
        """Parts that are equal but for giving a pre-activation all give it, so that they share a class."""
        marked = self.pre_activations.gives
        for parts in self.givers.values():
            if len({part.gives for part in parts}) > 1:
                marked |= {part.run.unit if part.nodes is None else part.run.aggregate for part in parts}
        self.pre_activations.propagate()

    def key(self, part: Part) -> Any:
        if part.nodes is None:
            return (
                "unit",
                part.label if self.labelled and not part.is_node else "",
                part.gives,
                *map(operation_key, part.operations),
            )
        if not part.nodes:
            return self.filled[part.run.aggregate]
        key = loop_key(part, self.failed, self.matched)
        if key[0] == "matched":
            self.matched.add(key)
        if key[0] != "nodes":
            self.found.setdefault(part.run.aggregate, key)
        return key


def takes(op: Operation) -> bool:
    return op.call is not None and SHORTCUT in list(walk(op.call))


def _hoist(part: Part, missing: bool) -> None:
    """Move a join that begins or ends a unit, with what is around it, to the unit's calls.

    Args:
        part: The unit.
        missing: Whether there is nothing to join.
    """
    joins = [i for i, op in enumerate(part.operations) if takes(op)]
    if len(joins) != 1:
        return
    at = joins[0]
    if not any(op.stateful for op in part.operations[at:]) and not part.gives:
        part.operations, part.tail = part.operations[:at], part.operations[at:]
    elif not any(op.stateful for op in part.operations[: at + 1]):
        part.operations, part.lead = part.operations[at + 1 :], part.operations[: at + 1]
    elif missing:
        part.operations.pop(at)


def _names(scope: Any, channels: int) -> dict[str, Any]:
    names = {name: value for name, value in scope.items() if name not in ("in", "c", "h", "classes")}
    return {"in_": channels, **names}


def _equal_names(nodes: list[Node]) -> dict[str, Any]:
    """The names with the same value at all nodes."""
    first = nodes[0].names if nodes else {}
    equal = {name for name in first if all(name in node.names and node.names[name] == first[name] for node in nodes)}
    return {name: first[name] for name in first if name in equal - {"in_", "l", "n", "s"}}


def _class_name(label: str) -> str:
    return _camel_case(label.rstrip("0123456789")) or "Part"


def _camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
