"""The backward of a piece's operations: one function a word, on gradients that are gathered tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import Tensor

from nas_agg.compiler.remat import batch_norm as spellings
from nas_agg.compiler.remat.batch_norm import aten, row
from nas_agg.compiler.remat.forward import CALLS, Values
from nas_agg.graph.primitives import Norm


class Gradients:
    """Gradients of one piece in one backward pass.

    A gradient may be changed in place if it is ``owned``: nothing else looks into its memory.

    Args:
        values: The piece's values.
        flows: Which tensors have a gradient.
        trained: For each operation with parameters, which of them are trained.
        normed: Tensors that are normed by their own statistics.

    Attributes:
        params: For each operation, the gradients of its parameters by position.
    """

    def __init__(
        self,
        values: Values,
        flows: Mapping[int, bool],
        trained: Mapping[int, tuple[bool, ...]],
        normed: Container[int],
    ):
        self.values, self.flows, self.trained, self.normed = values, flows, trained, normed
        self.lowering, self.piece = values.lowering, values.piece
        self.params: dict[int, dict[int, Tensor]] = {}
        self.found: dict[int, tuple[Tensor, bool]] = {}
        self.side: dict[int, Tensor] = {}  # of buffers
        self.linear: dict[int, tuple[Tensor, Tensor]] = {}  # a and b of what is added to a gradient: a * x + b
        self.side_linear: dict[int, tuple[Tensor, Tensor]] = {}

    def start(self, i: int, g: Tensor) -> None:
        """The gradient that arrives."""
        self.found[i] = (g, False)

    # ------------------------------------------------------------------ gathering

    def add(self, i: int, g: Tensor, owned: bool, scale: Tensor | None = None) -> None:
        """Adds ``scale * g`` to tensor i's gradient; scale is a vector of its channels."""
        if not self.flows[i]:
            return
        if i in self.piece.laid:
            self.add_side(i, g, owned, scale)
        elif self.lowering.ops[i].word == "cat":
            begin = 0
            for part in self.lowering.inputs[i]:
                end = begin + self.lowering.shapes[part][0]
                self.add(part, g[:, begin:end], owned, None if scale is None else scale[begin:end])
                begin = end
        elif i not in self.found:
            self.found[i] = _scaled(g, owned, scale)
        else:
            total, mine = self.found[i]
            if scale is not None:
                total = total.addcmul_(g, row(scale)) if mine else torch.addcmul(total, g, row(scale))
            else:
                total = total.add_(g) if mine else total + g
            self.found[i] = (total, True)

    def add_side(self, i: int, g: Tensor, owned: bool, scale: Tensor | None) -> None:
        place, first, end = self.piece.laid[i]
        width = self.piece.widths[place]
        total = self.side.get(place)
        if total is None and g.shape[1] == width:
            g, owned = _scaled(g, owned, scale)
            self.side[place] = g if owned else g.clone()
            return
        if total is None:
            total = self.side[place] = spellings.new_like(g, width).zero_()
        part = total[:, first:end]
        if scale is None:
            part.add_(g)
        else:
            part.addcmul_(g, row(scale))

    def add_linear(self, i: int, a: Tensor, b: Tensor) -> None:
        """Adds ``a * x + b`` to the gradient of tensor i, whose value is x, when all else is there."""
        if not self.flows[i]:
            return
        if i in self.piece.laid:
            place, first, end = self.piece.laid[i]
            if place not in self.side_linear:
                width = self.piece.widths[place]
                self.side_linear[place] = (a.new_zeros(width), a.new_zeros(width))
            for total, more in zip(self.side_linear[place], (a, b), strict=True):
                total[first:end].add_(more)
        elif self.lowering.ops[i].word == "cat":
            begin = 0
            for part in self.lowering.inputs[i]:
                end = begin + self.lowering.shapes[part][0]
                self.add_linear(part, a[begin:end], b[begin:end])
                begin = end
        elif i in self.linear:
            before = self.linear[i]
            self.linear[i] = (before[0] + a, before[1] + b)
        else:
            self.linear[i] = (a, b)

    def take(self, i: int) -> tuple[Tensor, bool] | None:
        """The whole gradient of tensor i, which nothing is added to any more; and whether it is owned."""
        laid = i in self.piece.laid
        if laid:
            place, first, end = self.piece.laid[i]
            if place not in self.side:
                return None
            g, owned = self.side[place][:, first:end], True
            linear = self.side_linear.get(place)
            if linear is not None:
                linear = (linear[0][first:end], linear[1][first:end])
        elif i in self.found:
            g, owned = self.found.pop(i)
            linear = self.linear.pop(i, None)
        else:
            return None
        if laid and linear is None and spellings.is_last(g):
            g = spellings.dense(g)  # passes over slices are slow
        if self.values.types and self.values.types.get(i, g.dtype) != g.dtype:
            g, owned = g.to(self.values.types[i]), True
        if linear is not None and i in self.normed:
            a, b = row(linear[0]), row(linear[1])
            x = self.values.known[i]
            g, owned = (g.addcmul_(x, a) if owned and not laid else torch.addcmul(g, x, a)).add_(b), True
        return g, owned

    # ------------------------------------------------------------------ operations

    def back(self, i: int) -> None:
        """Hands the gradient of operation i's output on to what it reads."""
        if self.lowering.ops[i].word == "cat":
            return  # its parts have theirs already
        taken = self.take(i)
        if taken is not None:
            op: Any = self.lowering.ops[i]
            rule = RULES.get(op.word if op.word != "act" else op.function, _generic)
            rule(self, i, op, *taken)

    def empty(self, i: int, g: Tensor) -> Tensor:
        """Stands for a value of which only the shape matters."""
        shape = self.values.shapes[i]
        return torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=spellings.layout(g))


def _scaled(g: Tensor, owned: bool, scale: Tensor | None) -> tuple[Tensor, bool]:
    if scale is None:
        return g, owned
    return (g.mul_(row(scale)) if owned and g._base is None else g * row(scale)), True


def _conv(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    weight, *_ = grads.values.params[i]
    trained = grads.trained[i]
    x = grads.values.known[source] if trained[0] else grads.empty(source, g)
    wanted = [grads.flows[source], trained[0], op.bias and trained[1]]
    pair = (op.stride, op.stride), (op.padding, op.padding)
    if grads.values.types:  # autocast made copies of these
        x, weight = x.to(g.dtype), weight.to(g.dtype)
    below, dw, db = aten.convolution_backward(
        g, x, weight, [op.out] if op.bias else None, *pair, (1, 1), False, (0, 0), op.groups, wanted
    )  # fmt: skip
    grads.params[i] = {0: dw, 1: db}
    if wanted[0]:
        grads.add(source, below, True)


def _linear(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    weight, _ = grads.values.params[i]
    g = g.flatten(1)
    found = grads.params[i] = {1: g.sum(0)}
    if grads.trained[i][0]:
        found[0] = g.t() @ grads.values.known[source].flatten(1).to(g.dtype)
    if grads.flows[source]:
        grads.add(source, (g @ weight.to(g.dtype)).view(grads.values.shapes[source]), True)


def _norm(grads: Gradients, i: int, op: Norm, g: Tensor, owned: bool) -> None:
    if op.groups:
        (_group_norm if grads.values.plain else _generic)(grads, i, op, g, owned)
        return
    values, norm, source = grads.values, grads.values.norms[i], grads.lowering.inputs[i][0]
    weights = any(grads.trained.get(i, ()))
    vectors = values.vectors(i)
    flows = grads.flows[source]
    if not weights and not norm.batch:
        if flows:
            grads.add(source, g, owned, vectors.scale.to(g.dtype))
        return
    parts = values.all_of(grads.lowering.operand(source))
    small = len(parts) == 1 and g.numel() <= spellings.SMALL and source not in grads.piece.laid
    if small or not values.plain:
        below, dw, db = spellings.native_norm_backward(
            g, spellings.joined(parts), *vectors[:3], norm.params, norm.eps, norm.batch
        )
        grads.params[i] = {0: dw, 1: db}
        grads.add(source, below, True)
        return
    total, product = spellings.sums(g, parts)
    product = torch.addcmul(product, vectors.mean, total, value=-1).mul_(vectors.invstd)
    grads.params[i] = {0: product, 1: total}
    if flows:
        if norm.batch:
            scale = vectors.scale * (-g.shape[1] / g.numel())
            a = product.mul(scale).mul_(vectors.invstd)
            grads.add_linear(source, a, (total * scale).addcmul_(vectors.mean, a, value=-1))
        grads.add(source, g, owned, vectors.scale)


def _group_norm(grads: Gradients, i: int, op: Norm, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    x = grads.values.known[source]
    n, c, h, w = x.shape
    g, x = g.contiguous(memory_format=spellings.layout(x)), spellings.dense(x)
    weight = grads.values.params[i][0] if op.affine else None
    wanted = [grads.flows[source], op.affine, op.affine]
    below, dw, db = aten.native_group_norm_backward(
        g, x, *grads.values.extra[i], weight, n, c, h * w, op.groups, wanted
    )
    grads.params[i] = {0: dw, 1: db}
    if wanted[0]:
        grads.add(source, below, True)


def _relu(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    grads.add(source, spellings.relu_backward(g, grads.values.known[i], owned), True)


def _sigmoid(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    grads.add(grads.lowering.inputs[i][0], aten.sigmoid_backward(g, grads.values.known[i]), True)


def _swish(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    grads.add(source, aten.silu_backward(g, grads.values.known[source]), True)


def _avg_pool(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    x = grads.empty(source, g)
    pooling = [op.kernel] * 2, [op.stride] * 2, [op.padding] * 2
    grads.add(source, aten.avg_pool2d_backward(g, x, *pooling, False, True, None), True)


def _gap(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    *_, h, w = grads.values.shapes[source]
    if op.size == 1:
        grads.add(source, (g / (h * w)).expand(-1, -1, h, w), False)
    else:
        grads.add(source, aten._adaptive_avg_pool2d_backward(g, grads.empty(source, g)), True)


def _scale(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    weight = grads.values.params[i][0]
    if grads.trained[i][0]:
        grads.params[i] = {0: (g * grads.values.known[source]).sum(spellings.MAPS).view_as(weight)}
    grads.add(source, g * weight, True)


def _mul(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    x, gate = grads.lowering.inputs[i]
    if grads.flows[gate]:
        grads.add(gate, (g * grads.values.known[x]).sum((2, 3), keepdim=True), True)
    if grads.flows[x]:
        grads.add(x, g * grads.values.known[gate], True)


def _product(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    a, b = grads.lowering.inputs[i]
    for source, other in ((a, b), (b, a)):
        if grads.flows[source]:
            shape = grads.values.shapes[source]
            grads.add(source, (g * grads.values.known[other]).sum_to_size(shape), True)


def _times(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    grads.add(grads.lowering.inputs[i][0], g * op.factor, True)


def _channel_mean(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    channels = grads.values.shapes[source][1]
    grads.add(source, (g / channels).expand(-1, channels, -1, -1), False)


def _sum(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    inputs = grads.lowering.inputs[i]
    if op.word == "mean":
        g = g / len(inputs)
    for source in inputs:
        grads.add(source, g, False)


def _slice(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    if not grads.flows[source]:
        return
    if source not in grads.found or not grads.found[source][1]:
        whole = spellings.new_like(g, grads.lowering.shapes[source][0]).zero_()
        whole[:, op.first : op.first + op.channels] = g
        grads.add(source, whole, True)
    else:
        grads.found[source][0][:, op.first : op.first + op.channels] += g


def _pad(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    grads.add(source, g[:, : grads.lowering.shapes[source][0]], owned)


def _shuffle(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    back = g.unflatten(1, (-1, op.groups)).transpose(1, 2).flatten(1, 2)
    grads.add(grads.lowering.inputs[i][0], back, True)


def _dropout(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.lowering.inputs[i][0]
    if grads.values.training:
        grads.add(source, grads.values.dropped(i, op, g), True)
    else:
        grads.add(source, g, owned)


def _generic(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    """Lets autograd differentiate the operation, computed once more."""
    values, inputs = grads.values, grads.lowering.inputs[i]
    xs = [values.known[source].detach().requires_grad_(grads.flows[source]) for source in inputs]
    trained = grads.trained.get(i, ())
    params = [p.detach().requires_grad_(t) for p, t in zip(values.params.get(i, ()), trained, strict=True)]
    with torch.enable_grad():
        y = CALLS[op.word](op, tuple(params), *xs)
    wanted = [tensor for tensor in (*xs, *params) if tensor.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, g.to(y.dtype)))
    for source, x in zip(inputs, xs, strict=True):
        if x.requires_grad:
            grads.add(source, next(found), True)
    grads.params[i] = {place: next(found) for place, p in enumerate(params) if p.requires_grad}


#: The backward of an operation by its word, of an activation by its function; others are left to autograd.
RULES: dict[str, Callable[[Gradients, int, Any, Tensor, bool], None]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "swish": _swish,
    "avgpool": _avg_pool,
    "gap": _gap,
    "scale": _scale,
    "mul": _mul,
    "product": _product,
    "times": _times,
    "channel-mean": _channel_mean,
    "add": _sum,
    "mean": _sum,
    "slice": _slice,
    "pad": _pad,
    "shuffle": _shuffle,
    "dropout": _dropout,
    "drop-path": _dropout,
}
