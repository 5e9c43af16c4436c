"""The classes of a file: one for each distinct unit and aggregate, with all its uses in the network."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas_agg.compiler.codegen.syntax.numbers import NotExpressible
from nas_agg.expansion.trace import AggregateRun, GatherRun, StepRun, Trace, UnitRun
from nas_agg.graph.primitives import Cat, Slice
from nas_agg.language.layers import SliceLayer
from nas_agg.language.operators import Concat, Sum
from nas_agg.language.resolved import Aggregate, Gather, Join, NumberField, ResolvedWord, Unit

#: Names that emitted code has for itself.
_WORDS = """
mean
F fits InstanceNorm Network OrderedDict Pad SE Shuffle Slice abs all any bool build c c2 c3 c4 c5 c6
cardinality chain data dict enumerate features file first float gated gates get groups growth in_ int iter json len
list map match math max min mixed mixed_back named network next nn node nodes normed object open print put range
raw read reduce round scale scales self set shortcut sorted source sources spaced start state step str stride sum super
sys torch tuple type unfit unit weights weights_from width widths x y zip
"""
_HELPERS = ("ChannelMax", "ChannelMean", "DropPath", "Times")
_TAKEN = frozenset([*_WORDS.split(), *_HELPERS, *dir(builtins)])


@dataclass(eq=False)
class EmittedClass:
    """A class of the emitted file, with all its uses.

    Attributes:
        runs: Its uses.
        sites: For each use the place in the text of its call.
        args: The arguments of its constructor behind `in_`; `defaults`: values of some.
        fields: The arguments that are an aggregate's own: how to get the value, and the expression, of a use.
        out: The text of its output's channels, in its own names; None if it is nothing short.
        width: The same behind its constructor, however long.
        asked: The expressions that callers use for these channels where they have no names for them.
        mode: How a shortcut joins: `none`, `own` for the input of the unit, or `given` to the forward.
        optional: Whether the shortcut is missing at some uses; `shortcut_is_list`: whether it comes as a list.
        state: Whether the constructor takes the channels of the given shortcut.
        leading_join: A join that a unit begins with, written at its calls; `trailing_join`: the join and what follows
            it, written there.
        sliced: Whether the slice that a unit begins with is written at its calls.
        returns_pre_activation: Whether the forward returns a pre-activation beside its output;
            `takes_pre_activation`: whether it takes one.
        pre_activation_at: The steps of a unit behind which a pre-activation is kept.
    """

    part: Any
    name: str
    runs: list[Any] = field(default_factory=list)
    sites: list[Any] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    defaults: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    out: str | None = None
    width: str = ""
    asked: set[str] = field(default_factory=set)
    base: str = "nn.Module"
    init: list[ast.stmt] = field(default_factory=list)
    forward: list[ast.stmt] = field(default_factory=list)
    forward_parameters: str = "x"
    trailing_join: list[Any] = field(default_factory=list)
    leading_join: list[Any] = field(default_factory=list)
    sliced: bool = False
    shortcut_is_list: bool = False
    mode: str = "none"
    optional: bool = False
    state: bool = False
    returns_pre_activation: bool = False
    takes_pre_activation: bool = False
    pre_activation_at: set[int] = field(default_factory=set)
    done: bool = False
    failed: NotExpressible | None = None


def expression(number: NumberField) -> str:
    return ast.unparse(number.expression.tree())


def signature(part: Any) -> Any:
    """The text of a part, without the places it was written at and without an aggregate's schedules."""
    if isinstance(part, ResolvedWord):
        return part.word, part.kind.__name__, part.fixed, tuple((name, expression(n)) for name, n in part.numbers)
    if isinstance(part, Join):
        return "join"
    if isinstance(part, Unit):
        return "unit", tuple((label, signature(step)) for label, step in part.steps)
    if isinstance(part, Gather):
        match = signature(part.match) if isinstance(part.match, Unit) else part.match
        start = expression(part.start) if part.start else None
        each = signature(part.each) if part.each else None
        return signature(part.pattern), signature(part.operator), each, part.norm, start, match, part.raw
    assert isinstance(part, Aggregate)
    return (
        "aggregate",
        part.unit_per_node,
        tuple(signature(unit) for unit in part.units),
        tuple(value is not None for value in (part.growth, part.cardinality, part.stride)),
        tuple(signature(gather) if gather else None for gather in (part.reads, part.shortcut, part.output)),
        tuple(name for name, _ in part.let),
    )


class Classes:
    """All classes of a network, found from its trace."""

    def __init__(self, traced: Trace, taken: set[str]):
        self.traced = traced
        self.by_key: dict[Any, EmittedClass] = {}
        self.of: dict[int, EmittedClass] = {}
        self.names = set(taken) | {"Network", "SE", "Slice", "Pad", "Shuffle", "InstanceNorm", *_HELPERS}
        self.safe: dict[str, str] = {}
        self.live = live(traced)
        self.lost = {i for i, op in enumerate(traced.tape.ops) if op.stateful and i not in self.live}
        names = self._names(traced.root)
        self.counter = next(name for name in ("i", "j", "position", "index", "i_") if name not in names)
        self.root = EmittedClass(traced.root.unit, "Network", [traced.root], [None])
        self._steps(traced.root, self.root)

    def _names(self, run: UnitRun) -> set[str]:
        result: set[str] = set(run.scope)
        for step in run.steps:
            if isinstance(step.run, UnitRun):
                result |= self._names(step.run)
            elif isinstance(step.run, AggregateRun):
                for node in step.run.nodes:
                    result |= self._names(node.unit) | set(node.scope)
        return result - {"in", "c", "h", "l", "n"}

    def text(self, name: str) -> str:
        """The Python name of a name of the genotype."""
        if name in ("l", "n", "_in"):
            return {"l": self.counter, "n": "nodes", "_in": "in_"}[name]
        if name not in self.safe:
            own = name
            while own in _TAKEN or own == self.counter or own in self.safe.values():
                own += "_"
            self.safe[name] = own
        return self.safe[name]

    def free_name(self, wanted: str) -> str:
        name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[_\W]+", wanted)) or "Unit"
        own, number = name, 2
        while own in self.names:
            own, number = f"{name}{number}", number + 1
        self.names.add(own)
        return own

    # ------------------------------------------------------------------ collecting

    def _register(self, key: Any, part: Any, run: Any, site: Any, wanted: str) -> EmittedClass:
        if key not in self.by_key:
            self.by_key[key] = EmittedClass(part, self.free_name(wanted))
        code = self.by_key[key]
        code.runs.append(run)
        code.sites.append(site)
        self.of[id(run)] = code
        return code

    def _steps(self, run: UnitRun, around: EmittedClass) -> None:
        labels = [step.label for step in run.steps]
        for index, step in enumerate(run.steps):
            site = (id(around), index)
            if isinstance(step.run, UnitRun):
                if step.run.unit.takes_shortcut:
                    step.run.joined, step.run.nested = run.joined, True  # type: ignore[attr-defined]
                    step.run.split = run.split
                self.unit(step.run, _base(step.label, labels), site)
            elif isinstance(step.run, AggregateRun):
                self.aggregate(step.run, _base(step.label, labels), site)

    def unit(self, run: UnitRun, role: str, site: Any) -> EmittedClass:
        named = re.fullmatch(r"let\.(\w+)", run.unit.where)
        joins: Any = None
        if run.unit.takes_shortcut:
            joins = "split" if run.split else self.context(run)
        nested = getattr(run, "nested", False)
        code = self._register(
            ("unit", signature(run.unit), joins, nested), run.unit, run, site, named.group(1) if named else role
        )
        self._steps(run, code)
        return code

    def context(self, run: UnitRun) -> Any:
        """The meaning of joins to a unit: sums are alike, whatever is done to the sources before."""
        if run.joined is None:
            return "none"
        how = run.joined.gather.operator_type
        return "sum" if issubclass(how, Sum) else signature(run.joined.gather.operator)

    def aggregate(self, run: AggregateRun, role: str, site: Any) -> EmittedClass:
        code = self._register(("aggregate", signature(run.aggregate), run.split), run.aggregate, run, site, role)
        for node in run.nodes:
            inside = (id(code), node.l if run.aggregate.unit_per_node else 0)
            if node.unit.unit.takes_shortcut and node.shortcut is None and not node.unit.split:
                raise NotExpressible  # a shortcut that is not there for an aggregate inside
            self.unit(node.unit, f"{code.name}Unit", inside)
            for gather in (node.reads, node.shortcut):
                self._matches(gather, code, inside)
        self._matches(run.output, code, (id(code), "output"))
        return code

    def _matches(self, gather: GatherRun | None, around: EmittedClass, site: Any) -> None:
        for run in gather.matches.values() if gather else ():
            self.unit(run, f"{around.name}Match", site)
        for run in gather.eaches.values() if gather else ():
            self.unit(run, f"{around.name}Each", site)

    # ------------------------------------------------------------------ facts

    def stateful(self, step: StepRun) -> bool:
        return any(self.traced.tape.ops[i].stateful for i in step.ops)

    def slices(self, code: EmittedClass) -> bool:
        """True if a unit with weights slices by itself, and not in a class inside."""

        def sliced(run: UnitRun) -> bool:
            inside = [step.run for step in run.steps if isinstance(step.run, UnitRun) and not self.stateful(step)]
            words = [step.step for step in run.steps if isinstance(step.step, ResolvedWord)]
            return any(word.kind is SliceLayer for word in words) or any(map(sliced, inside))

        units = [run for run in code.runs if isinstance(run, UnitRun)]
        return any(sliced(run) and any(map(self.stateful, run.steps)) for run in units)

    def channels(self, tensor: int) -> int:
        return self.traced.tape.shapes[tensor][0]


def _base(label: str, labels: list[str]) -> str:
    """A label without the number that tells it from others of its name."""
    result = re.fullmatch(r"(\w*?[A-Za-z_])(\d+)", label)
    if result and f"{result.group(1)}1" in labels and f"{result.group(1)}2" in labels:
        return result.group(1)
    return label.rstrip("_") or label


def live(traced: Trace) -> set[int]:
    """The tensors that lead to the output, and what is but put together from them and was taken apart again."""
    tape = traced.tape
    result, todo = set(), [traced.root.out]
    while todo:
        tensor = todo.pop()
        if tensor not in result:
            result.add(tensor)
            todo.extend(tape.inputs[tensor])
    for i, op in enumerate(tape.ops):
        if isinstance(op, (Cat, Slice)) and not result.isdisjoint(tape.inputs[i]):
            result.add(i)
    return result


def env(values: Mapping[str, Any]) -> dict[str, Any]:
    """Names with their values, as expressions call them."""
    return {"_in" if name == "in" else name: value for name, value in values.items()}


def is_chain(run: AggregateRun) -> bool:
    """True if each node reads the previous one, and the last is the output."""
    if any(node.reads.result != run.features[node.l - 1] for node in run.nodes):
        return False
    assert run.output is not None
    gathers = [*[node.reads for node in run.nodes], run.output]
    return run.output.result == run.features[-1] and not any(gather.matches for gather in gathers)


def slicing(classes: Classes) -> None:
    """Marks the units that begin so at all their uses, each a branch or a node that is written by itself."""
    listed = {
        id(node.unit)
        for code in classes.by_key.values()
        if isinstance(code.part, Aggregate) and code.part.unit_per_node and not any(map(is_chain, code.runs))
        for run in code.runs
        for node in run.nodes
    }
    for code in classes.by_key.values():
        if isinstance(code.part, Unit) and not (code.returns_pre_activation or code.takes_pre_activation):
            here = all(id(run) in listed and leading(run) is not None for run in code.runs)
            code.sliced = here and all(run.joined is None or not _whole(run) for run in code.runs)


def _whole(run: UnitRun) -> bool:
    """True if a unit joins its own input, of which only a slice would be passed."""
    assert run.joined is not None
    return [tensor for _, tensor in run.joined.sources] == [run.x]


def leading(run: UnitRun) -> StepRun | None:
    """The slice that a unit begins with."""
    first = run.steps[0] if run.steps else None
    if first is not None and isinstance(first.run, UnitRun) and len(first.run.steps) == 1:
        first = first.run.steps[0]
    kind = getattr(first.step, "kind", None) if first else None
    return first if kind is SliceLayer else None


def merge(classes: Classes) -> None:
    """Merges the classes of such aggregates.

    Schedules may bind a name in one that comes from outside in the other.

    Args:
        classes: Of a network; the first of those that are alike takes the uses of the others.
    """
    first: dict[Any, EmittedClass] = {}
    for key, code in list(classes.by_key.items()):
        alike = likeness(code)
        if alike is None:
            continue
        kept = first.setdefault((alike, key[-1]), code)
        if kept is code:
            continue
        del classes.by_key[key]
        kept.runs += code.runs
        kept.sites += code.sites
        kept.returns_pre_activation = kept.returns_pre_activation or code.returns_pre_activation
        classes.of |= {id(run): kept for run in code.runs}
        for other in classes.by_key.values():
            other.sites = [(id(kept), *site[1:]) if site and site[0] == id(code) else site for site in other.sites]


def likeness(code: EmittedClass) -> Any:
    """The key that mergeable classes share, or None."""
    part = code.part
    if not isinstance(part, Aggregate) or part.unit_per_node or code.takes_pre_activation:
        return None
    output = part.output or part.reads
    plain = output.norm == "none" and not (output.weight or output.raw or output.match or output.each)
    if output.operator_type is not Concat or not plain or output.pattern.word not in ("dense", "nodes"):
        return None
    gathers = [signature(gather) if gather else None for gather in (part.reads, part.shortcut)]
    return tuple(map(signature, part.units)), *gathers, tuple(name for name, _ in part.let)
