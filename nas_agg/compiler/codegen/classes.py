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

#: Names that emitted code uses itself.
_WORDS = """
mean
F fits InstanceNorm Network OrderedDict Pad SE Shuffle Slice abs all any bool build c c2 c3 c4 c5 c6
cardinality chain data dict enumerate features file first float gated gates get groups growth in_ int iter json len
list map match math max min mixed mixed_back named network next nn node nodes normed object open print put range
raw read reduce round scale scales self set shortcut sorted source sources spaced start state step str stride sum super
sys torch tuple type unfit unit weights weights_from width widths x y zip
"""
_HELPERS = ("ChannelMax", "ChannelMean", "DropPath", "Times")
_RESERVED = frozenset([*_WORDS.split(), *_HELPERS, *dir(builtins)])


@dataclass(eq=False)
class EmittedClass:
    """A class of the emitted file, with all its uses.

    Attributes:
        part: The unit or aggregate that it is written from.
        name: Its name.
        runs: Its uses.
        sites: For each use, the class and the step of its call.
        args: The arguments of its constructor after `in_`.
        defaults: Default values of arguments.
        fields: Arguments that an aggregate binds itself: functions that return the value and the expression of a use.
        out: A short expression of its output channels in its own names; None if there is none.
        width: The output channels at the end of its constructor, as an expression of any length.
        width_expressions: The expressions by which callers read the output channels from its modules.
        mode: Source of the shortcut that joins: `none`, `own` (the unit's input) or `argument` (of the forward).
        optional: Whether the shortcut is missing at some uses.
        shortcut_is_list: Whether the shortcut is a list of tensors.
        takes_shortcut_width: Whether the constructor takes the channels of the shortcut.
        leading_join: The join at the beginning of a unit, if it is written at the unit's calls.
        trailing_join: The join and all that follows it, if they are written at the unit's calls.
        sliced: Whether the slice at the beginning of a unit is written at the unit's calls.
        returns_pre_activation: Whether the forward returns a pre-activation besides its output.
        takes_pre_activation: Whether the forward takes the pre-activation of its input.
        pre_activation_at: The steps of a unit after which a pre-activation is kept.
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
    width_expressions: set[str] = field(default_factory=set)
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
    takes_shortcut_width: bool = False
    returns_pre_activation: bool = False
    takes_pre_activation: bool = False
    pre_activation_at: set[int] = field(default_factory=set)
    done: bool = False
    failed: NotExpressible | None = None


def expression(number: NumberField) -> str:
    return ast.unparse(number.expression.tree())


def signature(part: Any) -> Any:
    """A key of a part, equal for parts that differ only in location and in an aggregate's schedules."""
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
    """All classes of a network, collected from its trace."""

    def __init__(self, traced: Trace, taken: set[str]):
        self.traced = traced
        self.by_key: dict[Any, EmittedClass] = {}
        self.by_run: dict[int, EmittedClass] = {}
        self.names = set(taken) | {"Network", "SE", "Slice", "Pad", "Shuffle", "InstanceNorm", *_HELPERS}
        self.python_names: dict[str, str] = {}
        self.live = live(traced)
        self.unused_stateful = {i for i, op in enumerate(traced.tape.ops) if op.stateful and i not in self.live}
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

    def python_name(self, name: str) -> str:
        """The Python name for a name of the genotype."""
        if name in ("l", "n", "_in"):
            return {"l": self.counter, "n": "nodes", "_in": "in_"}[name]
        if name not in self.python_names:
            result = name
            while result in _RESERVED or result == self.counter or result in self.python_names.values():
                result += "_"
            self.python_names[name] = result
        return self.python_names[name]

    def unique_name(self, label: str) -> str:
        name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[_\W]+", label)) or "Unit"
        unique, number = name, 2
        while unique in self.names:
            unique, number = f"{name}{number}", number + 1
        self.names.add(unique)
        return unique

    # ------------------------------------------------------------------ collecting

    def _register(self, key: Any, part: Any, run: Any, site: Any, label: str) -> EmittedClass:
        if key not in self.by_key:
            self.by_key[key] = EmittedClass(part, self.unique_name(label))
        code = self.by_key[key]
        code.runs.append(run)
        code.sites.append(site)
        self.by_run[id(run)] = code
        return code

    def _steps(self, run: UnitRun, parent: EmittedClass) -> None:
        labels = [step.label for step in run.steps]
        for index, step in enumerate(run.steps):
            site = (id(parent), index)
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
        """The operator of the joins in a unit; all sums are equal, however their sources are prepared."""
        if run.joined is None:
            return "none"
        operator = run.joined.gather.operator_type
        return "sum" if issubclass(operator, Sum) else signature(run.joined.gather.operator)

    def aggregate(self, run: AggregateRun, role: str, site: Any) -> EmittedClass:
        code = self._register(("aggregate", signature(run.aggregate), run.split), run.aggregate, run, site, role)
        for node in run.nodes:
            node_site = (id(code), node.l if run.aggregate.unit_per_node else 0)
            if node.unit.unit.takes_shortcut and node.shortcut is None and not node.unit.split:
                raise NotExpressible  # an inner aggregate without the shortcut
            self.unit(node.unit, f"{code.name}Unit", node_site)
            for gather in (node.reads, node.shortcut):
                self._matches(gather, code, node_site)
        self._matches(run.output, code, (id(code), "output"))
        return code

    def _matches(self, gather: GatherRun | None, parent: EmittedClass, site: Any) -> None:
        for run in gather.matches.values() if gather else ():
            self.unit(run, f"{parent.name}Match", site)
        for run in gather.eaches.values() if gather else ():
            self.unit(run, f"{parent.name}Each", site)

    # ------------------------------------------------------------------ facts

    def stateful(self, step: StepRun) -> bool:
        return any(self.traced.tape.ops[i].stateful for i in step.ops)

    def slices(self, code: EmittedClass) -> bool:
        """Whether a unit with weights contains a slice itself, not only in an inner class."""

        def sliced(run: UnitRun) -> bool:
            inside = [step.run for step in run.steps if isinstance(step.run, UnitRun) and not self.stateful(step)]
            words = [step.step for step in run.steps if isinstance(step.step, ResolvedWord)]
            return any(word.kind is SliceLayer for word in words) or any(map(sliced, inside))

        units = [run for run in code.runs if isinstance(run, UnitRun)]
        return any(sliced(run) and any(map(self.stateful, run.steps)) for run in units)

    def channels(self, tensor: int) -> int:
        return self.traced.tape.shapes[tensor][0]


def _base(label: str, labels: list[str]) -> str:
    """A label without the number that makes it unique."""
    result = re.fullmatch(r"(\w*?[A-Za-z_])(\d+)", label)
    if result and f"{result.group(1)}1" in labels and f"{result.group(1)}2" in labels:
        return result.group(1)
    return label.rstrip("_") or label


def live(traced: Trace) -> set[int]:
    """The tensors that lead to the output, and the concats and slices of these tensors."""
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
    """The values of names, with `in` renamed as in expressions."""
    return {"_in" if name == "in" else name: value for name, value in values.items()}


def is_chain(run: AggregateRun) -> bool:
    """Whether each node reads only the previous one, and the last is the output."""
    if any(node.reads.result != run.features[node.l - 1] for node in run.nodes):
        return False
    assert run.output is not None
    gathers = [*[node.reads for node in run.nodes], run.output]
    return run.output.result == run.features[-1] and not any(gather.matches for gather in gathers)


def mark_leading_slices(classes: Classes) -> None:
    """Mark the units of unrolled nodes that begin with a slice at all their uses."""
    unrolled = {
        id(node.unit)
        for code in classes.by_key.values()
        if isinstance(code.part, Aggregate) and code.part.unit_per_node and not any(map(is_chain, code.runs))
        for run in code.runs
        for node in run.nodes
    }
    for code in classes.by_key.values():
        if isinstance(code.part, Unit) and not (code.returns_pre_activation or code.takes_pre_activation):
            sliced = all(id(run) in unrolled and leading_slice(run) is not None for run in code.runs)
            code.sliced = sliced and all(run.joined is None or not _joins_own_input(run) for run in code.runs)


def _joins_own_input(run: UnitRun) -> bool:
    """Whether a unit joins its own input, which a slice would truncate."""
    assert run.joined is not None
    return [tensor for _, tensor in run.joined.sources] == [run.x]


def leading_slice(run: UnitRun) -> StepRun | None:
    """The slice at the beginning of a unit, if there is one."""
    first = run.steps[0] if run.steps else None
    if first is not None and isinstance(first.run, UnitRun) and len(first.run.steps) == 1:
        first = first.run.steps[0]
    kind = getattr(first.step, "kind", None) if first else None
    return first if kind is SliceLayer else None


def merge(classes: Classes) -> None:
    """Merge the classes of aggregates that differ only in schedules and in whether their output contains the input.

    A name may be bound by a schedule in one of them and come from outside in another.

    Args:
        classes: The classes of a network; the first of each group takes over the uses of the others.
    """
    first: dict[Any, EmittedClass] = {}
    for key, code in list(classes.by_key.items()):
        group = merge_key(code)
        if group is None:
            continue
        target = first.setdefault((group, key[-1]), code)
        if target is code:
            continue
        del classes.by_key[key]
        target.runs += code.runs
        target.sites += code.sites
        target.returns_pre_activation = target.returns_pre_activation or code.returns_pre_activation
        classes.by_run |= {id(run): target for run in code.runs}
        for other in classes.by_key.values():
            other.sites = [(id(target), *site[1:]) if site and site[0] == id(code) else site for site in other.sites]


def merge_key(code: EmittedClass) -> Any:
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
