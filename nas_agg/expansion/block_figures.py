"""Figures of a network of nested blocks: depth, bytes saved for backward, numbers of operations, and its paths.

Figures of a block are kept with it. They equal those of the graph (`nas_agg.expansion.costs.Cost`).
"""

from __future__ import annotations

from functools import cached_property
from math import ceil, prod

import numpy as np

from nas_agg.expansion.blocks import Block, BlockOutput, Body
from nas_agg.expansion.costs import BATCH
from nas_agg.graph.backward_plan import FLOAT_BYTES
from nas_agg.graph.paths import COUNT, EMPTY_PATH, LEVELS, map_level, merge, operation_statistics
from nas_agg.graph.primitives import Conv, Shape

Array = np.ndarray

#: What is counted over all operations that lead to the output.
COUNTED_OPERATIONS = ("conv", "norm", "act", "add", "cat", "mul", "maxpool", "avgpool", "slice", "scale")
COUNTED = (
    *COUNTED_OPERATIONS,
    "pointwise convolutions",
    "terms of sums",
    "parts of concats",
    *[f"convolutions on map level {level}" for level in range(LEVELS)],
)
_PLACES = {word: place for place, word in enumerate(COUNTED_OPERATIONS)}


def count_operations(ops: list, inputs: list, shapes: list[Shape], height: int) -> Array:
    """Count the operations of a graph or a body, as named by `COUNTED`.

    Args:
        ops: The operations.
        inputs: The tensors that each reads.
        shapes: Their output shapes.
        height: The height of the image.
    """
    counts = np.zeros(len(COUNTED), np.int64)
    for op, row, shape in zip(ops, inputs, shapes, strict=True):
        if isinstance(op, Block):
            counts += _block_counts(op, height)
            continue
        if (place := _PLACES.get(op.word)) is not None:
            counts[place] += 1
        if isinstance(op, Conv):
            counts[10] += op.kernel == 1
            counts[13 + map_level(shape, height)] += 1
        elif op.word in ("add", "mean"):
            counts[11] += len(row)
        elif op.word == "cat":
            counts[12] += len(row)
    return counts


def _block_counts(block: Block, height: int) -> Array:
    key = ("counts", height)
    if key not in block.figures:
        body = block.body
        block.figures[key] = count_operations(body.ops, body.inputs, body.shapes, height)
    return block.figures[key]


def _paths(body: Body, entry: int, height: int) -> list[Array | None]:
    """The statistics of the paths from what enters to each output; None where there is no path."""
    paths: list[Array | None] = []

    def at(tensor: int) -> Array | None:
        if tensor >= 0:
            return paths[tensor]
        return EMPTY_PATH if tensor == entry else None

    for op, inputs, shape in zip(body.ops, body.inputs, body.shapes, strict=True):
        if isinstance(op, BlockOutput):
            block, rows = body.ops[inputs[0]], body.inputs[inputs[0]]
            paths.append(_through(block, op.index, [at(tensor) for tensor in rows], height))
        elif isinstance(op, Block):
            paths.append(_through(op, 0, [at(tensor) for tensor in inputs], height))
        else:
            found = [path for tensor in inputs if (path := at(tensor)) is not None]
            paths.append(merge(found) + operation_statistics(op, map_level(shape, height)) if found else None)
    return [at(output) for output in body.outputs]


def _through(block: Block, output: int, entering: list[Array | None], height: int) -> Array | None:
    """The statistics of paths that enter a block and leave it by one of its outputs."""
    found = []
    for entry, path in zip(block.entries, entering, strict=True):
        inside = _block_paths(block, entry, height)[output]
        if path is not None and inside is not None:
            found.append(path + inside)
    return merge(found) if found else None


def _block_paths(block: Block, entry: int, height: int) -> list[Array | None]:
    key = ("paths", entry, height)
    if key not in block.figures:
        block.figures[key] = _paths(block.body, entry, height)
    return block.figures[key]


def _gradients(body: Body, entering: dict[int, bool]) -> list[bool]:
    """For each tensor whether it needs a gradient."""
    grads: list[bool] = []
    for op, inputs in zip(body.ops, body.inputs, strict=True):
        sources = [grads[tensor] if tensor >= 0 else entering[tensor] for tensor in inputs]
        if isinstance(op, BlockOutput):
            block, rows = body.ops[inputs[0]], body.inputs[inputs[0]]
            sources = [grads[tensor] if tensor >= 0 else entering[tensor] for tensor in rows]
            grads.append(_block_gradients(block, tuple(sources))[op.index])
        elif isinstance(op, Block):
            grads.append(_block_gradients(op, tuple(sources))[0])
        else:
            grads.append(any(sources) or (op.stateful and op.params > 0))
    return grads


def _block_gradients(block: Block, entering: tuple[bool, ...]) -> list[bool]:
    key = ("gradients", entering)
    if key not in block.figures:
        body = block.body
        known = dict(zip(block.entries, entering, strict=True))
        grads = _gradients(body, known)
        block.figures[key] = [grads[output] if output >= 0 else known[output] for output in body.outputs]
    return block.figures[key]


def _saved(
    body: Body, entering: dict[int, bool], entering_shapes: dict[int, Shape], wanted: frozenset[int]
) -> tuple[int, int, frozenset[int]]:
    """What eager PyTorch saves for backward.

    Args:
        body: The operations.
        entering: Whether what enters needs a gradient.
        entering_shapes: Its shapes.
        wanted: The outputs that later operations save, by number.

    Returns:
        Bytes per image and per batch, without what enters, and which of what enters is saved.
    """
    grads, shapes = _gradients(body, entering), body.shapes
    saved = {body.outputs[index] for index in wanted}
    of_blocks: dict[int, set[int]] = {}
    image = batch = 0
    for i in range(len(body.ops) - 1, -1, -1):
        op, inputs = body.ops[i], body.inputs[i]
        if isinstance(op, BlockOutput):
            if i in saved:
                of_blocks.setdefault(inputs[0], set()).add(op.index)
            continue
        row_grads = tuple([grads[tensor] if tensor >= 0 else entering[tensor] for tensor in inputs])
        row_shapes = [shapes[tensor] if tensor >= 0 else entering_shapes[tensor] for tensor in inputs]
        if isinstance(op, Block):
            outputs = frozenset(of_blocks.get(i, {0} if i in saved else set()))
            more, per_batch, sources = _block_saved(op, row_grads, tuple(row_shapes), outputs)
            image, batch = image + more, batch + per_batch
            saved.update(inputs[op.entries.index(entry)] for entry in sources)
            continue
        tensors = op.saved_for_backward(row_grads, *row_shapes, shapes[i])
        image, batch = image + tensors.image, batch + tensors.batch
        if i in saved or tensors.output:
            if op.view:
                saved.add(inputs[0])
            else:
                image += FLOAT_BYTES * prod(shapes[i])
        saved.update(inputs[position] for position in tensors.inputs)
    return image, batch, frozenset(tensor for tensor in saved if tensor < 0)


def _block_saved(
    block: Block, grads: tuple[bool, ...], shapes: tuple[Shape, ...], wanted: frozenset[int]
) -> tuple[int, int, frozenset[int]]:
    key = ("saved", grads, wanted)
    if key not in block.figures:
        entering, entering_shapes = dict(zip(block.entries, grads)), dict(zip(block.entries, shapes))  # noqa: B905
        block.figures[key] = _saved(block.body, entering, entering_shapes, wanted)
    return block.figures[key]


class BlockCost:
    """The cost of a network of nested blocks; each metric is computed on first access.

    Args:
        body: The network; what enters is the image.
        image: Shape of the image.
    """

    def __init__(self, body: Body, image: Shape):
        self.body, self.image = body, image
        self.params, self.macs = body.count()

    @cached_property
    def activation_bytes(self) -> int:
        """Bytes per image saved for backward, at batch 32, the image included."""
        image, batch, entering = _saved(self.body, {-1: False}, {-1: self.image}, frozenset())
        if entering:
            image += FLOAT_BYTES * prod(self.image)
        return image + ceil(batch / BATCH)

    @cached_property
    def paths(self) -> Array:
        """The statistics of all paths, as named by `nas_agg.graph.paths.STATISTICS`."""
        paths = _paths(self.body, -1, self.image[1])[0]
        assert paths is not None
        return paths

    @property
    def depth(self) -> int:
        """Convolutions and linear layers on the longest path from image to logits."""
        return int(self.paths[1 + 2 * COUNT])

    @cached_property
    def operations(self) -> Array:
        """The numbers of operations, as named by `COUNTED`."""
        return count_operations(self.body.ops, self.body.inputs, self.body.shapes, self.image[1])
