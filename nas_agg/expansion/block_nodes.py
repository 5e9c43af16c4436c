"""Expansion of aggregates into blocks, with what recurs from node to node remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from nas_agg.common.errors import GenotypeError, located
from nas_agg.expansion.aggregates import Nodes, Scope, UnitExpander
from nas_agg.expansion.block_tape import BlockTape
from nas_agg.expansion.shortcuts import SplitShortcut
from nas_agg.graph.primitives import Add, Mean, Scale
from nas_agg.language.layers import norm_groups
from nas_agg.language.operators import Concat, MeanOf, Operator, Sum
from nas_agg.language.patterns import Edges, Previous
from nas_agg.language.resolved import NUM_SOURCES, Aggregate, Gather


class BlockExpander(UnitExpander, Protocol):
    """Expands units into blocks."""

    def segment(self, key: tuple, entries: tuple[int, ...], expand: Callable[[], int], private: bool) -> int:
        """Expand a part or replay it, and return what leaves."""


_scopes: dict[tuple, list[dict[str, Any]]] = {}


def clear_caches() -> None:
    """Clear everything remembered from earlier genotypes."""
    for cache in (_scopes, _scales, _gather_plans):
        cache.clear()


class _GatherPlan:
    """How the sources of a gather are found and joined where this needs no more than its shapes.

    Args:
        gather: The gather.
    """

    __slots__ = ("adds", "concats", "gather", "is_plain", "numbers", "pattern", "prepares", "sources_at", "starts")

    def __init__(self, gather: Gather):
        operator = gather.operator_type
        self.gather = gather
        self.prepares = gather.norm != "none" or gather.weight
        self.concats = operator.join is Concat.join
        self.adds = Mean() if operator.join is MeanOf.join else Add() if operator.join is Sum.join else None
        has_fields = gather.operator.numbers or gather.operator.fixed
        self.is_plain = not (gather.each or gather.raw or has_fields or operator.prepare is not Operator.prepare)
        self.is_plain = self.is_plain and (self.concats or self.adds is not None)
        self.starts: dict[int, float] = {}  # initial weights by the number of sources, where they depend on that alone
        self.pattern, self.numbers = gather.pattern, gather.pattern.numbers
        self.sources_at: dict[tuple, tuple[int, ...]] = {}

    def sources(self, position: int, scope: Scope) -> tuple[int, ...]:
        """The features that a position reads."""
        key = (position, *[number.value(scope) for _, number in self.numbers]) if self.numbers else (position,)
        found = self.sources_at.get(key)
        if found is None:
            pattern = self.pattern
            found = tuple(pattern.kind.sources(position, **pattern.values(scope)))  # type: ignore[attr-defined]
            self.sources_at[key] = found
        return found

    def prepare(self, tape: BlockTape, tensors: list[int], scope: Scope) -> list[int]:
        """Normalize and weight the sources."""
        gather, count, shapes, prepared = self.gather, len(tensors), tape.shapes, []
        start = self.starts.get(count)
        if start is None:
            number = gather.start
            start = float(number.value({**scope, NUM_SOURCES: count})) if number else 0.0
            if number is None or set(number.expression.names) <= {NUM_SOURCES}:
                self.starts[count] = start
        for tensor in tensors:
            shape = shapes[tensor]
            if gather.norm != "none":
                tensor = tape.normalize(tensor, norm_groups(gather.norm, shape[0]))
            if gather.weight:
                key = (shape[0], start)
                scale = _scales.get(key)
                if scale is None:
                    scale = _scales[key] = Scale(*key)
                tensor = tape.append(scale, (tensor,), shape)
            prepared.append(tensor)
        return prepared


_scales: dict[tuple[int, float], Scale] = {}
_gather_plans: dict[Gather, _GatherPlan] = {}


class BlockNodes(Nodes):
    """The expansion of an aggregate into blocks: names of nodes and nodes of chains are remembered."""

    tape: BlockTape

    def __init__(
        self, run: BlockExpander, aggregate: Aggregate, x: int, scope: Scope, path: str, shortcut: SplitShortcut | None
    ):
        super().__init__(run, aggregate, x, scope, path, shortcut)
        self.blocks = run

    def run(self) -> int:
        aggregate, outer = self.aggregate, self.outer
        names = [outer.get(name) for name in aggregate.free_names]
        self._known_scopes = _scopes.setdefault((aggregate, self.n, outer["in"], outer["h"], *names), [])
        gathers = (aggregate.reads, aggregate.shortcut)
        self._is_chain = all(g is None or (g.pattern.kind is Previous and g.each is None) for g in gathers)
        return super().run()

    def scope(self, l: int) -> dict[str, Any]:
        known = self._known_scopes
        if not l or l > len(known) + 1:
            return super().scope(l)
        if l > len(known):
            scope = super().scope(l)
            known.append({name: scope[name] for name in self.aggregate.node_names if name in scope})
        return known[l - 1]

    def node(self, l: int, scope: Scope, split: SplitShortcut | None) -> int:
        aggregate, tape = self.aggregate, self.tape
        if not self._is_chain or split is not None or tape.shares_weights:
            return super().node(l, scope, split)
        x = self.features[-1]
        unit = l if aggregate.unit_per_node else 0
        key = (aggregate, unit, tape.raw, tape.shapes[x], tape.is_opaque(x), *scope.values())
        return self.blocks.segment(key, (x,), lambda: super(BlockNodes, self).node(l, scope, split), False)

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
        plan = _gather_plans.get(gather)
        if plan is None:
            plan = _gather_plans[gather] = _GatherPlan(gather)
        if not plan.is_plain or sources is not None or (plan.prepares and self.tape.shares_weights):
            return super().gather(gather, position, main, scope, path, join, sources)
        features, shapes, tape = self.features, self.tape.shapes, self.tape
        try:
            selected = plan.sources(position, scope)
        except GenotypeError as error:
            raise located(error, gather.pattern.where) from None
        tape.charge(len(selected))
        if not join:
            if plan.pattern.kind is Edges:
                self.read.update(selected)
            if selected and selected[-1] == position - 1:
                main, selected = features[position - 1], selected[:-1]
        if not selected:
            return main
        tensors = [features[i] for i in selected]
        target = shapes[tensors[-1] if main is None else main]
        if plan.concats:
            fits = {shapes[tensor][1:] for tensor in tensors} == {target[1:]}
        else:
            fits = {shapes[tensor] for tensor in tensors} == {target}
        if not fits:
            role = "shortcut" if join else "output" if position > self.n and self.aggregate.output else "reads"
            pairs = self.match_sources(gather, role, list(zip(selected, tensors, strict=True)), main, {}, path)
            tensors = [tensor for _, tensor in pairs]
            if not tensors:
                return main
        if plan.prepares:
            tensors = plan.prepare(tape, tensors, scope)
        if main is not None:
            tensors.append(main)
        if plan.adds is None:
            return tape.cat(tensors)
        return tensors[0] if len(tensors) == 1 else tape.append(plan.adds, tuple(tensors), target)
