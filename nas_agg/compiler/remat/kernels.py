"""Batch-norm kernels, forward and backward, over one tensor or over the parts of a concat.

On a CPU in single or double precision batch norm is composed of elementwise operations and reductions, for which
PyTorch has vectorised code, unlike for most cases of its own batch norm; the fastest form differs between NCHW and
channels_last. Elsewhere the native kernels are used. Vectors have shape (C,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

aten: Any = torch.ops.aten
MAPS = (0, 2, 3)
SMALL = 500_000  # elements up to which the native backward of batch norm is no slower than elementwise operations


def row(vector: Tensor) -> Tensor:
    """A vector of channels in shape (C, 1, 1), to be broadcast over a map."""
    return vector.view(-1, 1, 1)


def concat(parts: list[Tensor]) -> Tensor:
    """The concat of tensors along channels."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor's memory format is channels_last."""
    return x.stride(1) == 1 and x.shape[1] > 1


def layout(x: Tensor) -> torch.memory_format:
    """The memory format of a tensor, or of the tensor of which it is a slice."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """The tensor if it is contiguous in its own memory format, else a contiguous copy."""
    return x.contiguous(memory_format=layout(x))


def new_like(x: Tensor, channels: int) -> Tensor:
    """An empty tensor in the memory format of x, with another number of channels."""
    n, _, h, w = x.shape
    return torch.empty((n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=layout(x))


def buffer(x: Tensor, channels: int) -> Tensor:
    """A buffer of ``channels`` channels, the first of which are those of x."""
    return store(new_like(x, channels), x, 0)


def store(buffer: Tensor, x: Tensor, first: int) -> Tensor:
    """Write x into the buffer from channel ``first`` on; returns the buffer."""
    buffer[:, first : first + x.shape[1]] = x
    return buffer


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of stride 1.

    On one thread PyTorch uses a matrix product for fewer than 16 images, where oneDNN's kernel is up to twice as fast.
    """
    if is_traced():  # a trace must not depend on the number of images
        return conv(x)
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[0] < 16 and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, conv.weight, conv.bias, (0, 0), (1, 1), (1, 1), 1)
    return conv(x)


#: Before torch 2.7 an export counts as compiling.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_traced() -> bool:
    """Whether a tracer or compiler is active."""
    return torch.compiler.is_compiling() or _is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def prefers_elementwise(x: Tensor) -> bool:
    """Whether elementwise operations are faster than native batch norm: on a CPU in full precision."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel.

    Raises:
        ValueError: If a channel has one value only.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if prefers_elementwise(x) and not is_channels_last(x):
        mean = x.mean(MAPS)
        return mean, (x - row(mean)).square_().mean(MAPS)
    if x.device.type == "cpu":
        x = x.contiguous(memory_format=torch.channels_last)
        x = x if prefers_elementwise(x) else x.float()
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def affine(parts: list[Tensor], scale: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """``scale * x + shift`` of the concat x of parts; scale and shift have shape (C,), of a single part also (N, C)."""
    s, t = scale.view(*scale.shape, 1, 1), shift.view(*shift.shape, 1, 1)
    last = is_channels_last(parts[0])
    if len(parts) == 1:
        if last:
            return torch.addcmul(t, parts[0], s, out=out)
        return torch.mul(parts[0], s, out=out).add_(t)
    if out is None:
        out = new_like(parts[0], scale.shape[-1])
    begin = 0
    for x in parts:
        end = begin + x.shape[1]
        if last:
            torch.addcmul(t[begin:end], x, s[begin:end], out=out[:, begin:end])
        else:
            torch.mul(x, s[begin:end], out=out[:, begin:end])
        begin = end
    return out if last else out.add_(t)


def sums(g: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Per-channel sums of ``g`` and of ``g * x``, where x is the concat of the parts."""
    if len(parts) == 1:
        product = g * parts[0]
    else:
        product, begin = torch.empty_like(g), 0
        for x in parts:
            end = begin + x.shape[1]
            torch.mul(g[:, begin:end], x, out=product[:, begin:end])
            begin = end
    return g.sum(MAPS), product.sum(MAPS)


def native_norm(parts: list[Tensor], mean: Tensor, var: Tensor, params: tuple[Tensor, ...], eps: float) -> Tensor:
    """Batch norm with given statistics by PyTorch's own kernel; ``params`` are weight and bias, or empty."""
    weight, bias = [param.to(mean.dtype) for param in params] or (None, None)
    return functional.batch_norm(concat(parts), mean, var, weight, bias, False, 0.0, eps)


def native_norm_backward(
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    invstd: Tensor,
    params: tuple[Tensor, ...],
    eps: float,
    batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias of `native_norm`; ``batch`` if the statistics are those of x."""
    g = g.to(x.dtype).contiguous(memory_format=layout(x))
    weight = params[0].to(mean.dtype) if params else None
    return aten.native_batch_norm_backward(
        g, x, weight, mean, var, mean, invstd, batch, eps, [True, bool(params), bool(params)]
    )


def relu_backward(g: Tensor, y: Tensor, owned: bool) -> Tensor:
    """The gradient of relu's input, given its output y; in place if ``owned``."""
    if owned and g.dtype == y.dtype:
        return aten.threshold_backward.grad_input(g, y, 0, grad_input=g)
    return aten.threshold_backward(g.to(y.dtype), y, 0)
