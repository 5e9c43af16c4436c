"""Emitted code in best/, and exported networks."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from damage import edit_sealed, list_again

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.compiler.codegen import package
from nas_agg.study import search
from nas_agg.study.export import export_genotype
from nas_agg.study.records.provenance import describe_source
from nas_agg.study.saved_evaluation import evaluate_genotype
from nas_agg.study.standalone_training import train_genotype
from nas_agg.training.data import load_data

SMALL = {
    "input": [3, 32, 32],
    "classes": 2,
    "net": [{"conv": 3, "out": 8, "stride": 2}, "bn", "relu", "gap", {"linear": "classes"}],
}
SETTINGS = {"dataset": "digits", "recipe": "search", "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, train_genotype(nas_agg.load(SMALL), name="mine", out=out, **SETTINGS)


def imported(path):
    scope = {"__name__": "model"}
    exec(path.read_text(), scope)
    return SimpleNamespace(**scope)


def right_of_the_test_split(folder, metrics):
    """The number of test images that a folder's own code and weights classify correctly."""
    data = load_data("digits")
    network = imported(folder / "model.py").build(folder / "weights.safetensors").eval()
    mean, std = (torch.tensor(metrics[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        result = network((data.test.images / 255 - mean) / std).argmax(1)
    return (result == data.test.labels).sum().item()


def test_the_code_in_best_reproduces_the_test_accuracy(trained):
    out, metrics = trained
    assert right_of_the_test_split(out / "best", metrics) == metrics["correct"]
    text = (out / "best/model.py").read_text()
    assert text.startswith('"""mine\n')
    message = " ".join(text.split('"""')[1].split())
    assert f"Trained on digits, test accuracy {100 * metrics['test_accuracy']:.2f} %." in message
    assert f"mean ({metrics['mean'][0]:.6g}), std ({metrics['std'][0]:.6g})" in message


def test_a_run_is_exported_with_its_own_weights_and_description(trained, tmp_path):
    out, metrics = trained
    exported = export_genotype(str(out), tmp_path / "model")
    assert exported.weights == str(out / "best/weights.safetensors")
    assert right_of_the_test_split(tmp_path / "model", metrics) == metrics["correct"]
    for name in ("model.py", "genotype.json"):
        assert (tmp_path / "model" / name).read_bytes() == (out / "best" / name).read_bytes()


def test_specified_weights_take_precedence(trained, tmp_path):
    out, _ = trained
    genotype = nas_agg.load(out / "best/genotype.json")
    package.save_weights(nas_agg.compile(genotype, seed=3), tmp_path / "other.safetensors")
    export_genotype(str(out), tmp_path / "model", weights=str(tmp_path / "other.safetensors"))
    result = nas_agg.compile(genotype, weights=tmp_path / "model/weights.safetensors").state_dict()
    expected = nas_agg.compile(genotype, seed=3).state_dict()
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    assert "Trained on" not in (tmp_path / "model/model.py").read_text()


def test_a_damaged_record_only_shortens_the_description(trained, tmp_path):
    out, metrics = trained
    shutil.copytree(out, tmp_path / "old")
    (tmp_path / "old/best/metrics.json").write_text("[]")
    with pytest.raises(InputError, match=r"metrics.json: damaged: it does not match its SHA-256"):
        export_genotype(str(tmp_path / "old"), tmp_path / "first")
    list_again(tmp_path / "old/best")
    export_genotype(str(tmp_path / "old"), tmp_path / "first")
    assert right_of_the_test_split(tmp_path / "first", metrics) == metrics["correct"]
    (tmp_path / "old/run.json").unlink()
    export_genotype(str(tmp_path / "old"), tmp_path / "second")
    assert (tmp_path / "second/model.py").read_text().startswith('"""old\n')


def test_a_run_without_a_final_network_is_rejected(trained, tmp_path):
    out, _ = trained
    shutil.copytree(out, tmp_path / "run")
    (tmp_path / "run/best/weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"no final network; best/weights.safetensors is missing; restore it"):
        export_genotype(str(tmp_path / "run"), tmp_path / "model")
    shutil.rmtree(tmp_path / "run/best")
    edit_sealed(tmp_path / "run/run.json", status="stopped")
    with pytest.raises(InputError, match="no final network; finish it with the same nas_agg train command"):
        export_genotype(str(tmp_path / "run"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("fault", [NasAggError("no text says it"), RecursionError("too deep"), MemoryError()])
def test_a_failure_to_emit_code_does_not_lose_the_training(tmp_path, monkeypatch, capsys, fault):
    def fails(*texts):
        raise fault

    monkeypatch.setattr(package, "emit", fails)
    metrics = train_genotype(nas_agg.load(SMALL), out=tmp_path / "run", **SETTINGS)
    message = str(fault) or "MemoryError"
    assert capsys.readouterr().err == f"note: model.py was not written: {message}\n"
    assert not (tmp_path / "run/best/model.py").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
    assert evaluate_genotype(str(tmp_path / "run"), device="cpu")["correct"] == metrics["correct"]


def test_a_search_with_a_function_leaves_code_without_weights(tiny, score, tmp_path):
    result = search(tiny, score, searcher="random", budget=2, out=tmp_path / "run")
    text = (tmp_path / "run/best/model.py").read_text()
    number = json.loads((tmp_path / "run/best/metrics.json").read_text())["trial"]
    assert text.startswith(f'"""tiny, trial {number} of a search\n\nFrom the search space tiny.\n')
    assert imported(tmp_path / "run/best/model.py").build()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    exported = export_genotype(str(tmp_path / "run"), tmp_path / "model")
    assert exported.weights is None
    untrained = text.replace(
        "From the search space tiny.", "From the search space tiny. Untrained weights with seed 0."
    )
    assert (tmp_path / "model/model.py").read_text() == untrained
    assert nas_agg.load(tmp_path / "model/genotype.json") == result.best


def test_provenance(tiny, score, tmp_path):
    search(tiny, score, searcher="random", budget=2, out=tmp_path / "run")
    assert describe_source(f"{tmp_path}/run:1") == ("tiny, trial 1 of a search", "From the search space tiny.")
    title, about = describe_source("densenet/121")
    assert title == "densenet/121"
    assert about.startswith("From the search space densenet-imagenet: DenseNet-BC on large images") and about.endswith(
        "."
    )
    assert describe_source("a name") == ("a name", "")
    (tmp_path / "run/run.json").write_text("{")
    assert describe_source(f"{tmp_path}/run:1") == (f"{tmp_path}/run:1", "")
