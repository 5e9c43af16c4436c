"""The expansion of a genotype as a tree: which unit ran where, with which numbers, and what each gather took.

The graph knows operations; a file that reads like the genotype needs to know whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas_agg.expansion.aggregates import Gathered, Nodes, Scope, Shortcut, SplitShortcut
from nas_agg.expansion.expansion import Expansion
from nas_agg.graph.graph import Graph, Tape
from nas_agg.graph.primitives import Shape
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import Aggregate, Gather, Sequence
from nas_agg.language.resolver import Resolver


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
    """What a position gathered: features with the tensor each became, ahead of norms, weights and gates.

    `eaches` and `matches` are the units that features, by number, went through.
    """

    gather: Gather
    position: int
    main: int | None
    asked: list[int]
    scope: Scope
    sources: list[tuple[int, int]] = field(default_factory=list)
    matches: dict[int, UnitRun] = field(default_factory=dict)
    eaches: dict[int, UnitRun] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    result: int | None = None
    path: str = ""


@dataclass(eq=False)
class NodeRun:
    """A node: its number, names, gathers and unit."""

    l: int
    scope: Scope
    reads: GatherRun
    shortcut: GatherRun | None = None
    unit: UnitRun = field(init=False)


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
    net = Resolver(genotype).network()
    run.open = root = UnitRun(net, 0, scope, "")
    root.out = run.network(net, scope)
    return Trace(root, tape, tape.graph(root.out))


class _TracedNodes(Nodes):
    run_: _Traced

    def __init__(self, run: _Traced, aggregate: Aggregate, x: int, scope: Scope, path: str, shortcut: Shortcut):
        super().__init__(run, aggregate, x, scope, path, shortcut)
        self.record = AggregateRun(aggregate, x, self.n, self.outer, path, self.shortcut is not None)
        self.record.features = self.features
        self.matches: dict[int, UnitRun] = {}  # those that the gather at work has made
        self.eaches: dict[int, UnitRun] = {}

    def gathered(self, found: Gathered) -> None:
        run = GatherRun(found.gather, found.position, found.main, found.asked, found.scope, found.sources,
                        self.matches, self.eaches, found.values, found.tensor, found.path)  # fmt: skip
        self.matches, self.eaches = {}, {}
        if found.join:
            self.record.nodes[-1].shortcut = run
            return
        self.settle()
        if found.position > self.n:
            self.record.output = run
        else:
            self.record.nodes.append(NodeRun(found.position, found.scope, run))

    def settle(self) -> None:
        """What ran last, when the next node reads or the aggregate ends, is the newest node's unit."""
        if self.record.nodes:
            node, run = self.record.nodes[-1], self.run_.last
            assert isinstance(run, UnitRun)
            node.unit, run.joined = run, node.shortcut

    def each(self, gather: Gather, source: int, scope: Scope, path: str) -> int:
        last = self.run_.last
        found = super().each(gather, source, scope, path)
        assert isinstance(self.run_.last, UnitRun)
        self.eaches[source], self.run_.last = self.run_.last, last
        return found

    def match(self, gather: Gather, role: str, source: int, tensor: int, width: int, target: Shape, path: str) -> int:
        last, known = self.run_.last, len(self.matched)
        found = super().match(gather, role, source, tensor, width, target, path)
        if len(self.matched) > known:
            assert isinstance(self.run_.last, UnitRun)
            self.matches[source] = self.run_.last
        self.run_.last = last
        return found


class _Traced(Expansion):
    nodes = _TracedNodes
    open: UnitRun
    last: UnitRun | AggregateRun | None

    def unit(self, unit: Sequence, x: int, scope: Scope, path: str, shortcut: Shortcut = None) -> int:
        around = self.open
        run = self.open = UnitRun(unit, x, scope, path, dealt=isinstance(shortcut, SplitShortcut))
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
        out = super().step(label, step, x, scope, path, entering, shortcut)
        run = self.last if isinstance(step, (Aggregate, Sequence)) else None
        self.open.steps.append(StepRun(label, step, x, out, path, local, run, range(start, len(self.tape.ops))))
        return out

    def aggregate(self, label: str, nodes: Nodes) -> int:
        assert isinstance(nodes, _TracedNodes)
        nodes.record.out = nodes.run()
        self.last = nodes.record
        return nodes.record.out
