"""The commands that show runs."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from nas_agg.study import search
from nas_agg.study.records.saved_run import read_saved_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of a table of results."""
    path = tmp_path_factory.mktemp("runs") / "table"
    search("agg-bench", searcher="random", budget=12, out=path)
    return path


def test_report(run, folder):
    assert run("report", str(folder)) == (0, f"wrote {folder / 'report.html'}\n", "")
    assert run("report", str(folder), "--out", "page.html") == (0, "wrote page.html\n", "")
    assert "agg-bench in its table of results" in Path("page.html").read_text()


@pytest.mark.parametrize("name", ["run.json", "trials.csv", "study.journal", "manifest.json", "best/genotype.json"])
@pytest.mark.parametrize("command", [("report", "{0}", "--out"), ("show", "densenet/40-k12", "--svg")])
def test_no_command_replaces_a_file_of_another_kind(command, name, refused, folder):
    before = (folder / name).read_bytes()
    message = refused(*(word.format(folder) for word in command), str(folder / name))
    assert message.startswith(f"nas_agg: {folder / name}: a file that exists and is no .")
    assert (folder / name).read_bytes() == before


def test_report_refuses_what_is_no_run(refused):
    assert refused("report", "nothing") == "nas_agg: nothing: not a run folder (it has no run.json)\n"


@pytest.fixture(scope="module")
def front_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of two objectives with rungs."""
    path = tmp_path_factory.mktemp("runs") / "front"
    search("agg-bench", searcher="random", budget=15, seed=3, out=path, objective="accuracy,macs", pruner="halving")
    return path


def test_runs(run, folder):
    status, out, _ = run("runs", str(folder.parent))
    header, row = out.splitlines()
    assert status == 0 and header.split()[:3] == ["run", "state", "space"]
    assert row.split()[:5] == [str(folder), "finished", "agg-bench", "table", "random"]
    (only,) = json.loads(run("runs", str(folder.parent), "--format", "json")[1])
    trials = read_saved_run(folder).trials
    assert only["values"] == [max(trial.accuracy for trial in trials if trial.consumes_budget)]
    assert only["networks"] == "12 of 12"


def test_runs_of_a_folder_with_a_damaged_run(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged/run.json").write_text("{")
    assert "damaged: run.json: " in run("runs", str(tmp_path))[1]


@pytest.mark.parametrize("name", ["study.journal", "run.json", "trials.csv", "manifest.json"])
def test_a_pipe_in_a_run_does_not_block(name, refused, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    assert f"{copy / name}: is a pipe or a device, not a file" in refused("trials", str(copy))


def test_runs_without_any(run, refused, tmp_path):
    assert run("runs", str(tmp_path)) == (0, f"no runs in {tmp_path}\n", "")
    assert refused("runs", "nothing").startswith("nas_agg: nothing: no such folder; ")


def test_trials_are_ranked_sorted_and_filtered(run, folder):
    rows = json.loads(run("trials", str(folder), "--format", "json")[1])
    accuracies = [row["accuracy"] for row in rows if row["state"] == "complete"]
    assert accuracies == sorted(accuracies, reverse=True) and len(accuracies) == 12
    table = list(csv.DictReader(io.StringIO(run("trials", str(folder), "--sort", "-macs", "--format", "csv")[1])))
    assert [int(row["macs"]) for row in table] == sorted(row["macs"] for row in rows)
    assert {"width", "stage_pattern"} <= set(table[0])
    shown = run("trials", str(folder), "--state", "complete", "--limit", "2")[1].splitlines()
    assert len(shown) == 3 and shown[1].split()[0] == str(rows[0]["trial"])


def test_the_front_of_trials(run, front_folder):
    rows = json.loads(run("trials", str(front_folder), "--front", "--format", "json")[1])
    complete = [t for t in read_saved_run(front_folder).trials if t.state == "complete"]
    best = {
        t.number
        for t in complete
        if not any(
            o.accuracy >= t.accuracy and o.macs <= t.macs and (o.accuracy, o.macs) != (t.accuracy, t.macs)
            for o in complete
        )
    }
    assert {row["trial"] for row in rows} == best
    assert all(row["hash"] for row in rows)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sort", "acurracy"], "--sort: no column 'acurracy'; did you mean 'accuracy'?"),
        (["--state", "done"], "--state: unknown state 'done'; choose from running, "),
    ],
)
def test_wrong_options_of_trials(refused, folder, words, message):
    assert message in refused("trials", str(folder), *words)


def test_curves(run, front_folder, refused):
    lines = run("curves", str(front_folder), "--limit", "3")[1].splitlines()
    assert lines[0].split() == ["trial", "state", "epochs", "accuracy", "first", "last"] and len(lines) == 4
    number = lines[1].split()[0]
    trial = read_saved_run(front_folder).trials[int(number)]
    assert lines[1].split()[-2] == f"{100 * trial.accuracy:.2f}"
    chart = run("curves", f"{front_folder}:{number}")[1]
    assert chart.count("●") == len(trial.rungs) + 2  # with the last epoch, and the sign's explanation
    assert f"{100 * trial.accuracy:.2f} %" in chart
    assert "no trial '99'; its trials are 0 to" in refused("curves", f"{front_folder}:99")


def test_compare(run, refused, folder, front_folder, tmp_path):
    search("agg-bench", searcher="random", budget=12, seed=1, out=tmp_path / "other")
    value = json.loads(run("compare", str(folder), str(tmp_path / "other"), "--format", "json")[1])
    best = [
        max(t.accuracy for t in read_saved_run(p).trials if t.consumes_budget) for p in (folder, tmp_path / "other")
    ]
    assert [row["best accuracy"] for row in value["runs"]] == [f"{100 * accuracy:.2f} %" for accuracy in best]
    assert value["groups"][0]["mean"] == pytest.approx(sum(best) / 2)
    assert "mean of the best (95 % interval)" in run("compare", str(folder), str(tmp_path / "other"))[1]
    assert refused("compare", str(folder)) == "nas_agg: RUN: specify at least two run folders\n"
    assert "they must be equal" in refused("compare", str(folder), str(front_folder))
