"""Costs of chains of layers, without the primitives of the graph.

`LAYER_COSTS` has a rule for the most common layers. It returns the same figures as the layer's primitive, and raises
`GenotypeError` where that does; all other layers are counted by their primitives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas_agg.common.errors import GenotypeError, located
from nas_agg.expansion.blocks import Block, Body
from nas_agg.graph.graph import Tape
from nas_agg.graph.primitives import MAX_SIDE, Shape
from nas_agg.language import layers
from nas_agg.language.resolved import ResolvedWord

#: From the values of a layer's fields and the shape that enters: output shape, parameters, MACs and operations.
LayerCost = tuple[Shape, int, int, int]
_Rule = Callable[[dict[str, Any], Shape, str], LayerCost]


def _window(shape: Shape, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    _, h, w = shape
    if stride == 1 and kernel == 2 * padding + 1:
        return h, w
    if min(h, w) + 2 * padding < kernel:
        raise GenotypeError(f"kernel size {kernel} does not fit a {h}x{w} map")
    h, w = (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1
    if h > MAX_SIDE or w > MAX_SIDE:
        raise GenotypeError(f"{h}x{w} exceeds the limit of the map size")
    return h, w


def _conv(values: dict[str, Any], shape: Shape, word: str) -> LayerCost:
    kernel, out, groups, padding, channels = (
        values["conv"], values["out"], values["groups"], values["padding"], shape[0]
    )  # fmt: skip
    if groups != 1 and (channels % groups or out % groups):
        raise GenotypeError(f"{groups} groups do not divide {channels} input and {out} output channels")
    h, w = _window(shape, kernel, values["stride"], (kernel - 1) // 2 if padding is None else padding)
    weights = kernel * kernel * channels * out // groups
    return (out, h, w), weights + out if values["bias"] else weights, weights * h * w, 1


def _norm(values: dict[str, Any], shape: Shape, word: str) -> LayerCost:
    return shape, 2 * shape[0], 0, 1


def _act(values: dict[str, Any], shape: Shape, word: str) -> LayerCost:
    return shape, 0, 0, 1


def _pool(values: dict[str, Any], shape: Shape, word: str) -> LayerCost:
    kernel, stride, padding = values[word], values["stride"], values["padding"]
    stride = kernel if stride is None else stride
    padding = (kernel - 1) // 2 if padding is None else padding
    if kernel == stride == 1 and not padding:
        return shape, 0, 0, 0
    if 2 * padding > kernel:
        raise GenotypeError(f"padding {padding} is more than half the kernel size {kernel}")
    return (shape[0], *_window(shape, kernel, stride, padding)), 0, 0, 1


def _pad(values: dict[str, Any], shape: Shape, word: str) -> LayerCost:
    channels = values["pad"]
    if channels < shape[0]:
        raise GenotypeError(f"cannot pad {shape[0]} channels to {channels}", ".pad")
    return (channels, *shape[1:]), 0, 0, int(channels > shape[0])


def _dropout(values: dict[str, Any], shape: Shape, word: str) -> LayerCost:
    return shape, 0, 0, 1 if values[word] else 0


LAYER_COSTS: dict[type, _Rule] = {
    layers.ConvLayer: _conv,
    layers.NormLayer: _norm,
    layers.GroupNorm: _norm,
    layers.Activation: _act,
    layers.MaxPoolLayer: _pool,
    layers.AvgPoolLayer: _pool,
    layers.PadLayer: _pad,
    layers.DropoutLayer: _dropout,
    layers.DropPathLayer: _dropout,
}


def _by_primitives(step: ResolvedWord, values: dict[str, Any], shape: Shape) -> LayerCost:
    tape = Tape(shape)
    output = step.kind.build(tape, 0, step.word, **values)  # type: ignore[attr-defined]
    params = sum(op.params for op in tape.ops[1:])
    macs = sum(op.macs(out) for op, out in zip(tape.ops[1:], tape.shapes[1:], strict=True))
    return tape.shapes[output], params, macs, len(tape.ops) - 1


class Chain:
    """Consecutive layers of a unit.

    Args:
        steps: The layers.

    Attributes:
        names: The names from the scope that it needs, except for in, c and h.
        needs_entering: Whether it uses ``in``.
    """

    __slots__ = ("_program", "names", "needs_entering", "steps")

    def __init__(self, steps: tuple[ResolvedWord, ...]):
        self.steps = steps
        names = {name for step in steps for _, number in step.numbers for name in number.expression.names}
        self.needs_entering = "in" in names
        self.names = tuple(sorted(names - {"in", "c", "h"}))
        self._program = [
            (step, LAYER_COSTS.get(step.kind), dict(step.fixed), step.numbers, step.word) for step in steps
        ]

    def cost(self, shape: Shape, scope: dict[str, Any]) -> tuple[LayerCost, int]:
        """Output shape, parameters, MACs and number of operations, and the number of tensors that they read.

        Args:
            shape: The shape that enters.
            scope: Its names and ``in``; c and h are overwritten.

        Raises:
            GenotypeError: The layers do not fit the shape.
        """
        params = macs = size = 0
        for step, rule, fixed, numbers, word in self._program:
            if numbers:
                scope["c"], scope["h"] = shape[0], shape[1]
                fixed = fixed.copy()
                for field, number in numbers:
                    fixed[field] = number.value(scope)
            try:
                cost = rule(fixed, shape, word) if rule else _by_primitives(step, fixed, shape)
            except GenotypeError as error:
                raise located(error, step.where) from None
            shape = cost[0]
            params += cost[1]
            macs += cost[2]
            size += cost[3]
        return (shape, params, macs, size), size

    def body(self, shape: Shape, scope: Mapping[str, Any]) -> Body:
        """Its operations."""
        tape, x = Tape(shape), 0
        for step in self.steps:
            channels, height, _ = tape.shapes[x]
            x = step.kind.build(tape, x, step.word, **step.values({**scope, "c": channels, "h": height}))  # type: ignore[attr-defined]
        inputs = [tuple([source - 1 for source in row]) for row in tape.inputs[1:]]
        return Body(tape.ops[1:], inputs, tape.shapes[1:], [""] * len(inputs), (x - 1,))


class ChainBlock(Block):
    """A chain as a block; its operations are made when they are needed.

    Args:
        chain: The chain.
        entering: The shape that enters.
        scope: Its names.
        cost: Its cost.
    """

    __slots__ = ("_chain", "_entering", "_scope")

    def __init__(self, chain: Chain, entering: Shape, scope: Mapping[str, Any], cost: LayerCost):
        self._chain, self._entering, self._scope = chain, entering, scope
        _, self._params, self._macs, self.size = cost
        self.reads = self.size
        self._body = None
        self.entries = (-1,)
        self._restricted = {}
        self.figures = {}

    @property
    def body(self) -> Body:
        if self._body is None:
            self._body = self._chain.body(self._entering, self._scope)
        return self._body
