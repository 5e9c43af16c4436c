"""Targets of a regression in units of their standard deviation, so that recipes suit targets of any size.

A network is trained on standardized targets; at the end its last layer is rescaled to the targets themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_agg.compiler.network import Network
from nas_agg.training.data import Data, Split


@dataclass(frozen=True)
class TargetScaling:
    """Mean and standard deviation of the targets.

    Attributes:
        mean: float32, (targets,).
        std: float32, (targets,); 1 for a constant target.
    """

    mean: Tensor
    std: Tensor

    def standardized(self, split: Split) -> Split:
        """A split with standardized targets."""
        mean, std = self.mean.to(split.labels.device), self.std.to(split.labels.device)
        return replace(split, labels=(split.labels - mean) / std)

    def rescale(self, model: nn.Module) -> None:
        """Make a model that predicts standardized targets predict the targets, by its last layer."""
        linear = last_layer(model)
        assert linear is not None
        mean, std = self.mean.to(linear.weight), self.std.to(linear.weight)
        with torch.no_grad():
            linear.weight.mul_(std[:, None])
            linear.bias.mul_(std).add_(mean)

    def standardize(self, model: nn.Module) -> None:
        """The inverse of `rescale`, for a model that was trained before."""
        linear = last_layer(model)
        assert linear is not None
        mean, std = self.mean.to(linear.weight), self.std.to(linear.weight)
        with torch.no_grad():
            linear.weight.div_(std[:, None])
            linear.bias.sub_(mean).div_(std)


class RescaledOutputs(nn.Module):
    """A model that predicts standardized targets, with outputs in the targets' own units.

    Args:
        model: The model.
        scaling: The scaling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, scaling: TargetScaling):
        super().__init__()
        self.model, self.training = model, model.training
        self.register_buffer("mean", scaling.mean)
        self.register_buffer("std", scaling.std)

    def forward(self, images: Tensor) -> Tensor:
        """Predictions (N, targets)."""
        return self.model(images).float() * self.std + self.mean


def target_scaling(model: nn.Module, data: Data) -> TargetScaling | None:
    """The scaling of a data set's targets, by its training and validation images.

    Args:
        model: The model that is trained.
        data: The data set.

    Returns:
        The scaling; None if there are no numbers to predict, or the network does not end in a linear layer.
    """
    if data.task != "regression" or last_layer(model) is None:
        return None
    targets = torch.cat([data.train.labels, data.validation.labels]).double()
    std = targets.std(0, correction=0)
    return TargetScaling(targets.mean(0).float(), torch.where(std > 0, std, 1.0).float())


def last_layer(model: nn.Module) -> nn.Linear | None:
    """The linear layer with a bias whose outputs are a network's own; None if there is none."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or not isinstance(model, Network) or linear[-1][1].bias is None:
        return None
    name, module = linear[-1]
    *_, last, end = model.source.splitlines()
    target, _, call = last.strip().partition(" = ")
    is_output = end.strip() == f"return {target}.flatten(1)" and call.startswith(f"self.{name}(")
    return module if is_output else None
