"""Folders of compiled models: they run without this package, are checked, and are whole or not there."""

from __future__ import annotations

import copy
import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from corpus.points import POINTS, at_smallest_input, one_per_family, randomized
from corpus.random_genotypes import random_genotype

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.compiler import load_weights
from nas_agg.compiler.codegen import exports, package
from nas_agg.compiler.codegen.package import add_code, write_package
from nas_agg.language.genotype import Genotype

SMALL = {"input": [3, 8, 8], "classes": 4, "net": [{"conv": 3, "out": 96}, "bn", "relu", {"conv": 3, "out": 96}, "gap",
         {"linear": 4}]}  # fmt: skip
FILES = [
    "config.json", "genotype.json", "model.onnx", "model.pt2", "model.py", "predict.py", "weights.safetensors",
]  # fmt: skip
#: Imports and runs each folder's code where there are torch and the standard library alone.
ALONE = """
import importlib.util, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nas_agg", "numpy", "safetensors", "torchvision", "onnx"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import torch

torch.set_num_threads(1)
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    images, logits = torch.load(folder + ".pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(model.build(folder + "/weights.safetensors").eval()(images), logits), folder
assert "nas_agg" not in sys.modules and "numpy" not in sys.modules
print(len(sys.argv) - 1)
"""


@pytest.fixture
def genotype():
    return nas_agg.load(SMALL)


# ---------------------------------------------------------------------- what is written is the network


def assert_same(genotype: Genotype, folder: Path) -> None:
    """Both exported files give the network's logits, to 1e-4 of the largest where that is above 1.

    Logits of randomized weights are of any size, and rounding grows with the size of the terms. Where a deep
    network magnifies that error, so that its own logits are off by more than a tenth of this, its error says how far.
    """
    network = randomized(nas_agg.compile(genotype, seed=0))
    write_package(folder, genotype, network, onnx=True, export=True)
    assert sorted(file.name for file in folder.iterdir()) == FILES
    program = torch.export.load(folder / "model.pt2").module()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = torch.randn(count, *genotype.input, generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            wanted = network.eval()(images)
            rounding = (copy.deepcopy(network).double()(images.double()) - wanted).abs().max().item()
        assert wanted.isfinite().all()
        atol = max(1e-4 * max(1.0, wanted.abs().max().item()), 10 * rounding)
        assert atol <= 0.01 * wanted.abs().max().item() + 1e-4
        found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        torch.testing.assert_close(found, wanted, rtol=0, atol=atol)
        torch.testing.assert_close(program(images), wanted, rtol=0, atol=atol)
    torch.save((images, wanted), folder.with_name(f"{folder.name}.pt"))


def assert_alone(folders: list[Path]) -> None:
    """The code gives the network's logits bit for bit without this package."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(folders)}\n"


def test_a_point_of_every_family(tmp_path):
    """Those of few operations and parameters; the slow tests have every point."""
    folders = []
    for space, point in one_per_family():
        genotype = at_smallest_input(space, point)
        cost = nas_agg.cost(genotype)
        if cost.params <= 1_000_000 and len(cost.graph) <= 120:
            folders.append(tmp_path / f"{space}-{point}")
            assert_same(genotype, folders[-1])
    assert len(folders) >= 3
    assert_alone(folders)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "point"), POINTS)
def test_every_point(space, point, tmp_path):
    assert_same(at_smallest_input(space, point), tmp_path / "model")
    assert_alone([tmp_path / "model"])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_random_genotypes(first, tmp_path):
    folders = []
    for seed in range(first, first + 10):
        folders.append(tmp_path / str(seed))
        assert_same(Genotype.from_dict(random_genotype(random.Random(seed))), folders[-1])
    assert_alone(folders)


def test_gates_shared_units_and_stochastic_depth(tmp_path):
    """CBAM in a residual block that is dropped at random: global pools, pools of channels, products, `each`."""
    each = [{"conv": 1, "out": "c/4", "bias": True}, "relu", {"conv": 1, "out": "in", "bias": True}]
    nodes, reads, gated = {"pattern": "nodes"}, {"pattern": "input"}, {"operator": "product"}
    pools = {"units": [["gap"], ["gmp"]], "reads": reads, "output": {**nodes, "each": each}}
    places = {"units": [["channel-max"], ["channel-mean"]], "reads": reads, "output": {**nodes, "operator": "concat"}}
    channel = {"unit": [pools, "sigmoid", "join"], "shortcut": gated}
    spatial = {"unit": [places, {"conv": 7, "out": 1}, "bn", {"times": -1}, "sigmoid", "join"], "shortcut": gated}
    stage = {"nodes": 2, "growth": 8, "shortcut": {},
             "unit": [{"conv": 3}, "bn", channel, spatial, {"drop-path": "0.5*l/n"}, "join", "relu"]}  # fmt: skip
    net = [{"conv": 3, "out": 8}, stage, {"gmp": 2}, {"linear": "classes"}]
    assert_same(nas_agg.load({"input": [3, 12, 12], "classes": 4, "net": net}), tmp_path / "model")
    assert_alone([tmp_path / "model"])


def test_a_network_without_weights(tmp_path):
    genotype = nas_agg.load({"input": [3, 8, 8], "classes": 3, "net": ["relu", "gap"]})
    assert_same(genotype, tmp_path / "model")
    assert_alone([tmp_path / "model"])


def test_what_is_in_the_folder(genotype, tmp_path):
    network = nas_agg.compile(genotype, seed=0).train()
    written = write_package(tmp_path / "model", genotype, network, title="small", about="A line.", onnx=True)
    assert network.training
    assert written.notes == ()
    assert written.files == {file.name: file.stat().st_size for file in (tmp_path / "model").iterdir()}
    assert (tmp_path / "model/model.py").read_text().startswith('"""small\n\nA line.\n')
    assert nas_agg.load(json.loads((tmp_path / "model/genotype.json").read_text())) == genotype
    again = nas_agg.compile(tmp_path / "model/genotype.json")
    load_weights(again, tmp_path / "model/weights.safetensors")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())
    graph = onnx.load(tmp_path / "model/model.onnx").graph
    sizes = [
        [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in (*graph.input, *graph.output)
    ]
    batch = sizes[0][0]  # its name is that of the version of torch
    assert isinstance(batch, str) and sizes == [[batch, 3, 8, 8], [batch, 4]]


# ---------------------------------------------------------------------- what is wrong leaves nothing


def test_code_that_is_another_network_is_not_kept(genotype, tmp_path, monkeypatch):
    emit = package.emit
    monkeypatch.setattr(package, "emit", lambda *texts: emit(*texts).replace("relu(", "gelu("))
    network = nas_agg.compile(genotype, seed=0)
    with pytest.raises(NasAggError, match=r"^model.py: does not compute what the network computes"):
        write_package(tmp_path / "new/model", genotype, network)
    with pytest.raises(NasAggError, match=r"^model.py: does not compute"):
        add_code(tmp_path, genotype)
    monkeypatch.setattr(package, "emit", lambda *texts: "1 / 0")
    with pytest.raises(NasAggError, match=r"^model.py: failed for this network: ZeroDivisionError: division by zero$"):
        write_package(tmp_path / "model", genotype, network)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "option"), [("model.onnx", "onnx"), ("model.pt2", "export")])
def test_an_export_that_is_another_network_is_not_kept(genotype, tmp_path, monkeypatch, name, option):
    network, other = nas_agg.compile(genotype, seed=0), nas_agg.compile(genotype, seed=1)
    program = exports.export_program
    monkeypatch.setattr(exports, "export_program", lambda genotype, network: program(genotype, other.eval()))
    with pytest.raises(NasAggError, match=rf"^{name}: its logits differ from the network's by [\d.]+ of the largest$"):
        write_package(tmp_path / "model", genotype, network, **{option: True})
    monkeypatch.setattr(exports, "export_program", lambda genotype, network: 1 / 0)
    with pytest.raises(NasAggError, match=rf"^{name}: failed for this network: ZeroDivisionError"):
        write_package(tmp_path / "model", genotype, network, **{option: True})
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_said(genotype, tmp_path, monkeypatch):
    network = nas_agg.compile(genotype, seed=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    written = write_package(tmp_path / "model", genotype, network, onnx=True)
    assert written.notes == ("model.onnx was not checked, as onnxruntime is not installed: pip install onnxruntime",)
    assert (tmp_path / "model/model.onnx").is_file()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'nas-agg\[onnx\]'"):
        write_package(tmp_path / "other", genotype, network, onnx=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_logits_that_are_no_numbers_are_said(genotype, tmp_path):
    network = nas_agg.compile(genotype, seed=0)
    torch.nn.init.constant_(network.linear.bias, float("nan"))
    (note,) = write_package(tmp_path / "model", genotype, network, export=True).notes
    assert note.startswith("the network's logits for random images are not finite")
    assert note.endswith("so model.pt2 could not be compared with it")


# ---------------------------------------------------------------------- where it is written


def test_what_is_there_is_replaced_only_by_force(genotype, tmp_path):
    network = nas_agg.compile(genotype, seed=0)
    write_package(tmp_path / "model", genotype, network, export=True)
    before = (tmp_path / "model" / "weights.safetensors").read_bytes()
    other = nas_agg.compile(genotype, seed=1)
    with pytest.raises(InputError, match="already exists; choose another folder, or replace it with --force"):
        write_package(tmp_path / "model", genotype, other)
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == before
    (tmp_path / "model" / "__pycache__").mkdir()
    write_package(tmp_path / "model", genotype, other, force=True)
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() != before
    assert not (tmp_path / "model" / "model.pt2").exists(), "it would be of the network before"
    (tmp_path / "empty").mkdir()
    write_package(tmp_path / "empty", genotype, other, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model"]


def test_nothing_else_is_ever_replaced(genotype, tmp_path, monkeypatch):
    network = nas_agg.compile(genotype)
    write_package(tmp_path / "model", genotype, network)
    (tmp_path / "model" / "notes.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    wrong = {
        "../model": "already exists and contains 'notes.txt', which does not belong to a compiled model",
        "../file": "a file, not a folder",
        ".": "the current folder and its parents cannot be replaced",
        "..": "already exists and contains 'file'",
        "/": "already exists and contains",
        "": "specify a folder",
    }
    for place, said in wrong.items():
        with pytest.raises(InputError, match=said):
            write_package(place, genotype, network, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "model"]


def test_a_folder_that_only_looks_like_a_compiled_model_is_kept(genotype, tmp_path):
    network = nas_agg.compile(genotype)

    def refused(folder, said):
        before = sorted(str(path) for path in folder.rglob("*"))
        with pytest.raises(InputError, match=said):
            write_package(folder, genotype, network, force=True)
        assert sorted(str(path) for path in folder.rglob("*")) == before

    def made(name):
        write_package(tmp_path / name, genotype, network)
        return tmp_path / name

    own = tmp_path / "own"
    own.mkdir()
    (own / "model.py").write_text("print('mine')")
    refused(own, "contains 'model.py', but is not a compiled model")
    (made("script") / "model.py").write_text("print('mine')")
    refused(tmp_path / "script", "contains a 'model.py' that nas_agg did not write")
    (made("cache") / "__pycache__").mkdir()
    (tmp_path / "cache/__pycache__/notes.txt").touch()
    refused(tmp_path / "cache", "contains '__pycache__', which does not belong")
    (made("link") / "model.onnx").symlink_to(own / "model.py")
    refused(tmp_path / "link", "contains 'model.onnx', which does not belong")


def test_what_somebody_puts_there_meanwhile_is_kept(genotype, tmp_path, monkeypatch):
    network = nas_agg.compile(genotype)
    write_package(tmp_path / "model", genotype, network)
    fill = package._write_files

    def slow(*arguments):
        (tmp_path / "model/notes.txt").write_text("precious")
        return fill(*arguments)

    monkeypatch.setattr(package, "_write_files", slow)
    with pytest.raises(InputError, match=r"already exists and contains 'notes.txt'"):
        write_package(tmp_path / "model", genotype, network, force=True)
    assert (tmp_path / "model/notes.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_leaves_nothing(genotype, tmp_path):
    network = nas_agg.compile(genotype)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "model", "/proc/model", tmp_path / ("long" * 99), tmp_path / "a\0b"):
        with pytest.raises(NasAggError, match=r"cannot be (written|used): ") as error:
            write_package(place, genotype, network)
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("file", "room"), [("weights.safetensors", -1), ("model.pt2", 99)])
def test_a_full_disk_leaves_what_was_there(genotype, tmp_path, file, room):
    """There is no room for the weights, or for the same weights with more in the exported file."""
    write_package(tmp_path / "model", genotype, nas_agg.compile(genotype, seed=0))
    before = (tmp_path / "model" / "weights.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
    try:
        for place in ("new/folder/model", "model"):
            with pytest.raises(NasAggError, match=rf"^{tmp_path / place / file}: cannot be written: File too large$"):
                write_package(tmp_path / place, genotype, nas_agg.compile(genotype, seed=1), export=True, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == before
