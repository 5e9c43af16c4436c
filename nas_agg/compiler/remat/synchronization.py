"""Batch norm over the parts of a batch that several processes have, in plain networks and in lean ones.

Unlike `torch.nn.SyncBatchNorm`, it runs on a CPU as well, and a lean network exchanges the statistics of a tensor once,
however many norms read them, as in dense aggregation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from nas_agg.compiler.remat import kernels
from nas_agg.compiler.remat.kernels import MAPS, row


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training steps are those of the parts of all processes.

    Without gradients, as when one process evaluates, statistics are those of the process's images.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        y, mean, var, share = _SynchronizedNorm.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = var * unbiased_factor(x.numel() // x.shape[1], share)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return y


def synchronize_batch_norms(model: nn.Module) -> None:
    """Replace the batch norms of a model, which keep their parameters, statistics and names."""
    replaced: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                parent._modules[name] = replaced.setdefault(id(child), _synchronized(child))


def _synchronized(norm: nn.BatchNorm2d) -> SynchronizedBatchNorm2d:
    with torch.device("meta"):
        other = SynchronizedBatchNorm2d(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
    other.__dict__.update(norm.__dict__)  # its parameters and buffers themselves, for the optimizer has them
    return other


def combine_statistics(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance over the parts of all processes, by the formula of Chan et al. (1979).

    Args:
        mean: Mean of each channel of this process's part, (C,).
        var: Its biased variance, (C,).
        count: Number of values per channel.

    Returns:
        Mean and variance, (C,) each, and this process's share of all values, a scalar.
    """
    own = torch.cat([mean, var, mean.new_full((1,), count)])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    means, variances, counts = torch.stack(parts).split([len(mean), len(var), 1], 1)
    shares = counts / counts.sum()
    mean = (means * shares).sum(0)
    var = ((variances + (means - mean).square()) * shares).sum(0)
    return mean, var, count / counts.sum()


def unbiased_factor(count: int, share: Tensor) -> Tensor:
    """The ratio of unbiased and biased variance.

    Args:
        count: Values per channel of this process.
        share: Their share of those of all processes.
    """
    total = count / share
    return total / (total - 1)


def sum_over_processes(*vectors: Tensor) -> list[Tensor]:
    """The sums of vectors of equal length over all processes."""
    both = torch.stack(vectors)
    dist.all_reduce(both)
    return list(both)


def norm_backward(
    g: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, share: Tensor, flows: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of the input and, of this process's part alone, of weight and bias.

    Args:
        g: Gradient of the output.
        x: The input.
        mean: Mean over all processes, (C,).
        invstd: Reciprocal of the standard deviation, (C,).
        weight: The weight, or None.
        share: This process's share of all values.
        flows: Whether the gradient of the input is needed.
    """
    dtype = mean.dtype
    g_full, deviation = g.to(dtype), x.to(dtype) - row(mean)
    total, product = g_full.sum(MAPS), (g_full * deviation).sum(MAPS).mul_(invstd)
    if not flows:
        return None, product, total
    all_total, all_product = sum_over_processes(total, product)
    over_count = share * (x.shape[1] / x.numel())
    centred = torch.addcmul(
        g_full - row(all_total * over_count), deviation, row(all_product * invstd * over_count), value=-1
    )
    scale = invstd if weight is None else invstd * weight.to(dtype)
    return centred.mul_(row(scale)).to(x.dtype), product, total


class _SynchronizedNorm(torch.autograd.Function):
    """Batch norm of one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        mean, var, share = combine_statistics(*kernels.statistics(x), x.numel() // x.shape[1])
        params = () if weight is None or bias is None else (weight, bias)
        y = kernels.native_norm([x], mean, var, params, eps)
        ctx.save_for_backward(x, mean, (var + eps).rsqrt_(), weight, share)
        ctx.mark_non_differentiable(mean, var, share)
        return y, mean, var, share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, invstd, weight, share = ctx.saved_tensors
        flows, weight_trained, bias_trained, _ = ctx.needs_input_grad
        input_grad, dw, db = norm_backward(g, x, mean, invstd, weight, share, flows)
        return input_grad, dw if weight_trained else None, db if bias_trained else None, None
