"""Rematerialization: which tensors training saves for backward, and which it recomputes.

Eager PyTorch saves whatever each operation asks for. Here the outputs of convolutions (and of other operations that are
expensive to compute) are saved, and concats, norms, activations and sums of tensors that are saved in any case are
recomputed in backward. The graph is cut into pieces at tensors that everything after them depends on alone; a piece is
run, and differentiated, as one operation. The plan is arithmetic on the graph, so that memory can be predicted without
torch; `nas_agg.compiler.remat.executor` executes it. The idea is that of Chen et al. (2016, "Training Deep Nets with
Sublinear Memory Cost"), decided for each tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Literal, NamedTuple, get_args

from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import ACTIVATIONS, Act, AvgPool, Conv, Dropout, DropPath, Gap, Norm, Primitive, Shape

#: Memory modes of training. ``plain`` keeps for backward what eager PyTorch keeps; ``lean`` keeps the outputs of
#: convolutions; ``leanest`` recomputes the 1x1 convolutions of bottlenecks as well.
MemoryMode = Literal["plain", "lean", "leanest"]
MEMORY_MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)

#: The modes that a user may request; ``auto`` is the first of the others that fits the device.
RequestedMemoryMode = Literal["auto", MemoryMode]

FLOAT_BYTES = 4
MIN_PIECE_OPERATIONS = 12

_CHEAP = frozenset(
    {"norm", "act", "cat", "slice", "pad", "scale", "mul", "product", "times", "shuffle", "dropout", "drop-path"}
)
_SHAPE_ONLY = frozenset({"avgpool", "gap", "dropout", "drop-path"})  # their backward needs no value
_WEIGHTED = frozenset({"conv", "linear", "scale"})  # they need their input only for their weight's gradient


class Piece(NamedTuple):
    """A part of the network: the operations after ``entry`` up to ``last``, which read nothing from before ``entry``.

    Attributes:
        entry: The tensor that enters.
        last: The tensor that leaves.
        buffers: For each buffer the tensors stored next to each other in it, because concats read runs of them.
        buffer_channels: Channels of each buffer.
        buffer_slices: For each of those tensors, and for each such concat: index of its buffer, first channel, and
            end channel.
    """

    entry: int
    last: int
    buffers: tuple[tuple[int, ...], ...]
    buffer_channels: tuple[int, ...]
    buffer_slices: Mapping[int, tuple[int, int, int]]


class BackwardStep(NamedTuple):
    """One step of the backward pass.

    Attributes:
        op: The operation whose backward is run.
        rebuilt: Tensors that are recomputed before it.
        freed: Tensors that are no longer needed after it.
    """

    op: int
    rebuilt: tuple[int, ...]
    freed: tuple[int, ...]


class BackwardPlan(NamedTuple):
    """The backward pass of a piece.

    Attributes:
        saved: Tensors saved outside buffers.
        saved_buffers: Indices of the buffers that are saved.
        steps: The steps, last operation first; the last step is the piece's entry.
        statistics: Tensors whose batch statistics are saved.
    """

    saved: tuple[int, ...]
    saved_buffers: tuple[int, ...]
    steps: tuple[BackwardStep, ...]
    statistics: frozenset[int]


class RematerializationPlan:
    """Which tensors of a network are saved for backward, and which are recomputed.

    Args:
        graph: The network. The plan may rewrite it where this does not change the function; ``ops``, ``inputs``,
            ``shapes`` and ``paths`` describe what is run.
        memory: Memory mode, ``lean`` or ``leanest``.

    Attributes:
        materialized: For each tensor, whether it is computed once; the others are recomputed in backward.
        fused_norms: Norms that are computed within the activation that is their only reader.
        sources: For each tensor, the tensors that computing it reads.
        pieces: The network's pieces, in order.
        buffered_concats: Concats that are contiguous in a buffer.
    """

    def __init__(self, graph: Graph, memory: MemoryMode):
        self.ops, self.inputs = list(graph.ops), list(graph.inputs)
        self.shapes, self.paths, self.output = list(graph.shapes), list(graph.paths), graph.output
        self._pool_before_convolutions(graph.readers)
        self.readers = Graph(self.ops, self.inputs, self.shapes, self.paths, self.output).readers
        self.buffered_concats: set[int] = set()
        self.fused_norms = {
            i
            for i, op in enumerate(self.ops)
            if isinstance(op, Norm)
            and not op.groups
            and self._is_only_reader(i, "act")
            and self._needs_output(self.readers[i][0])
        }
        self.sources: list[tuple[int, ...]] = [()] * len(self.ops)
        self._find_sources()
        self.materialized = self._plan_saved_tensors(memory == "leanest")
        self.pieces = self._cut_into_pieces()
        self._find_sources()  # again, since concats in buffers are read as they are

    # ------------------------------------------------------------------ the graph that is run

    def _pool_before_convolutions(self, readers: list[list[int]]) -> None:
        """Move average pooling before the 1x1 convolution that it follows, as the two commute."""
        for i, op in enumerate(self.ops):
            if isinstance(op, Conv) and (op.kernel, op.stride, op.padding) == (1, 1, 0) and len(readers[i]) == 1:
                j = readers[i][0]
                pool, shape = self.ops[j], self.shapes[j]
                averages = isinstance(pool, Gap) or (isinstance(pool, AvgPool) and not (pool.padding and op.bias))
                if averages and prod(shape[1:]) < prod(self.shapes[i][1:]):
                    self.ops[i], self.ops[j] = pool, op
                    self.paths[i], self.paths[j] = self.paths[j], self.paths[i]
                    self.shapes[i] = (op.channels, *shape[1:])

    def _is_only_reader(self, i: int, word: str) -> bool:
        """Return whether tensor i has a single reader, an operation of this word."""
        return len(self.readers[i]) == 1 and self.ops[self.readers[i][0]].word == word

    def _needs_output(self, i: int) -> bool:
        """Return whether operation i is an activation whose backward needs its output rather than its input."""
        op = self.ops[i]
        return isinstance(op, Act) and ACTIVATIONS[op.function][1] == "output"

    def concat_parts(self, i: int) -> tuple[int, ...]:
        """Return the tensors that tensor i is a concat of, or the tensor itself."""
        return self.inputs[i] if self.ops[i].word == "cat" else (i,)

    def norm_inputs(self, i: int) -> tuple[int, ...]:
        """Return what a batch norm of tensor i reads: the parts of a concat that is not contiguous in memory."""
        return (i,) if i in self.buffered_concats else self.concat_parts(i)

    def _find_sources(self) -> None:
        for i, (op, inputs) in enumerate(zip(self.ops, self.inputs, strict=True)):
            fused = inputs[0] if inputs and inputs[0] in self.fused_norms else None
            if fused is not None:
                self.sources[i] = self.norm_inputs(self.inputs[fused][0])
            elif isinstance(op, Norm) and not op.groups:
                self.sources[i] = self.norm_inputs(inputs[0])
            else:
                self.sources[i] = inputs

    # ------------------------------------------------------------------ what is recomputed

    def _plan_saved_tensors(self, leanest: bool) -> list[bool]:
        """Return for each tensor whether it is computed once.

        A sum is recomputed if all its terms are saved in any case and are not sums themselves (in ``leanest``: only
        saved ones), so that nothing is recomputed through a chain of sums. So is an averaged map that is read by a
        single convolution.
        """
        materialized = [op.word not in _CHEAP for op in self.ops]
        self.materialized = materialized
        for i, op in enumerate(self.ops):
            if isinstance(op, Act):
                materialized[i] = self._needs_output(i) and materialized[self.inputs[i][0]]
            elif leanest and isinstance(op, Conv) and self._is_bottleneck(i, op):
                materialized[i] = False
        saved = self._saved_in_any_case()
        summed: set[int] = set()  # sums, and tensors recomputed from recomputed sums
        for i, op in enumerate(self.ops):
            word = op.word
            if word in ("add", "mean"):
                leaves, from_sums = self._materialized_ancestors(i, summed)
                materialized[i] = not leaves <= saved or from_sums or (not leanest and bool(leaves & summed))
                summed.add(i)
            elif word in ("avgpool", "gap"):
                leaves, _ = self._materialized_ancestors(i, summed)
                materialized[i] = not (self._is_only_reader(i, "conv") and leaves <= saved)
            elif self._needs_output(i):
                source = self.inputs[i][0]
                if materialized[i]:
                    materialized[i] = materialized[source] and source not in saved
                if source in summed:
                    summed.add(i)
        return materialized

    def _materialized_ancestors(self, i: int, summed: set[int]) -> tuple[set[int], bool]:
        """Return the nearest materialized tensors that tensor i is computed from, and whether a recomputed sum is used.

        Args:
            i: The tensor.
            summed: Sums, and tensors recomputed from recomputed sums.
        """
        ancestors, visited, stack, from_sums = set(), set(), list(self.inputs[i]), False
        while stack:
            tensor = stack.pop()
            if tensor in visited:
                continue
            visited.add(tensor)
            if self.materialized[tensor]:
                ancestors.add(tensor)
            else:
                from_sums = from_sums or tensor in summed
                stack.extend(self.inputs[tensor])
        return ancestors, from_sums

    def _is_bottleneck(self, i: int, op: Conv) -> bool:
        """Return whether a 1x1 convolution is read, through norms and activations, by one larger convolution only."""
        if (op.kernel, op.stride) != (1, 1):
            return False
        while len(self.readers[i]) == 1:
            i = self.readers[i][0]
            reader = self.ops[i]
            if not isinstance(reader, (Norm, Act)):
                return isinstance(reader, Conv) and reader.kernel > 1
        return False

    def _saved_in_any_case(self) -> set[int]:
        gradient_flow = self.find_gradient_flow(0, len(self.ops) - 1, False, {})
        return set(self.plan_backward(Piece(0, len(self.ops) - 1, (), (), {}), gradient_flow).saved)

    # ------------------------------------------------------------------ pieces and buffers

    def _cut_into_pieces(self) -> list[Piece]:
        pieces, entry, reach = [], 0, 0
        for i in range(1, len(self.ops)):
            is_cut = reach <= i and self.materialized[i] and i - entry >= MIN_PIECE_OPERATIONS
            if i == self.output or is_cut:
                pieces.append(self._assign_buffers(entry, i))
                entry = i
            reach = max(reach, *self.readers[i], 0)
        return pieces

    def _assign_buffers(self, entry: int, last: int) -> Piece:
        """Return a piece whose concats share buffers.

        A row of tensors becomes a buffer if several concats read runs of it, or if all its tensors are recomputed.
        """
        rows, concats_of = self._runs_of_concats(entry, last)
        buffers: list[tuple[int, ...]] = []
        channels: list[int] = []
        slices: dict[int, tuple[int, int, int]] = {}
        for row, concats in zip(rows, concats_of, strict=True):
            if len(concats) > 1 or not any(self.materialized[part] or part == entry for part in row):
                offsets, width = {}, 0
                for part in row:
                    offsets[part] = width
                    width += self.shapes[part][0]
                for i in (*row, *concats):
                    first = offsets[self.concat_parts(i)[0] if i in concats else i]
                    slices[i] = len(buffers), first, first + self.shapes[i][0]
                self.buffered_concats.update(concats)
                channels.append(width)
                buffers.append(tuple(row))
        return Piece(entry, last, tuple(buffers), tuple(channels), slices)

    def _runs_of_concats(self, entry: int, last: int) -> tuple[list[list[int]], list[list[int]]]:
        """Return disjoint rows of tensors, and for each row the concats whose parts are a run of it, longest first."""
        rows: list[list[int]] = []
        concats_of: list[list[int]] = []
        row_of: dict[int, int] = {}
        concats = [i for i in range(entry + 1, last) if self.ops[i].word == "cat"]
        for i in sorted(concats, key=lambda i: -len(self.inputs[i])):
            parts = self.inputs[i]
            if len(set(parts)) < len(parts):
                continue
            index = row_of.get(parts[0])
            if index is None:
                if any(part in row_of for part in parts):
                    continue
                index = len(rows)
                rows.append(list(parts))
                concats_of.append([])
            else:
                row = rows[index]
                first = row.index(parts[0])
                common = len(row) - first
                if tuple(row[first : first + len(parts)]) != parts[:common]:
                    continue
                if any(part in row_of for part in parts[common:]):
                    continue
                row.extend(parts[common:])
            row_of.update(dict.fromkeys(parts, index))
            concats_of[index].append(i)
        return rows, concats_of

    def keeps_buffer(self, piece: Piece, buffer: int) -> bool:
        """Return whether a buffer is saved as it is, since nothing in it is recomputed."""
        return all(self.materialized[part] or part == piece.entry for part in piece.buffers[buffer])

    # ------------------------------------------------------------------ the backward pass

    def find_gradient_flow(
        self, entry: int, last: int, entry_needs_grad: bool, trained: Mapping[int, tuple[bool, ...]]
    ) -> dict[int, bool]:
        """Return for each tensor whether it has a gradient.

        Args:
            entry: First tensor.
            last: Last tensor.
            entry_needs_grad: Whether the first tensor has a gradient.
            trained: For operations with parameters, which of their parameters are trained; default all.
        """
        gradient_flow = {entry: entry_needs_grad}
        for i in range(entry + 1, last + 1):
            op = self.ops[i]
            trains = any(trained[i]) if i in trained else op.stateful and op.params > 0
            gradient_flow[i] = trains or any(gradient_flow[source] for source in self.inputs[i])
        return gradient_flow

    def _needed_tensors(self, i: int, gradient_flow: Mapping[int, bool], weights: bool, batch: bool) -> Iterable[int]:
        """Return the tensors whose values an operation's backward needs.

        Args:
            i: The operation.
            gradient_flow: Which tensors have a gradient.
            weights: Whether its weight is trained.
            batch: Whether a batch norm uses the statistics of the batch.
        """
        op, inputs = self.ops[i], self.inputs[i]
        if op.word in _SHAPE_ONLY or (op.word in _WEIGHTED and not weights):
            return ()
        if isinstance(op, Norm) and not op.groups:
            return self.norm_inputs(inputs[0]) if weights or (batch and gradient_flow[inputs[0]]) else ()
        saved = op.saved_for_backward(
            tuple([gradient_flow[s] for s in inputs]), *[self.shapes[s] for s in inputs], self.shapes[i]
        )
        tensors = [inputs[position] for position in saved.inputs]
        return [*tensors, i] if saved.output else tensors

    def _needed_statistics(self, piece: Piece, gradient_flow: Mapping[int, bool], frozen: set[int]) -> frozenset[int]:
        """Return the tensors whose batch statistics the backward of a norm needs."""
        return frozenset(
            part
            for i in range(piece.entry + 1, piece.last + 1)
            if isinstance(op := self.ops[i], Norm) and not op.groups and i not in frozen and gradient_flow[i]
            for part in self.concat_parts(self.inputs[i][0])
        )

    def _statistics_to_rebuild(self, rebuilt: Iterable[int], frozen: set[int]) -> frozenset[int]:
        """Return the tensors whose batch statistics are needed to rebuild tensors, also where no gradient flows."""
        computed = {
            i for tensor in rebuilt for i in (tensor, *self.inputs[tensor]) if i == tensor or i in self.fused_norms
        }
        return frozenset(
            part
            for i in computed
            if isinstance(op := self.ops[i], Norm) and not op.groups and i not in frozen
            for part in self.concat_parts(self.inputs[i][0])
        )

    def plan_backward(
        self,
        piece: Piece,
        gradient_flow: Mapping[int, bool],
        trained: Mapping[int, tuple[bool, ...]] | None = None,
        frozen: Iterable[int] = (),
    ) -> BackwardPlan:
        """Plan the backward pass of a piece.

        Args:
            piece: The piece.
            gradient_flow: Which of its tensors have a gradient.
            trained: For operations with parameters, which of their parameters are trained; default all.
            frozen: Batch norms that use their running statistics.
        """
        trained, frozen = trained or {}, set(frozen)
        statistics = self._needed_statistics(piece, gradient_flow, frozen)
        available: set[int] = set()
        last_use: dict[int, int] = {}
        saved: set[int] = set()
        steps: list[tuple[int, list[int]]] = []
        for i in range(piece.last, piece.entry - 1, -1):
            if not gradient_flow[i]:
                continue
            needed: list[int] = [i] if i in statistics else []
            if i > piece.entry:
                op = self.ops[i]
                weights = any(trained[i][:1]) if i in trained else op.stateful and op.params > 0
                needed += self._needed_tensors(i, gradient_flow, weights, i not in frozen)
            rebuilt, stack = [], list(needed)
            for tensor in needed:
                last_use[tensor] = i
            while stack:
                tensor = stack.pop()
                if tensor in available:
                    continue
                available.add(tensor)
                if self.materialized[tensor] or tensor == piece.entry:
                    saved.add(tensor)
                else:
                    rebuilt.append(tensor)
                    for source in self.sources[tensor]:
                        last_use[source] = i
                    stack.extend(self.sources[tensor])
            steps.append((i, sorted(rebuilt)))
        statistics |= self._statistics_to_rebuild({i for _, rebuilt in steps for i in rebuilt}, frozen)
        freed: dict[int, list[int]] = {}
        for tensor, step in last_use.items():
            freed.setdefault(step, []).append(tensor)
        in_buffers = {
            i: piece.buffer_slices[i][0]
            for i in saved
            if i in piece.buffer_slices and self.keeps_buffer(piece, piece.buffer_slices[i][0])
        }
        return BackwardPlan(
            tuple(sorted(saved - in_buffers.keys())),
            tuple(sorted(set(in_buffers.values()))),
            tuple([BackwardStep(i, tuple(rebuilt), tuple(freed.get(i, ()))) for i, rebuilt in steps]),
            statistics,
        )

    # ------------------------------------------------------------------ its memory

    def saved_bytes(self) -> tuple[int, int]:
        """Return the bytes saved for backward in training: those per image, and those per batch (statistics)."""
        saved: set[int] = set()
        image = batch = 0
        needs_grad = False
        for piece in self.pieces:
            gradient_flow = self.find_gradient_flow(piece.entry, piece.last, needs_grad, {})
            needs_grad = gradient_flow[piece.last]
            plan = self.plan_backward(piece, gradient_flow)
            saved.update(plan.saved)
            image += FLOAT_BYTES * sum(count_elements(self.shapes, piece.buffers[i]) for i in plan.saved_buffers)
            batch += 2 * FLOAT_BYTES * sum(self.shapes[i][0] for i in plan.statistics)
            image += sum(
                _extra_bytes(self.ops[i], self.shapes[i])
                for i in range(piece.entry + 1, piece.last + 1)
                if gradient_flow[i]
            )
        return image + FLOAT_BYTES * count_elements(self.shapes, saved), batch


def count_elements(shapes: Sequence[Shape], tensors: Iterable[int]) -> int:
    """Return the number of elements per image in some tensors."""
    return sum(prod(shapes[i]) for i in tensors)


def _extra_bytes(op: Primitive, shape: Shape) -> int:
    """Return the bytes per image that an operation saves besides tensors: masks, statistics of an image."""
    if isinstance(op, DropPath):
        return FLOAT_BYTES
    if isinstance(op, Dropout):
        return FLOAT_BYTES * shape[0] if op.channels else prod(shape)
    return 2 * FLOAT_BYTES * op.groups if isinstance(op, Norm) else 0
