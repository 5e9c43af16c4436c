"""Trainings by several processes on the command line: one prints and writes, and all end with one that is killed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from together import HERE, start

import nas_agg
from nas_agg.study.standalone_training import train_genotype

NET = {
    "input": [1, 8, 8],
    "classes": 10,
    "net": [{"conv": 3, "out": 8, "stride": 2}, "bn", "relu", "gap", {"linear": "classes"}],
}
EPOCHS = 4


def train_by_two(folder: Path, killed_at: int) -> tuple[list[int], str, str]:
    """Statuses, output and errors of two processes that train together."""
    (folder / "net.json").write_text(json.dumps(NET))
    command = [str(HERE / "killed_process.py"), str(killed_at), "train", "net.json", "--device", "cpu", "--sync-bn"]
    command += ["--recipe", "search", "--epochs", str(EPOCHS), "--out", "run"]
    processes = start(2, *command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    texts = [process.communicate(timeout=300) for process in processes]
    return [p.returncode for p in processes], "".join(t[0] for t in texts), "".join(t[1] for t in texts)


@pytest.mark.slow
def test_all_end_with_a_killed_process_and_a_new_start_resumes(tmp_path: Path) -> None:
    statuses, _, errors = train_by_two(tmp_path, killed_at=60)  # in the third epoch of 23 steps
    assert statuses == [1, -signal.SIGKILL]
    assert errors == (
        "nas_agg: another process of the training has ended; repeat the command to resume from the last checkpoint\n"
    )
    lines = (tmp_path / "run/best.tmp/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]

    statuses, output, errors = train_by_two(tmp_path, killed_at=0)
    assert (statuses, errors) == ([0, 0], "")
    assert output.count("2 processes, each with 32 images of a batch at most\n") == 1
    assert output.count("epoch 3 of 4") == output.count("test accuracy") == 1 and "epoch 2" not in output
    metrics = json.loads((tmp_path / "run/best/metrics.json").read_text())
    one = train_genotype(nas_agg.load(NET), recipe="search", epochs=EPOCHS, device="cpu", out=tmp_path / "one")
    assert metrics["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)
    assert metrics["epochs"] == EPOCHS


@pytest.mark.slow
def test_one_process_reports_an_error_of_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/other.txt").touch()
    statuses, output, errors = train_by_two(tmp_path, killed_at=0)
    assert output == "" and errors == "nas_agg: run: neither empty nor a run folder; choose another --out\n"
    assert statuses[0] == 2 and statuses[1] > 0
