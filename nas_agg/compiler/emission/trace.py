"""The expansion of a genotype as a tree: which unit ran where, with which numbers, and what each gather took.

The graph knows operations; a file that reads like the genotype needs to know whose they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nas_agg.expansion import Scope, Shortcut, _Dealt, _Expansion, _Nodes
from nas_agg.genotype import Genotype
from nas_agg.graph import Graph, Tape
from nas_agg.names import Names
from nas_agg.parts import Aggregate, Gather, Sequence
from nas_agg.primitives import Shape


@dataclass(eq=False)
class UnitRun:
    """A unit at one place: its steps with the tensors that enter and leave them."""

    unit: Sequence
    x: int
    scope: Scope
    path: str
    steps: list[StepRun] = field(default_factory=list)
    out: int = -1
    joined: GatherRun | None = None
    dealt: bool = False


@dataclass(eq=False)
class StepRun:
    """A step at one place; `run` is what a unit or an aggregate did, `ops` what it wrote on the tape."""

    label: str
    step: Any
    x: int
    out: int
    path: str
    local: dict[str, Any]
    run: UnitRun | AggregateRun | None
    ops: range


@dataclass(eq=False)
class GatherRun:
    """What a position gathered: features with the tensor each became, ahead of norms, weights and gates."""

    gather: Gather
    position: int
    main: int | None
    asked: list[int]
    sources: list[tuple[int, int]] = field(default_factory=list)
    matches: dict[int, UnitRun] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    result: int | None = None
    path: str = ""
    ops: set[int] = field(default_factory=set)


@dataclass(eq=False)
class NodeRun:
    """A node: its number, names, gathers and unit."""

    l: int
    scope: Scope
    reads: GatherRun
    unit: UnitRun
    shortcut: GatherRun | None = None


@dataclass(eq=False)
class AggregateRun:
    """An aggregate at one place."""

    aggregate: Aggregate
    x: int
    n: int
    outer: dict[str, Any]
    path: str
    dealt: bool
    nodes: list[NodeRun] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    output: GatherRun | None = None
    out: int = -1


@dataclass
class Trace:
    """A network's tree with its tape."""

    root: UnitRun
    tape: Tape
    graph: Graph

    def shape(self, tensor: int) -> Shape:
        return self.tape.shapes[tensor]


def trace(genotype: Genotype) -> Trace:
    """The tree of a genotype's expansion.

    Raises:
        GenotypeError: If it is not a network.
    """
    tape = Tape(genotype.input)
    run = _Traced(tape)
    scope = {"classes": genotype.classes, "g": 1, "s": 1}
    net = Names(genotype).network()
    run.open = root = UnitRun(net, 0, scope, "")
    root.out = run.network(net, scope)
    return Trace(root, tape, tape.graph(root.out))


class _Traced(_Expansion):
    open: UnitRun
    last: UnitRun | None

    def unit(self, unit: Sequence, x: int, scope: Scope, path: str, shortcut: Shortcut = None) -> int:
        around = self.open
        run = self.open = UnitRun(unit, x, scope, path, dealt=isinstance(shortcut, _Dealt))
        entering = self.tape.shapes[x][0]
        for label, step in unit.steps:
            x = self.step(label, step, x, scope, f"{path}.{label}", entering, shortcut)
        run.out = x
        self.open, self.last = around, run
        return x

    def step(self, label: str, step: Any, x: int, scope: Scope, path: str, entering: int, shortcut: Shortcut) -> int:
        channels, height, _ = self.tape.shapes[x]
        local = {**scope, "in": entering, "c": channels, "h": height}
        start, self.last = len(self.tape.ops), None
        if isinstance(step, Aggregate):
            self.tape.path = path
            nodes = _TracedNodes(self, step, x, scope, path, shortcut)
            out = nodes.run()
            run: Any = nodes.record
            run.out = out
        else:
            out = super().step(label, step, x, scope, path, entering, shortcut)
            run = self.last if isinstance(step, Sequence) else None
        self.open.steps.append(StepRun(label, step, x, out, path, local, run, range(start, len(self.tape.ops))))
        return out


class _TracedNodes(_Nodes):
    run_: _Traced

    def __init__(self, run: _Traced, aggregate: Aggregate, x: int, scope: Scope, path: str, shortcut: Shortcut):
        super().__init__(run, aggregate, x, scope, path, shortcut)
        self.record = AggregateRun(aggregate, x, self.n, self.outer, path, self.shortcut is not None)
        self.record.features = self.features
        self.gathered: GatherRun | None = None
        self.join_of: GatherRun | None = None

    def node_shortcut(self, unit: Sequence, l: int, scope: Scope, path: str, dealt: _Dealt | None) -> Shortcut:
        # Called once a node, between its reads and its unit.
        assert self.gathered is not None
        self.record.nodes.append(NodeRun(l, scope, self.gathered, UnitRun(unit, -1, scope, path)))
        self.join_of = None
        return super().node_shortcut(unit, l, scope, path, dealt)

    def settle(self) -> None:
        """What ran last, when the next node reads or the aggregate ends, is the newest node's unit."""
        if self.record.nodes and self.record.nodes[-1].unit.x < 0:
            node, run = self.record.nodes[-1], self.run_.last
            assert isinstance(run, UnitRun)
            node.unit, node.shortcut = run, self.join_of
            run.joined = self.join_of

    def leaving(self, scope: Scope) -> int:
        out = super().leaving(scope)
        self.record.output = self.gathered
        return out

    def gather(
        self,
        gather: Gather,
        position: int,
        main: int | None,
        scope: Scope,
        path: str,
        join: bool = False,
        sources: Iterable[int] | None = None,
    ) -> int | None:
        if not join:
            self.settle()
        if sources is None:
            asked = gather.pattern.kind.sources(position, **gather.pattern.values(scope))  # type: ignore[attr-defined]
        else:
            asked = list(sources)
        newest = not join and position - 1 in asked
        record = GatherRun(gather, position, self.features[position - 1] if newest else main, asked, path=path)
        self.filling = record
        start = len(self.tape.ops)
        record.result = super().gather(gather, position, main, scope, path, join, asked)
        record.ops = set(range(start, len(self.tape.ops)))
        record.values = gather.operator.values(scope) if gather.operator.numbers else dict(gather.operator.fixed)
        if join:
            self.join_of = record
        else:
            self.gathered = record
        return record.result

    def fitted(
        self, gather: Gather, role: str, sources: list[int], main: int | None, values: dict, path: str
    ) -> list[tuple[int, int]]:
        record = self.filling
        found = super().fitted(gather, role, sources, main, values, path)
        record.sources = list(found)
        return found

    def match(self, gather: Gather, role: str, source: int, tensor: int, width: int, target: Shape, path: str) -> int:
        record, known = self.filling, len(self.matched)
        found = super().match(gather, role, source, tensor, width, target, path)
        if len(self.matched) > known:
            record.matches[source] = self.run_.last  # type: ignore[assignment]
        return found
