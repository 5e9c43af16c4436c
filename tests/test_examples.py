"""The examples run, each in a process of its own as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import nas_agg

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *words):
    ran = subprocess.run([sys.executable, EXAMPLES / name, *words], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_own_space():
    out = run("own_space.py", "--budget", "3", "--epochs", "1")
    assert "3 networks evaluated" in out
    assert "best score" in out


def test_search_a_table():
    said = run("search_a_table.py")
    assert "the Pareto front" in said and "'stage_operator': 'concat'" not in said.splitlines()[0]


def test_efficientnet_with_mdconv(tmp_path):
    out = run("efficientnet_mdconv.py", "--epochs", "1", "--out", tmp_path)
    assert "r_a = 0.288" in out
    assert "params -0.05 %, MACs +3.95 %" in out
    blocks = {line.split()[1]: line for line in out.splitlines() if line.startswith("block ")}
    assert [number for number in blocks if "MBConv -> MDConv" in blocks[number]] == ["8", "9", "10"]
    assert "102,900" in blocks["8"] and "108,099" in blocks["8"]
    assert "294 tensors of the untouched blocks are B0's, bit for bit" in out
    for line in out.splitlines()[-2:]:
        assert line.split()[-4:-2] == ["5.3M", "0.4G"]
    for name in ("b0", "b0-mdconv"):
        nas_agg.compile(tmp_path / name / "genotype.json", weights=tmp_path / name / "weights.safetensors")


def test_efficientnet_takes_its_weights_from_a_file(tmp_path):
    model = torchvision.models.efficientnet_b0(weights=None)
    torch.save(model.state_dict(), tmp_path / "b0.pth")
    size = ("--dataset", "digits", "--image-size", "32", "--epochs", "1", "--n", "5", "--blocks", "10")
    out = run("efficientnet_mdconv.py", *size, "--weights", tmp_path / "b0.pth")
    assert "B0 takes 357 tensors" in out
    assert "new, of other shapes: stem.conv.weight, linear.weight, linear.bias" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--blocks", "8,17"), "--blocks: '8,17' is not a list of blocks from 1 to 16"),
        (("--seed", "99999999999999999999"), "--seed: give a whole number"),
        (("--epochs", "0"), "epochs 0: give 1 or more"),
        (("--out", "file"), "--out: file/b0 cannot be made: Not a directory"),
        (("--blocks", "1" * 10_000), "is not a list of blocks"),
        (("--n", "7"), "--n: give 0 to 6 dense layers"),
        (("--dataset", "digit"), "no data set is called 'digit'; did you mean 'digits'?"),
        (("--weights", "nothing.pth"), "nothing.pth: no such file"),
    ],
)
def test_a_wrong_word_of_the_example_is_one_line(words, said, tmp_path):
    (tmp_path / "file").touch()
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "efficientnet_mdconv.py", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 2
    assert said in ran.stderr and ran.stderr.count("\n") == 1
