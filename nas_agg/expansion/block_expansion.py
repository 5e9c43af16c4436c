"""Expansion of a genotype into nested blocks: counting without writing the graph.

Parts that were expanded before, in this network or another, are replayed as one block. What a part depends on is its
key: the shape that enters, whether a later operation looks through what enters, and the names that it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion import block_nodes
from nas_agg.expansion.aggregates import Scope
from nas_agg.expansion.block_figures import BlockCost
from nas_agg.expansion.block_nodes import BlockNodes
from nas_agg.expansion.block_tape import BlockTape, Segment
from nas_agg.expansion.chains import Chain, ChainBlock
from nas_agg.expansion.expansion import Expansion
from nas_agg.expansion.shortcuts import PendingShortcut, Shortcut
from nas_agg.graph.graph import MAX_OPERATIONS
from nas_agg.graph.primitives import Shape, format_shape
from nas_agg.language.layers import (
    ChannelPool,
    ConvLayer,
    GapLayer,
    GmpLayer,
    LinearLayer,
    ScaleLayer,
    SliceLayer,
    SqueezeExcitation,
)
from nas_agg.language.resolved import Aggregate, Gather, ResolvedWord, Unit

MAX_SEGMENTS = 100_000

_segments: dict[tuple, Segment] = {}
_plans: tuple[dict[Unit, list[Any]], dict[Unit, list[Any]]] = ({}, {})  # without and with raw gathers
_raw: dict[Any, bool] = {}
_chains: dict[tuple[ResolvedWord, ...], Chain] = {}
_used: dict[tuple, int] = {}  # of the channels of split shortcuts
_OPAQUE = {ConvLayer, LinearLayer, GapLayer, GmpLayer, ChannelPool, SqueezeExcitation, ScaleLayer}


def clear_caches() -> None:
    """Clear everything counted from earlier genotypes."""
    for cache in (_segments, *_plans, _raw, _chains, _used):
        cache.clear()
    block_nodes.clear_caches()


def reads_raw(part: Any) -> bool:
    """Whether a gather in a step reads pre-activations."""
    if part not in _raw:
        if isinstance(part, Unit):
            found = any(reads_raw(step) for _, step in part.steps)
        elif isinstance(part, Aggregate):
            gathers = [gather for gather in (part.reads, part.shortcut, part.output) if gather]
            found = any(map(reads_raw, (*part.units, *gathers)))
        elif isinstance(part, Gather):
            units = [unit for unit in (part.each, part.match) if isinstance(unit, Unit)]
            found = part.raw or any(map(reads_raw, units))
        else:
            return False
        _raw[part] = found
    return _raw[part]


def _plan(unit: Unit, raw: bool) -> list[Any]:
    """The steps of a unit without an open join, with their labels; consecutive layers are one chain.

    Args:
        unit: The unit.
        raw: Whether gathers read pre-activations; chains then end in layers that they cannot look through.
    """
    plan = _plans[raw].get(unit)
    if plan is None:
        plan = _plans[raw][unit] = []
        run: list[tuple[str, ResolvedWord]] = []
        for label, step in (*unit.steps, ("", None)):
            if isinstance(step, ResolvedWord) and step.kind is not SliceLayer:
                run.append((label, step))
                continue
            end = len(run)
            while raw and end and run[end - 1][1].kind not in _OPAQUE:
                end -= 1
            if end:
                words = tuple([word for _, word in run[:end]])
                plan.append(_chains.get(words) or _chains.setdefault(words, Chain(words)))
            plan += run[end:]
            run = []
            if step is not None:
                plan.append((label, step))
    return plan


def count_network(net: Unit, image: Shape, classes: int, numbers: Mapping[str, Any] | None = None) -> BlockCost:
    """Count a network without writing its graph.

    Args:
        net: The resolved network.
        image: Shape of the image.
        classes: The number of classes.
        numbers: Further names that the network uses.

    Raises:
        GenotypeError: It is not a valid network.
    """
    tape = BlockTape(image, reads_raw(net))
    output = BlockExpansion(tape).network(net, {"classes": classes, "g": 1, "s": 1, **(numbers or {})})
    if tape.shapes[output] != (classes, 1, 1):
        raise GenotypeError(
            f"the net must end in {classes}x1x1, but ends in {format_shape(tape.shapes[output])}", "net"
        )
    return BlockCost(tape.body(output), image)


class BlockExpansion(Expansion):
    """The expansion of a network into blocks.

    Args:
        tape: Records the operations and blocks.
    """

    tape: BlockTape

    def __init__(self, tape: BlockTape):
        super().__init__(tape)

    def network(self, net: Unit, scope: dict[str, Any]) -> int:
        x, entering = 0, self.tape.shapes[0][0]
        for item in _plan(net, self.tape.raw):
            x = self._item(item, x, scope, "", entering, True)
        return x

    # ------------------------------------------------------------------ units

    def shared_unit(self, unit: Unit, x: int, scope: Scope, path: str) -> int:
        shares_weights, self.tape.shares_weights = self.tape.shares_weights, True
        try:
            return self.unit(unit, x, scope, path)
        finally:
            self.tape.shares_weights = shares_weights

    def unit(self, unit: Unit, x: int, scope: Scope, path: str, shortcut: Shortcut = None) -> int:
        if unit.takes_shortcut:
            return super().unit(unit, x, scope, path, shortcut)
        return self.closed(unit, x, scope, path, self.tape.shapes[x][0])

    def closed(self, part: Unit, x: int, scope: Scope, path: str, entering: int) -> int:
        plan = _plan(part, self.tape.raw)
        if not plan:
            return x
        if len(plan) == 1 and not self.tape.shares_weights:
            return self._item(plan[0], x, scope, path, entering, False)
        if self.tape.shares_weights:
            for label, step in part.steps:
                x = self.step(label, step, x, scope, f"{path}.{label}", entering, None)
            return x
        names = tuple([scope.get(name) for name in part.free_names])
        key = (part, self.tape.raw, self.tape.shapes[x], self.tape.is_opaque(x), entering, names)

        def expand() -> int:
            y = x
            for item in plan:
                y = self._item(item, y, scope, path, entering, y != x)
            return y

        return self.segment(key, (x,), expand, False)

    def _item(self, item: Any, x: int, scope: Scope, path: str, entering: int, private: bool) -> int:
        if isinstance(item, Chain):
            return self._chain(item, x, scope, path, entering)
        label, step = item
        if isinstance(step, Aggregate):
            self.tape.path = f"{path}.{label}"
            return self.aggregate(step, x, scope, f"{path}.{label}", private)
        return self.step(label, step, x, scope, f"{path}.{label}", entering, None)

    def _chain(self, chain: Chain, x: int, scope: Scope, path: str, entering: int) -> int:
        tape = self.tape
        shape = tape.shapes[x]
        names = [scope.get(name) for name in chain.names]
        key = (chain, shape, entering if chain.needs_entering else 0, *names)
        segment = _segments.get(key)
        if segment is None:
            values = {name: scope[name] for name in chain.names if name in scope}
            values["in"] = entering
            cost, reads = chain.cost(shape, values)
            segment = Segment()
            if cost[3]:
                block = ChainBlock(chain, shape, values, cost)
                segment.finish(segment.add(block, (-1,), cost[0]), cost[3], reads)
            self._remember(key, segment)
        return tape.replay(segment, (x,))

    # ------------------------------------------------------------------ aggregates

    def aggregate(self, aggregate: Aggregate, x: int, scope: Scope, path: str, private: bool) -> int:
        """Expand an aggregate without an open join.

        Args:
            aggregate: The aggregate.
            x: The tensor that enters.
            scope: The names around it.
            path: Its path.
            private: Whether nothing else reads what enters.
        """
        tape = self.tape
        if self.tape.shares_weights:
            return BlockNodes(self, aggregate, x, scope, path, None).run()
        names = tuple([scope.get(name) for name in aggregate.free_names])
        key = (aggregate, tape.raw, tape.shapes[x], tape.is_opaque(x), private, names)
        return self.segment(key, (x,), lambda: BlockNodes(self, aggregate, x, scope, path, None).run(), private)

    def step_output(self, step: Any, x: int, scope: Scope, path: str, entering: int, shortcut: Shortcut) -> int:
        if isinstance(step, Aggregate):
            self.tape.path = path
            if not step.takes_shortcut or shortcut is None:
                return self.aggregate(step, x, scope, path, False)
            return self._with_shortcut(step, x, scope, path, shortcut)
        return super().step_output(step, x, scope, path, entering, shortcut)

    def _with_shortcut(self, aggregate: Aggregate, x: int, scope: Scope, path: str, shortcut: Shortcut) -> int:
        """Expand an aggregate among whose nodes an enclosing shortcut is split."""
        tape = self.tape
        split = shortcut.split(tape) if shortcut else None
        if split is None:
            return self.aggregate(aggregate, x, scope, path, False)
        total, used = split.total, split.used
        opaque = tape.is_opaque(x), tape.is_opaque(total)
        names = tuple([scope.get(name) for name in aggregate.free_names])
        shapes = tape.shapes[x], tape.shapes[total]
        key = (aggregate, tape.raw, shapes, opaque, x == total, used, names)
        output = self.segment(key, (x, total), lambda: BlockNodes(self, aggregate, x, scope, path, split).run(), False)
        if key in _segments:
            split.used = _used.setdefault(key, split.used)
        if isinstance(shortcut, PendingShortcut):
            try:
                split.check_used()
            except GenotypeError as error:
                raise GenotypeError(error.problem, aggregate.where) from None
        return output

    # ------------------------------------------------------------------ segments

    def segment(self, key: tuple, entries: tuple[int, ...], expand: Callable[[], int], private: bool) -> int:
        """Expand a part or replay it; its operations become a block if it depends on nothing but its key.

        Args:
            key: What it depends on.
            entries: The tensors that enter.
            expand: Expands it and returns what leaves.
            private: Whether nothing else reads what enters.
        """
        tape = self.tape
        known = _segments.get(key)
        if known is not None:
            return tape.replay(known, entries)
        begin, lowest = tape.mark(), tape.lowest
        tape.lowest = MAX_OPERATIONS
        output = expand()
        seen = tape.lowest
        tape.lowest = min(lowest, seen)
        if seen < begin.ops and not (seen in entries and all(map(tape.is_opaque, entries))):
            return output
        if len(tape.norms) > begin.norms and tape.shares_norms(begin.norms, begin.ops, output, private):
            return output
        segment = tape.cut(begin, entries, output)
        if segment is None:
            return output
        self._remember(key, segment)
        return tape.replay(segment, entries)

    def _remember(self, key: tuple, segment: Segment) -> None:
        if len(_segments) > MAX_SEGMENTS:
            _segments.clear()
            _used.clear()
        _segments[key] = segment
