"""Latency: statistics of times, number of passes, and that measuring does not change a network."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.training import latency as module
from nas_agg.training.latency import measure

SMALL = {"input": [1, 8, 8], "classes": 10, "net": [{"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": "classes"}]}


class Images(nn.Module):
    """Notes what it is given, and in what mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.observed = []

    def forward(self, x):
        self.observed.append((tuple(x.shape), self.training, torch.is_inference_mode_enabled()))
        return self.norm(x)


def test_figures_come_of_the_times(monkeypatch):
    times = iter([9.0, 9.0, 9.0, *[float(i) for i in range(1, 12)]])
    monkeypatch.setattr(module, "_time_on_cpu", lambda model, images: next(times))
    monkeypatch.setattr(module, "MIN_RUNS", 11)
    result = measure(nn.Identity(), (3, 4, 4), batch=3, seconds=0)
    assert (result.minimum_ms, result.low_ms, result.median_ms, result.high_ms) == (1.0, 3.5, 6.0, 8.5)
    assert result.runs == 11, "what warms up is not counted"
    assert (result.batch, result.device, result.images_per_second) == (3, "cpu", 500.0)


def test_at_least_ten_passes_and_the_specified_time():
    model = Images()
    assert measure(model, (3, 4, 4), seconds=0).runs == 10
    assert len(model.observed) == 13
    assert measure(model, (3, 4, 4), seconds=0.1).runs > 20


def test_a_network_is_left_as_it_was():
    model = Images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, (3, 4, 4), batch=2, seconds=0)
    assert set(model.observed) == {((2, 3, 4, 4), False, True)}
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_in_python():
    threads = torch.get_num_threads()
    result = nas_agg.latency(SMALL, device="cpu", batch=2, threads=1)
    assert 0 < result.minimum_ms <= result.low_ms <= result.median_ms <= result.high_ms
    assert (result.batch, result.threads, result.device) == (2, 1, "cpu")
    assert torch.get_num_threads() == threads
    assert result.as_dict()["images_per_second"] == pytest.approx(2000 / result.median_ms, rel=0.01)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch": 0}, "batch: must be an integer from 1 to 1,000,000, not 0"),
        ({"batch": 1.5}, "batch: must be an integer from 1 to 1,000,000, not 1.5"),
        ({"threads": 0}, r"threads: must be an integer from 1 to \d+, not 0"),
        ({"threads": 2**70}, r"threads: must be an integer from 1 to \d+, not"),
        ({"batch": True}, "batch: must be an integer from 1 to 1,000,000, not True"),
        ({"device": 5}, "device: must be auto, cpu, cuda or cuda:N, not 5"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda:99"}, "CUDA devices; use cpu or auto"),
    ],
)
def test_a_wrong_call_is_one_line(more, message):
    with pytest.raises(InputError, match=message):
        nas_agg.latency(SMALL, **more)


def test_memory_that_runs_out_is_one_line():
    class Large(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(NasAggError, match="latency: at batch size 512: out of memory; use a smaller batch"):
        measure(Large(), (3, 4, 4), batch=512)


def command(*words):
    completed = subprocess.run([sys.executable, "-m", "nas_agg", "cost", *words], capture_output=True, text=True)
    return completed.returncode, completed.stdout, completed.stderr


def test_latency_options_require_latency():
    for option in ("--device", "--batch", "--threads"):
        status, out, error = command("microdense/30a64", option, "1")
        assert (status, out) == (2, "")
        assert error == f"nas_agg: {option}: requires --latency\n"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    result = nas_agg.latency("microdense/30a64", device="cuda")
    assert result.device == "cuda:0" and result.runs >= 10 and 0 < result.minimum_ms <= result.median_ms < 1000


def test_the_command_shows_it_below_the_counts(monkeypatch, capsys):
    from nas_agg.cli.main import app

    calls = []
    result = module.Latency(2.5, 2.25, 3.0, 2.0, 400, 8, "cpu", 1)
    monkeypatch.setattr(module, "latency", lambda genotype, **more: calls.append((genotype.input, more)) or result)
    words = ["cost", "microdense/30a64", "--input", "3x16x16", "--latency", "--device", "cpu", "--batch", "8"]
    app(words, standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-5:]] == [
        *("hash", "latency", "latency_quartiles", "latency_minimum", "images_per_second"),
    ]
    assert " 2.5 ms  a forward pass in eval mode, float32, on cpu, 1 thread, batch 8: median of 400" in lines[-4]
    assert " 2.25 to 3 ms " in lines[-3] and " 2 ms " in lines[-2] and " 3,200.0 " in lines[-1]
    app([*words, "--format", "json"], standalone_mode=False)
    figures = json.loads(capsys.readouterr().out)
    assert figures["params"] == 724_727 and figures["latency"] == result.as_dict()
    assert calls == [((3, 16, 16), {"device": "cpu", "batch": 8, "threads": None})] * 2
