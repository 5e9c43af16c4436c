"""The values of a piece's tensors: computed in forward, and in backward those that were not kept once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nas_agg.compiler.remat import batch_norm as spellings
from nas_agg.compiler.remat.batch_norm import aten, new_like
from nas_agg.graph.primitives import ACTIVATIONS, Dropout, DropPath, Norm
from nas_agg.graph.rematerialization import Piece, RematerializationPlan


class NormState(NamedTuple):
    """A batch norm as it is at one step; ``batch`` if it normalises by the batch's own statistics."""

    params: tuple[Tensor, ...]
    mean: Tensor | None
    var: Tensor | None
    eps: float
    batch: bool


class Vectors(NamedTuple):
    """What a batch norm does to each channel: ``scale * x + shift``, and what that was made from."""

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


#: The value of an operation of its parameters and inputs, where nothing else decides it.
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
        plain: Whether batch norm is made of plain passes; else native kernels are used.
        training: Whether dropout drops.

    Attributes:
        known: Values there are now.
        buffers: The memory of tensors that lie side by side.
        stats: Mean and variance of tensors over the batch.
        extra: Dropout's masks; mean and reciprocal deviation of group norms.
        shapes: Of every tensor.
        types: Of every tensor, under autocast.
    """

    def __init__(
        self,
        lowering: RematerializationPlan,
        piece: Piece,
        params: dict[int, tuple[Tensor, ...]],
        norms: dict[int, NormState],
        plain: bool,
        training: bool,
    ):
        self.lowering, self.piece, self.params, self.norms = lowering, piece, params, norms
        self.plain, self.training = plain, training
        self.known: dict[int, Tensor] = {}
        self.buffers: dict[int, Tensor] = {}
        self.placed: set[int] = set()
        self.stats: dict[int, tuple[Tensor, Tensor]] = {}
        self.extra: dict[int, tuple[Tensor, ...]] = {}
        self.cached: dict[int, Vectors] = {}
        self.shapes: dict[int, torch.Size] = {}
        self.types: dict[int, torch.dtype] = {}

    def all_of(self, tensors: Iterable[int]) -> list[Tensor]:
        """Their values."""
        return [self.known[i] for i in tensors]

    # ------------------------------------------------------------------ tensors side by side

    def slot(self, i: int, like: Tensor) -> Tensor:
        """The memory of a tensor that lies in a buffer."""
        place, first, end = self.piece.laid[i]
        if place not in self.buffers:
            self.buffers[place] = new_like(like, self.piece.widths[place])
        return self.buffers[place][:, first:end]

    def put(self, i: int, value: Tensor) -> None:
        """Takes a value; what shall lie in a buffer is moved there, at once or when it is read there."""
        lies = i in self.piece.laid and self.lowering.ops[i].word != "cat"
        self.known[i] = self.place(i, value) if lies and self.at_once(i, value) else value

    def at_once(self, i: int, value: Tensor) -> bool:
        """Whether a tensor is in its buffer from the start: if it is kept there, or passes over slices are fast."""
        if self.lowering.lasting(self.piece, self.piece.laid[i][0]):
            return True
        return not (self.lowering.solid[i] or i == self.piece.entry or spellings.is_last(value))

    def place(self, i: int, value: Tensor) -> Tensor:
        slot = self.slot(i, value)
        if value.data_ptr() != slot.data_ptr():
            slot.copy_(value)
        self.placed.add(i)
        return slot

    def cat(self, i: int) -> Tensor:
        parts = self.lowering.inputs[i]
        if i not in self.piece.laid:
            return torch.cat(self.all_of(parts), 1)
        for part in parts:
            if part not in self.placed:
                self.place(part, self.known[part])
        return self.slot(i, self.known[parts[0]])

    # ------------------------------------------------------------------ norms

    def measure(self, i: int, value: Tensor) -> None:
        """Takes a tensor's statistics over the batch."""
        self.stats[i] = spellings.statistics(value)

    def vectors(self, i: int) -> Vectors:
        """What batch norm i does to each channel."""
        found = self.cached.get(i)
        if found is None:
            norm = self.norms[i]
            if norm.batch:
                stats = [self.stats[part] for part in self.lowering.parts(self.lowering.inputs[i][0])]
                mean, var = stats[0] if len(stats) == 1 else map(torch.cat, zip(*stats, strict=True))
            else:
                assert norm.mean is not None and norm.var is not None
                mean, var = norm.mean, norm.var
            invstd = (var + norm.eps).rsqrt_()
            weight, bias = [param.to(mean.dtype) for param in norm.params] or (None, None)
            scale = invstd if weight is None else weight * invstd
            shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
            found = self.cached[i] = Vectors(mean, var, invstd, scale, shift)
        return found

    def normed(self, i: int, parts: list[Tensor], out: Tensor | None) -> Tensor:
        """The value of batch norm i, in memory of its own or in ``out``."""
        vectors = self.vectors(i)
        if self.plain:
            return spellings.affine(parts, vectors.scale, vectors.shift, out)
        norm = self.norms[i]
        return spellings.native_norm(parts, vectors.mean, vectors.var, norm.params, norm.eps)

    def group_normed(self, i: int, op: Norm, x: Tensor) -> Tensor:
        """The value of group norm i: as PyTorch says at first, then by the statistics that were kept."""
        n, c, h, w = x.shape
        weight, bias = self.params[i] or (None, None)
        if i not in self.extra:
            x = spellings.dense(x)
            y, *statistics = aten.native_group_norm(x, weight, bias, n, c, h * w, op.groups, 1e-5)
            self.extra[i] = tuple(statistics)
            return y
        mean, rstd = self.extra[i]
        scale = rstd.repeat_interleave(c // op.groups, 1)
        shift = -mean.repeat_interleave(c // op.groups, 1) * scale
        if weight is not None and bias is not None:
            scale, shift = scale * weight, shift * weight + bias
        return spellings.affine([x], scale, shift)

    # ------------------------------------------------------------------ one operation

    def compute(self, i: int) -> Tensor:
        """The value of tensor i of those it reads."""
        lowering = self.lowering
        op: Any = lowering.ops[i]
        word = op.word
        if word == "cat":
            return self.cat(i)
        xs = self.all_of(lowering.sources[i])
        behind = lowering.inputs[i][0]
        if behind in lowering.fused:
            value = self.normed(behind, xs, self.memory(i, xs[0]))
            return value.relu_() if op.function == "relu" else value.sigmoid_()
        if word == "norm" and not op.groups:
            return self.normed(i, xs, self.memory(i, xs[0]))
        if word == "norm" and self.plain:
            return self.group_normed(i, op, xs[0])
        if isinstance(op, Dropout):
            return self.dropped(i, op, xs[0])
        return CALLS[word](op, self.params.get(i, ()), *xs)

    def memory(self, i: int, like: Tensor) -> Tensor | None:
        return self.slot(i, like) if i in self.piece.laid and self.at_once(i, like) else None

    def dropped(self, i: int, op: Any, x: Tensor) -> Tensor:
        """Dropout, which draws its mask as PyTorch does and keeps a byte a value of it."""
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
