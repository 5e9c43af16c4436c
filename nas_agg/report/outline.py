"""What a drawing of a network shows: its layers and aggregates as they were written out, nested, with shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nas_agg.expansion.aggregates import Gathered as Position
from nas_agg.expansion.aggregates import Nodes, Scope, Shortcut
from nas_agg.expansion.expansion import Expansion, expand
from nas_agg.graph.graph import Graph, Tape
from nas_agg.graph.primitives import (
    ACTIVATIONS,
    AdaptivePool,
    AvgPool,
    Conv,
    Gap,
    Linear,
    MaxPool,
    Primitive,
    Shape,
    Times,
)
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import Aggregate, Gather, Join, Sequence, WordUse
from nas_agg.language.resolver import Resolver


@dataclass
class Layer:
    """A layer.

    Attributes:
        kind: ``conv``, ``pool``, ``linear``, ``small`` (norms, activations) or ``other``.
        text: What it says: ``3×3, 64, /2``.
        shape: Of what leaves it.
        alike: What makes it the same layer in another place, whatever its width and stride.
        groups: Of a convolution that is not depthwise.
    """

    kind: str
    text: str
    shape: Shape
    alike: str
    groups: int = 1


@dataclass
class JoinStep:
    """The place in a unit where a shortcut joins."""

    operator: str


@dataclass
class Gathered:
    """What is read: features by number, how they are joined, and the steps that made a feature fit."""

    sources: list[int]
    operator: str
    matches: dict[int, list[Step]] = field(default_factory=dict)


@dataclass
class Node:
    """A node of an aggregate. ``shape`` is its feature's, ``entering`` that of what its unit gets."""

    number: int
    reads: Gathered = field(default_factory=lambda: Gathered([], "sum"))
    shortcut: Gathered | None = None
    steps: list[Step] = field(default_factory=list)
    entering: Shape = (0, 0, 0)
    shape: Shape = (0, 0, 0)

    @property
    def join(self) -> JoinStep | None:
        """Where a shortcut joins, if one does."""
        return next((step for step in self.steps if isinstance(step, JoinStep)), None)

    @property
    def groups(self) -> int:
        """The most groups of a convolution of it that is not depthwise."""
        return max([step.groups for step in self.steps if isinstance(step, Layer)], default=1)


@dataclass
class Opened:
    """An aggregate at one place.

    Attributes:
        label: Its name there.
        path: The name of its parameters' place.
        features: The shapes of T_0 to T_n.
        about: Its gathers in words: role -> pattern and operator.
        output: What leaves.
        leaving: The shape of that.
    """

    label: str
    path: str
    about: dict[str, str]
    nodes: list[Node] = field(default_factory=list)
    features: list[Shape] = field(default_factory=list)
    output: Gathered = field(default_factory=lambda: Gathered([], "sum"))
    leaving: Shape = (0, 0, 0)

    @property
    def chained(self) -> bool:
        """Whether each node reads the one before as it is, and the last leaves."""
        reads = [*[node.reads for node in self.nodes], self.output]
        return all(gathered.sources == [l] and not gathered.matches for l, gathered in enumerate(reads))

    @cached_property
    def kinds(self) -> dict[tuple, list[Node]]:
        """Its nodes by what they do."""
        found: dict[tuple, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(alike(node.steps), []).append(node)
        return found

    @cached_property
    def key(self) -> tuple:
        """Equal for aggregates that look alike, whatever their widths and strides and how long a pattern goes on."""
        wires: tuple = ()
        if any("edges" in said for said in self.about.values()):
            rows = [(node.reads.sources, node.shortcut.sources if node.shortcut else []) for node in self.nodes]
            wires = tuple((tuple(reads), tuple(shortcut)) for reads, shortcut in rows)
        return tuple(self.about.items()), wires, tuple(self.kinds)


Step = Layer | JoinStep | Opened


def alike(steps: Iterable[Step]) -> tuple:
    """Equal for steps that do the same in other widths."""
    return tuple(
        step.alike if isinstance(step, Layer) else step.key if isinstance(step, Opened) else step.operator
        for step in steps
    )


def outline(genotype: Genotype) -> tuple[Graph, list[Step]]:
    """The graph of a network, and its outermost steps.

    Raises:
        GenotypeError: If the genotype is not a network.
    """
    graph = expand(genotype)
    run = _Recorder(_Tape(genotype.input))
    run.network(Resolver(genotype).network(), {"classes": genotype.classes, "g": 1, "s": 1})
    return graph, run.steps


class _Tape(Tape):
    def spend(self, work: int) -> None:
        super().spend(-(-work // 10))  # here no unit is written from memory


class _Recorded(Nodes):
    """The expansion of an aggregate that keeps who reads whom."""

    run_: _Recorder

    def __init__(self, run: _Recorder, aggregate: Aggregate, x: int, scope: Scope, path: str, shortcut: Shortcut):
        super().__init__(run, aggregate, x, scope, path, shortcut)
        roles = (("reads", aggregate.reads), ("shortcut", aggregate.shortcut), ("output", aggregate.output))
        self.found = Opened("", path, {role: said(gather) for role, gather in roles if gather})
        self.ways: dict[int, list[Step]] = {}  # by the tensor that came of it

    def scope(self, l: int) -> dict[str, Any]:
        if l:  # a node begins
            self.found.nodes.append(node := Node(l))
            self.run_.steps = node.steps
        return super().scope(l)

    def gathered(self, found: Position) -> None:
        newest = [found.position - 1] if not found.join and found.position - 1 in found.asked else []
        matches = {source: self.ways[made] for source, made in found.sources if made in self.ways}
        numbers = [source for source, _ in found.sources] + newest
        gathered = Gathered(numbers, found.gather.operator.word, matches)
        if found.position > self.n:
            self.found.output = gathered
        elif found.join:
            self.found.nodes[-1].shortcut = gathered if numbers else None
        else:
            self.found.nodes[-1].reads = gathered
            if found.tensor is not None:
                self.found.nodes[-1].entering = self.tape.shapes[found.tensor]

    def each(self, *arguments: Any) -> int:
        around, self.run_.steps = self.run_.steps, []
        tensor = super().each(*arguments)
        self.run_.steps = around
        return tensor

    def match(self, *arguments: Any) -> int:
        around, self.run_.steps = self.run_.steps, []
        tensor = super().match(*arguments)
        if self.run_.steps or tensor not in self.ways:
            self.ways[tensor] = self.run_.steps
        self.run_.steps = around
        return tensor


class _Recorder(Expansion):
    """An expansion that keeps the steps it goes through; units in units are written flat."""

    nodes = _Recorded

    def __init__(self, tape: Tape):
        super().__init__(tape)
        self.steps: list[Step] = []
        self.operators = ["sum"]  # of the shortcuts around

    def closed(self, part: Sequence, x: int, scope: Scope, path: str, entering: int) -> int:
        for label, step in part.steps:
            x = self.step(label, step, x, scope, f"{path}.{label}", entering, None)
        return x

    def step(self, label: str, step: Any, x: int, scope: Scope, path: str, entering: int, shortcut: Shortcut) -> int:
        tape, start = self.tape, len(self.tape.ops)
        output = super().step(label, step, x, scope, path, entering, shortcut)
        if output != x and isinstance(step, WordUse):
            self.steps.append(_layer(step.word, tape.ops[start:], tape.shapes[x], tape.shapes[output]))
        elif output != x and isinstance(step, Join):
            self.steps.append(JoinStep(self.operators[-1]))
        return output

    def aggregate(self, label: str, nodes: Nodes) -> int:
        assert isinstance(nodes, _Recorded)
        around, self.steps = self.steps, []
        shortcut = nodes.aggregate.shortcut
        self.operators.append(shortcut.operator.word if shortcut else self.operators[-1])
        output = nodes.run()
        self.operators.pop()
        self.steps = around
        found = nodes.found
        for node, tensor in zip(found.nodes, nodes.features[1:], strict=True):
            node.shape = self.tape.shapes[tensor]
        found.label = label
        found.features = [self.tape.shapes[tensor] for tensor in nodes.features]
        found.leaving = self.tape.shapes[output]
        self.steps.extend(_without_frame(found))
        return output


def _without_frame(found: Opened) -> list[Step]:
    """An aggregate, or its nodes' steps: of a single one with nothing beside it, or of stages in a row."""
    if not found.nodes and found.output.sources == [0]:
        return []
    if len(found.nodes) == 1:
        node = found.nodes[0]
        if found.chained and not node.shortcut:
            return list(node.steps)
    maps = {node.shape[1:] for node in found.nodes}
    holds = [not node.steps or any(isinstance(step, Opened) for step in node.steps) for node in found.nodes]
    if found.chained and len(maps) > 1 and all(holds) and not any(node.shortcut for node in found.nodes):
        return [step for node in found.nodes for step in node.steps]
    return [found]


def said(gather: Gather) -> str:
    """A gather in words: ``exponential 2, concat``."""
    values = [number.expression.text for _, number in gather.pattern.numbers]
    values += [str(value) for name, value in gather.pattern.fixed if name != "edges" and value is not None]
    words = [" ".join([gather.pattern.word, *values])]
    if words not in (["previous"], ["input"]) or gather.operator.word not in ("sum", "concat"):
        words.append(gather.operator.word)
    if gather.each:
        words.append("each through " + ", ".join(label for label, _ in gather.each.steps))
    return ", ".join(words)


def takes_join(step: Step) -> bool:
    """Whether a shortcut from around joins in a step."""
    if not isinstance(step, Opened):
        return isinstance(step, JoinStep)
    return any(not node.shortcut and any(map(takes_join, node.steps)) for node in step.nodes)


# ---------------------------------------------------------------------- layers


def _layer(word: str, ops: list[Primitive], entering: Shape, shape: Shape) -> Layer:
    op = ops[-1] if ops else None
    stride = getattr(op, "stride", 1)
    further = [f"/{stride}"] * (stride > 1)
    if word == "conv" and isinstance(op, Conv):
        depthwise = op.channelwise and op.groups > 1
        name = f"{'dw ' * depthwise}{op.kernel}×{op.kernel}"
        groups = 1 if depthwise else op.groups
        words = [name, str(op.out), *[f"{groups} groups"] * (groups > 1), *further]
        return Layer("conv", ", ".join(words), shape, name, groups)
    if isinstance(op, (MaxPool, AvgPool)):
        name = f"{word.removesuffix('pool')} {op.kernel}"
        return Layer("pool", ", ".join([f"{name}×{op.kernel}", *further]), shape, word)
    if isinstance(op, AdaptivePool):
        how = "avg" if isinstance(op, Gap) else "max"
        return Layer("pool", f"global {how}" if op.size == 1 else f"{how} to {op.size}×{op.size}", shape, word)
    if isinstance(op, Linear):
        return Layer("linear", f"linear {op.out}", shape, word)
    if word in ACTIVATIONS or word in ("bn", "ln", "in", "gn"):
        return Layer("small", word, shape, word)
    texts = {
        "slice": f"{shape[0]} of {entering[0]} ch",
        "pad": f"pad to {shape[0]}",
        "se": "SE",
        "times": f"× {op.factor:g}" if isinstance(op, Times) else "",
    }
    return Layer("other", texts.get(word, word), shape, word)
