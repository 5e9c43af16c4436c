"""The tape of an expansion into blocks, on which finished parts of the network become blocks.

A block ends where no later operation can look into it: concats and slices at its end remain on the tape, and norms and
activations as well where gathers read pre-activations. Those that the block's own operations read are in the block,
too; on the tape they are *mirrors* of its outputs, which count only if nothing looks through them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nas_agg.expansion.blocks import Block, BlockOutput, Body
from nas_agg.graph.graph import MAX_OPERATIONS, MAX_READS, Tape
from nas_agg.graph.primitives import MAX_CHANNELS, Act, Cat, Norm, Primitive, Shape, Slice

#: Operations that a tape resolves when a later operation reads them.
RESOLVED: tuple[type[Primitive], ...] = (Cat, Slice)
RESOLVED_WITH_RAW = (Cat, Slice, Norm, Act)  # where gathers read pre-activations


_CAT = Cat()


class Segment:
    """What a part of a network appends to the tape: a block, its outputs, and operations that remain to be resolved.

    Attributes:
        ops, inputs, shapes, weights: The operations, as in `Body`.
        mirrors: Operations that repeat an output of the block, which is the first operation, with its index.
        output: The tensor that leaves.
        extra: The number of operations of the graph beyond those on the tape.
        reads: The number of tensors that all of them read.
        is_single: Whether it appends one operation, which reads what enters.
    """

    __slots__ = ("extra", "inputs", "is_single", "mirrors", "ops", "output", "reads", "shapes", "weights")

    def __init__(self) -> None:
        self.ops: list[Any] = []
        self.inputs: list[tuple[int, ...]] = []
        self.shapes: list[Shape] = []
        self.weights: list[str] = []
        self.mirrors: list[tuple[int, int]] = []
        self.output, self.extra, self.reads, self.is_single = -1, 0, 0, False

    def add(self, op: Any, inputs: tuple[int, ...], shape: Shape, weights: str = "") -> int:
        """Append an operation and return its output."""
        self.ops.append(op)
        self.inputs.append(inputs)
        self.shapes.append(shape)
        self.weights.append(weights)
        return len(self.ops) - 1

    def finish(self, output: int, size: int, reads: int) -> Segment:
        """Set what leaves, and the numbers of the graph's operations and of the tensors that they read."""
        self.output, self.extra, self.reads = output, size - len(self.ops), reads
        self.is_single = len(self.ops) == 1 and self.inputs[0] == (-1,) and output == 0
        return self


class Mark(NamedTuple):
    """A position of a tape: numbers of operations, tensors read, further operations of the graph, and norms."""

    ops: int
    reads: int
    extra: int
    norms: int


class BlockTape(Tape):
    """A tape on which finished parts of the network become blocks.

    Args:
        image: Shape of the image.
        raw: Whether gathers of the network read pre-activations.
    """

    ops: list[Any]

    def __init__(self, image: Shape, raw: bool):
        super().__init__(image)
        self.resolved = RESOLVED_WITH_RAW if raw else RESOLVED
        self.raw = raw
        self.shares_weights = False  # whether operations have paths, since they may share their weights with others
        self.extra = 0  # operations of the graph beyond those on the tape
        self.norm_order: list[tuple[int, int]] = []  # the keys of `norms`
        self.mirrors: dict[int, tuple[int, int]] = {}  # operations that repeat an output of a block

    def add(self, op: Primitive, *inputs: int, at: str = "") -> int:
        tensor = super().add(op, *inputs, at=at)
        if not self.shares_weights:
            self.paths[tensor] = ""
        return tensor

    def mark(self) -> Mark:
        """The current position."""
        return Mark(len(self.ops), self.reads, self.extra, len(self.norm_order))

    def append(self, op: Primitive, inputs: tuple[int, ...], shape: Shape) -> int:
        """Append an operation whose output shape is known and fits."""
        self.reads += len(inputs)
        self.check_size(1)
        self.ops.append(op)
        self.inputs.append(inputs)
        self.shapes.append(shape)
        self.paths.append("")
        return len(self.ops) - 1

    def cat(self, tensors: list[int]) -> int:
        ops = self.ops
        if not {ops[tensor].__class__ for tensor in tensors}.isdisjoint(RESOLVED):
            return super().cat(tensors)
        self.charge(len(tensors))
        self.lowest = min(self.lowest, *tensors)
        if len(tensors) == 1:
            return tensors[0]
        shapes = self.shapes
        first, channels = shapes[tensors[0]], 0
        for tensor in tensors:
            channels += shapes[tensor][0]
        if channels > MAX_CHANNELS or len({shapes[tensor][1:] for tensor in tensors}) > 1:
            return self.add(Cat(), *tensors)  # raises the error
        return self.append(_CAT, tuple(tensors), (channels, *first[1:]))

    def check_size(self, more: int) -> None:
        if len(self.ops) + self.extra + more > MAX_OPERATIONS or self.reads > MAX_READS:
            super().check_size(MAX_OPERATIONS)

    def is_opaque(self, tensor: int) -> bool:
        """Whether no later operation looks through the operation that computes a tensor."""
        return not isinstance(self.ops[tensor], self.resolved)

    def cut(self, begin: Mark, entries: tuple[int, ...], output: int) -> Segment | None:
        """Remove the operations of a part, and return them as a segment.

        Args:
            begin: The tape before the part.
            entries: The tensors that enter.
            output: The tensor that leaves.

        Returns:
            The segment; None if an operation reads anything else than what enters, and nothing is removed.
        """
        start, reads, extra, norms = begin
        tail, leaves = self._tail(output, start)
        inner = self._read_inside(tail, start)
        core = [i for i in range(start, len(self.ops)) if i not in tail or i in inner]
        leaving = [*leaves, *sorted(inner)]
        place = {entry: -1 - k for k, entry in enumerate(entries)}
        place.update({i: k for k, i in enumerate(core)})
        try:
            inputs = [tuple([place[source] for source in self.inputs[i]]) for i in core]
            position = {entry: -1 - k for k, entry in enumerate(entries)}
            size, total = len(self.ops) - start + self.extra - extra, self.reads - reads
            segment = Segment()
            if leaving:
                mirrors = {place[i]: (place[block], index) for i, (block, index) in self.mirrors.items() if i >= start}
                body = Body(
                    [self.ops[i] for i in core],
                    inputs,
                    [self.shapes[i] for i in core],
                    [self.paths[i] for i in core],
                    tuple([place[tensor] for tensor in leaving]),
                    mirrors,
                )
                if len(body.ops) == 1 and not inner:
                    position[leaves[0]] = segment.add(body.ops[0], body.inputs[0], body.shapes[0])
                else:
                    block = Block(body, size, total)
                    position[leaving[0]] = segment.add(block, block.entries, self.shapes[leaving[0]])
                for index, leaf in enumerate(leaves if len(leaving) > 1 else ()):
                    position[leaf] = segment.add(BlockOutput(index), (0,), self.shapes[leaf])
            for i in sorted(tail):
                if i in inner:
                    segment.mirrors.append((len(segment.ops), leaving.index(i)))
                inputs_here = tuple([position[source] for source in self.inputs[i]])
                position[i] = segment.add(self.ops[i], inputs_here, self.shapes[i], self.paths[i])
            segment.finish(position[output], size, total)
        except KeyError:
            return None
        self._truncate(start, norms)
        self.extra, self.reads = extra, reads
        return segment

    def _read_inside(self, tail: set[int], start: int) -> set[int]:
        """The operations of a tail that are part of the block as well, since something else in it reads them."""
        inner = {i for i in tail if i in self.mirrors}
        for i in range(start, len(self.ops)) if tail else ():
            if i not in tail:
                inner.update(source for source in self.inputs[i] if source in tail)
        for i in sorted(tail, reverse=True):
            if i in inner:
                inner.update(source for source in self.inputs[i] if source in tail)
        return inner

    def _tail(self, output: int, start: int) -> tuple[set[int], list[int]]:
        """The operations at the end that later ones may look through, and what they read of the part, in order."""
        tail, leaves, stack = set(), set(), [output]
        while stack:
            tensor = stack.pop()
            if tensor < start or tensor in tail:
                continue
            if isinstance(self.ops[tensor], self.resolved):
                tail.add(tensor)
                stack.extend(self.inputs[tensor])
            else:
                leaves.add(tensor)
        return tail, sorted(leaves)

    def normalize(self, tensor: int, groups: int) -> int:
        before = len(self.norms)
        norm = super().normalize(tensor, groups)
        if len(self.norms) > before:
            self.norm_order.append((tensor, groups))
        return norm

    def shares_norms(self, first: int, start: int, output: int, private: bool) -> bool:
        """Whether a later reader could share a norm of a part.

        Args:
            first: The number of norms before the part.
            start: Its first operation.
            output: The tensor that leaves.
            private: Whether nothing else reads what enters.
        """
        normalized = {tensor for tensor, _ in self.norm_order[first:]}
        if not normalized:
            return False
        tail, leaves = self._tail(output, start)
        if not normalized.isdisjoint([output, *tail, *leaves]):
            return True
        # Where later operations can look through the end of the part, they may read what enters as well.
        shows_entry = output < start or any(source < start for i in tail for source in self.inputs[i])
        return min(normalized) < start and (shows_entry or not private)

    def _truncate(self, start: int, norms: int) -> None:
        for column in (self.ops, self.inputs, self.shapes, self.paths):
            del column[start:]
        for key in self.norm_order[norms:]:
            del self.norms[key]
        del self.norm_order[norms:]
        if self.pre_activations:
            self.pre_activations = {t: found for t, found in self.pre_activations.items() if t < start}
        if self.mirrors:
            self.mirrors = {i: found for i, found in self.mirrors.items() if i < start}

    def replay(self, segment: Segment, entries: tuple[int, ...]) -> int:
        """Append a segment and return the tensor that leaves."""
        start = len(self.ops)
        self.reads += segment.reads
        self.extra += segment.extra
        if start + self.extra + len(segment.ops) > MAX_OPERATIONS or self.reads > MAX_READS:
            self.check_size(MAX_OPERATIONS)
        if segment.is_single:
            self.ops.append(segment.ops[0])
            self.shapes.append(segment.shapes[0])
            self.inputs.append(entries[:1])
            self.paths.append("")
            return start
        self.ops.extend(segment.ops)
        self.shapes.extend(segment.shapes)
        for row in segment.inputs:
            self.inputs.append(tuple([entries[-1 - source] if source < 0 else source + start for source in row]))
        self.paths.extend([f"{start} {weights}" if weights else "" for weights in segment.weights])
        for place, index in segment.mirrors:
            self.mirrors[start + place] = start, index
        return entries[-1 - segment.output] if segment.output < 0 else segment.output + start

    def body(self, output: int) -> Body:
        """The operations that lead to the output; the image is -1."""
        inputs = [tuple([source - 1 for source in row]) for row in self.inputs[1:]]
        mirrors = {i - 1: (block - 1, index) for i, (block, index) in self.mirrors.items()}
        return Body(self.ops[1:], inputs, self.shapes[1:], self.paths[1:], (output - 1,), mirrors)
