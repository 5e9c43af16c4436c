"""The examples, each run in a separate process."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import nas_agg
from nas_agg.compiler import compile
from nas_agg.training.data import load_data
from nas_agg.training.recipes import open_recipe

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *words):
    ran = subprocess.run([sys.executable, EXAMPLES / name, *words], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def images(tmp_path):
    """A few images of ten classes."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (160, 32, 32, 3), dtype=np.uint8), np.arange(160) % 10
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])
    return ("--dataset", f"npz:{tmp_path / 'images.npz'}", "--epochs", "1")


def cells(line):
    """The cells of a printed table's line."""
    return re.split(r"\s{2,}", line.strip())


def test_own_space():
    out = run("own_space.py", "--budget", "3", "--epochs", "1")
    assert "3 networks evaluated" in out
    assert "best value" in out


def test_search_a_table():
    message = run("search_a_table.py")
    assert "the Pareto front" in message and "'stage_operator': 'concat'" not in message.splitlines()[0]


def test_efficientnet_with_mdconv(images, tmp_path):
    out = run("efficientnet_mdconv.py", *images, "--out", tmp_path)
    assert "MDConv-3 (with squeeze-excitation) in place of blocks 8,9,10: r_a = 0.263" in out
    size = "params -0.42 %, MACs +0.75 % relative to B0: equal (parameters within 1 % and MACs within 2.5 %)"
    assert out.count(size) == 2 and f"\nsize: {size}\nstart: equal, both random" in out
    blocks = {line.split()[1]: line for line in out.splitlines() if line.startswith("block ")}
    assert [number for number in blocks if "MBConv -> MDConv" in blocks[number]] == ["8", "9", "10"]
    assert "102,900" in blocks["8"] and "103,920" in blocks["8"]
    assert "294 tensors of shared blocks are equal to B0's, bit for bit" in out
    header, *rows = map(cells, out.splitlines()[-3:])
    assert header[-2:] == ["test error (%)", "top-5 error (%)"]
    for row, start, sizes in zip(
        rows,
        ("random, seed 0", "as B0; MDConv random"),
        (["5,288,548", "385.8M"], ["5,266,208", "388.7M"]),
        strict=True,
    ):
        assert row[1] == start and row[2:4] == sizes
        assert 0 <= float(row[-1]) < float(row[-2]) <= 100
    b0 = nas_agg.cost("efficientnet/b0")
    for name in ("b0", "b0-mdconv"):
        network = tmp_path / name
        nas_agg.compile(network / "genotype.json", weights=network / "weights.safetensors")
        cost = nas_agg.cost(nas_agg.load(network / "genotype.json").with_task((3, 224, 224), 1000))
        assert abs(cost.params / b0.params - 1) < 0.01 and abs(cost.macs / b0.macs - 1) < 0.025


@pytest.fixture(scope="module")
def example():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("efficientnet_mdconv", EXAMPLES / "efficientnet_mdconv.py")
    module = sys.modules["efficientnet_mdconv"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("se", [True, False])
def test_the_solved_network_has_b0s_size(example, se):
    b0 = nas_agg.load("efficientnet/b0")
    result = example.choose_variant(b0, [8, 9, 10], None, se)
    ours, theirs = nas_agg.cost(result.genotype), nas_agg.cost(b0)
    assert result.n == 3
    assert abs(ours.params / theirs.params - 1) < 0.01 and abs(ours.macs / theirs.macs - 1) < 0.025
    assert (result.params, result.macs) == pytest.approx(
        (100 * (ours.params / theirs.params - 1), 100 * (ours.macs / theirs.macs - 1))
    )
    assert "NOT" not in result.size
    squeezed = [name for name in nas_agg.compile(result.genotype).state_dict() if ".se." in name]
    assert any(name.startswith("stage5.0.") for name in squeezed) == se
    assert any(name.startswith("stage5.2.") for name in squeezed)


def test_another_n_is_chosen_where_three_layers_cannot_be_equal(example, monkeypatch):
    b0 = nas_agg.load("efficientnet/b0")
    variant_of_equal_size = example.variant_of_equal_size

    def without_three(b0, blocks, n, se):
        result = variant_of_equal_size(b0, blocks, n, se)
        return replace(result, macs=9.9) if n == 3 else result

    monkeypatch.setattr(example, "variant_of_equal_size", without_three)
    assert example.choose_variant(b0, [8, 9, 10], None, True).n == 4
    assert example.choose_variant(b0, [8, 9, 10], 3, True).n == 3


def test_unequal_sizes_are_reported(example):
    result = example.choose_variant(nas_agg.load("efficientnet/b0"), [8, 9, 10], 0, True)
    assert result.excess > 1 and "NOT equal" in result.size


@pytest.mark.parametrize("recipe", ["final", "seqconv-imagenet"])
def test_both_networks_start_from_the_same_weights_as_the_recipe_says(example, recipe):
    b0, data, recipe = nas_agg.load("efficientnet/b0"), load_data("digits", image_size=32), open_recipe(recipe)
    after = example.choose_variant(b0, [8, 9, 10], 3, True)
    start = example.make_start(b0, after, data, recipe, argparse.Namespace(seed=5, weights=None))
    first, second = (network.state_dict() for network in start.networks)
    blocks = ("stage4.2.", "stage5.0.", "stage5.1.")
    shared = [name for name in first if not name.startswith(blocks)]
    assert shared == [name for name in second if not name.startswith(blocks)]
    assert all(torch.equal(first[name], second[name]) for name in shared)
    assert torch.equal(
        compile(b0.with_task(data.input, 10), 5, **recipe.compile_options).head.conv.weight, first["head.conv.weight"]
    )
    assert start.about.startswith("equal, both random") and "NOT" not in start.about


def test_of_few_classes_there_is_no_top5_error(example):
    assert example._errors({"accuracy": 0.75, "loss": 1.0}) == ["25.00"]
    assert example._errors({"accuracy": 0.75, "top5_accuracy": 0.9}) == ["25.00", "10.00"]


def test_efficientnet_takes_its_weights_from_a_file(images, tmp_path):
    model = torchvision.models.efficientnet_b0(weights=None)
    torch.save(model.state_dict(), tmp_path / "b0.pth")
    out = run("efficientnet_mdconv.py", *images, "--n", "5", "--blocks", "10", "--weights", tmp_path / "b0.pth")
    assert "B0: 358 tensors" in out
    assert "random, because of other shapes: linear.weight, linear.bias" in out
    assert f"start: NOT equal: B0 starts from {tmp_path / 'b0.pth'} in all blocks" in out
    assert [cells(line)[1] for line in out.splitlines()[-2:]] == ["b0.pth", "as B0; MDConv random"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--blocks", "8,17"), "--blocks: '8,17' is not a list of blocks from 1 to 16"),
        (("--seed", "99999999999999999999"), "--seed: must be an integer"),
        (("--epochs", "0"), "epochs 0: must be 1 or more"),
        (("--out", "file"), "--out: cannot create file/b0: Not a directory"),
        (("--blocks", "1" * 10_000), "is not a list of blocks"),
        (("--n", "7"), "--n: must be 0 to 6"),
        (("--recipe", "seqconv-imagenet"), "color jitter requires 3 channels, but images have 1"),
        (("--dataset", "digit"), "unknown data set 'digit'; did you mean 'digits'?"),
        (("--weights", "nothing.pth"), "nothing.pth: no such file"),
    ],
)
def test_a_wrong_word_of_the_example_is_one_line(example, words, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["efficientnet_mdconv.py", *words])
    with pytest.raises(SystemExit) as end:
        example.main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error and error.count("\n") == 1
