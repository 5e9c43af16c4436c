"""The steps of a training: forward, loss, gradients in parts, clipping, update, and the average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas_agg.training.data import Data, Split
from nas_agg.training.losses import TrainingLoss
from nas_agg.training.mixing import Mixer
from nas_agg.training.optimizers import make_optimizer
from nas_agg.training.recipes import Recipe

_PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Takes the steps of a training.

    Args:
        model: The model, on the device.
        data: The data set.
        images: The training images.
        recipe: The recipe.
        device: The device.
        seed: Seed of mixup and cutmix.

    Attributes:
        forward: The model's forward in training; compilation replaces it.
        optimizer: The optimizer.
    """

    def __init__(self, model: nn.Module, data: Data, images: Split, recipe: Recipe, device: torch.device, seed: int):
        self.model, self.recipe, self.device = model, recipe, device
        self.forward: Callable[[Tensor], Tensor] = model
        self.optimizer = make_optimizer(model, recipe)
        self.loss = TrainingLoss(recipe, data, images)
        self.mixer = Mixer(recipe, data.classes, seed) if recipe.mixup or recipe.cutmix else None
        default = "bf16" if device.type == "cuda" else "float32"
        self.precision = _PRECISIONS[default if recipe.precision == "auto" else recipe.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.average: AveragedModel | None = None
        if recipe.ema:
            self.average = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average.module

    def step(self, images: Tensor, targets: Tensor, weights: Tensor | None, lr: float) -> tuple[Tensor, Tensor]:
        """Update the weights once.

        Args:
            images: Normalised images, (N, C, H, W).
            targets: Their targets.
            weights: Their weights, (N,), or None.
            lr: The learning rate.

        Returns:
            The mean loss, and the outputs (N, classes or targets) before the update.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1)
        if self.mixer is not None:
            images, targets, weights = self.mixer.mix(images, targets, weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss, outputs = self._backward(images, targets, weights)
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss, outputs

    def _backward(self, images: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute gradients, part by part of the batch; batch norms average over at least two images each."""
        count = len(images)
        parts = min(self.recipe.micro_batches, max(1, count // 2))
        if parts == 1:
            loss, outputs = self.losses(images, targets, weights)
            self.scaler.scale(loss).backward()
            return loss.detach(), outputs.detach()
        total, all_outputs = torch.zeros((), device=self.device), []
        of_images = self.loss.weights(targets, weights)
        whole = float(count) if of_images is None else of_images.sum().clamp(min=1e-12)
        for index in torch.arange(count, device=self.device).tensor_split(parts):
            part = None if weights is None else weights[index]
            loss, outputs = self.losses(images[index], targets[index], part)
            share = (len(index) if of_images is None else of_images[index].sum()) / whole
            self.scaler.scale(loss * share).backward()
            total += loss.detach() * share
            all_outputs.append(outputs.detach())
        return total, torch.cat(all_outputs)

    def losses(self, images: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, and the outputs."""
        is_mixed = self.precision is not None
        with torch.autocast(self.device.type, self.precision) if is_mixed else contextlib.nullcontext():
            outputs = self.forward(images)
        return self.loss(outputs.float(), targets, weights), outputs

    @torch.no_grad()
    def _average(self, averages: Any, weights: Any, updates: Any) -> None:
        """Move averages towards weights by the recipe's decay.

        After n updates the decay is at most (1 + n) / (10 + n), as in TensorFlow's ``ExponentialMovingAverage``, so
        that the first weights are forgotten.
        """
        assert self.average is not None
        count = int(self.average.n_averaged)
        decay = min(self.recipe.ema, (1 + count) / (10 + count))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, 1 - decay)
            else:
                average.copy_(weight)

    def finish(self) -> None:
        """Give the model the weights that are evaluated."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model: tensors and plain values."""
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
        if self.mixer is not None:
            state["mixing"] = self.mixer.state()
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.precision is torch.float16:
            state["scaler"] = self.scaler.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.mixer is not None:
            self.mixer.restore(state["mixing"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.precision is torch.float16:
            self.scaler.load_state_dict(state["scaler"])
