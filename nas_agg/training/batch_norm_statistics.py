"""Batch-norm statistics of the current weights, used instead of running averages early in a training.

Running averages lag: with momentum 0.1 they describe the weights of the last ten to twenty steps, and after few steps
still their initial zeros and ones. While the learning rate is high, evaluation with running averages underestimates
the current weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_agg.training.augment import Augmenter
from nas_agg.training.data import Split
from nas_agg.training.recipes import Augmentation

#: Training images used for statistics, or all if there are fewer.
MAX_IMAGES = 256

#: Running averages follow the weights once the learning rate is at most this share of its maximum.
SETTLED_LR_SHARE = 0.1

#: Steps after which the initial values of running averages no longer matter: 0.9**100 is below 0.0001.
SETTLED_STEPS = 100


def running_averages_lag(lr_share: float, steps: int) -> bool:
    """Whether running averages lag behind the weights, so that statistics must be recomputed for an evaluation.

    Args:
        lr_share: The learning rate of the last step, as a share of the highest.
        steps: Steps so far.
    """
    return lr_share > SETTLED_LR_SHARE or steps < SETTLED_STEPS


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The model's batch norms that have running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


@contextlib.contextmanager
def fresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Context in which batch norms have the statistics of some images; their running statistics are restored on exit.

    As in `torch.optim.swa_utils.update_bn`, each statistic is the mean over batches. Unlike there, all modules but
    batch norms are in evaluation mode, so that no dropout is applied and no random number is drawn. The modes of all
    modules are restored before the context is entered. A model without batch norm reads no batch.

    Args:
        model: The model, on the images' device.
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
            norm.momentum = None  # cumulative average: the mean over batches
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
    """Training images for batch-norm statistics: always the same images with the same augmentation.

    Iteration yields normalised batches ``(N, C, H, W)`` whose sizes differ by at most one. All randomness comes from a
    separate generator, so that the training itself draws the same numbers with and without statistics.

    Args:
        split: The training images; some of them are moved to the device.
        device: The device.
        batch_size: Maximum number of images per batch.
        augmentation: The augmentation.
        mean: Mean of x / 255 per channel.
        std: Standard deviation of x / 255 per channel.
        seed: Seed of the choice and the augmentation.
        count: Number of images, or all where there are fewer.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        batch_size: int,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        count: int = MAX_IMAGES,
    ):
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
        channels, *size = split.image_shape
        self._augmenter = Augmenter(channels, (size[0], size[1]), device, augmentation, mean, std, seed)
        self._images = split.rows(chosen.to(split.labels.device), self._augmenter.whole).to(device)
        self._seed = seed
        self._batches = max(1, min(-(-len(chosen) // batch_size), len(chosen) // 2))

    def __iter__(self) -> Iterator[Tensor]:
        self._augmenter.generator.manual_seed(self._seed)
        for images in self._images.tensor_split(self._batches):
            yield self._augmenter.batch(images)
