"""Outline of a network for drawings: its layers and aggregates, nested, with shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from nas_agg.expansion.trace import AggregateRun, GatherRun, Trace, UnitRun, trace
from nas_agg.graph.graph import Graph
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
from nas_agg.language.resolved import Gather, ResolvedWord

MIN_BLOCK_CONVS = 2  # a stage of a single node with as many convolutions is a block, as in EfficientNet


@dataclass
class Layer:
    """A layer.

    Attributes:
        kind: ``conv``, ``pool``, ``linear``, ``small`` (norms, activations) or ``other``.
        text: Its label: ``3×3, 64, /2``.
        shape: Shape of its output.
        key: Equal for layers that differ in width and stride only.
        groups: Number of groups, if it is a convolution that is not depthwise.
    """

    kind: str
    text: str
    shape: Shape
    key: str
    groups: int = 1


@dataclass
class JoinStep:
    """The place in a unit where a shortcut joins."""

    operator: str


@dataclass
class Gathered:
    """A gather: features by number, the operator that joins them, and the steps that match a feature's shape."""

    sources: list[int]
    operator: str
    matches: dict[int, list[Step]] = field(default_factory=dict)


@dataclass
class Node:
    """A node of an aggregate; ``shape`` is that of its feature, ``entering`` that of its unit's input."""

    number: int
    reads: Gathered = field(default_factory=lambda: Gathered([], "sum"))
    shortcut: Gathered | None = None
    steps: list[Step] = field(default_factory=list)
    entering: Shape = (0, 0, 0)
    shape: Shape = (0, 0, 0)

    @property
    def join(self) -> JoinStep | None:
        """The place where a shortcut joins, if one does."""
        return next((step for step in self.steps if isinstance(step, JoinStep)), None)

    @property
    def groups(self) -> int:
        """The largest number of groups of its convolutions that are not depthwise."""
        return max([step.groups for step in self.steps if isinstance(step, Layer)], default=1)


@dataclass
class AggregateOutline:
    """An aggregate at one place.

    Attributes:
        label: Its label.
        path: Path of its parameters.
        features: The shapes of T_0 to T_n.
        about: Its gathers in words, by role: pattern and operator.
        output: Its output.
        output_shape: Shape of its output.
    """

    label: str
    path: str
    about: dict[str, str]
    nodes: list[Node] = field(default_factory=list)
    features: list[Shape] = field(default_factory=list)
    output: Gathered = field(default_factory=lambda: Gathered([], "sum"))
    output_shape: Shape = (0, 0, 0)

    @property
    def chained(self) -> bool:
        """Whether each node reads only the previous one, unchanged, and the output is the last."""
        reads = [*[node.reads for node in self.nodes], self.output]
        return all(gathered.sources == [l] and not gathered.matches for l, gathered in enumerate(reads))

    @cached_property
    def kinds(self) -> dict[tuple, list[Node]]:
        """Its nodes by the key of their steps."""
        nodes: dict[tuple, list[Node]] = {}
        for node in self.nodes:
            nodes.setdefault(steps_key(node.steps), []).append(node)
        return nodes

    @cached_property
    def key(self) -> tuple:
        """Equal for aggregates that differ in widths, strides and number of nodes only."""
        wires: tuple = ()
        if any("edges" in text for text in self.about.values()):
            rows = [(node.reads.sources, node.shortcut.sources if node.shortcut else []) for node in self.nodes]
            wires = tuple((tuple(reads), tuple(shortcut)) for reads, shortcut in rows)
        return tuple(self.about.items()), wires, tuple(self.kinds)


Step = Layer | JoinStep | AggregateOutline


def steps_key(steps: Iterable[Step]) -> tuple:
    """A key that is equal for steps that differ in widths and strides only."""
    return tuple(step.operator if isinstance(step, JoinStep) else step.key for step in steps)


def outline(genotype: Genotype) -> tuple[Graph, list[Step]]:
    """The graph of a network, and its outermost steps.

    Raises:
        GenotypeError: The genotype is not a valid network.
    """
    traced = trace(genotype)
    return traced.graph, _Outline(traced).steps(traced.root, "sum")


class _Outline:
    """The steps of a trace; nested units are flattened."""

    def __init__(self, traced: Trace):
        self.tape, self.shapes = traced.tape, traced.tape.shapes

    def steps(self, run: UnitRun, operator: str) -> list[Step]:
        """The steps of a unit; ``operator`` is that of the enclosing shortcut."""
        steps: list[Step] = []
        for step in run.steps:
            if isinstance(step.run, UnitRun):
                steps += self.steps(step.run, operator)
            elif isinstance(step.run, AggregateRun):
                steps += _without_frame(self.aggregate(step.label, step.run, operator))
            elif step.out != step.x and isinstance(step.step, ResolvedWord):
                ops = self.tape.ops[step.ops.start : step.ops.stop]
                steps.append(_layer(step.step.word, ops, self.shapes[step.x], self.shapes[step.out]))
            elif step.out != step.x:
                steps.append(JoinStep(operator))
        return steps

    def aggregate(self, label: str, run: AggregateRun, operator: str) -> AggregateOutline:
        aggregate = run.aggregate
        operator = aggregate.shortcut.operator.word if aggregate.shortcut else operator
        roles = (("reads", aggregate.reads), ("shortcut", aggregate.shortcut), ("output", aggregate.output))
        result = AggregateOutline(label, run.path, {role: describe(gather) for role, gather in roles if gather})
        result.features = [self.shapes[tensor] for tensor in run.features]
        result.output_shape = self.shapes[run.out]
        matches: dict[int, list[Step]] = {}  # by the matched tensor
        for node, shape in zip(run.nodes, result.features[1:], strict=True):
            outlined = Node(node.l, self.gathered(node.reads, matches, operator), shape=shape)
            outlined.entering = self.shapes[node.unit.x]
            if node.shortcut:
                shortcut = self.gathered(node.shortcut, matches, operator)
                outlined.shortcut = shortcut if shortcut.sources else None
            outlined.steps = self.steps(node.unit, operator)
            result.nodes.append(outlined)
        assert run.output is not None
        result.output = self.gathered(run.output, matches, operator)
        return result

    def gathered(self, run: GatherRun, matches: dict[int, list[Step]], operator: str) -> Gathered:
        for match in run.matches.values():
            if (steps := self.steps(match, operator)) or match.out not in matches:
                matches[match.out] = steps
        newest = [run.position - 1] if not run.join and run.position - 1 in run.selected else []
        numbers = [source for source, _ in run.sources] + newest
        fits = {source: matches[tensor] for source, tensor in run.sources if tensor in matches}
        return Gathered(numbers, run.gather.operator.word, fits)


def _without_frame(aggregate: AggregateOutline) -> list[Step]:
    """The aggregate; of a single node that is no block, or of a chain of stages, the steps of its nodes instead."""
    nodes = aggregate.nodes
    if not nodes and aggregate.output.sources == [0]:
        return []
    convs = sum(isinstance(step, Layer) and step.kind == "conv" for step in nodes[0].steps) if len(nodes) == 1 else 0
    if len(nodes) == 1 and aggregate.chained and not nodes[0].shortcut and convs < MIN_BLOCK_CONVS:
        return list(nodes[0].steps)
    maps = {node.shape[1:] for node in nodes}
    nested = [not node.steps or any(isinstance(step, AggregateOutline) for step in node.steps) for node in nodes]
    if aggregate.chained and len(maps) > 1 and all(nested) and not any(node.shortcut for node in nodes):
        return [step for node in nodes for step in node.steps]
    return [aggregate]


def describe(gather: Gather) -> str:
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
    """Whether a shortcut of an enclosing aggregate joins in a step."""
    if not isinstance(step, AggregateOutline):
        return isinstance(step, JoinStep)
    return any(not node.shortcut and any(map(takes_join, node.steps)) for node in step.nodes)


# ---------------------------------------------------------------------- layers


def _layer(word: str, ops: list[Primitive], entering: Shape, shape: Shape) -> Layer:
    op = ops[-1] if ops else None
    stride = getattr(op, "stride", 1)
    suffix = [f"/{stride}"] * (stride > 1)
    if word == "conv" and isinstance(op, Conv):
        depthwise = op.channelwise and op.groups > 1
        name = f"{'dw ' * depthwise}{op.kernel}×{op.kernel}"
        groups = 1 if depthwise else op.groups
        words = [name, str(op.out), *[f"{groups} groups"] * (groups > 1), *suffix]
        return Layer("conv", ", ".join(words), shape, name, groups)
    if isinstance(op, (MaxPool, AvgPool)):
        name = f"{word.removesuffix('pool')} {op.kernel}"
        return Layer("pool", ", ".join([f"{name}×{op.kernel}", *suffix]), shape, word)
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
