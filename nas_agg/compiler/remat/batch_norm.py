"""How batch norm is said to PyTorch, forward and backward, over tensors that lie in one memory or in several.

On a CPU in single or double precision it is made of passes that PyTorch has vector code for, which its own batch norm
mostly has not: which spelling is fast differs between NCHW and channels_last. Elsewhere the native kernels are used.
Vectors are of shape (C,); ``row`` lays one along the channels of a map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

aten: Any = torch.ops.aten
MAPS = (0, 2, 3)
SMALL = 500_000  # numbers up to which the native backward of batch norm is no slower than passes


def row(vector: Tensor) -> Tensor:
    """A vector of channels as a map of 1x1."""
    return vector.view(-1, 1, 1)


def joined(parts: list[Tensor]) -> Tensor:
    """Tensors' channels one after another."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def is_last(x: Tensor) -> bool:
    """Whether a tensor's channels lie innermost."""
    return x.stride(1) == 1 and x.shape[1] > 1


def layout(x: Tensor) -> torch.memory_format:
    """The memory format of a tensor or of the tensor that it is a slice of."""
    return torch.channels_last if is_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """The tensor, or a copy in one piece of memory, in its own memory format."""
    return x.contiguous(memory_format=layout(x))


def new_like(x: Tensor, channels: int) -> Tensor:
    """An empty tensor in the memory format of x, with another number of channels."""
    n, _, h, w = x.shape
    return torch.empty((n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=layout(x))


def buffer(x: Tensor, channels: int) -> Tensor:
    """Memory for ``channels`` channels, the first of which are those of x."""
    return store(new_like(x, channels), x, 0)


def store(buffer: Tensor, x: Tensor, first: int) -> Tensor:
    """The buffer, in which x now stands from channel ``first`` on."""
    buffer[:, first : first + x.shape[1]] = x
    return buffer


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of stride 1.

    On one thread PyTorch takes a matrix product for fewer than 16 images, where oneDNN's kernel is up to twice as fast.
    """
    if is_traced():  # whoever looks must not see a choice by the number of images
        return conv(x)
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[0] < 16 and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, conv.weight, conv.bias, (0, 0), (1, 1), (1, 1), 1)
    return conv(x)


def is_traced() -> bool:
    """Whether a tracer or a compiler is looking."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_plain(x: Tensor) -> bool:
    """Whether passes over the tensor are faster than native batch norm: on a CPU in full precision."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel.

    Raises:
        ValueError: If a channel has one value only.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if is_plain(x) and not is_last(x):
        mean = x.mean(MAPS)
        return mean, (x - row(mean)).square_().mean(MAPS)
    if x.device.type == "cpu":
        x = x.contiguous(memory_format=torch.channels_last)
        x = x if is_plain(x) else x.float()
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def affine(parts: list[Tensor], scale: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """``scale * x + shift`` of the parts' concat x; vectors of its channels, of one part also ``(N, C)``."""
    s, t = scale.view(*scale.shape, 1, 1), shift.view(*shift.shape, 1, 1)
    last = is_last(parts[0])
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
    """For each channel the sum of ``g``, and that of ``g * x`` with the parts' concat x."""
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
    """Batch norm with given statistics, by PyTorch's own kernel; ``params`` are weight and bias, or none."""
    weight, bias = [param.to(mean.dtype) for param in params] or (None, None)
    return functional.batch_norm(joined(parts), mean, var, weight, bias, False, 0.0, eps)


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
    """The gradient behind relu, given relu's output; in place if ``owned``."""
    if owned and g.dtype == y.dtype:
        return aten.threshold_backward.grad_input(g, y, 0, grad_input=g)
    return aten.threshold_backward(g.to(y.dtype), y, 0)
