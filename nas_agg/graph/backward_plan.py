"""The backward pass of a rematerialized network: what each piece saves, what it recomputes and when, and the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

from nas_agg.graph.primitives import Dropout, DropPath, Norm, Primitive, Shape

FLOAT_BYTES = 4

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


class RematerializedGraph:
    """A network as training runs it: its operations, and which of their outputs are computed once.

    Attributes:
        ops: The operations; ``inputs``, ``shapes`` and ``paths`` belong to them as in a graph.
        materialized: For each tensor, whether it is computed once; the others are recomputed in backward.
        fused_norms: Norms that are computed within the activation that is their only reader.
        sources: For each tensor, the tensors that computing it reads.
        pieces: The network's pieces, in order.
        buffered_concats: Concats that are contiguous in a buffer.
    """

    ops: list[Primitive]
    inputs: list[tuple[int, ...]]
    shapes: list[Shape]
    paths: list[str]
    materialized: list[bool]
    fused_norms: set[int]
    sources: list[tuple[int, ...]]
    pieces: list[Piece]
    buffered_concats: set[int]

    def concat_parts(self, i: int) -> tuple[int, ...]:
        """Return the tensors that tensor i is a concat of, or the tensor itself."""
        return self.inputs[i] if self.ops[i].word == "cat" else (i,)

    def norm_inputs(self, i: int) -> tuple[int, ...]:
        """Return what a batch norm of tensor i reads: the parts of a concat that is not contiguous in memory."""
        return (i,) if i in self.buffered_concats else self.concat_parts(i)

    def keeps_buffer(self, piece: Piece, buffer: int) -> bool:
        """Return whether a buffer is saved as it is, since nothing in it is recomputed."""
        return all(self.materialized[part] or part == piece.entry for part in piece.buffers[buffer])

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

    def _recompute(
        self, piece: Piece, needed_by: Mapping[int, Sequence[int]]
    ) -> tuple[set[int], list[tuple[int, list[int]]], dict[int, int]]:
        """Return what is saved, what each operation's backward recomputes first, and each tensor's last use.

        Args:
            piece: The piece.
            needed_by: For each operation, in the order of the backward pass, the tensors that its backward needs.
        """
        available: set[int] = set()
        saved: set[int] = set()
        steps: list[tuple[int, list[int]]] = []
        last_use: dict[int, int] = {}
        for i, needed in needed_by.items():
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
        return saved, steps, last_use

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
        needed_by: dict[int, list[int]] = {}
        for i in range(piece.last, piece.entry - 1, -1):
            if gradient_flow[i]:
                needed_by[i] = [i] if i in statistics else []
                if i > piece.entry:
                    op = self.ops[i]
                    weights = any(trained[i][:1]) if i in trained else op.stateful and op.params > 0
                    needed_by[i] += self._needed_tensors(i, gradient_flow, weights, i not in frozen)
        saved, steps, last_use = self._recompute(piece, needed_by)
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
