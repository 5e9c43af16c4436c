"""Training on a GPU: bfloat16, channels_last, random states in checkpoints. Needs a GPU."""

from __future__ import annotations

import pytest
import torch

import nas_agg
from nas_agg.training.data import load_data
from nas_agg.training.loop import evaluate, train
from nas_agg.training.memory import step_bytes
from nas_agg.training.recipes import open_recipe
from nas_agg.training.torch_compile import check_compiler

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

NETWORK = {
    "input": [1, 8, 8],
    "classes": 10,
    "let": {"conv": {"unit": [{"conv": 3}, "bn", "relu"]}},
    "net": [
        {"like": "conv", "growth": 16},
        {"like": "conv", "growth": 32},
        "gap",
        {"dropout": 0.1},
        {"linear": "classes"},
    ],
}


def trained(tmp_path, epochs, report=None, resume=False, memory="plain", compile=False):
    model = nas_agg.compile(nas_agg.load(NETWORK), seed=0, memory=memory)
    result = train(
        model,
        load_data("digits"),
        open_recipe("search"),
        seed=0,
        device="cuda",
        epochs=epochs,
        out=tmp_path,
        resume=resume,
        report=report,
        checkpoint_seconds=0,
        compile=compile,
    )
    return model, result


def test_a_training_learns_on_a_gpu(tmp_path):
    model, result = trained(tmp_path, 5)
    data = load_data("digits")
    assert result.metrics["validation_accuracy"] > 0.8
    assert (
        evaluate(model, data.validation, data, "cuda")["accuracy"]
        == result.metrics["validation_accuracy_running_statistics"]
    )
    assert next(model.parameters()).is_cuda


def test_a_training_resumes_from_a_checkpoint(tmp_path):
    class Killed(Exception):
        pass

    def kill(epoch, metrics):
        if epoch == 3:
            raise Killed
        return False

    with pytest.raises(Killed):
        trained(tmp_path, 5, kill)
    _, result = trained(tmp_path, 5, resume=True)
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5]
    assert result.metrics["validation_accuracy"] > 0.8


@pytest.mark.parametrize("memory", ["lean", "leanest"])
@pytest.mark.parametrize("compile", [False, True])
def test_a_training_that_keeps_less_learns_on_a_gpu(tmp_path, memory, compile):
    if compile:
        check_compiler("cuda")
    model, result = trained(tmp_path, 5, memory=memory, compile=compile)
    assert result.compile_error == "" and result.metrics["validation_accuracy"] > 0.8
    assert not any("_orig_mod" in name for name in model.state_dict())


@pytest.mark.parametrize("memory", ["plain", "lean", "leanest"])
def test_a_step_on_a_gpu_stays_below_its_prediction(memory):
    genotype = nas_agg.load("densenet/bc-100-k12")
    network = nas_agg.compile(genotype, seed=0, memory=memory).cuda().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, fused=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            logits = network(torch.randn(64, 3, 32, 32, device="cuda"))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), torch.zeros(64, dtype=torch.long, device="cuda")).backward()
        optimiser.step()
    assert torch.cuda.max_memory_allocated() - before < step_bytes(nas_agg.cost(genotype), memory, 64)
