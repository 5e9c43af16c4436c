"""Trace of an expansion: a tree of the units, aggregates, nodes and gathers of a network with their tensors.

A graph contains operations only; drawings and emitted code need to know the parts that they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas_agg.expansion.aggregates import Gathered, Nodes, Scope
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph, Tape
from nas_agg.graph.primitives import Shape
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import Aggregate, Gather, Unit


@dataclass(eq=False)
class UnitRun:
    """A unit at one place: its steps with their input and output tensors.

    Attributes:
        joined: The shortcut that joins in it: that of its node.
        split: Whether it takes a slice of a split shortcut.
    """

    unit: Unit
    x: int
    scope: Scope
    path: str
    steps: list[StepRun] = field(default_factory=list)
    out: int = -1
    joined: GatherRun | None = None
    split: bool = False


@dataclass(eq=False)
class StepRun:
    """A step at one place.

    Attributes:
        local: The names of the unit, with the values of `in`, `c` and `h` at the step.
        run: The trace of a step that is a unit or an aggregate.
        ops: Its operations on the tape.
    """

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
    """A gather at one position, as in `Gathered`: each source with its tensor before norms, weights and gates.

    Attributes:
        matches: The `match` units of sources, by number; each is listed at its first reader only.
        eaches: The `each` units of sources, by number.
    """

    gather: Gather
    position: int
    join: bool
    scope: Scope
    path: str
    selected: list[int]
    main: int | None
    sources: list[tuple[int, int]]
    values: dict[str, Any]
    result: int | None
    matches: dict[int, UnitRun]
    eaches: dict[int, UnitRun]


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
    """An aggregate at one place; ``features`` are the tensors T_0 to T_n."""

    aggregate: Aggregate
    x: int
    n: int
    outer: dict[str, Any]
    path: str
    split: bool
    features: list[int]
    nodes: list[NodeRun] = field(default_factory=list)
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


class _TracedTape(Tape):
    def charge(self, work: int) -> None:
        super().charge(-(-work // 10))  # no unit is replayed in a trace


class _Recorder:
    """The observer that records a trace.

    Args:
        tape: The tape of the expansion.
    """

    def __init__(self, tape: Tape):
        self.tape = tape
        self.units: list[UnitRun] = []
        self.aggregates: dict[Nodes, AggregateRun] = {}
        self.last: UnitRun | AggregateRun | None = None  # the part that ended last
        self.sources: dict[tuple[Nodes, str], dict[int, UnitRun]] = {}  # of gathers that have not ended

    def begin_unit(self, unit: Unit, x: int, scope: Scope, path: str, split: bool) -> None:
        self.units.append(UnitRun(unit, x, scope, path, split=split))

    def end_unit(self, output: int) -> None:
        self.last = self.units.pop()
        self.last.out = output

    def begin_step(self, label: str, step: Any, x: int, scope: Scope, path: str) -> None:
        unit = self.units[-1]
        channels, height, _ = self.tape.shapes[x]
        local = {**scope, "in": self.tape.shapes[unit.x][0], "c": channels, "h": height}
        ops = range(len(self.tape.ops), len(self.tape.ops))
        unit.steps.append(StepRun(label, step, x, -1, path, local, None, ops))

    def end_step(self, output: int) -> None:
        step = self.units[-1].steps[-1]
        step.out, step.ops = output, range(step.ops.start, len(self.tape.ops))
        if isinstance(step.step, (Aggregate, Unit)):
            step.run = self.last

    def begin_aggregate(self, nodes: Nodes) -> None:
        split = nodes.shortcut is not None
        x, outer = nodes.features[0], nodes.outer
        self.aggregates[nodes] = AggregateRun(nodes.aggregate, x, nodes.n, outer, nodes.path, split, nodes.features)

    def end_aggregate(self, nodes: Nodes, output: int) -> None:
        self.last = self.aggregates[nodes]
        self.last.out = output

    def end_node(self, nodes: Nodes) -> None:
        node = self.aggregates[nodes].nodes[-1]
        assert isinstance(self.last, UnitRun)
        node.unit, self.last.joined = self.last, node.shortcut

    def end_source(self, nodes: Nodes, role: str, source: int) -> None:
        assert isinstance(self.last, UnitRun)
        self.sources.setdefault((nodes, role), {})[source] = self.last

    def gathered(self, nodes: Nodes, gathered: Gathered) -> None:
        matches, eaches = (self.sources.pop((nodes, role), {}) for role in ("match", "each"))
        run, aggregate = GatherRun(*gathered, matches, eaches), self.aggregates[nodes]
        if gathered.join:
            aggregate.nodes[-1].shortcut = run
        elif gathered.position > aggregate.n:
            aggregate.output = run
        else:
            aggregate.nodes.append(NodeRun(gathered.position, gathered.scope, run))


def trace(genotype: Genotype) -> Trace:
    """Expand a genotype and record the tree of its parts.

    Raises:
        GenotypeError: The genotype is not a valid network.
    """
    tape = _TracedTape(genotype.input)
    recorder = _Recorder(tape)
    graph = expand(genotype, lambda _: tape, recorder)
    assert isinstance(recorder.last, UnitRun)
    return Trace(recorder.last, tape, graph)
