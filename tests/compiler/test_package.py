"""Folders of fixed models."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import nas_agg
from nas_agg.compiler import load_weights
from nas_agg.compiler.package import write_package
from nas_agg.errors import InputError, NasAggError

SMALL = {"input": [3, 8, 8], "classes": 4, "net": [{"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": 4}]}


@pytest.fixture
def genotype():
    return nas_agg.load(SMALL)


def test_a_folder_runs_without_this_package(genotype, tmp_path):
    network = nas_agg.compile(genotype, seed=0)
    out = write_package(tmp_path / "model", genotype, network, title="small", export=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "genotype.json", "model.pt2", "model.py", "weights.safetensors",
    ]  # fmt: skip
    assert nas_agg.load(json.loads((out / "genotype.json").read_text())) == genotype
    again = nas_agg.compile(out / "genotype.json")
    load_weights(again, out / "weights.safetensors")
    images = torch.randn(7, 3, 8, 8)
    wanted = network.eval()(images)
    assert torch.equal(again.eval()(images), wanted)
    assert torch.allclose(torch.export.load(out / "model.pt2").module()(images), wanted, atol=1e-6)
    ran = subprocess.run([sys.executable, "-I", out / "model.py", "weights.safetensors"], capture_output=True, cwd=out)
    assert ran.returncode == 0, ran.stderr


def test_what_is_there_is_replaced_only_by_force(genotype, tmp_path):
    network = nas_agg.compile(genotype, seed=0)
    write_package(tmp_path / "model", genotype, network)
    before = (tmp_path / "model" / "weights.safetensors").read_bytes()
    other = nas_agg.compile(genotype, seed=1)
    with pytest.raises(InputError, match="already there; choose another folder, or replace it by --force"):
        write_package(tmp_path / "model", genotype, other)
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == before
    write_package(tmp_path / "model", genotype, other, force=True)
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() != before
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="not a folder of a compiled model, so it is not replaced"):
        write_package(tmp_path / "mine", genotype, other, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_a_place_that_cannot_be_written_leaves_nothing(genotype, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NasAggError, match="cannot be written"):
        write_package(tmp_path / "file" / "model", genotype, nas_agg.compile(genotype))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
