"""Rematerialization: which tensors training saves for backward, and which it recomputes.

Eager PyTorch saves whatever each operation asks for. Here the outputs of convolutions (and of other operations that are
expensive to compute) are saved, and concats, norms, activations and sums of tensors that are saved in any case are
recomputed in backward. The graph is cut into pieces at tensors that everything after them depends on alone; a piece is
run, and differentiated, as one operation. The plan is arithmetic on the graph, so that memory can be predicted without
torch; `nas_agg.compiler.remat.executor` executes it. The idea is that of Chen et al. (2016, "Training Deep Nets with
Sublinear Memory Cost"), decided for each tensor.
"""

from __future__ import annotations

from math import prod
from typing import Literal, get_args

from nas_agg.graph.backward_plan import Piece, RematerializedGraph
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import ACTIVATIONS, Act, AvgPool, Conv, Gap, Norm

#: Memory modes of training. ``plain`` keeps for backward what eager PyTorch keeps; ``lean`` keeps the outputs of
#: convolutions; ``leanest`` recomputes the 1x1 convolutions of bottlenecks as well.
MemoryMode = Literal["plain", "lean", "leanest"]
MEMORY_MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)

#: The modes that a user may request; ``auto`` is the first of the others that fits the device.
RequestedMemoryMode = Literal["auto", MemoryMode]

MIN_PIECE_OPERATIONS = 12

_CHEAP = frozenset(
    {"norm", "act", "cat", "slice", "pad", "scale", "mul", "product", "times", "shuffle", "dropout", "drop-path"}
)


class RematerializationPlan(RematerializedGraph):
    """Which tensors of a network are saved for backward, and which are recomputed.

    Args:
        graph: The network. The plan may rewrite it where this does not change the function; ``ops``, ``inputs``,
            ``shapes`` and ``paths`` describe what is run.
        memory: Memory mode, ``lean`` or ``leanest``.
    """

    def __init__(self, graph: Graph, memory: MemoryMode):
        self.ops, self.inputs = list(graph.ops), list(graph.inputs)
        self.shapes, self.paths, self.output = list(graph.shapes), list(graph.paths), graph.output
        self._pool_before_convolutions(graph.readers)
        self.readers = Graph(self.ops, self.inputs, self.shapes, self.paths, self.output).readers
        self.buffered_concats = set()
        self.fused_norms = {
            i
            for i, op in enumerate(self.ops)
            if isinstance(op, Norm)
            and not op.groups
            and self._is_only_reader(i, "act")
            and self._needs_output(self.readers[i][0])
        }
        self.sources = [()] * len(self.ops)
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
