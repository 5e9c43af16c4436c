"""Memory of a training step: predictions against measured peaks, and free memory on simulated machines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import nas_agg
from nas_agg.training import memory
from nas_agg.training.memory import (
    choose_memory_mode,
    free_bytes,
    free_bytes_in_subprocess,
    free_main_memory,
    memory_budget,
    step_bytes,
)

GB = 10**9


@pytest.fixture(scope="module")
def counted():
    return nas_agg.cost("densenet/bc-100-k12")


def test_the_first_mode_that_fits_is_chosen(counted):
    needs = {name: step_bytes(counted, name, 64) for name in ("plain", "lean", "leanest")}
    assert needs["plain"] > needs["lean"] > needs["leanest"]
    for name, need in needs.items():
        assert choose_memory_mode(counted, 64, need).mode == name
    assert choose_memory_mode(counted, 64, needs["plain"] - 1).mode == "lean"
    assert choose_memory_mode(counted, 64, needs["lean"] - 1).mode == "leanest"


def test_modes_other_than_plain_and_modes_that_do_not_fit_are_reported(counted):
    assert choose_memory_mode(counted, 64, 100 * GB).message == ""
    lean = choose_memory_mode(counted, 64, step_bytes(counted, "lean", 64)).message
    assert lean.startswith("using memory mode 'lean': a step in mode 'plain' needs about 3.") and "run out" not in lean
    leanest = choose_memory_mode(counted, 64, 10**8)
    assert leanest.mode == "leanest" and leanest.message.endswith("and may run out of memory")
    assert "100.00 MB are available" in leanest.message


def test_a_requested_mode_is_used_and_an_unknown_budget_suffices(counted):
    assert choose_memory_mode(counted, 64, 1, "lean") == ("lean", "")
    assert choose_memory_mode(counted, 64, None) == ("plain", "")


def test_workers_share_a_device():
    assert memory_budget(None, 3) is None
    assert memory_budget(10 * GB) == 9 * GB
    assert memory_budget(10 * GB, 2) == 4_500_000_000 - memory.PROCESS_OVERHEAD
    assert memory_budget(10 * GB, 1, dataset_bytes=GB) == 7 * GB - memory.PROCESS_OVERHEAD


PEAK = """
import sys, torch, nas_agg
def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))
torch.set_num_threads(1)
torch.nn.Conv2d(3, 8, 3)(torch.randn(2, 3, 8, 8)).sum().backward()
genotype = nas_agg.load("densenet/bc-100-k12")
network = nas_agg.compile(genotype, seed=0, memory=sys.argv[1])
optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, fused=True)
before = status("VmRSS")  # with all libraries in it
open("/proc/self/clear_refs", "w").write("5")
for _ in range(2):
    logits = network(torch.randn(8, 3, 32, 32))
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long)).backward()
    optimiser.step()
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's count of the peak")
@pytest.mark.parametrize("way", ["plain", "lean"])
def test_a_step_stays_below_its_prediction(counted, way):
    words = [sys.executable, "-c", PEAK, way]
    completed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert 0.3 < int(completed.stdout) / step_bytes(counted, way, 8) < 1


def machine(tmp_path, groups, cgroup="0::/a/b\n", available=8_000_000):
    """Files of a machine: groups by folder, each with a limit, what is used and what of that files hold."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 16000000 kB\nMemAvailable:    {available} kB\nHugePages: 0\n")
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for folder, (limit, used, cache) in groups.items():
        place = tmp_path / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        old = folder.startswith("memory")
        names = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
        (place / f"memory.{names[0]}").write_text(f"{limit}\n")
        (place / f"memory.{names[1]}").write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 5\n{'total_' if old else ''}inactive_file {cache}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("groups", "cgroup", "free"),
    [
        ({}, "0::/\n", 8_192_000_000),
        ({"a/b": ("max", 1, 1)}, "0::/a/b\n", 8_192_000_000),
        ({"a/b": (3 * GB, 2 * GB, GB // 2)}, "0::/a/b\n", 3 * GB // 2),
        ({"a/b": (3 * GB, GB, 0), "a": (2 * GB, GB, 0)}, "0::/a/b\n", GB),  # a group around it has less
        ({"": (2 * GB, GB, 0)}, "0::/elsewhere/x\n", GB),  # in a container the path is that outside of it
        ({"memory/a": (GB, GB // 4, 0)}, "7:cpu:/a\n5:memory:/a\n", 3 * GB // 4),
        ({"memory/a": (2**63 - 4096, GB, 0)}, "5:memory:/a\n", 8_192_000_000),
        ({"a": (GB, 2 * GB, 0)}, "0::/a\n", 0),
    ],
)
def test_free_memory_is_the_machine_s_and_the_groups_least(tmp_path, groups, cgroup, free):
    assert free_main_memory(machine(tmp_path, groups, cgroup)) == free


def test_a_machine_that_does_not_say_is_unknown(tmp_path):
    assert free_main_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16 kB\nnonsense\n")
    assert free_main_memory(tmp_path) is None


@pytest.mark.skipif(free_main_memory() is None, reason="this system does not say")
def test_this_machine_says():
    assert free_bytes("cpu") > 10**7 and free_bytes_in_subprocess(["cpu", "cpu"]) > 10**7


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_free_memory_of_a_missing_device_is_unknown():
    assert free_bytes_in_subprocess(["cuda:0"]) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_free_memory_of_a_gpu():
    free, total = free_bytes_in_subprocess(["cuda:0"]), torch.cuda.mem_get_info(0)[1]
    assert free is not None and 0 < free <= total
    assert 0 < free_bytes("cuda:0") <= total
