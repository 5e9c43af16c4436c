"""The training loop, for any module from (N, C, H, W) floats to (N, classes) logits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nas_agg.common.chained_lines import START, json_line
from nas_agg.common.durable import HeldFolder, sync
from nas_agg.common.errors import InputError, NasAggError, did_you_mean, is_out_of_memory, one_line
from nas_agg.common.files import write_atomic, write_errors
from nas_agg.compiler.fine_tuning import freeze, keep_frozen_statistics
from nas_agg.compiler.network import memory_of
from nas_agg.training.augment import Augmenter
from nas_agg.training.batch_norm_statistics import running_averages_lag
from nas_agg.training.checkpoints import load_checkpoint, model_fingerprint, remove_checkpoint, save_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.data.feed import gather_ahead
from nas_agg.training.evaluation import Metrics, Validation, evaluate, find_metric, main_metric
from nas_agg.training.losses import sampling_weights
from nas_agg.training.recipes import Recipe
from nas_agg.training.steps import Stepper
from nas_agg.training.stopping import EarlyStopping
from nas_agg.training.torch_compile import CompiledForward

METRICS = "metrics.jsonl"
Report = Callable[[int, Metrics], bool]


class TrainingFailed(NasAggError):
    """A training diverged or ran out of memory.

    Attributes:
        reason: ``"diverged: ..."`` or ``"out of memory: ..."``.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)

    def __reduce__(self) -> tuple:
        return TrainingFailed, (self.reason,)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a training that did not fail.

    Attributes:
        epochs: Epochs done.
        history: Each epoch's metrics, as in ``metrics.jsonl``.
        stopped: ``"pruned"`` if ``report`` ended it before its last epoch, ``"paused"`` if ``pause_after`` did,
            ``"early"`` if the recipe's patience was exhausted, else None.
        seconds: Duration of the epochs, including those before a resumption.
        compile_error: Why a training that was to be compiled ran without ``torch.compile``; else empty.
        best_epoch: The epoch that the weights are from, with early stopping; None if they are the last one's.
    """

    epochs: int
    history: tuple[Metrics, ...]
    stopped: str | None
    seconds: float
    compile_error: str = ""

    best_epoch: int | None = None

    @property
    def metrics(self) -> Metrics:
        """The metrics of the weights: the last epoch's, or the best one's with early stopping."""
        return self.history[-1 if self.best_epoch is None else self.best_epoch - 1]


def pick_device(name: str = "auto") -> torch.device:
    """Resolve a device name: ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdecimal())):
        hint = did_you_mean(name, ["auto", "cpu", "cuda"]) or "; choose from auto, cpu, cuda and cuda:N"
        raise InputError(f"unknown device '{name}'{hint}")
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
    pause_after: int | None = None,
    metrics: Sequence[str] = (),
) -> TrainingOutcome:
    """Train a model in place.

    Each epoch shuffles the images and splits them into batches whose sizes differ by at most one, none larger than the
    recipe's and none of a single image: no image is dropped, and batch norm always averages over several. On CUDA the
    forward pass runs under bfloat16 autocast. PyTorch's global generator is seeded (for dropout); order and
    augmentation have generators of their own. On a CPU equal arguments give equal weights.

    Args:
        model: A module from (N, C, H, W) floats to (N, classes) logits; moved to the device and to channels_last.
        data: The data set, split.
        recipe: The training recipe.
        seed: Seed of all randomness except the initial weights, which are the caller's.
        device: The device.
        epochs: Number of epochs, instead of the recipe's; its schedule is scaled accordingly.
        on: The training images. With ``"train"`` each epoch is evaluated on the validation images, with batch-norm
            statistics of the current weights while running averages lag (`nas_agg.training.batch_norm_statistics`).
        out: Folder for ``metrics.jsonl`` (one line per epoch) and ``checkpoint.pt``, whose parent exists. A finished
            training leaves a checkpoint only if one was due; it may be removed once the result is saved.
        resume: Resume from the checkpoint in ``out``, or start anew if there is none. The result is that of an
            uninterrupted training, bit for bit on a CPU.
        report: Called after each epoch with its number (from 1) and metrics; returning true ends the training.
        checkpoint_seconds: Time between checkpoints, which are saved at the end of an epoch.
        compile: Whether steps run under ``torch.compile``. Compilation happens before the first step; if it fails, the
            training continues without. Parameters and their names remain those of the model.
        metrics: Names of metrics of `nas_agg.training.metrics` to compute of the validation images beside the default
            ones. The first is the main one, which early stopping watches; by default it is that of the task.
        pause_after: Pause after this many epochs and save a checkpoint; the schedule remains that of ``epochs``.

    Raises:
        TrainingFailed: The loss or the weights became NaN or infinite, the loss exceeded ten times that of guessing,
            or memory ran out.
        InputError: The checkpoint belongs to another training, or the data or the model are unsuitable.
    """
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"epochs {epochs}: must be 1 or more")
    try:
        run = _Training(model, data, recipe, seed, torch.device(device), epochs, on, metrics)
        if out is not None:
            run.prepare_folder(out, resume)
        if compile and len(run.history) < epochs:
            run.compile()
        return run.run(report, checkpoint_seconds, min(epochs, pause_after or epochs))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        detail = " ".join(str(error).split())[:160]
        raise TrainingFailed(f"out of memory: at batch size {recipe.batch_size} ({detail})") from None


class _Training:
    """The state and the epochs of one training."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        epochs: int,
        on: str,
        metrics: Sequence[str],
    ):
        if seed < 0:
            raise InputError(f"seed {seed}: must be 0 or more")
        self.model, self.data, self.recipe, self.device, self.epochs = model, data, recipe, device, epochs
        images = (data.train if on == "train" else data.train + data.validation).to(device)
        if len(images) < 2:
            raise InputError(f"{data.name}: {len(images)} training images; at least 2 are needed")
        self.images, self.labels = images, images.labels
        order, augmentation_seed, global_seed, statistics, mixing = (
            int(x) for x in np.random.SeedSequence(seed).generate_state(5)
        )
        self.order = torch.Generator().manual_seed(order)
        torch.manual_seed(global_seed)
        augmentation = recipe.augmentation(data.augmentation)
        channels, *size = images.image_shape
        self.augmenter = Augmenter(
            channels, (size[0], size[1]), device, augmentation, data.mean, data.std, augmentation_seed
        )
        self.validation: Validation | None = None
        if on == "train":
            self.validation = Validation(data, images, augmentation, statistics, device, metrics)
        metric = find_metric(metrics[0] if metrics else main_metric(data.task), data.task)
        self.batches = max(1, min(math.ceil(len(images) / recipe.batch_size), len(images) // 2))
        # Several batches are augmented at once: one gather serves many small steps.
        values_at_once = 2**20 if device.type == "cpu" else 2**24
        self.batches_at_once = max(1, values_at_once // (recipe.batch_size * math.prod(data.input)))
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(model, recipe.freeze)
        self.stepper = Stepper(model, data, images, recipe, device, mixing)
        self.sampling = sampling_weights(recipe, data, images)
        self.stopping = EarlyStopping(recipe.patience, metric) if recipe.patience and self.validation else None
        self.steps = self.batches * epochs
        self.history: list[Metrics] = []
        self.compile_error = ""
        self.out: Path | None = None
        self.fingerprint = {
            "network": model_fingerprint(model),
            "recipe": recipe.fingerprint,
            "seed": seed,
            "number of epochs": epochs,
            "part of the data": on,
            "data set": f"{data.name}, {len(images)} images {data.input}, mean {data.mean}",
        }

    def prepare_folder(self, out: Path, resume: bool) -> None:
        """Restore the folder's checkpoint if ``resume``; else remove what an earlier training left."""
        with write_errors(out):
            out.mkdir(exist_ok=True)
            self.folder = HeldFolder(out)
        self.out = out
        state = load_checkpoint(out, self.fingerprint) if resume else None
        if state is None:
            remove_checkpoint(out)
        else:
            self._restore(state)
        text, self.digest = b"", START
        for metrics in self.history:
            line, self.digest = json_line(self.digest, metrics)
            text += line
        write_atomic(out / METRICS, text)

    def compile(self) -> None:
        """Compile a training step; weights, buffers and random states are left as they were."""
        images = len(self.labels)
        size = math.ceil(images / self.batches)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        global_state, augmentation_state = torch.get_rng_state(), self.augmenter.generator.get_state()
        cuda_state = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        try:
            memory = memory_of(self.model)
            self.stepper.forward = CompiledForward(self.model.train(), memory, dynamic_batch=images % self.batches > 0)
            first = next(gather_ahead(self.images, [torch.arange(size)], self.device, self.augmenter.whole))
            self.stepper.losses(self.augmenter.batch(first), self.labels[:size])[0].backward()
        except Exception as error:  # compilers raise all kinds of exceptions
            if is_out_of_memory(error):
                raise
            self.stepper.forward = self.model
            self.compile_error = f"{type(error).__name__}: {one_line(' '.join(str(error).split()))[:160]}"
        finally:
            self.stepper.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            torch.set_rng_state(global_state)
            self.augmenter.generator.set_state(augmentation_state)
            if cuda_state is not None:
                torch.cuda.set_rng_state(cuda_state, self.device)

    def run(self, report: Report | None, checkpoint_seconds: float, pause_after: int) -> TrainingOutcome:
        """Run the remaining epochs, up to ``pause_after``."""
        saved = time.monotonic()
        stopped = "early" if self.stopping is not None and self.stopping.is_due else None
        while len(self.history) < pause_after and stopped is None:
            metrics = self._epoch(len(self.history) + 1)
            self.history.append(metrics)
            self._write_metrics(metrics)
            if self.stopping is not None:
                self.stopping.observe(metrics, self.stepper.evaluated)
            if report is not None and report(len(self.history), metrics) and len(self.history) < self.epochs:
                stopped = "pruned"
            elif self.stopping is not None and self.stopping.is_due and len(self.history) < self.epochs:
                stopped = "early"
            # After the report, so that every finished epoch is reported, and never for a training that was pruned.
            elif self.out is not None and time.monotonic() - saved >= checkpoint_seconds:
                self._save_checkpoint()
                saved = time.monotonic()
        if stopped is None and len(self.history) < self.epochs:
            stopped = "paused"
            self._save_checkpoint()
        if self.out is not None:
            sync(self.out / METRICS)
        if stopped != "paused":
            self.stepper.finish()
            if self.stopping is not None:
                self.stopping.finish(self.model)
        seconds = sum(metrics["seconds"] for metrics in self.history)
        best = None if self.stopping is None else self.stopping.best_epoch
        return TrainingOutcome(len(self.history), tuple(self.history), stopped, seconds, self.compile_error, best)

    def _write_metrics(self, metrics: Metrics) -> None:
        if self.out is None:
            return
        self.folder.check()
        line, self.digest = json_line(self.digest, metrics)
        with write_errors(self.out / METRICS), (self.out / METRICS).open("ab") as file:
            file.write(line)

    def _save_checkpoint(self) -> None:
        if self.out is not None:
            self.folder.check()
            save_checkpoint(self.out, self.fingerprint, self._state())

    def _epoch(self, number: int) -> Metrics:
        start = time.perf_counter()
        metrics: Metrics = {"epoch": number} | self._train_epoch(number)
        seconds = time.perf_counter() - start
        if self.validation is not None:
            recompute = running_averages_lag(metrics["lr"] / self.recipe.lr, number * self.batches)
            metrics |= self.validation.metrics(self.stepper.evaluated, recompute)
        self._check_finite(number, metrics)
        metrics["seconds"] = round(time.perf_counter() - start, 4)
        metrics["images_per_second"] = round(len(self.labels) / seconds, 1)
        return metrics

    def _train_epoch(self, number: int) -> Metrics:
        """One pass over the training images."""
        self.model.train()
        keep_frozen_statistics(self.model)
        total = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = self._order().to(self.device).tensor_split(self.batches)
        step, lr = (number - 1) * self.batches, 0.0
        groups = [
            batches[first : first + self.batches_at_once] for first in range(0, self.batches, self.batches_at_once)
        ]
        indices = [torch.cat(group) for group in groups]
        gathered = gather_ahead(self.images, indices, self.device, self.augmenter.whole)
        for group, index, images_of_group in zip(groups, indices, gathered, strict=True):
            sizes = [len(batch) for batch in group]
            images, labels = self.augmenter.batch(images_of_group).split(sizes), self.labels[index].split(sizes)
            weights = self._weights(index, sizes)
            for batch, target, weight in zip(images, labels, weights, strict=True):
                step += 1
                lr = self.recipe.learning_rate(step, self.steps)
                loss, outputs = self.stepper.step(batch, target, weight, lr)
                total += loss * len(target)
                if target.ndim == 1:
                    correct += (outputs.argmax(1) == target).sum()
            if not math.isfinite(float(total)):  # the only synchronisation with the device, once per group
                raise TrainingFailed(f"diverged: the loss became NaN or infinite in epoch {number}")
        mean = float(total) / len(self.labels)
        guess = self.stepper.loss.guess
        if mean > 10 * guess and (number - 1) * self.batches >= self.recipe.warmup_steps(self.steps):
            raise TrainingFailed(f"diverged: mean loss {mean:.3g} in epoch {number}; guessing gives {guess:.3g}")
        metrics: Metrics = {"lr": lr, "train_loss": mean}
        return metrics if self.labels.ndim > 1 else metrics | {"train_accuracy": int(correct) / len(self.labels)}

    def _order(self) -> Tensor:
        """Positions of an epoch's images: each once, or drawn by the sampling weights."""
        if self.sampling is None:
            return torch.randperm(len(self.labels), generator=self.order)
        return torch.multinomial(self.sampling, len(self.labels), replacement=True, generator=self.order)

    def _weights(self, index: Tensor, sizes: list[int]) -> Sequence[Tensor | None]:
        """Weights of the images of some batches."""
        if self.images.weights is None:
            return [None] * len(sizes)
        return self.images.weights[index].split(sizes)

    def _check_finite(self, number: int, metrics: Metrics) -> None:
        """Check the validation loss and the weights, which the last step may have spoilt after its own loss."""
        floats = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norm = float(torch.stack(torch._foreach_norm(floats)).norm()) if floats else 0.0
        if not math.isfinite(norm):
            raise TrainingFailed(f"diverged: weights became NaN or infinite after epoch {number}")
        losses = [value for name, value in metrics.items() if name.startswith("validation_loss")]
        if not all(map(math.isfinite, losses)):
            raise TrainingFailed(f"diverged: the validation loss became NaN or infinite after epoch {number}")

    def _state(self) -> dict[str, Any]:
        state = {
            "history": self.history,
            "model": self.model.state_dict(),
            "order": self.order.get_state(),
            "augmentation": self.augmenter.generator.get_state(),
            "global": torch.get_rng_state(),
            **self.stepper.state(),
            **({} if self.stopping is None else {"stopping": self.stopping.state()}),
        }
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.stepper.restore(state)
            self.order.set_state(state["order"])
            self.augmenter.generator.set_state(state["augmentation"])
            torch.set_rng_state(state["global"])
            if self.stopping is not None:
                self.stopping.restore(state["stopping"])
            if self.device.type == "cuda" and "cuda" in state:
                torch.cuda.set_rng_state(state["cuda"], self.device)
            self.history = list(state["history"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            text = " ".join(str(error).split())[:160]
            raise InputError(f"{self.out}: the checkpoint does not fit this training ({text}); remove it") from None


__all__ = ["METRICS", "Report", "TrainingFailed", "TrainingOutcome", "evaluate", "pick_device", "train"]
