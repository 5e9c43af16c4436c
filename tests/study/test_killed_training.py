"""Searches that really train, killed again and again, find what the unbroken ones find, to the last bit."""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest

from nas_agg.common.files import read_document
from nas_agg.study.api import search

START = multiprocessing.get_context("forkserver")  # it imports torch once for all the processes that are killed
START.set_forkserver_preload(
    ["nas_agg.study.api", "nas_agg.training.loop", "nas_agg.training.data", "optuna", "sklearn.datasets"]
)


def trained_epochs(out) -> int:
    """Lines that trainings have written so far, those of trials that were begun anew counted once."""
    return sum(path.read_text().count("\n") for path in out.glob("trials/*/metrics.jsonl"))


def start(space, out, settings):
    """Search in a process of its own."""
    process = START.Process(target=search, args=(space,), kwargs={**settings, "out": out})
    process.start()
    return process


def ended(process) -> bool:
    """Whether a search came to its end, and was not killed."""
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


def kill(process, out, epochs: int, wait: float) -> None:
    """Kill a search so many epochs from now, or never if it ends before."""
    before = trained_epochs(out)
    while process.is_alive() and trained_epochs(out) < before + epochs:
        time.sleep(0.02)
    time.sleep(wait)
    process.kill()


def found(out, kept) -> tuple:
    """What a finished run has found."""
    final = {key: value for key, value in read_document(out / "best/metrics.json").items() if key != "seconds"}
    return kept(out), final, (out / "best/weights.safetensors").read_bytes()


def killed_and_whole(space, folder, kept, *, searcher: str, budget: int, epochs: int, kills: int) -> int:
    """Compare a search with one that is killed while it trains; gives the times it was."""
    settings = {"searcher": searcher, "budget": budget, "epochs": epochs, "workers": 1, "device": "cpu", "seed": 2}
    settings |= {"recipe": "search", "final_epochs": 2}
    unbroken = start(space, folder / "whole", settings)
    draw, done, end = random.Random(3), 0, False
    most = max(1, budget * epochs // (kills + 1))
    while done < kills and not end:
        process = start(space, folder / "broken", settings)
        kill(process, folder / "broken", draw.randint(1, most), draw.uniform(0, 0.1))
        end = ended(process)
        done += not end
    assert not (folder / "broken/best").exists(), "the kills came after the search"
    assert ended(start(space, folder / "broken", settings)) and ended(unbroken)
    whole, broken = found(folder / "whole", kept), found(folder / "broken", kept)
    assert broken == whole
    assert sum(trial["state"] in ("COMPLETE", "PRUNED") for trial in whole[0]) >= budget
    return done


@pytest.mark.parametrize("searcher", ["random", pytest.param("tpe", marks=pytest.mark.slow)])
def test_a_search_killed_while_it_trains(tiny_file, searcher, kept, tmp_path):
    assert killed_and_whole(tiny_file, tmp_path, kept, searcher=searcher, budget=6, epochs=2, kills=2) == 2
