"""Networks as nested blocks: graphs whose parts are counted once and then stand as single operations.

A `Block` is a part of a network that reads one or two tensors. Its operations are operations of the graph or further
blocks, and its figures follow from theirs, so that a part is counted once however often it occurs, in one network or in
many. Blocks end where no later operation can look into them (`block_tape.py`), and operations without readers are
removed at every level; so the figures of nested blocks are those of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nas_agg.graph.primitives import Primitive, Shape


class Body:
    """The operations of a part of a network, each of which leads to an output.

    Attributes:
        ops: The operations.
        inputs: The tensors that each reads: operations of the body by number; -1 and -2 are the tensors that enter.
        shapes: Their output shapes.
        weights: For operations that share their weights, a text that is equal for those that do; for others empty.
        outputs: The tensors that leave.

    In its constructor, ``mirrors`` are operations that repeat an output of a block, as (block, output), so that later
    operations can look through them; where they are read themselves, it is the block's output that is read.
    """

    __slots__ = ("inputs", "ops", "outputs", "shapes", "weights")

    def __init__(
        self,
        ops: Sequence[Any],
        inputs: Sequence[tuple[int, ...]],
        shapes: Sequence[Shape],
        weights: Sequence[str],
        outputs: tuple[int, ...],
        mirrors: Mapping[int, tuple[int, int]] | None = None,
    ):
        count = len(ops)
        ops, inputs = list(ops), list(inputs)
        live = bytearray(count)
        for output in outputs:
            if output >= 0:
                live[output] = 1
        wanted: dict[int, set[int]] = {}  # the outputs that are read of blocks that have several
        for i in range(count - 1, -1, -1):
            if live[i]:
                if mirrors and i in mirrors:
                    block, index = mirrors[i]
                    ops[i], inputs[i] = BlockOutput(index), (block,)
                if ops[i].__class__ is BlockOutput:
                    wanted.setdefault(inputs[i][0], set()).add(ops[i].index)
                elif i in wanted and len(wanted[i]) < len(ops[i].body.outputs):
                    _restrict(ops, inputs, i, tuple(sorted(wanted[i])))
                for source in inputs[i]:
                    if source >= 0:
                        live[source] = 1
        if all(live):
            self.ops: list[Any] = ops
            self.inputs, self.shapes, self.weights, self.outputs = inputs, list(shapes), list(weights), outputs
        else:
            order = [i for i in range(count) if live[i]]
            place = {i: k for k, i in enumerate(order)}
            place[-1], place[-2] = -1, -2
            self.ops = [ops[i] for i in order]
            self.inputs = [tuple([place[source] for source in inputs[i]]) for i in order]
            self.shapes = [shapes[i] for i in order]
            self.weights = [weights[i] for i in order]
            self.outputs = tuple([place[output] for output in outputs])

    def count(self) -> tuple[int, int]:
        """Trainable parameters, shared ones once, and multiply-adds per image."""
        params = macs = 0
        counted: set[str] = set()
        for op, shape, weights in zip(self.ops, self.shapes, self.weights, strict=True):
            if op.stateful:
                macs += op.macs(shape)
                if not weights or weights not in counted:
                    params += op.params
                    counted.add(weights)
        return params, macs


def _restrict(ops: list[Any], inputs: list[tuple[int, ...]], i: int, read: tuple[int, ...]) -> None:
    """Replace a block by the part of it that leads to the outputs that are read."""
    block = ops[i]
    ops[i] = part = block.restricted(read)
    inputs[i] = tuple([inputs[i][block.entries.index(entry)] for entry in part.entries])
    for k in range(i + 1, len(ops)):
        if ops[k].__class__ is BlockOutput and inputs[k] == (i,) and ops[k].index in read:
            ops[k] = BlockOutput(read.index(ops[k].index))


class Block(Primitive):
    """A part of a network as one operation.

    Args:
        body: Its operations.
        size: The number of operations of the graph, those without readers included.
        reads: The number of tensors that these read.

    Attributes:
        entries: What its inputs are in the body: -1 or -2.
        figures: Further figures by their names, as they are computed.
    """

    __slots__ = ("_body", "_macs", "_params", "_restricted", "entries", "figures", "reads", "size")
    word: ClassVar[str] = "block"
    stateful: ClassVar[bool] = True

    def __init__(self, body: Body, size: int, reads: int):
        self._body: Body | None = body
        self.size, self.reads = size, reads
        self.entries = tuple(sorted({source for row in body.inputs for source in row if source < 0}, reverse=True))
        self._params, self._macs = body.count()
        self._restricted: dict[tuple[int, ...], Block] = {}
        self.figures: dict[Any, Any] = {}

    @property
    def body(self) -> Body:
        """Its operations."""
        assert self._body is not None
        return self._body

    @property
    def params(self) -> int:
        return self._params

    def macs(self, out: Shape) -> int:
        return self._macs

    def restricted(self, read: tuple[int, ...]) -> Block:
        """The part that leads to some of the outputs."""
        if read not in self._restricted:
            body = self.body
            outputs = tuple([body.outputs[index] for index in read])
            part = Body(body.ops, body.inputs, body.shapes, body.weights, outputs)
            self._restricted[read] = Block(part, self.size, self.reads)
        return self._restricted[read]


class BlockOutput(Primitive):
    """One of several outputs of a block, which it reads."""

    __slots__ = ("index",)
    word: ClassVar[str] = "output"

    def __init__(self, index: int):
        self.index = index
