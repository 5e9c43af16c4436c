"""Passes: small functions from graph to graph that leave the network's function as it is.

The tape of an expansion keeps concats flat and slices resolved while it writes, since cost and hash are read off that
one form; `as_written` gives the graph without, and `flat` and `slices` lead from there to that form. Each pass stands
in `PASSES` under its name, its switch.
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
    """A tape that tidies nothing: concats of concats and slices of slices stay, and what nobody reads."""

    def cat(self, tensors: list[int]) -> int:
        return tensors[0] if len(tensors) == 1 else self.add(Cat(), *tensors)

    def slice(self, tensor: int, first: int, channels: int) -> int:
        return self.add(Slice(first, channels), tensor)

    def graph(self, output: int) -> Graph:
        return Graph(self.ops, self.inputs, self.shapes, self.paths, output, dict.fromkeys(self.notes))


class _Resolving(Tape):
    """A tape that keeps its concats flat and its slices resolved, and what nobody reads."""

    graph = UnsimplifiedTape.graph


def expand_unsimplified(genotype: Genotype) -> Graph:
    """A genotype's graph before anything is tidied."""
    return expand(genotype, UnsimplifiedTape)


class GraphRewriter:
    """A graph that is written again, operation by operation.

    Args:
        graph: It stays as it is.
        tape: What it is written on.

    Attributes:
        tape: What is written.
        place: Where each of the graph's tensors stands on the tape.
    """

    def __init__(self, graph: Graph, tape: type[Tape] = UnsimplifiedTape):
        self.old = graph
        self.tape = tape(graph.shapes[0])
        self.tape.ops[0] = graph.ops[0]
        self.new_tensors = [0]

    def operations(self) -> Iterator[tuple[int, Primitive, tuple[int, ...]]]:
        """The graph's operations behind the image, each with its inputs on the tape."""
        for i in range(1, len(self.old)):
            yield i, self.old.ops[i], tuple(self.new_tensors[source] for source in self.old.inputs[i])

    def add(self, i: int, op: Primitive, inputs: tuple[int, ...]) -> int:
        """Writes an operation in the place of the graph's own."""
        self.tape.path = self.old.paths[i]
        return self.tape.add(op, *inputs)

    def graph(self) -> Graph:
        found = self.tape.graph(self.new_tensors[self.old.output])
        found.notes = self.old.notes
        return found


def flat(graph: Graph) -> Graph:
    """Concats of concats become one."""
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
    """Slices are resolved: of slices, of concats, of everything; neighbours in a concat become one, and it is flat."""
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
    """Equal work on equal tensors is done once: pools, gates' averages, activations, reads; nothing with weights."""
    copy = GraphRewriter(graph)
    known: dict[tuple, int] = {}
    for i, op, inputs in copy.operations():
        if op.stateful or isinstance(op, Dropout):
            copy.new_tensors.append(copy.add(i, op, inputs))
            continue
        if (op, inputs) not in known:
            known[op, inputs] = copy.add(i, op, inputs)
        copy.new_tensors.append(known[op, inputs])
    return copy.graph()


def views(graph: Graph) -> Graph:
    """A concat whose parts stand side by side in an earlier one is a view on that one, and copies nothing."""
    copy = GraphRewriter(graph)
    tape = copy.tape
    holders: dict[int, list[int]] = {}  # a tensor -> the concats that hold it
    for i, op, inputs in copy.operations():
        view = _held(tape, holders.get(inputs[0], ()), inputs) if isinstance(op, Cat) else None
        if view is None:
            copy.new_tensors.append(copy.add(i, op, inputs))
            if isinstance(op, Cat):
                for part in set(inputs):
                    holders.setdefault(part, []).append(copy.new_tensors[i])
        else:
            whole, first = view
            tape.path = graph.paths[i]
            copy.new_tensors.append(whole if graph.shapes[i] == tape.shapes[whole] else
                              tape.slice(whole, first, graph.shapes[i][0]))  # fmt: skip
    return copy.graph()


def _held(tape: Tape, concats: Iterable[int], parts: tuple[int, ...]) -> tuple[int, int] | None:
    """A concat that holds the parts side by side, and the channel where they begin."""
    for concat in concats:
        held = tape.inputs[concat]
        for at in range(len(held) - len(parts) + 1):
            if held[at : at + len(parts)] == parts:
                return concat, sum(tape.shapes[part][0] for part in held[:at])
    return None


def dead(graph: Graph) -> Graph:
    """Without the operations that do not lead to the output."""
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
    """What a pass leaves.

    Attributes:
        name: The pass's.
        before: Operations before it, the image among them.
        after: Operations after it.
    """

    name: str
    before: int
    after: int


class PassResult(NamedTuple):
    """One pass over a graph: what it left, and the graph it gave."""

    counted: PassCount
    graph: Graph


def run_passes(graph: Graph, passes: Iterable[str] | None = None) -> list[PassResult]:
    """Runs passes one after another, each on what the one before gave.

    Args:
        graph: Of any form; it stays as it is.
        passes: Names of passes, in the order in which they run; all if unsaid.

    Raises:
        InputError: If there is no such pass.
    """
    found: list[PassResult] = []
    if passes is not None and (isinstance(passes, str) or not isinstance(passes, Iterable)):
        raise InputError(f"passes: names of passes, not {passes!r}")
    for name in PASSES if passes is None else passes:
        if not isinstance(name, str) or name not in PASSES:
            raise InputError(f"no pass {name!r}{did_you_mean(str(name), PASSES)}; there are {', '.join(PASSES)}")
        after = PASSES[name](graph)
        found.append(PassResult(PassCount(name, len(graph), len(after)), after))
        graph = after
    return found


def apply_passes(graph: Graph, passes: Iterable[str] | None = None) -> Graph:
    """The graph behind some passes; all if unsaid."""
    found = run_passes(graph, passes)
    return found[-1].graph if found else graph
