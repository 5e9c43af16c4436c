"""Faults in the files of a run: each is refused in one line, or makes no difference to the result."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas_agg
from nas_agg.common.errors import NasAggError
from nas_agg.study.api import search
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.records.history import read_history
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.saved_run import read_saved_run
from nas_agg.study.saved_evaluation import evaluate_run
from nas_agg.study.workers.backend import Backend, Event
from nas_agg.study.workers.local import LocalBackend
from nas_agg.study.workers.messages import EventKind, FinalOutcome
from nas_agg.study.workers.process import prepare

FILES = Path(tempfile.gettempdir()) / f"nas_agg-faults-{os.getpid()}"
SETTINGS: dict[str, Any] = {
    "searcher": "random",
    "budget": 6,
    "epochs": 3,
    "recipe": str(FILES / "short.yaml"),
    "workers": 1,
    "seed": 1,
}
SETTINGS |= {"workers": 1, "pruner": "halving", "min_epochs": 1, "dataset": f"npz:{FILES}/images.npz", "device": "cpu"}
TINY = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": {"from": 2, "to": 9}, "kernel": [1, 3], "end": ["relu", ["bn", "relu"]]},
    "net": [{"conv": "kernel", "out": "width"}, "end", "gap", {"linear": "classes"}],
}
#: Cases by default; slow tests have all.
CASES = pytest.mark.parametrize("cases", [20, pytest.param(300, marks=pytest.mark.slow)])


class Stop(BaseException):
    """Ends a search before its end."""


class InProcessPool(Backend):
    """Trains in this process, so that a search takes a fraction of a second."""

    def __init__(self, configs: Any, *_: Any, **__: Any):
        self._work, self._events = prepare(configs[0]), []

    def capacity(self) -> int:
        return 1

    def submit(self, assignment: Any, attempt: int, resources: Any = None) -> None:
        def report(step: int, value: float) -> bool:
            self._events.append(Event(assignment.number, attempt, EventKind.REPORT, step, value))
            return False

        try:
            outcome = self._work(assignment.job.model_copy(update={"device": "cpu"}), report)
        except NasAggError as error:
            self._events.append(Event(assignment.number, attempt, EventKind.FAILED, reason=str(error)))
        else:
            kind = EventKind.COMPLETED if isinstance(outcome, FinalOutcome) else outcome.event_kind()
            self._events.append(Event(assignment.number, attempt, kind, outcome=outcome))

    def poll(self, timeout: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def stop(self, number: int) -> None:
        pass

    def cancel(self, number: int) -> None:
        pass

    def close(self, leave_running: bool = False) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    """Searches that train in this process, and do not wait for the disk."""
    torch.set_num_threads(1)
    FILES.mkdir(exist_ok=True)
    (FILES / "short.yaml").write_text("like: search\nepochs: 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas_agg.study.engine.active_search.WorkerPool", InProcessPool)
        patch.setattr(LocalBackend, "open", lambda context: InProcessPool(context.task.worker_configs()))
        patch.setattr("os.fsync", lambda descriptor: None)
        yield
    shutil.rmtree(FILES, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search that trained networks, and stands in the folder ``run``."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    draw = np.random.default_rng(0)
    parts = {"train": 100, "test": 30}
    images = {f"x_{part}": draw.integers(0, 256, (count, 8, 8), np.uint8) for part, count in parts.items()}
    labels = {f"y_{part}": np.arange(count) % 10 for part, count in parts.items()}
    np.savez(FILES / "images.npz", **images, **labels)
    search(folder / "tiny.json", out=folder / "run", **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def unfinished(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same search, which was killed during its last trial: a checkpoint and half a learning curve are there."""
    from nas_agg.study import coordinator

    folder = tmp_path_factory.mktemp("unfinished")
    (folder / "tiny.json").write_text((finished / "tiny.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        handle = coordinator.Coordinator.handle_event

        def handle_or_stop(self: Any, event: Any) -> None:
            if event.number >= 4 and event.kind != EventKind.REPORT:
                raise Stop
            handle(self, event)

        patch.setattr(coordinator.Coordinator, "handle_event", handle_or_stop)
        with pytest.raises(Stop):
            search(folder / "tiny.json", out=folder / "run", **SETTINGS)
    return folder


def results(run: Path, space: Path) -> dict[str, Callable[[], Any]]:
    """All that can be learnt from a run, by name."""

    def resumed() -> Any:
        result = search(space, out=run, **SETTINGS)
        assert result.test is not None
        return _told(result.trials), result.best, {key: value for key, value in result.test.items() if key != "seconds"}

    numbers = sorted(int(folder.name) for folder in (run / "trials").iterdir())
    return {
        "saved": lambda: _told(read_saved_run(run).trials),
        "best": lambda: nas_agg.load(run),
        "tested": lambda: evaluate_run(run, device="cpu"),
        "networks": lambda: [nas_agg.load(f"{run}:{number}") for number in numbers],
        "histories": lambda: [_without_times(read_history(run / "trials" / str(number))) for number in numbers],
        "resumed": resumed,
    }


def _told(trials: Sequence[TrialRecord]) -> list[Any]:
    return [(t.number, t.state, t.values, t.hash, t.labels, t.loss, t.reason) for t in trials]


def _without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")} for epoch in history]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the line of its error."""
    try:
        return call()
    except NasAggError as error:
        assert "\n" not in str(error)
        return error


def damage(path: Path, draw: random.Random) -> str:
    """Flip a bit of a file, or cut its end off; returns which."""
    data = bytearray(path.read_bytes())
    if draw.random() < 0.25:
        length = draw.randrange(len(data))
        path.write_bytes(data[:length])
        return f"{path.name} cut at {length}"
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {path.name} flipped"


def check_case(original: Path, copy: Path, expected: dict[str, Any], change: Callable[[Path], str]) -> bool:
    """Change a copy of a run and compare all that it tells; returns whether anything was refused."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original / "run", copy)
    fault, refused = change(copy), False
    for name, call in results(copy, original / "tiny.json").items():
        said = outcome(call)
        if isinstance(said, NasAggError):
            refused |= not isinstance(expected[name], NasAggError)
        else:
            assert said == expected[name], f"{fault}: {name} is silently different"
    return refused


@pytest.fixture
def check(tmp_path: Path) -> Callable[[Path, Callable[[Path], str]], bool]:
    """Checks a change of a run; see `check_case`."""
    expected: dict[Path, dict[str, Any]] = {}

    def call(original: Path, change: Callable[[Path], str]) -> bool:
        copy = tmp_path / "run"
        if original not in expected:
            shutil.copytree(original / "run", copy)
            expected[original] = {name: outcome(call) for name, call in results(copy, original / "tiny.json").items()}
        return check_case(original, copy, expected[original], change)

    return call


@CASES
@pytest.mark.parametrize("which", ["finished", "unfinished"])
def test_flipped_bits_and_cut_files_are_refused_or_harmless(which, cases, check, request) -> None:
    original, draw = request.getfixturevalue(which), random.Random(0)
    files = sorted(
        path.relative_to(original / "run")
        for path in (original / "run").rglob("*")
        if path.is_file() and path.stat().st_size
    )
    assert {"run.json", JOURNAL, "trials.csv"} <= {path.name for path in files}
    refused = 0
    for _ in range(cases):
        file = draw.choice(files)
        refused += check(original, lambda copy, file=file: damage(copy / file, draw))
    assert refused >= cases / 3


@pytest.mark.parametrize("which", ["finished", "unfinished"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_deleted_line_of_the_journal_is_noticed(which, step, check, request) -> None:
    original = request.getfixturevalue(which)
    lines = (original / "run" / JOURNAL).read_bytes().splitlines(keepends=True)
    for number in range(0, len(lines), step):

        def delete(copy: Path, number: int = number) -> str:
            (copy / JOURNAL).write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
            return f"line {number + 1} of {len(lines)} deleted"

        assert check(original, delete) or (which, number) == ("unfinished", len(lines) - 1)
