"""The training loop, for any module from (N, C, H, W) floats to (N, classes) logits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from nas_agg.common.chained_lines import START, json_line
from nas_agg.common.durable import HeldFolder, sync
from nas_agg.common.errors import InputError, did_you_mean, is_out_of_memory, one_line
from nas_agg.common.files import write_atomic, write_errors
from nas_agg.compiler.fine_tuning import freeze, keep_frozen_statistics
from nas_agg.compiler.network import memory_of
from nas_agg.compiler.remat.synchronization import synchronize_batch_norms
from nas_agg.training.batch_norm_statistics import running_averages_lag
from nas_agg.training.checkpoints import load_checkpoint, model_fingerprint, remove_checkpoint, save_checkpoint
from nas_agg.training.data import Data
from nas_agg.training.evaluation import Metrics, Validation, evaluate, find_metric, main_metric
from nas_agg.training.outcome import TrainingFailed, TrainingOutcome
from nas_agg.training.recipes import Recipe
from nas_agg.training.steps.batches import Batches
from nas_agg.training.steps.device_options import device_options
from nas_agg.training.steps.processes import ONE_PROCESS, Processes
from nas_agg.training.steps.stepper import Stepper
from nas_agg.training.steps.target_scaling import target_scaling
from nas_agg.training.stopping import EarlyStopping
from nas_agg.training.torch_compile import CompiledForward

METRICS = "metrics.jsonl"
Report = Callable[[int, Metrics], bool]


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
    processes: Processes = ONE_PROCESS,
    sync_batch_norm: bool = False,
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
        processes: The processes that train the model together, each with equal arguments but for ``device`` and those
            that only the first one heeds: ``out``, ``resume``, ``report`` and ``checkpoint_seconds``. Each takes its
            part of every batch, and gradients are averaged. The first one evaluates, reports and writes.
        sync_batch_norm: Whether batch norms use the statistics of the whole batch, rather than those of each process's
            part; the result then does not depend on the number of processes but for rounding.

    Raises:
        TrainingFailed: The loss or the weights became NaN or infinite, the loss exceeded ten times that of guessing,
            or memory ran out.
        InputError: The checkpoint belongs to another training, or the data or the model are unsuitable.
    """
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"epochs {epochs}: must be 1 or more")
    try:
        run = _Training(model, data, recipe, seed, torch.device(device), epochs, on, metrics, processes)
        if sync_batch_norm and processes.count > 1:
            synchronize_batch_norms(model)
        run.begin(out if processes.is_first else None, resume)
        if compile and len(run.history) < epochs:
            run.compile()
        with device_options(recipe):
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
        processes: Processes,
    ):
        if seed < 0:
            raise InputError(f"seed {seed}: must be 0 or more")
        self.model, self.data, self.recipe, self.device, self.epochs = model, data, recipe, device, epochs
        self.processes = processes
        images = (data.train if on == "train" else data.train + data.validation).to(device)
        self.scaling = target_scaling(model, data)
        if self.scaling is not None:
            images = self.scaling.standardized(images)
        order, augmentation_seed, self.global_seed, statistics, mixing = (
            int(x) for x in np.random.SeedSequence(seed).generate_state(5)
        )
        torch.manual_seed(self.global_seed)
        augmentation = recipe.augmentation(data.augmentation)
        seeds = order, augmentation_seed
        self.batches = Batches(data, images, recipe, augmentation, device, seeds, processes)
        self.validation: Validation | None = None
        if on == "train" and processes.is_first:
            self.validation = Validation(
                data, images, augmentation, statistics, device, metrics, recipe.evaluation_precision, self.scaling
            )
        metric = find_metric(metrics[0] if metrics else main_metric(data.task), data.task)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(model, recipe.freeze)
        self.stepper = Stepper(model, data, images, recipe, device, mixing, processes)
        self.stopping = EarlyStopping(recipe.patience, metric) if recipe.patience and on == "train" else None
        self.images = len(images)
        self.steps = self.batches.count * epochs
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

    def begin(self, out: Path | None, resume: bool) -> None:
        """Restore the folder's checkpoint if ``resume``; else remove what an earlier training left.

        The first process reads the checkpoint for all of them.
        """
        state = None
        if out is not None:
            with write_errors(out):
                out.mkdir(exist_ok=True)
                self.folder = HeldFolder(out)
            self.out = out
            state = load_checkpoint(out, self.fingerprint) if resume else None
            if state is None:
                remove_checkpoint(out)
        state = self.processes.share_state(state)
        if state is not None:
            self._restore(state)
        if out is None:
            return
        text, self.digest = b"", START
        for metrics in self.history:
            line, self.digest = json_line(self.digest, metrics)
            text += line
        write_atomic(out / METRICS, text)

    def compile(self) -> None:
        """Compile a training step; weights, buffers and random states are left as they were."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        global_state = torch.get_rng_state()
        cuda_state = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        try:
            memory = memory_of(self.model)
            dynamic_batch = not self.batches.is_of_one_size
            self.stepper.forward = CompiledForward(self.model.train(), memory, dynamic_batch)
            self.stepper.losses(*self.batches.example())[0].backward()
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
            if cuda_state is not None:
                torch.cuda.set_rng_state(cuda_state, self.device)
        if self.processes.any(bool(self.compile_error)) and not self.compile_error:
            self.stepper.forward, self.compile_error = self.model, "it failed in another process"

    def run(self, report: Report | None, checkpoint_seconds: float, pause_after: int) -> TrainingOutcome:
        """Run the remaining epochs, up to ``pause_after``."""
        self.stepper.connect()
        saved = time.monotonic()
        stopped = "early" if self.stopping is not None and self.stopping.is_due else None
        while len(self.history) < pause_after and stopped is None:
            metrics = self._epoch(len(self.history) + 1)
            self.history.append(metrics)
            self._write_metrics(metrics)
            if self.stopping is not None:
                self.stopping.observe(metrics, self.stepper.evaluated)
            is_told = report is not None and self.processes.is_first and report(len(self.history), metrics)
            if self.processes.share(bool(is_told)) and len(self.history) < self.epochs:
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
            if self.scaling is not None:
                self.scaling.rescale(self.model)
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
            recompute = running_averages_lag(metrics["lr"] / self.recipe.lr, number * self.batches.count)
            metrics |= self.validation.metrics(self.stepper.evaluated, recompute)
        metrics = self.processes.share(metrics)
        self._check_finite(number, metrics)
        metrics["seconds"] = round(time.perf_counter() - start, 4)
        metrics["images_per_second"] = round(self.images / seconds, 1)
        return metrics

    def _train_epoch(self, number: int) -> Metrics:
        """One pass over the training images."""
        self.model.train()
        keep_frozen_statistics(self.model)
        if not (self.processes.is_first or self.stepper.shares_noise):  # parts have noise of their own
            torch.manual_seed(self._noise_seed(number))
        total = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        step, lr = (number - 1) * self.batches.count, 0.0
        for batch in self.batches.epoch():
            step += 1
            lr = self.recipe.learning_rate(step, self.steps)
            loss, outputs = self.stepper.step(batch, lr)
            total += loss * batch.count
            if batch.targets.ndim == 1:
                correct += (outputs.argmax(1) == batch.targets[batch.part]).sum()
        # The only wait for the device, once per epoch.
        mean = float(self.processes.sum(total)) / self.images
        if not math.isfinite(mean):
            raise TrainingFailed(f"diverged: the loss became NaN or infinite in epoch {number}")
        guess = self.stepper.loss.guess
        if mean > 10 * guess and (number - 1) * self.batches.count >= self.recipe.warmup_steps(self.steps):
            raise TrainingFailed(f"diverged: mean loss {mean:.3g} in epoch {number}; guessing gives {guess:.3g}")
        metrics: Metrics = {"lr": lr, "train_loss": mean}
        if self.batches.labels.ndim == 1:
            metrics["train_accuracy"] = int(self.processes.sum(correct)) / self.images
        return metrics

    def _noise_seed(self, epoch: int) -> int:
        """Seed of this process's noise in an epoch."""
        return int(np.random.SeedSequence((self.global_seed, self.processes.rank, epoch)).generate_state(1)[0])

    def _check_finite(self, number: int, metrics: Metrics) -> None:
        """Check the validation loss and the weights, which the last step may have spoilt after its own loss."""
        floats = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norm = float(torch.stack(torch._foreach_norm(floats)).norm()) if floats else 0.0
        if self.processes.any(not math.isfinite(norm)):
            raise TrainingFailed(f"diverged: weights became NaN or infinite after epoch {number}")
        losses = [value for name, value in metrics.items() if name.startswith("validation_loss")]
        if not all(map(math.isfinite, losses)):
            raise TrainingFailed(f"diverged: the validation loss became NaN or infinite after epoch {number}")

    def _state(self) -> dict[str, Any]:
        state = {
            "history": self.history,
            "model": self.model.state_dict(),
            **self.batches.state(),
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
            self.batches.restore(state)
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
