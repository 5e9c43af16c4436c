"""What a process computes of its part of a batch, and of whole trainings; run by `training/test_processes`.

    python parts_of_batches.py OUT

writes ``OUT/RANK.pt`` in each process: gradients by memory mode and statistics, and results of trainings by recipe.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_agg.compiler import compile
from nas_agg.compiler.remat.synchronization import synchronize_batch_norms
from nas_agg.language.genotype import Genotype
from nas_agg.training.data import Split, load_data
from nas_agg.training.loop import train
from nas_agg.training.recipes import open_recipe
from nas_agg.training.steps.batches import Batch, part_of
from nas_agg.training.steps.processes import Processes, joined, started_processes
from nas_agg.training.steps.stepper import Stepper

DENSE = {"pattern": "dense", "operator": "concat"}
NET: list[Any] = [
    {"conv": 3, "out": 8},
    "bn",
    "relu",
    {"nodes": 3, "growth": 4, "unit": ["bn", "relu", {"conv": 1, "out": 6}, "bn", "relu", {"conv": 3}],
     "reads": DENSE, "output": DENSE},
    "bn",
    "relu",
    {"avgpool": 2},
    {"nodes": 2, "growth": 20, "unit": [{"conv": 3}, "bn", {"se": 4}, "join", "relu"],
     "shortcut": {"pattern": "dense", "operator": "sum"}},
    "gap",
    {"linear": "classes"},
]  # fmt: skip
MODES = ("plain", "lean", "leanest")
SEARCH = open_recipe("search").model_copy(update={"batch_size": 32})
RECIPES = {
    "mixed": SEARCH.model_copy(
        update={"crop": 1, "flip": True, "erasing": 0.5, "cutout": 2, "mixup": 0.4, "cutmix": 1.0, "ema": 0.9,
                "class_weights": "balanced", "clip": 1.0}
    ),
    "stopped": SEARCH.model_copy(update={"patience": 1, "lr": 1e-9, "warmup_epochs": 0.0, "sampling": "balanced"}),
}  # fmt: skip
CASES = [
    (memory, training, extra)
    for memory in MODES
    for training, extra in ((False, "in two micro-batches"), (True, ""), (True, "with weights"), (True, "in bf16"))
]


def genotype() -> Genotype:
    """A network with concats, sums, a gate and batch norms of both."""
    return Genotype.from_dict({"input": [1, 8, 8], "classes": 10, "net": NET})


def few() -> Any:
    """A data set of few digits."""
    data = load_data("digits")
    train, validation = (
        Split(s.images[:count], s.labels[:count]) for s, count in ((data.train, 150), (data.validation, 40))
    )
    weights = torch.rand(150, generator=torch.Generator().manual_seed(0)) + 0.5
    return replace(data, train=replace(train, weights=weights), validation=validation)


def gradients(processes: Processes, memory: Any, training: bool, extra: str) -> dict[str, Tensor]:
    """Gradients, in double precision or in bf16, of a batch of nine images, and the buffers after the step."""
    model = compile(genotype(), 0, memory=memory).train(training)
    if extra != "in bf16":
        model.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.3)
    images = torch.randn(9, 1, 8, 8, generator=generator, dtype=torch.float64)
    weights = torch.rand(9, generator=generator, dtype=torch.float64) if extra == "with weights" else None
    if training and processes.count > 1:
        synchronize_batch_norms(model)
    data, fields = few(), {"micro_batches": 2 if "micro" in extra else 1, "momentum": 0.0, "nesterov": False}
    if extra == "in bf16":
        fields["precision"] = "bf16"
    recipe = SEARCH.model_copy(update=fields)
    stepper = Stepper(model, data, data.train, recipe, torch.device("cpu"), 0, processes)
    if extra == "in bf16":
        stepper.losses = partial(LOSSES, stepper)  # type: ignore[method-assign]
        images = images.float()
    stepper.connect()
    part = part_of(9, processes)
    stepper.step(Batch(images[part], torch.arange(9), weights, part), 1e-12)
    found = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


LOSSES = Stepper.losses


def losses(stepper: Stepper, images: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `Stepper.losses`, but in double precision: trainings amplify the rounding of sums in another order."""
    outputs = stepper.forward(images.to(next(stepper.model.parameters()).dtype))
    return stepper.loss(outputs, targets, weights), outputs


def training(processes: Processes, name: str, memory: Any) -> dict[str, Any]:
    """How a whole training with synchronised batch norms ends."""
    model, data = compile(genotype(), 0, memory=memory, dropout=0.2, drop_path=0.3), few()
    on: Any = "train"
    if name == "mixed":
        model, on = model.double(), "train+validation"
    else:
        data = replace(data, train=replace(data.train, weights=None))
    outcome = train(model, data, RECIPES[name], seed=3, epochs=2, on=on, processes=processes, sync_batch_norm=True)
    return {"history": list(outcome.history), "stopped": outcome.stopped, "state": model.state_dict()}


def compute(processes: Processes) -> dict[str, Any]:
    """Everything."""
    before, Stepper.losses = Stepper.losses, losses  # type: ignore[method-assign]
    try:
        found: dict[str, Any] = {str(case): gradients(processes, *case) for case in CASES}
        return found | {
            name: training(processes, name, memory) for name, memory in (("mixed", "lean"), ("stopped", "plain"))
        }
    finally:
        Stepper.losses = before  # type: ignore[method-assign]


def main(out: Path) -> None:
    """Write what this process computes."""
    torch.set_num_threads(1)
    with joined(started_processes(), "cpu") as processes:
        torch.save(compute(processes), out / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
