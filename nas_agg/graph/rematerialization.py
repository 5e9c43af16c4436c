"""Training with less memory: what is kept for backward, and what is built again from it.

Eager PyTorch keeps what every operation asks for. Here outputs of convolutions (and of what else is dear to compute)
are kept, and concats, norms, activations and sums of what is kept anyway are built again in backward. The graph is cut
into pieces where one tensor alone goes on; a piece is run, and differentiated, as one. What is decided here is
arithmetic on the graph, so that it can be counted without torch; `nas_agg.compiler.remat.executor` runs it.
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

FLOAT = 4  # bytes
PIECE = 12  # operations that a piece has at least

_CHEAP = frozenset(
    {"norm", "act", "cat", "slice", "pad", "scale", "mul", "product", "times", "shuffle", "dropout", "drop-path"}
)
_SHAPE_ONLY = frozenset({"avgpool", "gap", "dropout", "drop-path"})  # their backward needs no value
_WEIGHTED = frozenset({"conv", "linear", "scale"})  # they need their input for their weight's gradient alone


class Piece(NamedTuple):
    """A part of the network: the operations after ``entry`` up to ``last``, which reads nothing else from before.

    Attributes:
        entry: The tensor that enters.
        last: The tensor that leaves.
        buffers: Tensors that lie side by side in one memory, because concats read runs of them.
        widths: The channels of each buffer.
        laid: For each of those tensors, and for each such concat, its buffer's place and where its channels begin and
            end there.
    """

    entry: int
    last: int
    buffers: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    laid: Mapping[int, tuple[int, int, int]]


class Step(NamedTuple):
    """A step of the backward pass: ``op``'s, behind the rebuilding of ``built``; ``done`` is needed no more."""

    op: int
    built: tuple[int, ...]
    done: tuple[int, ...]


class Backward(NamedTuple):
    """What a piece's backward pass needs.

    Attributes:
        kept: Tensors kept, other than in buffers.
        buffers: The places of the buffers that are kept.
        steps: What is done, the last operation first; the piece's entry is the last.
        normed: Tensors whose batch statistics are kept.
    """

    kept: tuple[int, ...]
    buffers: tuple[int, ...]
    steps: tuple[Step, ...]
    normed: frozenset[int]


class RematerializationPlan:
    """How a network is run when it keeps less.

    Args:
        graph: The network. It may be rewritten where that changes no function: ``ops``, ``inputs``, ``shapes`` and
            ``paths`` are those of what is run.
        memory: ``lean`` or ``leanest``.

    Attributes:
        solid: For each tensor whether it is made once; else it is built again in backward.
        fused: Norms that are computed by the activation that alone reads them.
        sources: What computing each tensor reads.
        pieces: The network's pieces, in order.
        whole: Concats that lie in a buffer.
    """

    def __init__(self, graph: Graph, memory: MemoryMode):
        self.ops, self.inputs = list(graph.ops), list(graph.inputs)
        self.shapes, self.paths, self.output = list(graph.shapes), list(graph.paths), graph.output
        self._pool_first(graph.readers)
        self.readers = Graph(self.ops, self.inputs, self.shapes, self.paths, self.output).readers
        self.whole: set[int] = set()
        self.fused = {
            i
            for i, op in enumerate(self.ops)
            if isinstance(op, Norm) and not op.groups and self._only(i, "act") and self._of_output(self.readers[i][0])
        }
        self.sources: list[tuple[int, ...]] = [()] * len(self.ops)
        self._read()
        self.solid = self._decided(memory == "leanest")
        self.pieces = self._pieces()
        self._read()  # concats in buffers are read as they are

    # ------------------------------------------------------------------ the graph that is run

    def _pool_first(self, readers: list[list[int]]) -> None:
        """Puts a mean before the 1x1 convolution that it follows: they commute."""
        for i, op in enumerate(self.ops):
            if isinstance(op, Conv) and (op.kernel, op.stride, op.padding) == (1, 1, 0) and len(readers[i]) == 1:
                j = readers[i][0]
                pool, shape = self.ops[j], self.shapes[j]
                mean = isinstance(pool, Gap) or (isinstance(pool, AvgPool) and not (pool.padding and op.bias))
                if mean and prod(shape[1:]) < prod(self.shapes[i][1:]):
                    self.ops[i], self.ops[j] = pool, op
                    self.paths[i], self.paths[j] = self.paths[j], self.paths[i]
                    self.shapes[i] = (op.channels, *shape[1:])

    def _only(self, i: int, word: str) -> bool:
        return len(self.readers[i]) == 1 and self.ops[self.readers[i][0]].word == word

    def _of_output(self, i: int) -> bool:
        """Whether an activation's backward needs its output rather than its input."""
        op = self.ops[i]
        return isinstance(op, Act) and ACTIVATIONS[op.function][1] == "output"

    def parts(self, i: int) -> tuple[int, ...]:
        """The tensors that tensor i is a concat of; itself if it is none."""
        return self.inputs[i] if self.ops[i].word == "cat" else (i,)

    def operand(self, i: int) -> tuple[int, ...]:
        """What a batch norm of tensor i reads: the parts of a concat that lies nowhere as a whole."""
        return (i,) if i in self.whole else self.parts(i)

    def _read(self) -> None:
        for i, (op, inputs) in enumerate(zip(self.ops, self.inputs, strict=True)):
            behind = inputs[0] if inputs and inputs[0] in self.fused else None
            if behind is not None:
                self.sources[i] = self.operand(self.inputs[behind][0])
            elif isinstance(op, Norm) and not op.groups:
                self.sources[i] = self.operand(inputs[0])
            else:
                self.sources[i] = inputs

    # ------------------------------------------------------------------ what is built again

    def _decided(self, leanest: bool) -> list[bool]:
        """For each tensor whether it is made once.

        A sum is built again if all that it is made of is kept anyway and is no sum itself (in `leanest`: only kept
        ones), so that nothing is built through a chain of sums. So is a mean map that a convolution alone reads.
        """
        solid = [op.word not in _CHEAP for op in self.ops]
        self.solid = solid
        for i, op in enumerate(self.ops):
            if isinstance(op, Act):
                solid[i] = self._of_output(i) and solid[self.inputs[i][0]]
            elif leanest and isinstance(op, Conv) and self._is_bottleneck(i, op):
                solid[i] = False
        kept = self._kept_anyway()
        summed: set[int] = set()  # sums, and what is built from sums that are built again
        for i, op in enumerate(self.ops):
            word = op.word
            if word in ("add", "mean"):
                leaves, sums = self._leaves(i, summed)
                solid[i] = not leaves <= kept or sums or (not leanest and bool(leaves & summed))
                summed.add(i)
            elif word in ("avgpool", "gap"):
                solid[i] = not (self._only(i, "conv") and self._leaves(i, summed)[0] <= kept)
            elif self._of_output(i):
                below = self.inputs[i][0]
                if solid[i]:
                    solid[i] = solid[below] and below not in kept
                if below in summed:
                    summed.add(i)
        return solid

    def _leaves(self, i: int, summed: set[int]) -> tuple[set[int], bool]:
        """The solid tensors that a sum is made of, and whether it is made of a sum that is built again."""
        found, seen, todo, sums = set(), set(), list(self.inputs[i]), False
        while todo:
            at = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            if self.solid[at]:
                found.add(at)
            else:
                sums = sums or at in summed
                todo.extend(self.inputs[at])
        return found, sums

    def _is_bottleneck(self, i: int, op: Conv) -> bool:
        """Whether a 1x1 convolution's output goes, normed or not, into one convolution of more than 1x1 alone."""
        if (op.kernel, op.stride) != (1, 1):
            return False
        while len(self.readers[i]) == 1:
            i = self.readers[i][0]
            reader = self.ops[i]
            if not isinstance(reader, (Norm, Act)):
                return isinstance(reader, Conv) and reader.kernel > 1
        return False

    def _kept_anyway(self) -> set[int]:
        flows = self.flows(0, len(self.ops) - 1, False, {})
        return set(self.backward(Piece(0, len(self.ops) - 1, (), (), {}), flows).kept)

    # ------------------------------------------------------------------ pieces and buffers

    def _pieces(self) -> list[Piece]:
        found, entry, reach = [], 0, 0
        for i in range(1, len(self.ops)):
            whole = reach <= i and self.solid[i] and i - entry >= PIECE
            if i == self.output or whole:
                found.append(self._laid_out(entry, i))
                entry = i
            reach = max(reach, *self.readers[i], 0)
        return found

    def _laid_out(self, entry: int, last: int) -> Piece:
        """Lays tensors side by side of which several concats read runs, or that are built again for one."""
        rows: list[list[int]] = []
        row_of: dict[int, int] = {}
        runs: dict[int, list[int]] = {}
        cats = [i for i in range(entry + 1, last) if self.ops[i].word == "cat"]
        for i in sorted(cats, key=lambda i: -len(self.inputs[i])):
            parts = self.inputs[i]
            if len(set(parts)) < len(parts):
                continue
            place = row_of.get(parts[0])
            if place is None:
                if any(part in row_of for part in parts):
                    continue
                place = len(rows)
                rows.append(list(parts))
            else:
                row = rows[place]
                first = row.index(parts[0])
                common = len(row) - first
                if tuple(row[first : first + len(parts)]) != parts[:common]:
                    continue
                if any(part in row_of for part in parts[common:]):
                    continue
                row.extend(parts[common:])
            row_of.update(dict.fromkeys(parts, place))
            runs.setdefault(place, []).append(i)
        kept: list[tuple[int, ...]] = []
        widths: list[int] = []
        laid: dict[int, tuple[int, int, int]] = {}
        for place, row in enumerate(rows):
            if len(runs[place]) > 1 or not any(self.solid[part] or part == entry for part in row):
                begins, begin = {}, 0
                for part in row:
                    begins[part] = begin
                    begin += self.shapes[part][0]
                for i in (*row, *runs[place]):
                    first = begins[self.parts(i)[0] if i in runs[place] else i]
                    laid[i] = len(kept), first, first + self.shapes[i][0]
                self.whole.update(runs[place])
                widths.append(begin)
                kept.append(tuple(row))
        return Piece(entry, last, tuple(kept), tuple(widths), laid)

    def lasting(self, piece: Piece, buffer: int) -> bool:
        """Whether a buffer is kept as it is, since nothing in it is built again."""
        return all(self.solid[part] or part == piece.entry for part in piece.buffers[buffer])

    # ------------------------------------------------------------------ the backward pass

    def flows(self, entry: int, last: int, enters: bool, trained: Mapping[int, tuple[bool, ...]]) -> dict[int, bool]:
        """Which tensors have a gradient.

        Args:
            entry: The first tensor.
            last: The last tensor.
            enters: Whether the first has one.
            trained: For operations with parameters, which of them are trained; all, if unsaid.
        """
        found = {entry: enters}
        for i in range(entry + 1, last + 1):
            op = self.ops[i]
            own = any(trained[i]) if i in trained else op.stateful and op.params > 0
            found[i] = own or any(found[source] for source in self.inputs[i])
        return found

    def _wanted(self, i: int, flows: Mapping[int, bool], weights: bool, batch: bool) -> Iterable[int]:
        """The tensors whose values an operation's backward needs."""
        op, inputs = self.ops[i], self.inputs[i]
        if op.word in _SHAPE_ONLY or (op.word in _WEIGHTED and not weights):
            return ()
        if isinstance(op, Norm) and not op.groups:
            return self.operand(inputs[0]) if weights or (batch and flows[inputs[0]]) else ()
        keeps = op.kept(tuple([flows[s] for s in inputs]), *[self.shapes[s] for s in inputs], self.shapes[i])
        found = [inputs[place] for place in keeps.inputs]
        return [*found, i] if keeps.output else found

    def _normed(self, piece: Piece, flows: Mapping[int, bool], frozen: set[int]) -> frozenset[int]:
        """The tensors whose batch statistics the backward of a norm needs."""
        return frozenset(
            part
            for i in range(piece.entry + 1, piece.last + 1)
            if isinstance(op := self.ops[i], Norm) and not op.groups and i not in frozen and flows[i]
            for part in self.parts(self.inputs[i][0])
        )

    def backward(
        self,
        piece: Piece,
        flows: Mapping[int, bool],
        trained: Mapping[int, tuple[bool, ...]] | None = None,
        frozen: Iterable[int] = (),
    ) -> Backward:
        """What the backward pass of a piece keeps and does.

        Args:
            piece: The piece.
            flows: Which of its tensors have a gradient.
            trained: For operations with parameters, which of them are trained; all, if unsaid.
            frozen: Batch norms that use their running statistics.
        """
        trained, frozen = trained or {}, set(frozen)
        normed = self._normed(piece, flows, frozen)
        known: set[int] = set()
        last: dict[int, int] = {}
        kept: set[int] = set()
        steps: list[tuple[int, list[int]]] = []
        for i in range(piece.last, piece.entry - 1, -1):
            if not flows[i]:
                continue
            wanted: list[int] = [i] if i in normed else []
            if i > piece.entry:
                op = self.ops[i]
                weights = any(trained[i][:1]) if i in trained else op.stateful and op.params > 0
                wanted += self._wanted(i, flows, weights, i not in frozen)
            built, todo = [], list(wanted)
            for tensor in wanted:
                last[tensor] = i
            while todo:
                at = todo.pop()
                if at in known:
                    continue
                known.add(at)
                if self.solid[at] or at == piece.entry:
                    kept.add(at)
                else:
                    built.append(at)
                    for source in self.sources[at]:
                        last[source] = i
                    todo.extend(self.sources[at])
            steps.append((i, sorted(built)))
        ends: dict[int, list[int]] = {}
        for tensor, step in last.items():
            ends.setdefault(step, []).append(tensor)
        lie = {i: piece.laid[i][0] for i in kept if i in piece.laid and self.lasting(piece, piece.laid[i][0])}
        return Backward(
            tuple(sorted(kept - lie.keys())),
            tuple(sorted(set(lie.values()))),
            tuple([Step(i, tuple(built), tuple(ends.get(i, ()))) for i, built in steps]),
            normed,
        )

    # ------------------------------------------------------------------ what it takes

    def kept_bytes(self) -> tuple[int, int]:
        """Bytes kept for backward in training: those an image, and those a batch (statistics)."""
        held: set[int] = set()
        image = batch = 0
        enters = False
        for piece in self.pieces:
            flows = self.flows(piece.entry, piece.last, enters, {})
            enters = flows[piece.last]
            plan = self.backward(piece, flows)
            held.update(plan.kept)
            image += FLOAT * sum(size(self.shapes, piece.buffers[place]) for place in plan.buffers)
            batch += 2 * FLOAT * sum(self.shapes[i][0] for i in plan.normed)
            image += sum(
                _extra(self.ops[i], self.shapes[i]) for i in range(piece.entry + 1, piece.last + 1) if flows[i]
            )
        return image + FLOAT * size(self.shapes, held), batch


def size(shapes: Sequence[Shape], tensors: Iterable[int]) -> int:
    """Numbers an image in some tensors."""
    return sum(prod(shapes[i]) for i in tensors)


def _extra(op: Primitive, shape: Shape) -> int:
    """Bytes an image that an operation keeps besides tensors: masks, statistics of an image."""
    if isinstance(op, DropPath):
        return FLOAT
    if isinstance(op, Dropout):
        return FLOAT * shape[0] if op.channels else prod(shape)
    return 2 * FLOAT * op.groups if isinstance(op, Norm) else 0
