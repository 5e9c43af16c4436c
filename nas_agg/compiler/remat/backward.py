"""Backward pass of a piece's operations: one rule per operation, and the accumulation of gradients per tensor."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import Tensor

from nas_agg.compiler.remat import kernels
from nas_agg.compiler.remat.forward import CALLS, Values
from nas_agg.compiler.remat.kernels import aten, row
from nas_agg.compiler.remat.synchronization import norm_backward, sum_over_processes
from nas_agg.graph.primitives import Norm


class Gradients:
    """Gradients of one piece in one backward pass.

    A gradient may be changed in place if it is ``owned``: nothing else refers to its memory.

    Args:
        values: The piece's values.
        flows: For each tensor, whether it has a gradient.
        trained: For each operation with parameters, which of them are trained.
        normed: Tensors that are normalised with their own batch statistics.

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
        self.remat, self.piece = values.remat, values.piece
        self.params: dict[int, dict[int, Tensor]] = {}
        self.by_tensor: dict[int, tuple[Tensor, bool]] = {}
        self.buffers: dict[int, Tensor] = {}  # gradients of buffers
        self.affine: dict[int, tuple[Tensor, Tensor]] = {}  # a and b of the terms a * x + b
        self.buffer_affine: dict[int, tuple[Tensor, Tensor]] = {}

    def seed(self, i: int, g: Tensor) -> None:
        """Set the gradient of the last tensor."""
        self.by_tensor[i] = (g, False)

    # ------------------------------------------------------------------ accumulation

    def add(self, i: int, g: Tensor, owned: bool, scale: Tensor | None = None) -> None:
        """Adds ``scale * g`` to tensor i's gradient; scale is a vector of its channels."""
        if not self.flows[i]:
            return
        if i in self.piece.buffer_slices:
            self.add_to_buffer(i, g, owned, scale)
        elif self.remat.ops[i].word == "cat":
            begin = 0
            for part in self.remat.inputs[i]:
                end = begin + self.remat.shapes[part][0]
                self.add(part, g[:, begin:end], owned, None if scale is None else scale[begin:end])
                begin = end
        elif i not in self.by_tensor:
            self.by_tensor[i] = _scaled(g, owned, scale)
        else:
            total, is_owned = self.by_tensor[i]
            if scale is not None:
                total = total.addcmul_(g, row(scale)) if is_owned else torch.addcmul(total, g, row(scale))
            else:
                total = total.add_(g) if is_owned else total + g
            self.by_tensor[i] = (total, True)

    def add_to_buffer(self, i: int, g: Tensor, owned: bool, scale: Tensor | None) -> None:
        """Add ``scale * g`` to the gradient of a tensor that lies in a buffer."""
        place, first, end = self.piece.buffer_slices[i]
        width = self.piece.buffer_channels[place]
        total = self.buffers.get(place)
        if total is None and g.shape[1] == width:
            g, owned = _scaled(g, owned, scale)
            self.buffers[place] = g if owned else g.clone()
            return
        if total is None:
            total = self.buffers[place] = kernels.new_like(g, width).zero_()
        part = total[:, first:end]
        if scale is None:
            part.add_(g)
        else:
            part.addcmul_(g, row(scale))

    def add_affine(self, i: int, a: Tensor, b: Tensor) -> None:
        """Add ``a * x + b`` to the gradient of tensor i, whose value is x, once all other terms are there."""
        if not self.flows[i]:
            return
        if i in self.piece.buffer_slices:
            place, first, end = self.piece.buffer_slices[i]
            if place not in self.buffer_affine:
                width = self.piece.buffer_channels[place]
                self.buffer_affine[place] = (a.new_zeros(width), a.new_zeros(width))
            for total, more in zip(self.buffer_affine[place], (a, b), strict=True):
                total[first:end].add_(more)
        elif self.remat.ops[i].word == "cat":
            begin = 0
            for part in self.remat.inputs[i]:
                end = begin + self.remat.shapes[part][0]
                self.add_affine(part, a[begin:end], b[begin:end])
                begin = end
        elif i in self.affine:
            before = self.affine[i]
            self.affine[i] = (before[0] + a, before[1] + b)
        else:
            self.affine[i] = (a, b)

    def take(self, i: int) -> tuple[Tensor, bool] | None:
        """The complete gradient of tensor i, and whether it is owned; it is removed."""
        laid = i in self.piece.buffer_slices
        if laid:
            place, first, end = self.piece.buffer_slices[i]
            if place not in self.buffers:
                return None
            g, owned = self.buffers[place][:, first:end], True
            linear = self.buffer_affine.get(place)
            if linear is not None:
                linear = (linear[0][first:end], linear[1][first:end])
        elif i in self.by_tensor:
            g, owned = self.by_tensor.pop(i)
            linear = self.affine.pop(i, None)
        else:
            return None
        if laid and linear is None and kernels.is_channels_last(g):
            g = kernels.dense(g)  # operations on slices are slow
        if self.values.dtypes and self.values.dtypes.get(i, g.dtype) != g.dtype:
            g, owned = g.to(self.values.dtypes[i]), True
        if linear is not None and i in self.normed:
            a, b = row(linear[0]), row(linear[1])
            x = self.values.live[i]
            g, owned = (g.addcmul_(x, a) if owned and not laid else torch.addcmul(g, x, a)).add_(b), True
        return g, owned

    # ------------------------------------------------------------------ operations

    def backpropagate(self, i: int) -> None:
        """Propagate the gradient of operation i's output to its inputs and parameters."""
        if self.remat.ops[i].word == "cat":
            return  # its parts already have their gradients
        result = self.take(i)
        if result is not None:
            op: Any = self.remat.ops[i]
            rule = RULES.get(op.word if op.word != "act" else op.function, _generic)
            rule(self, i, op, *result)

    def placeholder(self, i: int, g: Tensor) -> Tensor:
        """An uninitialised stand-in for a value of which only the shape matters."""
        shape = self.values.shapes[i]
        return torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=kernels.layout(g))


def _scaled(g: Tensor, owned: bool, scale: Tensor | None) -> tuple[Tensor, bool]:
    if scale is None:
        return g, owned
    return (g.mul_(row(scale)) if owned and g._base is None else g * row(scale)), True


def _conv(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    weight, *_ = grads.values.params[i]
    trained = grads.trained[i]
    x = grads.values.live[source] if trained[0] else grads.placeholder(source, g)
    needed = [grads.flows[source], trained[0], op.bias and trained[1]]
    pair = (op.stride, op.stride), (op.padding, op.padding)
    if grads.values.dtypes:  # autocast used copies in its own type
        x, weight = x.to(g.dtype), weight.to(g.dtype)
    input_grad, dw, db = aten.convolution_backward(
        g, x, weight, [op.out] if op.bias else None, *pair, (1, 1), False, (0, 0), op.groups, needed
    )  # fmt: skip
    grads.params[i] = {0: dw, 1: db}
    if needed[0]:
        grads.add(source, input_grad, True)


def _linear(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    weight, _ = grads.values.params[i]
    g = g.flatten(1)
    param_grads = grads.params[i] = {1: g.sum(0)}
    if grads.trained[i][0]:
        param_grads[0] = g.t() @ grads.values.live[source].flatten(1).to(g.dtype)
    if grads.flows[source]:
        grads.add(source, (g @ weight.to(g.dtype)).view(grads.values.shapes[source]), True)


def _norm(grads: Gradients, i: int, op: Norm, g: Tensor, owned: bool) -> None:
    if op.groups:
        (_group_norm if grads.values.elementwise else _generic)(grads, i, op, g, owned)
        return
    values, norm, source = grads.values, grads.values.norms[i], grads.remat.inputs[i][0]
    weight_trained, bias_trained = grads.trained.get(i) or (False, False)
    vectors = values.norm_vectors(i)
    flows = grads.flows[source]
    if not weight_trained and not (flows and norm.uses_batch):  # the only case that needs no input
        if bias_trained:
            grads.params[i] = {1: g.sum((0, 2, 3))}
        if flows:
            grads.add(source, g, owned, vectors.scale.to(g.dtype))
        return
    parts = values.values_of(grads.remat.norm_inputs(source))
    share = values.share if norm.uses_batch else None  # of the batch, where statistics are those of all processes
    if share is not None and not values.elementwise:
        weight = norm.params[0] if norm.params else None
        synchronized = norm_backward(g, kernels.concat(parts), vectors.mean, vectors.invstd, weight, share, flows)
        grads.params[i] = {0: synchronized[1], 1: synchronized[2]}
        if synchronized[0] is not None:
            grads.add(source, synchronized[0], True)
        return
    small = share is None and len(parts) == 1 and g.numel() <= kernels.SMALL and source not in grads.piece.buffer_slices
    if small or not values.elementwise:
        input_grad, dw, db = kernels.native_norm_backward(
            g, kernels.concat(parts), *vectors[:3], norm.params, norm.eps, norm.uses_batch
        )
        grads.params[i] = {0: dw, 1: db}
        grads.add(source, input_grad, True)
        return
    total, product = kernels.sums(g, parts)
    product = torch.addcmul(product, vectors.mean, total, value=-1).mul_(vectors.invstd)
    grads.params[i] = {0: product, 1: total}
    if flows:
        if norm.uses_batch:
            scale = vectors.scale * (-g.shape[1] / g.numel())
            if share is not None:
                total, product = sum_over_processes(total, product)
                scale = scale * share
            a = product.mul(scale).mul_(vectors.invstd)
            grads.add_affine(source, a, (total * scale).addcmul_(vectors.mean, a, value=-1))
        grads.add(source, g, owned, vectors.scale)


def _group_norm(grads: Gradients, i: int, op: Norm, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    x = grads.values.live[source]
    n, c, h, w = x.shape
    g, x = g.contiguous(memory_format=kernels.layout(x)), kernels.dense(x)
    weight = grads.values.params[i][0] if op.affine else None
    needed = [grads.flows[source], op.affine, op.affine]
    input_grad, dw, db = aten.native_group_norm_backward(
        g, x, *grads.values.extra[i], weight, n, c, h * w, op.groups, needed
    )
    grads.params[i] = {0: dw, 1: db}
    if needed[0]:
        grads.add(source, input_grad, True)


def _relu(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    grads.add(source, kernels.relu_backward(g, grads.values.live[i], owned), True)


def _sigmoid(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    grads.add(grads.remat.inputs[i][0], aten.sigmoid_backward(g, grads.values.live[i]), True)


def _swish(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    grads.add(source, aten.silu_backward(g, grads.values.live[source]), True)


def _avg_pool(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    x = grads.placeholder(source, g)
    pooling = [op.kernel] * 2, [op.stride] * 2, [op.padding] * 2
    grads.add(source, aten.avg_pool2d_backward(g, x, *pooling, False, True, None), True)


def _gap(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    *_, h, w = grads.values.shapes[source]
    if op.size == 1:
        grads.add(source, (g / (h * w)).expand(-1, -1, h, w), False)
    else:
        grads.add(source, aten._adaptive_avg_pool2d_backward(g, grads.placeholder(source, g)), True)


def _scale(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    weight = grads.values.params[i][0]
    if grads.trained[i][0]:
        grads.params[i] = {0: (g * grads.values.live[source]).sum(kernels.MAPS).view_as(weight)}
    grads.add(source, g * weight, True)


def _mul(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    x, gate = grads.remat.inputs[i]
    if grads.flows[gate]:
        grads.add(gate, (g * grads.values.live[x]).sum((2, 3), keepdim=True), True)
    if grads.flows[x]:
        grads.add(x, g * grads.values.live[gate], True)


def _product(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    a, b = grads.remat.inputs[i]
    for source, other in ((a, b), (b, a)):
        if grads.flows[source]:
            shape = grads.values.shapes[source]
            grads.add(source, (g * grads.values.live[other]).sum_to_size(shape), True)


def _times(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    grads.add(grads.remat.inputs[i][0], g * op.factor, True)


def _channel_mean(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    channels = grads.values.shapes[source][1]
    grads.add(source, (g / channels).expand(-1, channels, -1, -1), False)


def _sum(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    inputs = grads.remat.inputs[i]
    if op.word == "mean":
        g = g / len(inputs)
    for source in inputs:
        grads.add(source, g, False)


def _slice(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    if not grads.flows[source]:
        return
    if source not in grads.by_tensor or not grads.by_tensor[source][1]:
        whole = kernels.new_like(g, grads.remat.shapes[source][0]).zero_()
        whole[:, op.first : op.first + op.channels] = g
        grads.add(source, whole, True)
    else:
        grads.by_tensor[source][0][:, op.first : op.first + op.channels] += g


def _pad(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    grads.add(source, g[:, : grads.remat.shapes[source][0]], owned)


def _shuffle(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    back = g.unflatten(1, (-1, op.groups)).transpose(1, 2).flatten(1, 2)
    grads.add(grads.remat.inputs[i][0], back, True)


def _dropout(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    source = grads.remat.inputs[i][0]
    if grads.values.training:
        grads.add(source, grads.values.dropout(i, op, g), True)
    else:
        grads.add(source, g, owned)


def _generic(grads: Gradients, i: int, op: Any, g: Tensor, owned: bool) -> None:
    """Recompute the operation and let autograd differentiate it."""
    values, inputs = grads.values, grads.remat.inputs[i]
    xs = [values.live[source].detach().requires_grad_(grads.flows[source]) for source in inputs]
    trained = grads.trained.get(i, ())
    params = [p.detach().requires_grad_(t) for p, t in zip(values.params.get(i, ()), trained, strict=True)]
    with torch.enable_grad():
        y = CALLS[op.word](op, tuple(params), *xs)
    needed = [tensor for tensor in (*xs, *params) if tensor.requires_grad]
    results = iter(torch.autograd.grad(y, needed, g.to(y.dtype)))
    for source, x in zip(inputs, xs, strict=True):
        if x.requires_grad:
            grads.add(source, next(results), True)
    grads.params[i] = {position: next(results) for position, p in enumerate(params) if p.requires_grad}


#: Backward rules by an operation's word, of an activation by its function; others are left to autograd.
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
