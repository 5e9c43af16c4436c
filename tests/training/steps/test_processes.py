"""One network trained by several processes is as if trained by one, if its batch norms are synchronised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parts_of_batches import CASES, RECIPES, SEARCH, compute, few
from together import HERE, run

from nas_agg.common.errors import InputError
from nas_agg.training.steps.batches import Batches, part_of
from nas_agg.training.steps.processes import ONE_PROCESS, Processes, device_of, started_processes


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process computes, then what each of two does."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("parts")
    run(2, str(HERE / "parts_of_batches.py"), str(out))
    return [compute(ONE_PROCESS), *(torch.load(out / f"{rank}.pt") for rank in range(2))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_and_statistics_are_those_of_one_process(results: list[dict[str, Any]], case: tuple) -> None:
    one, *others = (result[str(case)] for result in results)
    tolerance = 0.02 if "in bf16" in case else 1e-12
    for other in others:
        assert other.keys() == one.keys()
        for name, wanted in one.items():
            difference = (other[name] - wanted).double().norm().item()
            assert difference <= tolerance * (1 + wanted.double().norm().item()), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_does_not_depend_on_the_number_of_processes(results: list[dict[str, Any]], name: str) -> None:
    one, *others = (result[name] for result in results)
    for other in others:
        assert other["stopped"] == one["stopped"]
        assert len(other["history"]) == len(one["history"])
        for wanted, line in zip(one["history"], other["history"], strict=True):
            values = {key: value for key, value in wanted.items() if key not in ("seconds", "images_per_second")}
            assert values == pytest.approx({key: line[key] for key in values}, rel=1e-6, abs=1e-9)
        for key, tensor in one["state"].items():
            torch.testing.assert_close(other["state"][key], tensor, rtol=1e-5, atol=2e-6)


# ---------------------------------------------------------------------- without other processes


@pytest.mark.parametrize(("count", "processes"), [(7, 2), (8, 3), (9, 4), (2, 1)])
def test_parts_are_those_of_tensor_split(count: int, processes: int) -> None:
    parts = [part_of(count, Processes(rank, processes)) for rank in range(processes)]
    assert [list(range(count))[part] for part in parts] == [
        x.tolist() for x in torch.arange(count).tensor_split(processes)
    ]


def test_every_process_needs_two_images_of_a_batch() -> None:
    data = few()
    with pytest.raises(InputError, match="batches of 30 images: too few for 16 processes; each needs two"):
        Batches(data, data.train, SEARCH, data.augmentation, torch.device("cpu"), (0, 1), Processes(0, 16))


def test_processes_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started_processes() == ONE_PROCESS
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert started_processes() == Processes(5, 8, 1, 4)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="environment: not numbers: RANK='first', WORLD_SIZE='8'"):
        started_processes()


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of(Processes(1, 2, 1, 2), "auto") == device_of(Processes(1, 2, 1, 2), "cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(Processes(3, 4, 1, 2), "auto") == "cuda:1" and device_of(ONE_PROCESS, "cuda:1") == "cuda:1"
    with pytest.raises(InputError, match="device 'cuda:0': 4 processes take a GPU each"):
        device_of(Processes(3, 4, 1, 2), "cuda:0")
    with pytest.raises(InputError, match="3 processes on a machine with 2 GPUs"):
        device_of(Processes(0, 3, 0, 3), "cuda")
