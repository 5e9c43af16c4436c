"""A space so small that networks repeat, a function that scores its networks at once, and a way to read a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.study.definition.trial import ATTEMPT
from nas_agg.study.records.journal import JOURNAL

TINY = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {
        "width": {"from": 2, "to": 13},  # two widths give one network
        "deep": [0, 1, 2],
        "kernel": [1, 3],
        "end": ["relu", ["bn", "relu"]],
    },
    "net": [
        {"conv": 3, "out": "width//2"},
        {"nodes": "deep", "growth": "width//2", "unit": [{"conv": "kernel"}, "end"]},
        "gap",
        {"linear": "classes"},
    ],
}


@pytest.fixture
def tiny() -> Space:
    """A space of 144 points and fewer networks."""
    return Space(TINY, "tiny")


@pytest.fixture
def wide() -> Space:
    """A space too large to be looked through, of networks from tiny to large."""
    names = {"width": {"from": 2, "to": 120}, "deep": list(range(7)), "kernel": [1, 3, 5], "end": TINY["open"]["end"]}
    return Space({**TINY, "open": names}, "wide")


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The same space as a user's file."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def score(genotype: Genotype, trial: optuna.Trial) -> float:
    """Seven reports that rise to a score; networks of odd width lag behind and may be stopped."""
    let = genotype.to_dict()["let"]
    width, deep = let["width"] // 2, let["deep"]
    top = 1 / (1 + abs(width - 4)) + deep / 10
    for step in range(1, 8):
        trial.report(top * step / 7, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return top


@pytest.fixture(name="score")
def score_fixture() -> Callable[[Genotype, optuna.Trial], float]:
    """``evaluate`` for the tiny space."""
    return score


def kept(path: Path) -> list[dict[str, Any]]:
    """What a run's storage holds of each trial, apart from times and attempts."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path / JOURNAL)))
    study = storage.get_all_studies()[0]
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "reports": trial.intermediate_values,
            "attrs": {k: value for k, value in trial.user_attrs.items() if k not in ("nas_agg:seconds", ATTEMPT)},
        }
        for trial in storage.get_all_trials(study._study_id)
    ]


@pytest.fixture(name="kept")
def kept_fixture() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a run's storage."""
    return kept
