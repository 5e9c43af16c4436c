"""Backends by name, what they need to be installed, and how trials and data travel to other machines."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.study.api import search
from nas_agg.study.clusters.shared_data import pack_data
from nas_agg.study.clusters.trial_files import ChangedFiles, read_files, replace_files, write_files
from nas_agg.study.definition.settings import Settings
from nas_agg.study.workers.registry import BACKENDS, find_backend


@pytest.mark.parametrize(("name", "missing"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_one_line_before_anything_begins(name, missing, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    for module in (BACKENDS[name].partition(":")[0], f"nas_agg.study.clusters.{name}_job"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    expected = rf"backend {name}: {missing} is not installed: pip install 'nas-agg\[{name}\]'$"
    with pytest.raises(InputError, match=expected):
        search("microdense", backend=name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_extra_is_imported_unless_it_is_asked_for():
    code = (
        "import sys, nas_agg, nas_agg.testing; from nas_agg.study.workers.registry import find_backend\n"
        "find_backend('local'), find_backend('storage'), nas_agg.search('agg-bench', dataset=None, budget=1)\n"
        "print(sorted({'ray', 'submitit'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "rya"}, "backend: unknown backend 'rya'; did you mean 'ray'"),
        ({"backend": "local", "workers": 0}, "workers: backend local needs at least 1"),
        ({"backend": "slurm", "slurm": "partition"}, "slurm: expected NAME=VALUE, not 'partition'"),
        ({"backend": "ray", "gpus_per_trial": 1.5}, "gpus_per_trial: "),
    ],
)
def test_wrong_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        search("microdense", out=tmp_path / "run", **settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({}, "local"), ({"workers": 0}, "storage"), ({"storage": "sqlite:///x"}, "storage"), ({"backend": "ray"}, "ray")],
)
def test_the_default_backend(settings, name):
    assert Settings.parse(space="microdense", **settings).backend_name == name


def test_a_function_or_a_table_has_no_backend(tmp_path):
    with pytest.raises(InputError, match="backend: applies to trained networks only"):
        search("microdense", lambda genotype, trial: 0.0, backend="local")
    with pytest.raises(InputError, match="backend: agg-bench has a table of results"):
        search("agg-bench", dataset=None, backend="local", out=tmp_path / "run")


def test_a_trial_folder_travels_as_bytes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write_files(here, {"genotype.json": b"{}", "checkpoint.pt": b"1"})
    write_files(there, read_files(here))
    changed = ChangedFiles(there)
    (there / "metrics.jsonl").write_text("1\n")
    assert changed.take() == {}, "without a checkpoint, epochs are not worth sending"
    (there / "checkpoint.pt").write_bytes(b"22")
    assert changed.take() == {"checkpoint.pt": b"22", "metrics.jsonl": b"1\n"}
    (there / "checkpoint.pt").unlink()
    replace_files(here, read_files(there))
    assert read_files(here) == {"genotype.json": b"{}", "metrics.jsonl": b"1\n"}
    with pytest.raises(InputError, match="no name of a file"):
        write_files(here, {"../run.json": b"{}"})


def test_a_data_set_is_packed_without_copies_and_is_the_same_afterwards():
    from nas_agg.training.data import load_data

    data = load_data("digits")
    packed = pack_data(data)
    assert len(packed.arrays) == 1, "the splits share their images"
    packed.arrays[0].setflags(write=False)  # as an object store has it
    again = packed.unpack()
    assert again.digest == data.digest
    assert np.shares_memory(again.train.pixels.numpy(), packed.arrays[0])
    assert pack_data({"fake": 1}) == {"fake": 1}


def test_every_backend_has_its_class():
    for name in ("local", "storage"):
        assert find_backend(name).__name__.lower().startswith(name)
