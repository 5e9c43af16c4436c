"""Options of a recipe for CUDA's libraries, and evaluation in bf16."""

from __future__ import annotations

import pytest
import torch
from parts_of_batches import few, genotype

from nas_agg.common.errors import InputError
from nas_agg.compiler import compile
from nas_agg.training.evaluation import evaluate
from nas_agg.training.loop import train
from nas_agg.training.recipes import open_recipe
from nas_agg.training.steps.device_options import device_options


def current() -> tuple[bool, ...]:
    """cuDNN's measuring of algorithms, and TF32 in convolutions and products."""
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("tf32", [True, False, None])
def test_options_are_in_effect_within_the_context(tf32: bool | None) -> None:
    before = current()
    recipe = open_recipe("search").model_copy(update={"tf32": tf32, "cudnn_benchmark": True})
    with pytest.raises(KeyError), device_options(recipe):
        assert current() == (True, *(before[1:] if tf32 is None else (tf32, tf32)))
        raise KeyError
    assert current() == before


def test_epochs_may_be_evaluated_in_bf16() -> None:
    data, recipe = few(), open_recipe("search").model_copy(update={"lr": 0.05})
    outcomes = {}
    for precision in ("float32", "bf16"):
        model = compile(genotype(), 0)
        chosen = recipe.model_copy(update={"evaluation_precision": precision})
        outcomes[precision] = train(model, data, chosen, seed=0, epochs=1).metrics
        loss = evaluate(model, data.validation, data, precision=precision)["loss"]
        assert loss == outcomes[precision]["validation_loss_running_statistics"]
    wanted, found = outcomes["float32"], outcomes["bf16"]
    assert wanted["train_loss"] == found["train_loss"]
    assert wanted["validation_loss"] != found["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=0.02)
    with pytest.raises(InputError, match="precision: must be one of float32, bf16, not 'fp8'"):
        evaluate(model, data.validation, data, precision="fp8")  # type: ignore[arg-type]
