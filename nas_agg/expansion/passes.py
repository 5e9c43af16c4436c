"""Passes: functions from graph to graph that preserve the network's function.

The tape of an expansion keeps concats flat and slices resolved, since cost and hash are computed on that normal form.
`expand_unsimplified` gives the graph without it, and the passes ``flat`` and ``slices`` lead from there to the normal
form. `PASSES` maps names to passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph, Tape
from nas_agg.graph.primitives import Cat, Dropout, Primitive, Slice
from nas_agg.language.genotype import Genotype


class UnsimplifiedTape(Tape):
    """A tape that simplifies nothing: it keeps concats of concats, slices of slices, and unread operations."""

    def cat(self, tensors: list[int]) -> int:
        return tensors[0] if len(tensors) == 1 else self.add(Cat(), *tensors)

    def slice(self, tensor: int, first: int, channels: int) -> int:
        return self.add(Slice(first, channels), tensor)

    def graph(self, output: int) -> Graph:
        return Graph(self.ops, self.inputs, self.shapes, self.paths, output, dict.fromkeys(self.notes))


class _Resolving(Tape):
    """A tape that keeps concats flat and slices resolved, and keeps unread operations."""

    graph = UnsimplifiedTape.graph


def expand_unsimplified(genotype: Genotype) -> Graph:
    """Expand a genotype without any simplification."""
    return expand(genotype, UnsimplifiedTape)


class GraphRewriter:
    """Rewrites a graph, operation by operation.

    Args:
        graph: The graph, which is not modified.
        tape: Type of the tape that the new graph is written on.

    Attributes:
        tape: The new operations.
        new_tensors: For each tensor of the graph, the corresponding tensor on the tape.
    """

    def __init__(self, graph: Graph, tape: type[Tape] = UnsimplifiedTape):
        self.old = graph
        self.tape = tape(graph.shapes[0])
        self.tape.ops[0] = graph.ops[0]
        self.new_tensors = [0]

    def operations(self) -> Iterator[tuple[int, Primitive, tuple[int, ...]]]:
        """Yield the graph's operations after the image, with their inputs on the tape."""
        for i in range(1, len(self.old)):
            yield i, self.old.ops[i], tuple(self.new_tensors[source] for source in self.old.inputs[i])

    def add(self, i: int, op: Primitive, inputs: tuple[int, ...]) -> int:
        """Append an operation at the path of the graph's operation ``i``."""
        self.tape.path = self.old.paths[i]
        return self.tape.add(op, *inputs)

    def graph(self) -> Graph:
        """Return the new graph."""
        graph = self.tape.graph(self.new_tensors[self.old.output])
        graph.notes = self.old.notes
        return graph


def flat(graph: Graph) -> Graph:
    """Flatten concats of concats."""
    copy = GraphRewriter(graph)
    tape = copy.tape
    for i, op, inputs in copy.operations():
        if isinstance(op, Cat):
            parts: list[int] = []
            for source in inputs:
                parts.extend(tape.inputs[source] if isinstance(tape.ops[source], Cat) else [source])
            inputs = tuple(parts)
        copy.new_tensors.append(copy.add(i, op, inputs))
    return copy.graph()


def slices(graph: Graph) -> Graph:
    """Resolve slices of slices, of concats and of whole tensors; merge adjacent slices in concats and flatten them."""
    copy = GraphRewriter(graph, _Resolving)
    tape = copy.tape
    for i, op, inputs in copy.operations():
        tape.path = graph.paths[i]
        if isinstance(op, Slice):
            copy.new_tensors.append(tape.slice(inputs[0], op.first, op.channels))
        elif isinstance(op, Cat):
            copy.new_tensors.append(tape.cat(list(inputs)))
        else:
            copy.new_tensors.append(copy.add(i, op, inputs))
    return copy.graph()


def shared(graph: Graph) -> Graph:
    """Eliminate common subexpressions: pools, activations, concats and other operations without weights."""
    copy = GraphRewriter(graph)
    existing: dict[tuple, int] = {}
    for i, op, inputs in copy.operations():
        if op.stateful or isinstance(op, Dropout):
            copy.new_tensors.append(copy.add(i, op, inputs))
            continue
        if (op, inputs) not in existing:
            existing[op, inputs] = copy.add(i, op, inputs)
        copy.new_tensors.append(existing[op, inputs])
    return copy.graph()


def views(graph: Graph) -> Graph:
    """Replace a concat whose parts are adjacent in an earlier concat by a slice of that, which copies nothing."""
    copy = GraphRewriter(graph)
    tape = copy.tape
    concats_of: dict[int, list[int]] = {}  # the concats that contain a tensor
    for i, op, inputs in copy.operations():
        view = _find_run(tape, concats_of.get(inputs[0], ()), inputs) if isinstance(op, Cat) else None
        if view is None:
            copy.new_tensors.append(copy.add(i, op, inputs))
            if isinstance(op, Cat):
                for part in set(inputs):
                    concats_of.setdefault(part, []).append(copy.new_tensors[i])
        else:
            concat, first = view
            tape.path = graph.paths[i]
            is_whole = graph.shapes[i] == tape.shapes[concat]
            copy.new_tensors.append(concat if is_whole else tape.slice(concat, first, graph.shapes[i][0]))
    return copy.graph()


def _find_run(tape: Tape, concats: Iterable[int], parts: tuple[int, ...]) -> tuple[int, int] | None:
    """Return a concat that contains the parts as a run, and the first channel of the run."""
    for concat in concats:
        inputs = tape.inputs[concat]
        for at in range(len(inputs) - len(parts) + 1):
            if inputs[at : at + len(parts)] == parts:
                return concat, sum(tape.shapes[part][0] for part in inputs[:at])
    return None


def dead(graph: Graph) -> Graph:
    """Remove operations that do not lead to the output."""
    tape = Tape(graph.shapes[0])
    tape.ops, tape.inputs, tape.shapes, tape.paths = graph.ops, graph.inputs, graph.shapes, graph.paths
    tape.notes = list(graph.notes)
    return tape.graph(graph.output)


PASSES: dict[str, Callable[[Graph], Graph]] = {
    "flat": flat,
    "slices": slices,
    "shared": shared,
    "dead": dead,
    "views": views,
}


class PassCount(NamedTuple):
    """Number of operations before and after a pass, including the image."""

    name: str
    before: int
    after: int


class PassResult(NamedTuple):
    """The result of a pass: numbers of operations, and the new graph."""

    counted: PassCount
    graph: Graph


def run_passes(graph: Graph, passes: Iterable[str] | None = None) -> list[PassResult]:
    """Run passes in sequence and return the result of each.

    Args:
        graph: The graph, which is not modified.
        passes: Names of passes, in the order in which they run; default all.

    Raises:
        InputError: There is no pass of such a name.
    """
    results: list[PassResult] = []
    if passes is not None and (isinstance(passes, str) or not isinstance(passes, Iterable)):
        raise InputError(f"passes: expected a list of names, not {passes!r}")
    for name in PASSES if passes is None else passes:
        if not isinstance(name, str) or name not in PASSES:
            raise InputError(f"unknown pass {name!r}{did_you_mean(str(name), PASSES)}; available: {', '.join(PASSES)}")
        after = PASSES[name](graph)
        results.append(PassResult(PassCount(name, len(graph), len(after)), after))
        graph = after
    return results


def apply_passes(graph: Graph, passes: Iterable[str] | None = None) -> Graph:
    """Apply passes, by default all, and return the last graph."""
    results = run_passes(graph, passes)
    return results[-1].graph if results else graph
