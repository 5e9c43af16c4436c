"""The graph of a network: shaped primitives, and the tape on which they are written.

A tensor is a number: the place of the operation that makes it. The tape keeps concats flat, merges neighbouring slices,
and normalises a source once for all its readers; what does not lead to the output is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives import MAX_CHANNELS, MAX_SIDE, Act, Add, Cat, Input, Norm, Primitive, Shape, Slice, text

if TYPE_CHECKING:
    import networkx

MAX_STEPS = 50_000
MAX_READS = 2_000_000
MAX_WORK = 10_000_000  # about a microsecond each


class Graph:
    """The live graph, in an order in which it can be computed.

    Attributes:
        ops: The operation that makes each tensor; the first is the image.
        inputs: The tensors that each operation reads.
        shapes: ``(channels, height, width)`` of each tensor.
        paths: Where each operation stands: the name of its parameters, if it has any. Operations of one path have their
            parameters in common.
        output: The tensor of logits, ``(classes, 1, 1)``.
        notes: What a user may want to know of the expansion.
    """

    __slots__ = ("__dict__", "inputs", "notes", "ops", "output", "paths", "shapes")

    def __init__(
        self,
        ops: list[Primitive],
        inputs: list[tuple[int, ...]],
        shapes: list[Shape],
        paths: list[str],
        output: int,
        notes: Iterable[str] = (),
    ):
        self.ops, self.inputs, self.shapes, self.paths, self.output = ops, inputs, shapes, paths, output
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.ops)

    @cached_property
    def readers(self) -> list[list[int]]:
        """For each tensor the operations that read it, each as often as it does."""
        found: list[list[int]] = [[] for _ in self.ops]
        for reader, inputs in enumerate(self.inputs):
            for source in inputs:
                found[source].append(reader)
        return found

    @cached_property
    def shared(self) -> dict[int, int]:
        """Of the operations that have a path in common, and so their weights, each with the first of them."""
        first: dict[str, int] = {}
        found: dict[int, int] = {}
        for i, (op, path) in enumerate(zip(self.ops, self.paths, strict=True)):
            if op.stateful and path and (at := first.setdefault(path, i)) != i:
                found[at] = found[i] = at
        return found

    def digraph(self) -> networkx.DiGraph:
        """As a networkx graph: nodes carry ``op``, ``shape`` and ``path``, an edge the ``places`` it is read at."""
        import networkx

        graph = networkx.DiGraph(output=self.output, notes=self.notes)
        for i, op in enumerate(self.ops):
            graph.add_node(i, op=op, shape=self.shapes[i], path=self.paths[i])
            for place, source in enumerate(self.inputs[i]):
                if graph.has_edge(source, i):
                    graph.edges[source, i]["places"].append(place)
                else:
                    graph.add_edge(source, i, places=[place])
        return graph


class Tape:
    """Operations written one after another.

    Attributes:
        path: The place that the next operations are written at.
        lowest: The lowest tensor that was looked into; what lies below a unit's first tensor makes it depend on more
            than the shape that enters it.
    """

    def __init__(self, image: Shape):
        self.ops: list[Primitive] = [Input(image)]
        self.inputs: list[tuple[int, ...]] = [()]
        self.shapes: list[Shape] = [image]
        self.paths: list[str] = ["input"]
        self.norms: dict[tuple[int, int], int] = {}
        self.path = ""
        self.lowest = MAX_STEPS
        self.reads = 0
        self.work = 0
        self.raws: dict[int, tuple[int, int]] = {}
        self.notes: list[str] = []

    def add(self, op: Primitive, *inputs: int, at: str = "") -> int:
        """Writes an operation and gives its output; ``at`` is put behind the path."""
        shapes = self.shapes
        shape = op.shape(*[shapes[i] for i in inputs])
        if shape[0] > MAX_CHANNELS or shape[1] > MAX_SIDE or shape[2] > MAX_SIDE:
            raise GenotypeError(f"{text(shape)} is beyond {MAX_CHANNELS:,} channels or a map of {MAX_SIDE:,}")
        self.reads += len(inputs)
        self.check_size(1)
        self.ops.append(op)
        self.inputs.append(inputs)
        shapes.append(shape)
        self.paths.append(self.path + at)
        return len(shapes) - 1

    def check_size(self, more: int) -> None:
        """Refuses a network that grows beyond what is sensible."""
        if len(self.ops) + more > MAX_STEPS or self.reads > MAX_READS:
            raise GenotypeError(f"the network has more than {MAX_STEPS:,} steps or {MAX_READS:,} tensor reads")

    def spend(self, work: int) -> None:
        """Refuses a network that takes too long to write out, however small it is in the end."""
        self.work += work
        if self.work > MAX_WORK:
            raise GenotypeError(
                "the network takes too long to work out; fewer nodes, reads or shorter expressions are wanted"
            )

    def look(self, tensor: int) -> Primitive:
        """The operation that makes a tensor."""
        if tensor < self.lowest:
            self.lowest = tensor
        return self.ops[tensor]

    # ------------------------------------------------------------------ what is written in one way only

    def cat(self, tensors: list[int]) -> int:
        """The tensors' channels one after another: flat, neighbouring slices of one tensor merged."""
        ops = self.ops
        parts: list[int] = []
        for tensor in tensors:
            if ops[tensor].__class__ is Cat:
                parts.extend(self.inputs[tensor])
                if len(parts) > MAX_READS:
                    break  # refused below
            else:
                parts.append(tensor)
        self.spend(len(parts))
        self.lowest = min(self.lowest, *parts)
        if any(ops[part].__class__ is Slice for part in parts):
            parts = self.merged(parts)
        return parts[0] if len(parts) == 1 else self.add(Cat(), *parts)

    def merged(self, parts: list[int]) -> list[int]:
        found: list[int] = []
        for part in parts:
            if found and (whole := self.merge(found[-1], part)) is not None:
                found[-1] = whole
            else:
                found.append(part)
        return found

    def merge(self, a: int, b: int) -> int | None:
        """Two slices as one, if they are neighbours in one tensor."""
        first, second = self.look(a), self.look(b)
        if not (isinstance(first, Slice) and isinstance(second, Slice) and self.inputs[a] == self.inputs[b]):
            return None
        if first.first + first.channels != second.first:
            return None
        return self.slice(self.inputs[a][0], first.first, first.channels + second.channels)

    def slice(self, tensor: int, first: int, channels: int) -> int:
        """Some channels: a slice of a cat is a cat of slices, a slice of a slice is one slice."""
        if first == 0 and channels == self.shapes[tensor][0]:
            return tensor
        op = self.look(tensor)
        if isinstance(op, Slice):
            return self.slice(self.inputs[tensor][0], op.first + first, channels)
        if not isinstance(op, Cat):
            return self.add(Slice(first, channels), tensor)
        self.spend(len(self.inputs[tensor]))
        parts, begin = [], 0
        for part in self.inputs[tensor]:
            width = self.shapes[part][0]
            low, high = max(first, begin), min(first + channels, begin + width)
            if low < high:
                parts.append(self.slice(part, low - begin, high - low))
            begin += width
        return self.cat(parts)

    def add_up(self, tensors: list[int], op: Add) -> int:
        """The sum or the mean."""
        return tensors[0] if len(tensors) == 1 else self.add(op, *tensors)

    def normalised(self, tensor: int, groups: int) -> int:
        """The tensor normed without affine: one operation for all its readers."""
        self.look(tensor)
        key = (tensor, groups)
        if key not in self.norms:
            self.norms[key] = self.add(Norm(self.shapes[tensor][0], groups, False), tensor)
        return self.norms[key]

    def raw(self, tensor: int) -> int:
        """The tensor without the norms and activations that end it."""
        todo = [tensor] if tensor not in self.raws else []
        while todo:
            at = todo[-1]
            op, inputs = self.ops[at], self.inputs[at]
            within = inputs if isinstance(op, (Norm, Act, Cat, Slice)) else ()
            unknown = [source for source in within if source not in self.raws]
            self.spend(1 + len(within))
            if unknown:
                todo.extend(unknown)
            else:
                self.raws[at] = self.raw_of(at, [self.raws[source][0] for source in within])
                todo.pop()
        raw, lowest = self.raws[tensor]
        self.lowest = min(self.lowest, lowest)
        return raw

    def raw_of(self, tensor: int, within: list[int]) -> tuple[int, int]:
        """A tensor's raw form, given those of its inputs, and the lowest tensor that was looked into for it."""
        op, inputs = self.ops[tensor], self.inputs[tensor]
        lowest = min([tensor, *[self.raws[source][1] for source in inputs if within]])
        if isinstance(op, (Norm, Act)):
            return within[0], lowest
        if tuple(within) == inputs or not within:
            return tensor, lowest
        if isinstance(op, Slice):
            return self.slice(within[0], op.first, op.channels), lowest
        return self.cat(within), lowest

    # ------------------------------------------------------------------ the end

    def graph(self, output: int) -> Graph:
        """The operations that lead to the output."""
        live = bytearray(len(self.ops))
        live[output] = live[0] = 1
        for i in range(output, -1, -1):
            if live[i]:
                for source in self.inputs[i]:
                    live[source] = 1
        kept = [i for i in range(output + 1) if live[i]]
        place = [0] * len(self.ops)
        for new, old in enumerate(kept):
            place[old] = new
        moved = place.__getitem__
        return Graph(
            [self.ops[i] for i in kept],
            [tuple(map(moved, self.inputs[i])) for i in kept],
            [self.shapes[i] for i in kept],
            [self.paths[i] for i in kept],
            place[output],
            dict.fromkeys(self.notes),
        )
