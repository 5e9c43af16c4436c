"""The graph of a network, and the tape on which an expansion records its operations.

A tensor is identified by the index of the operation that computes it. The tape keeps concats flat, merges adjacent
slices, and normalizes a source once for all its readers; operations that do not lead to the output are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.primitives import (
    MAX_CHANNELS,
    MAX_SIDE,
    Act,
    Add,
    Cat,
    Input,
    Norm,
    Primitive,
    Shape,
    Slice,
    format_shape,
)

if TYPE_CHECKING:
    import networkx

MAX_OPERATIONS = 50_000
MAX_READS = 2_000_000
MAX_WORK = 10_000_000  # units of about a microsecond


class Graph:
    """The operations of a network in topological order.

    Attributes:
        ops: The operation that computes each tensor; the first is the image.
        inputs: The tensors that each operation reads.
        shapes: ``(channels, height, width)`` of each tensor.
        paths: Path of each operation in the genotype, which names its parameters. Operations with equal paths share
            their parameters.
        output: The tensor of logits, ``(classes, 1, 1)``.
        notes: Remarks of the expansion for the user.
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
        """For each tensor, the operations that read it, each as often as it reads it."""
        readers: list[list[int]] = [[] for _ in self.ops]
        for reader, inputs in enumerate(self.inputs):
            for source in inputs:
                readers[source].append(reader)
        return readers

    @cached_property
    def shared(self) -> dict[int, int]:
        """For each operation that shares its weights with others, the first of those operations."""
        first_of_path: dict[str, int] = {}
        shared: dict[int, int] = {}
        for i, (op, path) in enumerate(zip(self.ops, self.paths, strict=True)):
            if op.stateful and path and (first := first_of_path.setdefault(path, i)) != i:
                shared[first] = shared[i] = first
        return shared

    def digraph(self) -> networkx.DiGraph:
        """Convert to networkx: nodes have ``op``, ``shape`` and ``path``, edges the input positions (``positions``)."""
        import networkx

        graph = networkx.DiGraph(output=self.output, notes=self.notes)
        for i, op in enumerate(self.ops):
            graph.add_node(i, op=op, shape=self.shapes[i], path=self.paths[i])
            for position, source in enumerate(self.inputs[i]):
                if graph.has_edge(source, i):
                    graph.edges[source, i]["positions"].append(position)
                else:
                    graph.add_edge(source, i, positions=[position])
        return graph


class Tape:
    """Records operations in the order of an expansion.

    Attributes:
        path: Path of the next operations.
        lowest: The lowest tensor whose operation was inspected. A unit that inspects tensors from before its own
            depends on more than the shape of its input.
        reads: Number of tensors read so far.
        work: Work charged so far, in units of about a microsecond.
    """

    def __init__(self, image: Shape):
        self.ops: list[Primitive] = [Input(image)]
        self.inputs: list[tuple[int, ...]] = [()]
        self.shapes: list[Shape] = [image]
        self.paths: list[str] = ["input"]
        self.norms: dict[tuple[int, int], int] = {}
        self.path = ""
        self.lowest = MAX_OPERATIONS
        self.reads = 0
        self.work = 0
        self.pre_activations: dict[int, tuple[int, int]] = {}
        self.notes: list[str] = []

    def add(self, op: Primitive, *inputs: int, at: str = "") -> int:
        """Append an operation and return its output.

        Args:
            op: The operation.
            *inputs: The tensors it reads.
            at: Suffix of its path.

        Raises:
            GenotypeError: The inputs do not fit, or a limit is exceeded.
        """
        shapes = self.shapes
        shape = op.shape(*[shapes[i] for i in inputs])
        if shape[0] > MAX_CHANNELS or shape[1] > MAX_SIDE or shape[2] > MAX_SIDE:
            raise GenotypeError(
                f"{format_shape(shape)} exceeds the limit of {MAX_CHANNELS:,} channels or map size {MAX_SIDE:,}"
            )
        self.reads += len(inputs)
        self.check_size(1)
        self.ops.append(op)
        self.inputs.append(inputs)
        shapes.append(shape)
        self.paths.append(self.path + at)
        return len(shapes) - 1

    def check_size(self, more: int) -> None:
        """Raise an error if the network, with ``more`` further operations, exceeds the limits on its size."""
        if len(self.ops) + more > MAX_OPERATIONS or self.reads > MAX_READS:
            raise GenotypeError(
                f"the network has more than {MAX_OPERATIONS:,} operations or {MAX_READS:,} tensor reads"
            )

    def charge(self, work: int) -> None:
        """Account for work, and raise an error if the expansion takes too long, however small the network is."""
        self.work += work
        if self.work > MAX_WORK:
            raise GenotypeError(
                "the network takes too long to expand; use fewer nodes, fewer reads or shorter expressions"
            )

    def peek(self, tensor: int) -> Primitive:
        """Return the operation that computes a tensor, and record that it was inspected."""
        if tensor < self.lowest:
            self.lowest = tensor
        return self.ops[tensor]

    # ------------------------------------------------------------------ normal forms

    def cat(self, tensors: list[int]) -> int:
        """Append a flat concat in which adjacent slices of one tensor are merged."""
        ops = self.ops
        parts: list[int] = []
        for tensor in tensors:
            if ops[tensor].__class__ is Cat:
                parts.extend(self.inputs[tensor])
                if len(parts) > MAX_READS:
                    break  # an error is raised below
            else:
                parts.append(tensor)
        self.charge(len(parts))
        self.lowest = min(self.lowest, *parts)
        if any(ops[part].__class__ is Slice for part in parts):
            parts = self._merge_slices(parts)
        return parts[0] if len(parts) == 1 else self.add(Cat(), *parts)

    def _merge_slices(self, parts: list[int]) -> list[int]:
        merged: list[int] = []
        for part in parts:
            if merged and (union := self._merge_pair(merged[-1], part)) is not None:
                merged[-1] = union
            else:
                merged.append(part)
        return merged

    def _merge_pair(self, a: int, b: int) -> int | None:
        """Return two slices as one slice if they are adjacent in one tensor."""
        first, second = self.peek(a), self.peek(b)
        if not (isinstance(first, Slice) and isinstance(second, Slice) and self.inputs[a] == self.inputs[b]):
            return None
        if first.first + first.channels != second.first:
            return None
        return self.slice(self.inputs[a][0], first.first, first.channels + second.channels)

    def slice(self, tensor: int, first: int, channels: int) -> int:
        """Append a slice; a slice of a concat becomes a concat of slices, a slice of a slice one slice."""
        if first == 0 and channels == self.shapes[tensor][0]:
            return tensor
        op = self.peek(tensor)
        if isinstance(op, Slice):
            return self.slice(self.inputs[tensor][0], op.first + first, channels)
        if not isinstance(op, Cat):
            return self.add(Slice(first, channels), tensor)
        self.charge(len(self.inputs[tensor]))
        parts, offset = [], 0
        for part in self.inputs[tensor]:
            width = self.shapes[part][0]
            low, high = max(first, offset), min(first + channels, offset + width)
            if low < high:
                parts.append(self.slice(part, low - offset, high - low))
            offset += width
        return self.cat(parts)

    def sum(self, tensors: list[int], op: Add) -> int:
        """Append a sum or a mean; a single tensor is returned as it is."""
        return tensors[0] if len(tensors) == 1 else self.add(op, *tensors)

    def normalize(self, tensor: int, groups: int) -> int:
        """Append a norm without affine parameters, once per tensor and number of groups."""
        self.peek(tensor)
        key = (tensor, groups)
        if key not in self.norms:
            self.norms[key] = self.add(Norm(self.shapes[tensor][0], groups, False), tensor)
        return self.norms[key]

    def pre_activation(self, tensor: int) -> int:
        """Return a tensor without the norms and activations at its end, through concats and slices."""
        stack = [tensor] if tensor not in self.pre_activations else []
        while stack:
            current = stack[-1]
            op, inputs = self.ops[current], self.inputs[current]
            sources = inputs if isinstance(op, (Norm, Act, Cat, Slice)) else ()
            pending = [source for source in sources if source not in self.pre_activations]
            self.charge(1 + len(sources))
            if pending:
                stack.extend(pending)
            else:
                resolved = [self.pre_activations[source][0] for source in sources]
                self.pre_activations[current] = self._pre_activation_of(current, resolved)
                stack.pop()
        pre_activation, lowest = self.pre_activations[tensor]
        self.lowest = min(self.lowest, lowest)
        return pre_activation

    def _pre_activation_of(self, tensor: int, sources: list[int]) -> tuple[int, int]:
        """Return a tensor's pre-activation and the lowest tensor inspected for it, given those of its inputs."""
        op, inputs = self.ops[tensor], self.inputs[tensor]
        lowest = min([tensor, *[self.pre_activations[source][1] for source in inputs if sources]])
        if isinstance(op, (Norm, Act)):
            return sources[0], lowest
        if tuple(sources) == inputs or not sources:
            return tensor, lowest
        if isinstance(op, Slice):
            return self.slice(sources[0], op.first, op.channels), lowest
        return self.cat(sources), lowest

    # ------------------------------------------------------------------ the result

    def graph(self, output: int) -> Graph:
        """Return the graph of the operations that lead to the output."""
        live = bytearray(len(self.ops))
        live[output] = live[0] = 1
        for i in range(output, -1, -1):
            if live[i]:
                for source in self.inputs[i]:
                    live[source] = 1
        order = [i for i in range(output + 1) if live[i]]
        new_index = [0] * len(self.ops)
        for new, old in enumerate(order):
            new_index[old] = new
        return Graph(
            [self.ops[i] for i in order],
            [tuple(map(new_index.__getitem__, self.inputs[i])) for i in order],
            [self.shapes[i] for i in order],
            [self.paths[i] for i in order],
            new_index[output],
            dict.fromkeys(self.notes),
        )
