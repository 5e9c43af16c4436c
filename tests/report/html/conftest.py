"""Runs of a small space, evaluated by a function, whose reports are read."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from nas_agg.study import search
from nas_agg.study.records.saved_run import SavedRun, read_saved_run

SPACE = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": {"from": 2, "to": 30}, "deep": [0, 1, 2, 3], "kernel": [1, 3], "end": ["relu", ["bn", "relu"]]},
    "net": [
        {"conv": 3, "out": "width"},
        {"nodes": "deep", "growth": "width", "unit": [{"conv": "kernel"}, "end"]},
        "gap",
        {"linear": "classes"},
    ],
}


def evaluate(genotype, trial):
    """Five reports; networks of 13 channels fail, narrow ones may be pruned."""
    let = genotype.to_dict()["let"]
    if let["width"] == 13:
        raise ValueError("13 <b>channels</b>")
    top = 1 / (1 + abs(let["width"] - 20)) + let["deep"] / 10
    for step in range(1, 6):
        trial.report(top * step / 5, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return top


@pytest.fixture(scope="session")
def one_objective(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """A search with pruned, failed and equal trials."""
    path = tmp_path_factory.mktemp("runs") / "one"
    search(SPACE, evaluate, "random", budget=40, seed=1, out=path)
    return read_saved_run(path)


@pytest.fixture(scope="session")
def two_objectives(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """A search of two objectives, one of which is minimized."""
    path = tmp_path_factory.mktemp("runs") / "two"

    def quality(genotype, trial):
        let = genotype.to_dict()["let"]
        return let["width"] + 5 * let["deep"]

    search(SPACE, quality, "random", budget=30, seed=2, out=path, objective="quality:max,macs")
    return read_saved_run(path)


@pytest.fixture(scope="session")
def halving(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """A search of a table of results with two objectives and rungs."""
    path = tmp_path_factory.mktemp("runs") / "halving"
    search("agg-bench", searcher="random", budget=30, out=path, objective="accuracy,macs", pruner="halving")
    return read_saved_run(Path(path))
