"""Expansion of aggregates, node by node: gathers, units and shortcuts.

Features are T_0, the input of an aggregate, and T_l, the output of node l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from nas_agg.common.errors import GenotypeError, located
from nas_agg.expansion.scope import NodeScope
from nas_agg.expansion.shortcuts import PendingShortcut, Shortcut, SplitShortcut
from nas_agg.graph.graph import Tape
from nas_agg.graph.primitives import Primitive, Scale, Shape, format_shape
from nas_agg.language.layers import norm_groups
from nas_agg.language.operators import Operator
from nas_agg.language.patterns import Edges
from nas_agg.language.resolved import NUM_SOURCES, Aggregate, Gather, Unit

Scope = Mapping[str, Any]


class Observer(Protocol):
    """Receives the events of an expansion in order: the nested beginnings and ends of its parts, and each gather."""

    def begin_unit(self, unit: Unit, x: int, scope: Scope, path: str, split: bool) -> None:
        """A unit begins after tensor ``x``; ``split``: with a shortcut that was split among inner nodes."""

    def end_unit(self, output: int) -> None:
        """The innermost unit ends."""

    def begin_step(self, label: str, step: Any, x: int, scope: Scope, path: str) -> None:
        """A step of the innermost unit begins after tensor ``x``."""

    def end_step(self, output: int) -> None:
        """The step ends."""

    def begin_aggregate(self, nodes: Nodes) -> None:
        """The current step is an aggregate, which begins."""

    def end_aggregate(self, nodes: Nodes, output: int) -> None:
        """The aggregate ends."""

    def end_node(self, nodes: Nodes) -> None:
        """A node ends; the unit that ended last is the node's."""

    def end_source(self, nodes: Nodes, role: str, source: int) -> None:
        """The unit that ended last is the ``each`` or ``match`` (the role) of a source."""

    def gathered(self, nodes: Nodes, gathered: Gathered) -> None:
        """A position of an aggregate has gathered; a split shortcut is gathered when the inner aggregate begins."""


class UnitExpander(Protocol):
    """Expands units onto a tape; the interface through which an aggregate expands the units inside it."""

    observer: Observer | None

    @property
    def tape(self) -> Tape:
        """Records the operations."""

    def unit(self, unit: Unit, x: int, scope: Scope, path: str, shortcut: Shortcut = None) -> int:
        """Expand a unit after tensor ``x`` and return its output."""

    def shared_unit(self, unit: Unit, x: int, scope: Scope, path: str) -> int:
        """Expand a unit that shares its weights with others at its path."""


class Gathered(NamedTuple):
    """The result of a gather at one position of an aggregate.

    Attributes:
        gather: The gather.
        position: Number of the node that gathers, or n + 1 for the output of the aggregate.
        join: Whether it is a shortcut.
        scope: The names at this node.
        path: Path of the gather's own parameters.
        selected: The features that its pattern selects, by number.
        main: The tensor of the main path, which is used unchanged.
        sources: The other features, raw or matched where the gather specifies it, as (number, tensor).
        values: The numbers of its operator.
        tensor: The joined tensor; None if there was nothing to gather.
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
    tensor: int | None


class Nodes:
    """The expansion of one aggregate at one place."""

    def __init__(self, run: UnitExpander, aggregate: Aggregate, x: int, scope: Scope, path: str, shortcut: Shortcut):
        self.expander, self.tape, self.aggregate, self.path = run, run.tape, aggregate, path
        self.observer = run.observer
        channels, height, _ = self.tape.shapes[x]
        self.outer = {**scope, "in": channels, "h": height}
        self.let = dict(aggregate.let)
        self.features = [x]
        self.matched: dict[tuple, int] = {}
        self._match_scopes: dict[Unit, dict[str, Any]] = {}
        self.read: set[int] = set()
        self.shortcut = shortcut if aggregate.takes_shortcut else None
        self.n = self.count()

    def count(self) -> int:
        aggregate = self.aggregate
        if aggregate.nodes is None:
            n = len(aggregate.units) if aggregate.unit_per_node else 1
        else:
            n = aggregate.nodes.value(NodeScope(self, None))
        if aggregate.nodes is not None and aggregate.unit_per_node and n != len(aggregate.units):
            raise GenotypeError(f"{n} nodes, but {len(aggregate.units)} units", aggregate.nodes.where)
        for value in (aggregate.growth, aggregate.cardinality, aggregate.stride, *self.let.values()):
            if type(value) is tuple and len(value) != n:
                place = value[0].where.rsplit("[", 1)[0] if value else aggregate.where  # type: ignore[union-attr]
                raise GenotypeError(f"a list of length {len(value)}, but the number of nodes is {n}", place)
        return n

    def run(self) -> int:
        aggregate, features = self.aggregate, self.features
        self.check_rows()
        split = self.shortcut.split(self.tape) if self.shortcut else None
        scope: Scope = self.outer
        for l in range(1, self.n + 1):
            self.tape.charge(20 + 4 * aggregate.work)
            try:
                scope = self.scope(l)
                features.append(self.node(l, scope, split))
                if self.observer:
                    self.observer.end_node(self)
            except GenotypeError as error:
                raise error.within(f"node {l}") from None
        if split and isinstance(self.shortcut, PendingShortcut):
            try:
                split.check_used()
            except GenotypeError as error:
                raise GenotypeError(error.problem, aggregate.where) from None
        return self.output(scope if self.n else self.scope(0))

    def node(self, l: int, scope: Scope, split: SplitShortcut | None) -> int:
        """Expand node l and return its output."""
        aggregate, path = self.aggregate, f"{self.path}.{l - 1}"
        unit = aggregate.units[l - 1] if aggregate.unit_per_node else aggregate.units[0]
        x = self.gather(aggregate.reads, l, None, scope, f"{path}.reads")
        if x is None:
            raise GenotypeError("reads nothing", aggregate.reads.where)
        return self.expander.unit(unit, x, scope, f"{path}.unit", self.node_shortcut(unit, l, scope, path, split))

    def node_shortcut(self, unit: Unit, l: int, scope: Scope, path: str, split: SplitShortcut | None) -> Shortcut:
        gather = self.aggregate.shortcut
        if gather is None:
            return split
        if not unit.takes_shortcut:
            if gather.pattern.kind is Edges and dict(gather.pattern.fixed)["edges"][l - 1]:
                raise GenotypeError(
                    f"a row for node {l}, whose unit has no 'join'", f"{gather.pattern.where}.edges[{l - 1}]"
                )
            return None

        def gathered(main: int | None) -> int | None:
            if main is None and not gather.operator_type.splittable:
                raise GenotypeError("only a sum can be split among inner nodes", f"{gather.where}.operator")
            joined = self.gather(gather, l, main, scope, f"{path}.shortcut", join=True)
            if joined is None or joined == main:
                self.tape.notes.append(f"{gather.where}: node {l} has no source to join")
            return joined

        return PendingShortcut(gathered)

    def check_rows(self) -> None:
        rows = ((self.aggregate.reads, (0, 1)), (self.aggregate.shortcut, (0,)), (self.aggregate.output, None))
        for gather, extra_rows in rows:
            if gather is None or gather.pattern.kind is not Edges:
                continue
            count = len(dict(gather.pattern.fixed)["edges"])
            allowed = {1} if extra_rows is None else {self.n + extra for extra in extra_rows}
            if count not in allowed:
                expected = " or ".join(str(number) for number in sorted(allowed))
                raise GenotypeError(f"{count} rows; expected {expected}", f"{gather.pattern.where}.edges")

    def output(self, scope: Scope) -> int:
        """The output of the aggregate: that of `output` if specified, else what a node n + 1 would read."""
        aggregate, position, path = self.aggregate, self.n + 1, f"{self.path}.output"
        gather = aggregate.output
        if gather is not None and gather.pattern.kind is Edges:
            row = dict(gather.pattern.fixed)["edges"][0]
            sources: Iterable[int] | None = _row(row, position, gather)
        elif gather is None and aggregate.reads.pattern.kind is Edges:
            rows = dict(aggregate.reads.pattern.fixed)["edges"]
            unread = [i for i in range(position) if i not in self.read]
            sources = unread if len(rows) == self.n else None
        else:
            sources = None
        gather = gather or aggregate.reads
        output = self.gather(gather, position, None, scope, path, sources=sources)
        if output is None:
            raise GenotypeError("the output has no sources", gather.where)
        return output

    # ------------------------------------------------------------------ names

    def scope(self, l: int) -> dict[str, Any]:
        """The names that a node's unit and gathers need."""
        own = NodeScope(self, l)
        scope = dict(self.outer)
        for name in self.aggregate.node_names:
            try:
                scope[name] = own[name]
            except KeyError:
                scope.pop(name, None)  # an error is raised where it is used, if at all
        return scope

    # ------------------------------------------------------------------ gathers

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
        """The tensor that a position gathers, or None if there is nothing to gather.

        Args:
            gather: The gather.
            position: Number of the node that gathers, or n + 1 for the output.
            main: For a shortcut, the main path that the sources join.
            scope: The names at this node.
            path: Path of the gather's own parameters.
            join: Whether this is a shortcut; none of its features is the main path.
            sources: Numbers of the features; overrides the pattern.
        """
        try:
            values = gather.operator.values(scope) if gather.operator.numbers else dict(gather.operator.fixed)
            if sources is None:
                pattern = gather.pattern
                sources = pattern.kind.sources(position, **pattern.values(scope))  # type: ignore[attr-defined]
        except GenotypeError as error:
            raise located(error, gather.pattern.where) from None
        selected = list(sources)
        sources = list(selected)
        self.tape.charge(len(sources))
        features = self.through_each(gather, selected, scope, path) if gather.each else self.features
        if not join:
            if gather is self.aggregate.reads:
                self.read.update(sources)
            if position - 1 in sources:
                main = features[position - 1]
                sources.remove(position - 1)
        role = "shortcut" if join else "output" if position > self.n and self.aggregate.output else "reads"
        tensors = [(i, features[i]) for i in sources]
        tensors = self.match_sources(gather, role, tensors, main, values, path) if sources else []
        joined = self.join_sources(gather, tensors, main, values, scope, path) if tensors else main
        if self.observer:
            record = Gathered(gather, position, join, scope, path, selected, main, tensors, values, joined)
            self.observer.gathered(self, record)
        return joined

    def through_each(self, gather: Gather, sources: list[int], scope: Scope, path: str) -> dict[int, int]:
        """The features after `each`, which is expanded at one path for all, so that they share its weights."""
        tape, outputs = self.tape, {}
        weights: dict[str, Primitive] = {}
        for source in sources:
            begin = len(tape.ops)
            outputs[source] = self.expander.shared_unit(gather.each, self.features[source], scope, f"{path}.each")  # type: ignore[arg-type]
            if self.observer:
                self.observer.end_source(self, "each", source)
            for op, place in zip(tape.ops[begin:], tape.paths[begin:], strict=True):
                if op.stateful and weights.setdefault(place, op) != op:
                    shapes = [format_shape(tape.shapes[self.features[i]]) for i in (sources[0], source)]
                    raise GenotypeError(
                        f"all features share its weights, but feature {sources[0]} is {shapes[0]} and "
                        f"feature {source} is {shapes[1]}",
                        f"{gather.where}.each",
                    )
        return outputs

    def join_sources(
        self, gather: Gather, tensors: list[tuple[int, int]], main: int | None, values: dict, scope: Scope, path: str
    ) -> int:
        """Apply the norms, weights and gates of the sources, and join them."""
        tape = self.tape
        start = float(gather.start.value({**scope, NUM_SOURCES: len(tensors)})) if gather.start else 0.0
        changed = gather.norm != "none" or gather.weight or gather.operator_type.prepare is not Operator.prepare
        prepared = [tensor for _, tensor in tensors]
        for k, (source, tensor) in enumerate(tensors if changed else ()):
            if gather.norm != "none":
                tape.path = f"{path}.norms.{source}"
                channels = tape.shapes[tensor][0]
                tensor = tape.normalize(tensor, norm_groups(gather.norm, channels))
            if gather.weight:
                tape.path = f"{path}.weights.{k}"
                tensor = tape.add(Scale(tape.shapes[tensor][0], start), tensor)
            tape.path = f"{path}.gates.{k}"
            prepared[k] = gather.operator_type.prepare(tape, tensor, "")
        tape.path = path
        try:
            return gather.operator_type.join(tape, prepared, main, **values)
        except GenotypeError as error:
            raise located(error, gather.where) from None

    def match_sources(
        self, gather: Gather, role: str, tensors: list[tuple[int, int]], main: int | None, values: dict, path: str
    ) -> list[tuple[int, int]]:
        """The sources in raw form if specified, and passed through `match` where they do not fit."""
        tape = self.tape
        tape.path = path
        if gather.raw:
            tensors = [(i, tape.pre_activation(tensor)) for i, tensor in tensors]
        target = tape.shapes[main if main is not None else tensors[-1][1]]
        if all(
            gather.operator_type.fits(shape, target, len(tensors) == 1, **values)
            for shape in {tape.shapes[t] for _, t in tensors}
        ):
            return tensors
        fitting = []
        for source, tensor in tensors:
            shape = tape.shapes[tensor]
            if not gather.operator_type.fits(shape, target, len(tensors) == 1, **values):
                if gather.match == "skip":
                    continue
                if gather.match is None:
                    raise GenotypeError(
                        f"feature {source}, {format_shape(shape)}, does not fit {format_shape(target)}; add a 'match'",
                        gather.where,
                    )
                width = gather.operator_type.width(shape, target, **values)
                tensor = self.match(gather, role, source, tensor, width, target, path)
                matched = tape.shapes[tensor]
                if not gather.operator_type.fits(matched, target, len(tensors) == 1, **values):
                    raise GenotypeError(
                        f"feature {source} after 'match', {format_shape(matched)}, does not fit {format_shape(target)}",
                        gather.where,
                    )
            fitting.append((source, tensor))
        return fitting

    def match(self, gather: Gather, role: str, source: int, tensor: int, width: int, target: Shape, path: str) -> int:
        """Pass a source through `match`, once for each source, target shape and role."""
        tape = self.tape
        key = (role, source, tensor, width, target[1:])
        if key not in self.matched:
            _, h, w = tape.shapes[tensor]
            ratio = max(-(-h // target[1]), -(-w // target[2]))
            tape.charge(4 * self.aggregate.work)
            scope = dict(self.match_scope(gather.match))  # type: ignore[arg-type]
            scope.update(w=width, s=ratio)
            self.matched[key] = self.expander.unit(gather.match, tensor, scope, f"{path}.match.{source}")  # type: ignore[arg-type]
            if self.observer:
                self.observer.end_source(self, "match", source)
        return self.matched[key]

    def match_scope(self, match: Unit) -> dict[str, Any]:
        """The names of a `match`, except for its width and stride."""
        if match not in self._match_scopes:
            own = NodeScope(self, None)
            scope = {k: v for k, v in self.outer.items() if k not in ("in", "h", "l")}
            for name in match.free_names:
                if name not in ("w", "s"):
                    try:
                        scope[name] = own[name]
                    except KeyError:
                        scope.pop(name, None)
            self._match_scopes[match] = scope
        return self._match_scopes[match]


def _row(row: tuple[int, ...], position: int, gather: Gather) -> list[int]:
    for source in row:
        if not 0 <= source < position:
            raise GenotypeError(
                f"reads feature {source}; allowed are 0 to {position - 1}", f"{gather.pattern.where}.edges[0]"
            )
    if len(set(row)) < len(row):
        raise GenotypeError("contains a feature twice", f"{gather.pattern.where}.edges[0]")
    return sorted(row)
