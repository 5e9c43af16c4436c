"""The steps of a training: forward, loss, gradients in parts, clipping, update, and the average of the weights."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from nas_agg.training.data import Data, Split
from nas_agg.training.losses import TrainingLoss
from nas_agg.training.optimizers import make_optimizer
from nas_agg.training.recipes import Recipe
from nas_agg.training.steps.batches import Batch
from nas_agg.training.steps.cuda_graphs import GraphedSteps
from nas_agg.training.steps.mixing import Mixer
from nas_agg.training.steps.noise import NoiseOfPart, has_noise
from nas_agg.training.steps.processes import Processes

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
        processes: The processes of the training; their gradients are averaged once `connect` has been called.

    Attributes:
        forward: The model's forward in training; compilation replaces it.
        optimizer: The optimizer.
        shares_noise: Whether processes draw the noise of dropout of the whole batch, from generators in equal states.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        images: Split,
        recipe: Recipe,
        device: torch.device,
        seed: int,
        processes: Processes,
    ):
        self.model, self.recipe, self.device, self.processes = model, recipe, device, processes
        self.forward: Callable[[Tensor], Tensor] = model
        self.optimizer = make_optimizer(model, recipe)
        self.loss = TrainingLoss(recipe, data, images)
        self.mixer = Mixer(recipe, data.classes, seed) if recipe.mixup or recipe.cutmix else None
        default = "bf16" if device.type == "cuda" else "float32"
        self.precision = _PRECISIONS[default if recipe.precision == "auto" else recipe.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self._graphs: GraphedSteps | None = None
        self.shares_noise = False
        self._averaged = 0
        self.average: AveragedModel | None = None
        if recipe.ema:
            self.average = AveragedModel(model, use_buffers=True)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average.module

    def connect(self) -> None:
        """Average gradients over processes from now on; parameters and buffers become those of the first.

        A single process on CUDA captures its steps instead, if the recipe says so and nothing is compiled.
        """
        is_alone = self.processes.count == 1 and self.forward is self.model
        if self.recipe.cuda_graphs and self.device.type == "cuda" and is_alone and not self.scaler.is_enabled():
            self._graphs = GraphedSteps(
                lambda images, targets, weights: self._update(Batch(images, targets, weights, slice(0, len(images)))),
                self.optimizer,
                self.device,
            )
        if self.processes.count > 1:
            is_plain = self.forward is self.model and self.recipe.micro_batches == 1
            self.shares_noise = is_plain and has_noise(self.model)
            # Buffers stay each process's own: the statistics of batch norms that are saved are the first one's.
            accepted = inspect.signature(DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers"
            options: dict[str, Any] = {name: False}
            self.forward = DistributedDataParallel(_Forward(self.model, self.forward), **options)

    def step(self, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
        """Update the weights once.

        Args:
            batch: The batch.
            lr: The learning rate.

        Returns:
            The mean loss of the batch, of which each process has its share, and the outputs of this process's part
            (B, classes or targets) before the update.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1)
        if self.mixer is not None:
            batch = self.mixer.mix(batch)
        if self._graphs is None:
            loss, outputs = self._update(batch)
        else:
            loss, outputs = self._graphs(batch.images, batch.targets, batch.weights)
        if self.average is not None:
            self._update_average(self.average)
        return loss, outputs

    def _update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The part of a step that is the same for all batches of a size."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, outputs = self._backward(batch)
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, outputs

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute gradients, in several parts if the recipe says so; batch norms average over two images at least."""
        images, targets, weights = batch.images, batch.targets[batch.part], batch.weights
        weights = None if weights is None else weights[batch.part]
        share = self._share(batch)
        # All processes split their parts into as many, since batch norms may be synchronised.
        parts = min(self.recipe.micro_batches, max(1, batch.count // self.processes.count // 2))
        if parts == 1:
            with NoiseOfPart(batch) if self.shares_noise else contextlib.nullcontext():
                loss, outputs = self.losses(images, targets, weights)
            self._propagate(loss, share)
            loss = loss.detach()
            return loss if share is None else loss * share, outputs.detach()
        total, all_outputs = torch.zeros((), device=self.device), []
        of_images = self.loss.weights(targets, weights)
        whole = float(len(images)) if of_images is None else of_images.sum().clamp(min=1e-12)
        for number, index in enumerate(torch.arange(len(images), device=self.device).tensor_split(parts), 1):
            part = None if weights is None else weights[index]
            of_part = (len(index) if of_images is None else of_images[index].sum()) / whole
            of_part = of_part if share is None else of_part * share
            with self._unconnected() if number < parts else contextlib.nullcontext():
                loss, outputs = self.losses(images[index], targets[index], part)
                self._propagate(loss, of_part)
            total += loss.detach() * of_part
            all_outputs.append(outputs.detach())
        return total, torch.cat(all_outputs)

    def _share(self, batch: Batch) -> Tensor | float | None:
        """Share of this process's part in the mean loss of the batch; None if it is all."""
        if batch.is_whole:
            return None
        of_images = self.loss.weights(batch.targets, batch.weights)
        if of_images is None:
            return (batch.part.stop - batch.part.start) / batch.count
        return of_images[batch.part].sum() / of_images.sum().clamp(min=1e-12)

    def _propagate(self, loss: Tensor, share: Tensor | float | None) -> None:
        """Compute the gradients of a share of the batch's loss; an average over processes of these is taken."""
        if share is not None:
            loss = loss * (share * self.processes.count)
        self.scaler.scale(loss).backward()

    def _unconnected(self) -> contextlib.AbstractContextManager[None]:
        """Context in which gradients are accumulated without being averaged."""
        if isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return contextlib.nullcontext()

    def losses(self, images: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, and the outputs."""
        is_mixed = self.precision is not None
        with torch.autocast(self.device.type, self.precision) if is_mixed else contextlib.nullcontext():
            outputs = self.forward(images)
        return self.loss(outputs.float(), targets, weights), outputs

    @torch.no_grad()
    def _update_average(self, average: AveragedModel) -> None:
        """Move averages towards weights and buffers by the recipe's decay.

        After n updates the decay is at most (1 + n) / (10 + n), as in TensorFlow's ``ExponentialMovingAverage``, so
        that the first weights are forgotten. (`AveragedModel.update_parameters` copies its count to the device, and so
        waits for it.)
        """
        count = self._averaged
        averages = (*average.module.parameters(), *average.module.buffers())
        pairs = list(zip(averages, (*self.model.parameters(), *self.model.buffers()), strict=True))
        moved = [pair for pair in pairs if count and pair[0].is_floating_point()]
        for of_average, of_model in pairs:
            if not (count and of_average.is_floating_point()):
                of_average.copy_(of_model)
        if moved:
            decay = min(self.recipe.ema, (1 + count) / (10 + count))
            torch._foreach_lerp_([pair[0] for pair in moved], [pair[1] for pair in moved], 1 - decay)
        average.n_averaged += 1
        self._averaged += 1

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
            self._averaged = int(self.average.n_averaged)
        if self.precision is torch.float16:
            self.scaler.load_state_dict(state["scaler"])


class _Forward(nn.Module):
    """A model whose forward is another function of it, such as a compiled one."""

    def __init__(self, model: nn.Module, forward: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model = model
        self._run = [forward]  # in a list, so that it does not become a second submodule

    def forward(self, images: Tensor) -> Tensor:
        return self._run[0](images)
