"""Expansion of a genotype into a graph; aggregates are in `aggregates.py`.

A unit without a join depends only on the shape of its input and on the names it uses, so it is expanded once for all
places where these are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nas_agg.common.errors import GenotypeError, located
from nas_agg.expansion.aggregates import Nodes, Observer, Scope
from nas_agg.expansion.shortcuts import Shortcut, SplitShortcut
from nas_agg.graph.graph import MAX_OPERATIONS, Graph, Tape
from nas_agg.graph.primitives import Act, Cat, Norm, Shape, Slice, format_shape
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import Aggregate, Join, ResolvedWord, Unit
from nas_agg.language.resolver import Resolver
from nas_agg.language.resolver import clear_caches as forget_names


def expand(genotype: Genotype, tape: Callable[[Shape], Tape] = Tape, observer: Observer | None = None) -> Graph:
    """Expand a genotype into its graph.

    Args:
        genotype: A genotype without search variables.
        tape: Creates the tape that records the operations, for the shape of the image.
        observer: Receives the events of the expansion; units are then expanded anew at each place.

    Returns:
        The graph of the operations that lead to the output.

    Raises:
        GenotypeError: The genotype is not a valid network; the error has the path of the mistake and where it is used.
    """
    run = Expansion(tape(genotype.input), observer)
    try:
        output = run.network(Resolver(genotype).network(), {"classes": genotype.classes, "g": 1, "s": 1})
    except RecursionError:
        raise GenotypeError(
            "nested too deeply, or too long a chain of numbers that depend on each other", "net"
        ) from None
    shape = run.tape.shapes[output]
    if shape != (genotype.classes, 1, 1):
        raise GenotypeError(
            f"the net must end in {genotype.classes}x1x1 (the classes), but ends in {format_shape(shape)}", "net"
        )
    return run.tape.graph(output)


class _Segment(NamedTuple):
    """The operations of an expanded unit; tensors are numbered from its first one, and -1 is its input."""

    ops: list
    inputs: list[tuple[int, ...]]
    shapes: list[Shape]
    paths: list[str]
    norms: list[tuple[int, int, int]]
    reads: int
    output: int


MAX_MEMOIZED = 200_000  # operations

_memo: dict[tuple, _Segment] = {}
_memo_size = 0
_TRANSPARENT = (Cat, Slice, Norm, Act)  # an expansion may look through these at their inputs


def clear_caches() -> None:
    """Clear everything cached from earlier genotypes."""
    global _memo_size
    _memo.clear()
    _memo_size = 0
    forget_names()


class Expansion:
    """The expansion of a network.

    Args:
        tape: Records the operations.
        observer: Receives the events.
    """

    def __init__(self, tape: Tape, observer: Observer | None = None):
        self.tape, self.observer = tape, observer

    def network(self, net: Unit, scope: dict[str, Any]) -> int:
        x, entering = 0, self.tape.shapes[0][0]
        if self.observer:
            self.observer.begin_unit(net, x, scope, "", False)
        for i, (label, step) in enumerate(net.steps):
            where = f"net[{i}]"
            try:
                x = self.step(label, step, x, scope, label, entering, None)
            except GenotypeError as error:
                if error.where.startswith(where):
                    raise
                raise (
                    error.within(where) if error.where else GenotypeError(error.problem, where, error.used_at)
                ) from None
        if self.observer:
            self.observer.end_unit(x)
        return x

    # ------------------------------------------------------------------ units

    def unit(self, unit: Unit, x: int, scope: Scope, path: str, shortcut: Shortcut = None) -> int:
        """Expand a unit after tensor x, whose channels are `in` inside it; return its output."""
        entering = self.tape.shapes[x][0]
        if self.observer:
            self.observer.begin_unit(unit, x, scope, path, isinstance(shortcut, SplitShortcut))
            for label, step in unit.steps:
                x = self.step(label, step, x, scope, f"{path}.{label}", entering, shortcut)
            self.observer.end_unit(x)
            return x
        for part in unit.parts or (unit,):
            if part.takes_shortcut:
                for label, step in part.steps:
                    x = self.step(label, step, x, scope, f"{path}.{label}", entering, shortcut)
            else:
                x = self.closed(part, x, scope, path, entering)
        return x

    def shared_unit(self, unit: Unit, x: int, scope: Scope, path: str) -> int:
        """Expand a unit that shares its weights with others at its path."""
        return self.unit(unit, x, scope, path)

    def closed(self, part: Unit, x: int, scope: Scope, path: str, entering: int) -> int:
        """Expand steps without a join, or replay their memoized expansion."""
        tape = self.tape
        opaque = not isinstance(tape.ops[x], _TRANSPARENT)
        key = (part, tape.__class__, tape.shapes[x], opaque, entering, *[scope.get(name) for name in part.free_names])
        known = _memo.get(key)
        if known is not None:
            return self.replay(known, x, path)
        start, reads, notes, lowest = len(tape.ops), tape.reads, len(tape.notes), tape.lowest
        tape.lowest = MAX_OPERATIONS
        tape.charge(5 * len(part.steps))
        output = x
        for label, step in part.steps:
            output = self.step(label, step, output, scope, f"{path}.{label}", entering, None)
        seen = tape.lowest
        if (seen >= start or (opaque and seen == x)) and len(tape.notes) == notes:
            self.memoize(key, x, start, output, tape.reads - reads, path)
        tape.lowest = min(lowest, seen)
        return output

    def memoize(self, key: tuple, x: int, start: int, output: int, reads: int, path: str) -> None:
        tape = self.tape
        place = {x: -1, **{i: i - start for i in range(start, len(tape.ops))}}
        inputs = tape.inputs[start:]
        if output not in place or any(source not in place for row in inputs for source in row):
            return
        norms = [(t, g, n) for (t, g), n in tape.norms.items() if n >= start]
        if any(t < start for t, _, _ in norms):
            return  # a norm of the unit's input is shared with readers outside the unit
        global _memo_size
        if _memo_size > MAX_MEMOIZED:
            _memo.clear()
            _memo_size = 0
        _memo_size += 10 + len(tape.ops) - start
        _memo[key] = _Segment(
            tape.ops[start:],
            [tuple([place[source] for source in row]) for row in inputs],
            tape.shapes[start:],
            [full[len(path) :] for full in tape.paths[start:]],
            [(place[t], g, place[n]) for t, g, n in norms],
            reads,
            place[output],
        )

    def replay(self, known: _Segment, x: int, path: str) -> int:
        tape, start = self.tape, len(self.tape.ops)
        tape.reads += known.reads
        tape.charge(5 + len(known.ops))
        tape.check_size(len(known.ops))
        tape.ops.extend(known.ops)
        tape.shapes.extend(known.shapes)
        tape.inputs.extend([tuple([x if i < 0 else i + start for i in row]) for row in known.inputs])
        tape.paths.extend([path + suffix for suffix in known.paths])
        for tensor, groups, norm in known.norms:
            tape.norms[tensor + start, groups] = norm + start
        return x if known.output < 0 else known.output + start

    def step(self, label: str, step: Any, x: int, scope: Scope, path: str, entering: int, shortcut: Shortcut) -> int:
        if not self.observer:
            return self.step_output(step, x, scope, path, entering, shortcut)
        self.observer.begin_step(label, step, x, scope, path)
        output = self.step_output(step, x, scope, path, entering, shortcut)
        self.observer.end_step(output)
        return output

    def step_output(self, step: Any, x: int, scope: Scope, path: str, entering: int, shortcut: Shortcut) -> int:
        tape = self.tape
        tape.path = path
        if isinstance(step, ResolvedWord):
            tape.charge(4 * step.work)
            channels, height, _ = tape.shapes[x]
            local = {**scope, "in": entering, "c": channels, "h": height} if step.numbers else scope
            try:
                return step.kind.build(tape, x, step.word, **step.values(local))  # type: ignore[attr-defined]
            except GenotypeError as error:
                raise located(error, step.where) from None
        if isinstance(step, Aggregate):
            nodes = Nodes(self, step, x, scope, path, shortcut)
            if not self.observer:
                return nodes.run()
            self.observer.begin_aggregate(nodes)
            output = nodes.run()
            self.observer.end_aggregate(nodes, output)
            return output
        if isinstance(step, Join):
            try:
                return shortcut.join(x) if shortcut else x
            except GenotypeError as error:
                raise located(error, step.where) from None
        return self.unit(step, x, scope, path, shortcut)
