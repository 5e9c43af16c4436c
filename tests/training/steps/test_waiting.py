"""Steps do not wait for the device: what the processor reads of tensors, or copies to them, is counted on a CPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from parts_of_batches import few, genotype
from torch.utils._python_dispatch import TorchDispatchMode

from nas_agg.compiler import compile
from nas_agg.training.loop import train
from nas_agg.training.recipes import open_recipe
from nas_agg.training.steps.batches import Batches

#: A number read by the processor, a constant made of its numbers, a choice of rows whose number depends on values.
WAITING = ("aten._local_scalar_dense", "aten.lift_fresh", "aten.nonzero", "aten.masked_select")


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU, or would copy from the processor's memory to it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).rpartition(".")[0]
        if name in WAITING:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits(batch_size: int, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Counter[str]:
    """Counts of an epoch whose batches are augmented one by one, as large images are."""
    init = Batches.__init__

    def one_by_one(self: Batches, *arguments: Any) -> None:
        init(self, *arguments)
        self._at_once = 1

    monkeypatch.setattr(Batches, "__init__", one_by_one)
    recipe = open_recipe("search").model_copy(update={"batch_size": batch_size, **fields})
    model = compile(genotype(), 0, memory="lean")
    with Waits() as counted:
        train(model, few(), recipe, seed=0, epochs=1, on="train+validation")
    monkeypatch.undo()
    return counted.counts


FIELDS = [
    {"crop": 1, "flip": True, "cutout": 3, "erasing": 0.5, "label_smoothing": 0.1, "class_weights": "balanced"},
    {"resized_crop": True, "mixup": 0.4, "cutmix": 1.0, "clip": 1.0, "micro_batches": 2, "ema": 0.9},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_more_steps_wait_no_more(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    few_steps, many_steps = (waits(size, monkeypatch, **fields) for size in (95, 10))
    assert many_steps <= few_steps and many_steps["aten._local_scalar_dense"] > 0  # constants are made once
