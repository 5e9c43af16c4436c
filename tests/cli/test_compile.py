"""`nas_agg compile`: files, output, errors; nothing remains when it is stopped."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time

import pytest
import torch

import nas_agg
from nas_agg.compiler import save_weights
from nas_agg.compiler.inference_fusion import FUSIONS
from nas_agg.expansion.passes import PASSES

SMALL = {"input": [3, 8, 8], "classes": 4, "net": [{"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": "classes"}]}


@pytest.fixture
def folder(tmp_path):
    """A folder with a genotype and weights, where the command is called."""
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    save_weights(nas_agg.compile(SMALL, seed=5), tmp_path / "small.safetensors")
    return tmp_path


def test_writes_a_folder_and_prints_how_to_use_it(run, folder):
    status, out, err = run("compile", "small.json", "--out", "new/model", "--weights", "small.safetensors")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    names = ["model.py", "predict.py", "config.json", "weights.safetensors", "genotype.json"]
    assert [line.split()[0] for line in lines[:6]] == ["new/model", *names]
    assert lines[6] == "268 params, 13,856 MACs per image"
    assert lines[7] == "Weights: small.safetensors."
    use = "\n".join(line.strip() for line in lines if line.startswith("    "))
    use = f"import torch\nimages = torch.ones(2, 3, 8, 8)\n{use}\nprint(logits.sum().item())"
    used = subprocess.run([sys.executable, "-c", use], cwd=folder / "new/model", capture_output=True, text=True)
    network = nas_agg.compile(SMALL, weights=folder / "small.safetensors").eval()
    assert float(used.stdout) == network(torch.ones(2, 3, 8, 8)).sum().item()


def test_untrained_weights_are_announced(run, folder):
    out = run("compile", "small.json", "--out", "model")[1]
    assert "The weights are UNTRAINED (seed 0)" in out
    report = json.loads(run("compile", "small.json", "--out", "second", "--seed", "0", "--format", "json")[1])
    assert (report["weights"], report["seed"], report["params"], report["notes"]) == (None, 0, 268, [])
    assert report["files"] == {file.name: file.stat().st_size for file in (folder / "second").iterdir()}
    run("compile", "small.json", "--out", "other", "--seed", "1")
    first, same, other = ((folder / name / "weights.safetensors").read_bytes() for name in ("model", "second", "other"))
    assert first == same != other


def test_verbose_prints_the_operations_of_each_pass(run, folder):
    out = run("compile", "seqconv/seqresnet-r4-k8", "--input", "3x8x8", "--out", "model", "-v")[1]
    counted = [line.split() for line in out.splitlines() if len(line.split()) == 3 and line.split()[1].isdigit()]
    counts = {name: [int(number) for number in numbers] for name, *numbers in counted}
    assert list(counts) == [*PASSES, *FUSIONS]
    before, after = counts["dead"]
    assert before > after
    assert all(one[1] == other[0] for one, other in itertools.pairwise(counts.values()))
    passes = json.loads(run("compile", "small.json", "--out", "other", "-v", "--format", "json")[1])["passes"]
    assert {step["name"]: step["before"] - step["after"] for step in passes}["fold_norms_into_preceding"] == 1


def test_for_another_task(run, folder):
    run("compile", "small.json", "--out", "model", "--classes", "7", "--input", "1x9x10")
    written = nas_agg.load(folder / "model/genotype.json")
    assert (written.input, written.classes) == ((1, 9, 10), 7)


def test_the_code_names_its_origin(run, folder):
    run("compile", "aggregation/resnet", "--input", "3x8x8", "--out", "model")
    lines = (folder / "model/model.py").read_text().splitlines()
    assert lines[0] == '"""aggregation/resnet'
    assert lines[2].startswith("From the search space aggregation: which aggregation is best")
    run("compile", "small.json", "--out", "other")
    assert (folder / "other/model.py").read_text().startswith('"""small\n')


def test_exports_print_nothing_else(folder):
    command = [sys.executable, "-m", "nas_agg", "compile", "small.json", "--out", "model", "--onnx", "--export"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 13
    assert sorted(path.name for path in (folder / "model").iterdir()) == [
        "config.json", "genotype.json", "model.onnx", "model.pt2", "model.py", "predict.py", "weights.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small.json"], "--out"),
        (["small.json", "--out", ""], "out: specify a folder"),
        (["small.json", "--out", "/"], "/: already exists"),
        (
            ["small.json", "--out", ".", "--force"],
            ".: already exists and contains 'cut.safetensors', which does not belong to a",
        ),
        (["small.json", "--out", "text", "--force"], "text: a file, not a folder"),
        (["none.json", "--out", "x"], "none.json: no such file"),
        (["microdens/30a64", "--out", "x"], "did you mean 'microdense/30a64'?"),
        ([".", "--out", "x"], "not a run folder"),
        (["small.json", "--out", "x", "--weights", "none"], "none: no such file"),
        (["small.json", "--out", "x", "--weights", "text"], "text: not a readable safetensors file"),
        (["small.json", "--out", "x", "--weights", "text.pt"], "text.pt: not a state dict"),
        (
            ["small.json", "--out", "x", "--weights", "cut.safetensors"],
            "cut.safetensors: not a readable safetensors file",
        ),
        (["aggregation/resnet", "--out", "x", "--weights", "small.safetensors"], "the weights of another network"),
        (["small.json", "--out", "x", "--weights", "small.safetensors", "--classes", "7"], "not (7, 8); these are the"),
        (
            ["small.json", "--out", "x", "--weights", "small.safetensors", "--seed", "1"],
            "seed: only for untrained weights",
        ),
        (["small.json", "--out", "x", "--input", "3x8"], "--input: '3x8' is not"),
        (["small.json", "--out", "x", "--seed", "-1"], "seed"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(refused, folder, words, message):
    for name in ("text", "text.pt"):
        (folder / name).write_text("hello")
    (folder / "cut.safetensors").write_bytes((folder / "small.safetensors").read_bytes()[:-10])
    before = sorted(path.name for path in folder.iterdir())
    assert message in refused("compile", *words)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_existing_folder(run, refused, folder):
    run("compile", "small.json", "--out", "model")
    assert "model: already exists; choose another folder, or replace it with --force" in refused(
        "compile", "small.json", "--out", "model"
    )
    assert run("compile", "small.json", "--out", "model", "--weights", "small.safetensors", "--force")[0] == 0
    assert nas_agg.compile(SMALL, weights=folder / "model/weights.safetensors")


def test_an_unwritable_folder_is_a_failure(run, folder):
    status, out, err = run("compile", "small.json", "--out", "small.json/model")
    assert (status, out) == (1, "")
    assert err == "nas_agg: small.json/model: cannot be written: Not a directory\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(folder, number):
    command = [sys.executable, "-m", "nas_agg", "compile", "residual/resnet-110", "--out", "new/model", "--export"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(folder.glob("new/.model.*.tmp/weights.safetensors")):  # it is being filled
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    err = process.communicate()[1]
    assert (process.returncode, err) == (128 + number, "nas_agg: stopped; nothing was written\n")
    assert sorted(path.name for path in folder.iterdir()) == ["small.json", "small.safetensors"]


def test_what_a_killed_call_left_is_removed_by_the_next(run, folder):
    command = [sys.executable, "-m", "nas_agg", "compile", "residual/resnet-110", "--out", "model"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not list(folder.glob(".model.*.tmp")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (left,) = folder.glob(".model.*.tmp")
    left.with_suffix(".old").mkdir()  # of a call that was killed while it replaced a folder
    assert run("compile", "small.json", "--out", "other")[0] == 0
    assert left.exists(), "it may belong to another folder"
    assert run("compile", "small.json", "--out", "model", "--force")[0] == 0
    assert not list(folder.glob(".model.*"))
