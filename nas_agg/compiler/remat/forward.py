"""Values of a piece's tensors, computed in forward and, where they were not kept, again in backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.compiler.remat import kernels
from nas_agg.compiler.remat.kernels import aten, new_like
from nas_agg.compiler.remat.synchronization import combine_statistics
from nas_agg.graph.backward_plan import Piece
from nas_agg.graph.primitives import ACTIVATIONS, Dropout, DropPath, Norm
from nas_agg.graph.rematerialization import RematerializationPlan

GROUP_NORM_EPS = 1e-5


class NormState(NamedTuple):
    """State of a batch norm in one step; ``uses_batch`` if it normalises with the statistics of the batch."""

    params: tuple[Tensor, ...]
    mean: Tensor | None
    var: Tensor | None
    eps: float
    uses_batch: bool


class NormVectors(NamedTuple):
    """Per-channel vectors of a batch norm, which computes ``scale * x + shift``."""

    mean: Tensor
    var: Tensor
    invstd: Tensor
    scale: Tensor
    shift: Tensor


def _conv(op: Any, params: tuple[Tensor, ...], x: Tensor) -> Tensor:
    bias = params[1] if op.bias else None
    return torch.conv2d(x, params[0], bias, op.stride, op.padding, 1, op.groups)


def _sum(op: Any, params: tuple[Tensor, ...], *xs: Tensor) -> Tensor:
    total = xs[0] + xs[1]
    for x in xs[2:]:
        total = total.add_(x) if total.dtype == x.dtype else total + x
    return total


def _group_norm(op: Norm, params: tuple[Tensor, ...], x: Tensor) -> Tensor:
    weight, bias = params or (None, None)
    return torch.group_norm(x, op.groups, weight, bias)


#: The functions of operations that depend only on their parameters and inputs, by word.
CALLS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "linear": lambda op, params, x: functional.linear(x.flatten(1), *params)[:, :, None, None],
    "norm": _group_norm,
    "act": lambda op, params, x: getattr(functional, ACTIVATIONS[op.function][0])(x),
    "maxpool": lambda op, params, x: torch.max_pool2d(x, op.kernel, op.stride, op.padding),
    "avgpool": lambda op, params, x: functional.avg_pool2d(x, op.kernel, op.stride, op.padding),
    "gap": lambda op, params, x: functional.adaptive_avg_pool2d(x, op.size),
    "gmp": lambda op, params, x: functional.adaptive_max_pool2d(x, op.size),
    "channel-mean": lambda op, params, x: x.mean(1, keepdim=True),
    "channel-max": lambda op, params, x: x.amax(1, keepdim=True),
    "scale": lambda op, params, x: x * params[0],
    "mul": lambda op, params, x, gate: x * gate,
    "product": lambda op, params, a, b: a * b,
    "times": lambda op, params, x: x * op.factor,
    "add": _sum,
    "mean": lambda op, params, *xs: _sum(op, params, *xs) / len(xs),
    "slice": lambda op, params, x: x[:, op.first : op.first + op.channels],
    "pad": lambda op, params, x: functional.pad(x, (0, 0, 0, 0, 0, op.extra)),
    "shuffle": lambda op, params, x: x.unflatten(1, (op.groups, -1)).transpose(1, 2).flatten(1, 2),
}


class Values:
    """The tensors of one piece in one pass.

    Args:
        lowering: The network.
        piece: The piece.
        params: The parameters of its operations.
        norms: Its batch norms.
        elementwise: Whether batch norm is computed by elementwise operations; else by native kernels.
        training: Whether dropout is active.
        synchronized: Whether statistics over the batch are those of the parts of all processes.

    Attributes:
        live: The values currently in memory.
        buffers: Shared memory of tensors that are read side by side.
        in_buffer: Tensors that have been written into their buffer.
        statistics: Mean and variance of tensors over the batch.
        share: This process's share of the batch, a scalar, if statistics are synchronised and some were computed.
        extra: Masks of dropout; mean and reciprocal standard deviation of group norms.
        shapes: Of every tensor.
        types: Of every tensor, under autocast.
    """

    def __init__(
        self,
        remat: RematerializationPlan,
        piece: Piece,
        params: dict[int, tuple[Tensor, ...]],
        norms: dict[int, NormState],
        elementwise: bool,
        training: bool,
        synchronized: bool = False,
    ):
        self.remat, self.piece, self.params, self.norms = remat, piece, params, norms
        self.elementwise, self.training, self.synchronized = elementwise, training, synchronized
        self.live: dict[int, Tensor] = {}
        self.buffers: dict[int, Tensor] = {}
        self.in_buffer: set[int] = set()
        self.statistics: dict[int, tuple[Tensor, Tensor]] = {}
        self.share: Tensor | None = None
        self.extra: dict[int, tuple[Tensor, ...]] = {}
        self.cached_vectors: dict[int, NormVectors] = {}
        self.shapes: dict[int, torch.Size] = {}
        self.dtypes: dict[int, torch.dtype] = {}

    def values_of(self, tensors: Iterable[int]) -> list[Tensor]:
        """The values of some tensors."""
        return [self.live[i] for i in tensors]

    # ------------------------------------------------------------------ buffers

    def slot(self, i: int, like: Tensor) -> Tensor:
        """A tensor's slice of its buffer."""
        buffer, first, end = self.piece.buffer_slices[i]
        if buffer not in self.buffers:
            self.buffers[buffer] = new_like(like, self.piece.buffer_channels[buffer])
        return self.buffers[buffer][:, first:end]

    def put(self, i: int, value: Tensor) -> None:
        """Store a value; a tensor of a buffer is moved there, at once or when the buffer is read."""
        belongs_to_buffer = i in self.piece.buffer_slices and self.remat.ops[i].word != "cat"
        self.live[i] = self.write_to_buffer(i, value) if belongs_to_buffer and self.writes_directly(i, value) else value

    def writes_directly(self, i: int, value: Tensor) -> bool:
        """Whether a tensor is written straight to its buffer: if it is kept there, or operations on slices are fast."""
        if self.remat.keeps_buffer(self.piece, self.piece.buffer_slices[i][0]):
            return True
        return not (self.remat.materialized[i] or i == self.piece.entry or kernels.is_channels_last(value))

    def write_to_buffer(self, i: int, value: Tensor) -> Tensor:
        """Copy a value into its buffer, unless it is there already; returns the slice."""
        slot = self.slot(i, value)
        if value.data_ptr() != slot.data_ptr():
            slot.copy_(value)
        self.in_buffer.add(i)
        return slot

    def cat(self, i: int) -> Tensor:
        """The output of concat i: a slice of a buffer, if its parts lie in one."""
        parts = self.remat.inputs[i]
        if i not in self.piece.buffer_slices:
            return torch.cat(self.values_of(parts), 1)
        for part in parts:
            if part not in self.in_buffer:
                self.write_to_buffer(part, self.live[part])
        return self.slot(i, self.live[parts[0]])

    # ------------------------------------------------------------------ norms

    def record_statistics(self, i: int, value: Tensor) -> None:
        """Compute a tensor's statistics over the batch."""
        mean, var = kernels.statistics(value)
        if self.synchronized:
            mean, var, self.share = combine_statistics(mean, var, value.numel() // value.shape[1])
        self.statistics[i] = mean, var

    def norm_vectors(self, i: int) -> NormVectors:
        """The per-channel vectors of batch norm i."""
        vectors = self.cached_vectors.get(i)
        if vectors is None:
            norm = self.norms[i]
            if norm.uses_batch:
                stats = [self.statistics[part] for part in self.remat.concat_parts(self.remat.inputs[i][0])]
                mean, var = stats[0] if len(stats) == 1 else map(torch.cat, zip(*stats, strict=True))
            else:
                assert norm.mean is not None and norm.var is not None
                mean, var = norm.mean, norm.var
            invstd = (var + norm.eps).rsqrt_()
            weight, bias = [param.to(mean.dtype) for param in norm.params] or (None, None)
            scale = invstd if weight is None else weight * invstd
            shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
            vectors = self.cached_vectors[i] = NormVectors(mean, var, invstd, scale, shift)
        return vectors

    def batch_norm(self, i: int, parts: list[Tensor], out: Tensor | None) -> Tensor:
        """The output of batch norm i, in new memory or in ``out``."""
        vectors = self.norm_vectors(i)
        if self.elementwise:
            return kernels.affine(parts, vectors.scale, vectors.shift, out)
        norm = self.norms[i]
        return kernels.native_norm(parts, vectors.mean, vectors.var, norm.params, norm.eps)

    def group_norm(self, i: int, op: Norm, x: Tensor) -> Tensor:
        """The output of group norm i, by PyTorch's kernel in forward and from the kept statistics in backward."""
        n, c, h, w = x.shape
        weight, bias = self.params[i] or (None, None)
        if i not in self.extra:
            x = kernels.dense(x)
            y, *statistics = aten.native_group_norm(x, weight, bias, n, c, h * w, op.groups, GROUP_NORM_EPS)
            self.extra[i] = tuple(statistics)
            return y
        mean, rstd = self.extra[i]
        scale = rstd.repeat_interleave(c // op.groups, 1)
        shift = -mean.repeat_interleave(c // op.groups, 1) * scale
        if weight is not None and bias is not None:
            scale, shift = scale * weight, shift * weight + bias
        return kernels.affine([x], scale, shift)

    # ------------------------------------------------------------------ one operation

    def compute(self, i: int) -> Tensor:
        """The value of tensor i from the tensors it reads."""
        remat = self.remat
        op: Any = remat.ops[i]
        word = op.word
        if word == "cat":
            return self.cat(i)
        xs = self.values_of(remat.sources[i])
        source = remat.inputs[i][0]
        if source in remat.fused_norms:
            value = self.batch_norm(source, xs, self.output_slot(i, xs[0]))
            return value.relu_() if op.function == "relu" else value.sigmoid_()
        if word == "norm" and not op.groups:
            return self.batch_norm(i, xs, self.output_slot(i, xs[0]))
        if word == "norm" and self.elementwise:
            return self.group_norm(i, op, xs[0])
        if isinstance(op, Dropout):
            return self.dropout(i, op, xs[0])
        return CALLS[word](op, self.params.get(i, ()), *xs)

    def output_slot(self, i: int, like: Tensor) -> Tensor | None:
        """The slice of a buffer that tensor i is computed into; None if it is not in one."""
        return self.slot(i, like) if i in self.piece.buffer_slices and self.writes_directly(i, like) else None

    def dropout(self, i: int, op: Any, x: Tensor) -> Tensor:
        """Dropout with a mask drawn as PyTorch draws it; the mask is kept, one byte per value."""
        if not self.training:
            return x
        keep = 1 - op.rate
        if i not in self.extra:
            if isinstance(op, DropPath):
                noise = x.new_empty((len(x), 1, 1, 1)).bernoulli_(keep)
            elif op.channels:
                noise = x.new_empty((*x.shape[:2], 1, 1)).bernoulli_(keep)
            elif x.device.type == "cpu":
                noise = torch.empty_like(x, dtype=torch.bool).bernoulli_(keep)
            else:
                noise = torch.native_dropout(x, op.rate, True)[1]
            self.extra[i] = (noise,)
        return x * self.extra[i][0] * (1 / keep)
