"""Training under torch.compile equals training without it, also if compilation fails."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from corpus.small_networks import dense_network

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.training import loop
from nas_agg.training import torch_compile as compiling
from nas_agg.training.checkpoints import CHECKPOINT
from nas_agg.training.data import Split, load_data
from nas_agg.training.loop import TrainingFailed, train
from nas_agg.training.recipes import open_recipe
from nas_agg.training.steps.stepper import Stepper
from nas_agg.training.torch_compile import CompiledForward, check_compiler

torch.set_num_threads(1)
GENOTYPE = dense_network(dropout=0.1)
PLAIN = dense_network()


@pytest.fixture(scope="module")
def few():
    digits = load_data("digits")  # 200 images in batches of 64: three of 50, or of 67 and 66
    splits = {name: getattr(digits, name) for name in ("train", "validation")}
    cut = {name: Split(split.images[:199], split.labels[:199]) for name, split in splits.items()}
    return replace(digits, **cut)


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def trained(few, compile, genotype=PLAIN, memory="plain", epochs=2, **more):
    model = nas_agg.compile(nas_agg.load(genotype), seed=0, memory=memory)
    result = train(model, few, open_recipe("search"), seed=0, epochs=epochs, compile=compile, **more)
    return model, result


def same(a, b):
    assert list(a.state_dict()) == list(b.state_dict())
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_compiled_training_is_the_plain_one(few, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    plain, one = trained(few, False)
    compiled, other = trained(few, True)
    assert same(plain, compiled) and other.compile_error == ""
    assert [row["train_loss"] for row in one.history] == [row["train_loss"] for row in other.history]


def test_batches_of_two_sizes_are_compiled_once(few, monkeypatch):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", count)
    steps, step = [], Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, batch, lr: steps.append(batch.count) or step(self, batch, lr))
    _, result = trained(few, True)
    assert sorted(set(steps)) == [49, 50] and len(graphs) == 1 and result.compile_error == ""


@pytest.mark.parametrize(("memory", "budget"), [("plain", 1.0), ("lean", 0.5), ("leanest", 0.1)])
def test_the_compiler_receives_the_activation_budget(few, monkeypatch, memory, budget):
    from torch._functorch import config

    compilations = []

    def note(graph, inputs):
        compilations.append((config.activation_memory_budget, {str(node.op) for node in graph.graph.nodes}))
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", note)
    before = config.activation_memory_budget
    _, result = trained(few, True, memory=memory, epochs=1)
    assert [share for share, _ in compilations] == [budget] and result.compile_error == ""
    assert config.activation_memory_budget == before


@pytest.mark.parametrize("memory", ["plain", "lean"])
def test_a_compiler_that_fails_loses_nothing(few, monkeypatch, memory):
    def fail(graph, inputs):
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    plain, _ = trained(few, False, GENOTYPE, memory)
    model, result = trained(few, True, GENOTYPE, memory)
    assert "no such instruction" in result.compile_error and "\n" not in result.compile_error
    assert same(plain, model), "dropout, statistics and augmentation are as if nothing had been tried"


def test_a_backward_pass_that_cannot_be_compiled_loses_nothing(few, monkeypatch):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no backward")

    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: lambda *args: [Broken.apply(graph(*args)[0])])
    plain, _ = trained(few, False, GENOTYPE)
    model, result = trained(few, True, GENOTYPE)
    assert "no backward" in result.compile_error
    assert same(plain, model)


def test_memory_that_runs_out_in_the_compiler_is_a_failed_training(few, monkeypatch):
    def fail(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(CompiledForward, "__call__", fail)
    with pytest.raises(TrainingFailed, match="out of memory: at batch size 64"):
        trained(few, True)


def test_a_torch_without_a_budget_trains_without_compiling(few, monkeypatch):
    from torch import _functorch

    monkeypatch.setattr(_functorch, "config", object())
    with pytest.raises(NasAggError, match="cannot compile in memory mode 'lean'"):
        CompiledForward(torch.nn.Linear(2, 2), "lean", False)
    model, result = trained(few, True, memory="lean", epochs=1)
    plain, _ = trained(few, False, memory="lean", epochs=1)
    assert "cannot compile in memory mode 'lean'" in result.compile_error and same(plain, model)


@pytest.mark.parametrize("compiled", [(True, False), (False, True)])
def test_a_training_resumes_with_and_without_compilation(few, monkeypatch, tmp_path, compiled):
    class Killed(Exception):
        pass

    def kill(epoch, metrics):
        if epoch == 2:
            raise Killed
        return False

    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    whole, _ = trained(few, False, epochs=3)
    with pytest.raises(Killed):
        trained(few, compiled[0], epochs=3, out=tmp_path, report=kill, checkpoint_seconds=0)
    assert (tmp_path / CHECKPOINT).exists()
    model, result = trained(few, compiled[1], epochs=3, out=tmp_path, resume=True)
    assert same(whole, model) and result.epochs == 3
    assert [json.loads(line)["epoch"] for line in (tmp_path / loop.METRICS).read_text().splitlines()] == [1, 2, 3]


def lacks(kind="cpu"):
    try:
        check_compiler(kind)
    except InputError as error:
        assert str(error).startswith("compile: torch.compile needs ") and str(error).endswith("train without --compile")
        return str(error)
    return ""


def test_missing_requirements_are_reported_first(monkeypatch, tmp_path):
    headers = tmp_path / "Python.h"
    headers.touch()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))
    result = {"g++", "clang++", "gcc"}
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name if name in result else None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: "found")
    assert lacks() == lacks("cuda:0") == ""
    monkeypatch.setenv("CXX", "icpx -v")
    assert "a C++ compiler, but found no icpx" in lacks()
    monkeypatch.delenv("CXX")
    headers.unlink()
    assert "Python.h" in lacks() and "Python.h" in lacks("cuda")
    headers.touch()
    result.clear()
    assert "a C++ compiler" in lacks() and "a C compiler" in lacks("cuda")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    assert "Triton" in lacks("cuda:1")


@pytest.mark.skipif(lacks() != "", reason="needs a C++ compiler")
def test_the_compiler_itself(few):
    genotype = {**PLAIN, "net": [{"conv": 3, "out": 8}, "relu", "gap", {"linear": "classes"}]}
    plain, one = trained(few, False, genotype, epochs=3)
    model, other = trained(few, True, genotype, epochs=3)
    assert other.compile_error == ""
    for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert other.metrics["train_loss"] == pytest.approx(one.metrics["train_loss"], rel=1e-3)
