"""Batch-norm statistics of the current weights, in place of the running averages that a training leaves.

Running averages lag behind: with momentum 0.1 they are of the weights of the last ten or twenty steps, and after few
steps still of their initial zeros and ones. While the learning rate is high, a network evaluated with them is worse
than its weights are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_agg.training.augment import Augmenter
from nas_agg.training.recipes import Augmentation

#: Drawn from the training images, or all where they are fewer.
IMAGES = 1024

#: Where the learning rate is at most this share of its highest, running averages follow the weights.
SETTLED_RATE = 0.1

#: Steps after which nothing is left in running averages of what they began with: 0.9**100 is below 0.0001.
SETTLED_STEPS = 100


def lagging(rate: float, steps: int) -> bool:
    """Whether an epoch is to be scored with fresh statistics, as the running averages are of other weights.

    Args:
        rate: The learning rate of the last step, as a share of the highest.
        steps: Steps so far.
    """
    return rate > SETTLED_RATE or steps < SETTLED_STEPS


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The model's batch norms that have running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


@contextlib.contextmanager
def fresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Inside the context, batch norms have the statistics of some images; afterwards their running ones, bit for bit.

    As in `torch.optim.swa_utils.update_bn`, each statistic is the plain mean of the batches' own. Unlike there,
    everything but batch norm is in evaluation mode: no dropout, and no random number is drawn. The modes of all modules
    are restored before the context is entered. Of a model without batch norm no batch is asked for.

    Args:
        model: On the images' device.
        batches: Normalised images ``(N, C, H, W)``.
    """
    norms = batch_norms(model)
    if not norms:
        yield
        return
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        _estimate(model, norms, batches)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def _estimate(model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> None:
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.training = True
        with torch.no_grad():
            for images in batches:
                model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode


class StatisticsImages:
    """Training images that statistics are taken from: always the same ones, augmented in the same way.

    Iterating gives normalised batches ``(N, C, H, W)`` that differ in size by one image at most. All randomness comes
    from a generator of its own, so that a training draws the same numbers with and without.

    Args:
        images: uint8, (N, C, H, W), on the device to work on.
        batch_size: Images per batch, at most.
        augmentation: How they are varied.
        mean: Of each channel, of x / 255.
        std: Likewise.
        seed: Of the choice and the augmentation.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ):
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:IMAGES]
        self._augmenter = Augmenter(images[chosen.to(images.device)], augmentation, mean, std, seed)
        self._seed = seed
        self._index = torch.arange(len(chosen), device=images.device)
        self._batches = max(1, min(-(-len(chosen) // batch_size), len(chosen) // 2))

    def __iter__(self) -> Iterator[Tensor]:
        self._augmenter.generator.manual_seed(self._seed)
        for index in self._index.tensor_split(self._batches):
            yield self._augmenter.batch(index)
