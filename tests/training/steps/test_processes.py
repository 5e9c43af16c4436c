"""One network trained by several processes is as if trained by one, if its batch norms are synchronised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parts_of_batches import CASES, RECIPES, compute
from together import HERE, run

from nas_agg.training.steps.processes import ONE_PROCESS


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
    for other in others:
        assert other.keys() == one.keys()
        for name, wanted in one.items():
            difference = (other[name] - wanted).abs().max().item()
            assert difference <= 1e-12 * (1 + wanted.abs().max().item()), name


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
