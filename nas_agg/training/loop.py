"""Training and evaluation: any module from (N, C, H, W) floats to (N, classes) logits."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_agg.common.errors import InputError, NasAggError, did_you_mean, is_out_of_memory, one_line
from nas_agg.common.files import write_atomic
from nas_agg.compiler.network import aggregation_parameters, memory_of
from nas_agg.training.augment import Augmenter
from nas_agg.training.batch_norm_statistics import lagging
from nas_agg.training.checkpoints import load_checkpoint, model_print, remove_checkpoint, save_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.evaluation import Metrics, Validation, evaluate
from nas_agg.training.recipes import Recipe
from nas_agg.training.torch_compile import CompiledForward

METRICS = "metrics.jsonl"
Report = Callable[[int, Metrics], bool]


class TrainingFailed(NasAggError):
    """A training came to nothing.

    Attributes:
        reason: ``"diverged: ..."`` or ``"out of memory: ..."``.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)

    def __reduce__(self) -> tuple:
        return TrainingFailed, (self.reason,)


@dataclass(frozen=True)
class Result:
    """A training that ended well.

    Attributes:
        epochs: Epochs done.
        history: Each epoch's metrics, as in ``metrics.jsonl``.
        stopped: ``"pruned"`` if ``report`` ended it before its last epoch, ``"paused"`` if ``until`` did, else none.
        seconds: Time the epochs took, those before a resumption included.
        uncompiled: Why steps ran as they are when they were to be compiled, else empty.
    """

    epochs: int
    history: tuple[Metrics, ...]
    stopped: str | None
    seconds: float
    uncompiled: str = ""

    @property
    def metrics(self) -> Metrics:
        """The last epoch's metrics."""
        return self.history[-1]


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name: ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdecimal())):
        hint = did_you_mean(name, ["auto", "cpu", "cuda"]) or "; give auto, cpu, cuda or cuda:N"
        raise InputError(f"no device is called '{name}'{hint}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"device '{name}': this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    return torch.device(name)


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    epochs: int | None = None,
    on: Literal["train", "train+validation"] = "train",
    out: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
    checkpoint_seconds: float = 20.0,
    compile: bool = False,
    until: int | None = None,
) -> Result:
    """Train a model in place.

    An epoch's images, in a new order, are cut into batches that differ by one image at most, none larger than the
    recipe's and none of a single image: nothing is dropped and batch normalisation always has something to average.
    On CUDA the forward pass runs in bfloat16 where that is safe. PyTorch's global generator is seeded (dropout); order
    and augmentation have generators of their own. On a CPU equal arguments give equal weights.

    Args:
        model: From (N, C, H, W) floats to (N, classes) logits; moved to the device and to channels_last.
        data: Split by the seed already.
        recipe: How to train.
        seed: Of everything random here; the initial weights are the caller's.
        device: Where to work.
        epochs: In the place of the recipe's; its schedule is squeezed or stretched to them.
        on: The images to learn from. With ``"train"`` every epoch is scored on the validation images, with batch-norm
            statistics of its own weights while running averages lag behind (`nas_agg.training.batch_norm_statistics`).
        out: Folder for ``metrics.jsonl`` (a line an epoch) and ``checkpoint.pt``. A training that ended keeps a
            checkpoint only if it was due for one; it may be removed once the result is safe.
        resume: Go on from the checkpoint in ``out``, or from the start if there is none. The result is that of a
            training never broken off, to the last bit on a CPU.
        report: Called after each epoch with its number (from 1) and metrics; true ends the training.
        checkpoint_seconds: Time between checkpoints, which stand at ends of epochs.
        until: Pause after so many epochs, with a checkpoint to go on from; the schedule is that of ``epochs``.
        compile: Whether steps run under ``torch.compile``. It compiles before the first step; if that fails, the
            training goes on without. The weights and their names are the model's own in any case.

    Raises:
        TrainingFailed: The loss or the weights were no numbers, the loss grew past ten times that of guessing, or
            memory ran out.
        InputError: The checkpoint is another training's, the data or the model do not fit.
    """
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"epochs {epochs}: give 1 or more")
    try:
        run = _Training(model, data, recipe, seed, torch.device(device), epochs, on)
        if out is not None:
            run.open(out, resume)
        if compile and len(run.history) < epochs:
            run.compile()
        return run.run(report, checkpoint_seconds, min(epochs, until or epochs))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:160]
        raise TrainingFailed(f"out of memory: at batch size {recipe.batch_size} ({said})") from None


class _Training:
    """The state of one training, and its epochs."""

    def __init__(
        self, model: nn.Module, data: Data, recipe: Recipe, seed: int, device: torch.device, epochs: int, on: str
    ):
        if seed < 0:
            raise InputError(f"seed {seed}: give a number from 0 on")
        self.model, self.data, self.recipe, self.device, self.epochs = model, data, recipe, device, epochs
        images = (data.train if on == "train" else data.train + data.validation).to(device)
        if len(images) < 2:
            raise InputError(f"{data.name}: {len(images)} training images; at least 2 are needed")
        self.labels = images.labels
        order, varied, rest, statistics = (int(x) for x in np.random.SeedSequence(seed).generate_state(4))
        self.order = torch.Generator().manual_seed(order)
        torch.manual_seed(rest)
        augmentation = recipe.augmentation(data.augmentation)
        self.augmenter = Augmenter(images.images, augmentation, data.mean, data.std, varied)
        self.validation = Validation(data, images.images, augmentation, statistics, device) if on == "train" else None
        self.batches = max(1, min(math.ceil(len(images) / recipe.batch_size), len(images) // 2))
        # Batches are made several at a time: one gather for many small steps.
        room = 2**20 if device.type == "cpu" else 2**24
        self.group = max(1, room // (recipe.batch_size * math.prod(data.input)))
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = _optimiser(model, recipe)
        self.steps = self.batches * epochs
        self.history: list[Metrics] = []
        self.forward: Callable[[Tensor], Tensor] = model
        self.uncompiled = ""
        self.out: Path | None = None
        self.of = {
            "network": model_print(model),
            "recipe": recipe.model_dump_json(exclude={"about", "choices"}, exclude_defaults=True),
            "seed": seed,
            "number of epochs": epochs,
            "part of the data": on,
            "data set": f"{data.name}, {len(images)} images {data.input}, mean {data.mean}",
        }

    def open(self, out: Path, resume: bool) -> None:
        """Make the folder hold what this training has done so far, and nothing else of a training."""
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        state = load_checkpoint(out, self.of) if resume else None
        if state is None:
            remove_checkpoint(out)
        else:
            self._restore(state)
        write_atomic(out / METRICS, "".join(json.dumps(metrics) + "\n" for metrics in self.history))

    def compile(self) -> None:
        """Compile the steps ahead; nothing of it is left in what is trained, nor in what is drawn."""
        images = len(self.labels)
        size = math.ceil(images / self.batches)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        drawn, others = torch.get_rng_state(), self.augmenter.generator.get_state()
        on_device = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        try:
            memory = memory_of(self.model)
            self.forward = CompiledForward(self.model.train(), memory, varied=images % self.batches > 0)
            self._loss(self.augmenter.batch(torch.arange(size, device=self.device)), self.labels[:size])[0].backward()
        except Exception as error:  # a compiler, and what it calls, raise anything
            if is_out_of_memory(error):
                raise
            self.forward = self.model
            self.uncompiled = f"{type(error).__name__}: {one_line(' '.join(str(error).split()))[:160]}"
        finally:
            self.optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            torch.set_rng_state(drawn)
            self.augmenter.generator.set_state(others)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, self.device)

    def run(self, report: Report | None, checkpoint_seconds: float, until: int) -> Result:
        """The epochs that are left, up to one of them."""
        saved = time.monotonic()
        stopped = None
        while len(self.history) < until and stopped is None:
            metrics = self._epoch(len(self.history) + 1)
            self.history.append(metrics)
            if self.out is not None:
                with (self.out / METRICS).open("a") as file:
                    file.write(json.dumps(metrics) + "\n")
            if report is not None and report(len(self.history), metrics) and len(self.history) < self.epochs:
                stopped = "pruned"
            # After the report, so that no epoch that is done goes unreported, and never for a training that ended so.
            elif self.out is not None and time.monotonic() - saved >= checkpoint_seconds:
                save_checkpoint(self.out, self.of, self._state())
                saved = time.monotonic()
        if stopped is None and len(self.history) < self.epochs:
            stopped = "paused"
            if self.out is not None:
                save_checkpoint(self.out, self.of, self._state())
        seconds = sum(metrics["seconds"] for metrics in self.history)
        return Result(len(self.history), tuple(self.history), stopped, seconds, self.uncompiled)

    def _epoch(self, number: int) -> Metrics:
        start = time.perf_counter()
        metrics: Metrics = {"epoch": number} | self._learn(number)
        seconds = time.perf_counter() - start
        if self.validation is not None:
            fresh = lagging(metrics["lr"] / self.recipe.lr, number * self.batches)
            metrics |= self.validation.metrics(self.model, fresh)
        self._check_finite(number, metrics)
        metrics["seconds"] = round(time.perf_counter() - start, 4)
        metrics["images_per_second"] = round(len(self.labels) / seconds, 1)
        return metrics

    def _learn(self, number: int) -> Metrics:
        """One pass over the training images."""
        self.model.train()
        total = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        order = torch.randperm(len(self.labels), generator=self.order).to(self.device)
        batches = order.tensor_split(self.batches)
        step, lr = (number - 1) * self.batches, 0.0
        for first in range(0, self.batches, self.group):
            group = batches[first : first + self.group]
            index = torch.cat(group)
            sizes = [len(batch) for batch in group]
            images, labels = self.augmenter.batch(index).split(sizes), self.labels[index].split(sizes)
            for batch, target in zip(images, labels, strict=True):
                step += 1
                lr = self.recipe.learning_rate(step, self.steps)
                loss, logits = self._step(batch, target, lr)
                total += loss * len(target)
                correct += (logits.argmax(1) == target).sum()
            if not math.isfinite(float(total)):  # the only wait for the device, once for many steps
                raise TrainingFailed(f"diverged: the loss was no number in epoch {number}")
        mean = float(total) / len(self.labels)
        bound = 10 * math.log(self.data.classes)
        if mean > bound and (number - 1) * self.batches >= self.recipe.warmup_steps(self.steps):
            raise TrainingFailed(f"diverged: mean loss {mean:.3g} in epoch {number}, guessing has {bound / 10:.3g}")
        return {"lr": lr, "train_loss": mean, "train_accuracy": int(correct) / len(self.labels)}

    def _step(self, images: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        loss, logits = self._loss(images, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        return loss.detach(), logits.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        cuda = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if cuda else contextlib.nullcontext():
            logits = self.forward(images)
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing), logits

    def _check_finite(self, number: int, metrics: Metrics) -> None:
        """The last step may have spoilt the weights after its loss was counted."""
        floats = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norm = float(torch.stack(torch._foreach_norm(floats)).norm()) if floats else 0.0
        if not math.isfinite(norm):
            raise TrainingFailed(f"diverged: weights were no numbers after epoch {number}")
        losses = [value for name, value in metrics.items() if name.startswith("validation_loss")]
        if not all(map(math.isfinite, losses)):
            raise TrainingFailed(f"diverged: the validation loss was no number after epoch {number}")

    def _state(self) -> dict[str, Any]:
        state = {
            "history": self.history,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.get_state(),
            "augmentation": self.augmenter.generator.get_state(),
            "global": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.order.set_state(state["order"])
            self.augmenter.generator.set_state(state["augmentation"])
            torch.set_rng_state(state["global"])
            if self.device.type == "cuda" and "cuda" in state:
                torch.cuda.set_rng_state(state["cuda"], self.device)
            self.history = list(state["history"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            text = " ".join(str(error).split())[:160]
            raise InputError(f"{self.out}: its checkpoint does not fit ({text}); remove it") from None


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the network has no parameters to train")
    spared = {id(p) for p in aggregation_parameters(model) if not recipe.decay_aggregation}
    spared |= {id(p) for p in parameters if p.ndim <= 1 and not recipe.decay_vectors}
    whole = [p for p in parameters if id(p) not in spared]
    rest = [p for p in parameters if id(p) in spared]
    groups = [{"params": whole}] + ([{"params": rest, "weight_decay": 0.0}] if rest else [])
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,  # a fifth of the time of a loop over many small tensors, on a CPU too
    )


__all__ = ["METRICS", "Report", "Result", "TrainingFailed", "evaluate", "pick_device", "train"]
