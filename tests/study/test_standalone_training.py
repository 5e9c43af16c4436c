"""Training and testing a single network without a search."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import nas_agg
from nas_agg.cli import main as cli
from nas_agg.common.errors import InputError
from nas_agg.study.saved_evaluation import evaluate_genotype
from nas_agg.study.standalone_training import train_genotype
from nas_agg.training import loop
from nas_agg.training.data import load_data

SMALL = {
    "input": [3, 32, 32],
    "classes": 2,
    "net": [{"conv": 3, "out": 8, "stride": 2}, "bn", "relu", "gap", {"linear": "classes"}],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, train_genotype(nas_agg.load(SMALL), dataset="digits", recipe="search", epochs=1, device="cpu", out=out)


def test_the_network_is_adapted_to_the_data_set(trained):
    out, metrics = trained
    written = json.loads((out / "best" / "genotype.json").read_text())
    assert (written["input"], written["classes"]) == ([1, 8, 8], 10)
    assert metrics["params"] == 9 * 8 + 16 + 9 * 10
    assert metrics["epochs"] == 1


def test_saved_weights_give_the_same_accuracy(trained):
    out, metrics = trained
    result = evaluate_genotype(str(out), device="cpu")
    assert (result["correct"], result["images"]) == (metrics["correct"], metrics["images"])
    genotype, weights = out / "best" / "genotype.json", out / "best" / "weights.safetensors"
    again = evaluate_genotype(str(genotype), weights=weights, dataset="digits", device="cpu")
    assert again["correct"] == metrics["correct"]
    assert result["top5_accuracy"] == again["top5_accuracy"] == metrics["test_top5_accuracy"] > metrics["test_accuracy"]
    kept = json.loads((out / "best" / "metrics.json").read_text())
    assert kept["test_top5_accuracy"] == metrics["test_top5_accuracy"]


def test_evaluate_prints_top5_accuracy(trained, capsys):
    out, metrics = trained
    cli.app(["evaluate", str(out), "--device", "cpu"], standalone_mode=False)
    text = capsys.readouterr().out
    right = f"{metrics['correct']} of {metrics['images']} images"
    accuracy, top5 = (f"{100 * metrics[f'test_{name}']:.2f} %" for name in ("accuracy", "top5_accuracy"))
    assert text == f"test accuracy {accuracy} ({right}), top-5 {top5}, loss {metrics['test_loss']:.4f}\n"
    cli.app(["evaluate", str(out), "--device", "cpu", "--format", "json"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["test_top5_accuracy"] == metrics["test_top5_accuracy"]
    assert set(printed) == {"test_accuracy", "test_top5_accuracy", "test_loss", "correct", "images"}


def test_best_suffices_to_use_the_network(trained):
    out, metrics = trained
    data = load_data("digits")
    network = nas_agg.compile(out / "best" / "genotype.json", weights=out / "best" / "weights.safetensors").eval()
    mean, std = (torch.tensor(metrics[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        result = network((data.test.images / 255 - mean) / std).argmax(1)
    assert (result == data.test.labels).sum().item() == metrics["correct"]
    assert metrics["class_names"] == [str(digit) for digit in range(10)]


def test_a_finished_training_is_not_repeated(trained):
    out, metrics = trained
    again = train_genotype(nas_agg.load(SMALL), dataset="digits", recipe="search", epochs=1, device="cpu", out=out)
    assert again == metrics


def test_other_settings_are_rejected_in_its_folder(trained):
    out, _ = trained
    with pytest.raises(InputError, match="a different value of epochs; choose another --out"):
        train_genotype(nas_agg.load(SMALL), dataset="digits", recipe="search", epochs=2, device="cpu", out=out)


def test_weights_of_another_network_are_rejected(trained, tmp_path):
    out, _ = trained
    with pytest.raises(InputError, match="weights of another network"):
        evaluate_genotype(
            "microdense/30a64", weights=out / "best" / "weights.safetensors", dataset="digits", device="cpu"
        )


def test_weights_for_other_images_or_classes_are_explained(trained, tmp_path):
    out, _ = trained
    for name, shape, classes in (("colour", (60, 8, 8, 3), 10), ("few", (60, 8, 8), 3)):
        images, labels = np.arange(np.prod(shape)).reshape(shape) % 256, np.arange(60) % classes
        parts = {"x_train": images.astype(np.uint8), "y_train": labels}
        np.savez(tmp_path / name, **parts, x_test=parts["x_train"], y_test=labels)
    colour, few = f"npz:{tmp_path}/colour.npz", f"npz:{tmp_path}/few.npz"
    with pytest.raises(InputError, match=f"^{out}: the network is for grey images, .*colour.* has colour images$"):
        evaluate_genotype(str(out), dataset=colour, device="cpu")
    with pytest.raises(InputError, match=f"^{out}: the network is for 10 classes, .*few.* has 3$"):
        evaluate_genotype(str(out), dataset=few, device="cpu")
    genotype, weights = out / "best" / "genotype.json", out / "best" / "weights.safetensors"
    with pytest.raises(InputError, match=r"another network \(.*: the network is for grey images, .* colour images\)$"):
        evaluate_genotype(str(genotype), weights=weights, dataset=colour, device="cpu")


def test_a_failed_training_leaves_a_failed_run_and_can_be_repeated(tmp_path, monkeypatch):
    import nas_agg.study.workers.jobs as training
    from nas_agg.training.loop import TrainingFailed

    def diverges(*args, **kwargs):
        raise TrainingFailed("diverged: the loss was no number in epoch 1")

    settings = {"dataset": "digits", "recipe": "search", "epochs": 1, "device": "cpu", "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "train", diverges)
        with pytest.raises(TrainingFailed):
            train_genotype(nas_agg.load(SMALL), **settings)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert (run["status"], run["reason"]) == ("failed", "diverged: the loss was no number in epoch 1")
    with pytest.raises(InputError, match="no final network; finish it with the same nas_agg train command"):
        evaluate_genotype(str(tmp_path / "run"), device="cpu")
    train_genotype(nas_agg.load(SMALL), **settings)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["status"] == "finished" and "reason" not in run


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_rejected(tmp_path, seed):
    with pytest.raises(InputError, match="seed: must be a whole number"):
        train_genotype(nas_agg.load(SMALL), seed=seed, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_is_not_tested_where_no_image_is_a_test_image(tmp_path, capsys):
    from nas_agg.report.runs.summary import format_test_result
    from nas_agg.study.records.saved_run import read_saved_run
    from nas_agg.training.data.decoding import content_key
    from nas_agg.training.data.splits import TEST_SHARE

    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), np.uint8)
    known = [image[0] for image in images if content_key(image.tobytes())[0] >= TEST_SHARE * 2**64][:20]
    np.savez(tmp_path / "few.npz", x_train=np.stack(known), y_train=np.arange(20) % 2)
    out, settings = tmp_path / "run", {"dataset": f"npz:{tmp_path / 'few.npz'}", "device": "cpu", "epochs": 1}
    metrics = train_genotype(nas_agg.load(SMALL), recipe="search", out=out, show=True, **settings)
    assert metrics["untested"] == "no test images" and not any(name.startswith("test_") for name in metrics)
    assert f"\nnot tested: no test images; the network is in {out / 'best'}\n" in capsys.readouterr().out
    assert "few.npz, not tested: no test images." in " ".join((out / "best" / "model.py").read_text().split())
    run = read_saved_run(out)
    assert not run.is_tested and format_test_result(run) == ""
    with pytest.raises(InputError, match="no test images; add images, or provide a test split"):
        evaluate_genotype(str(out), device="cpu")
    with pytest.raises(loop.TrainingFailed, match="diverged"):  # with nothing to test, training images tell
        recipe = {"like": "search", "optimizer": "SGD", "lr": 1e38, "schedule": "constant", "warmup_epochs": 0}
        train_genotype(nas_agg.load(SMALL), recipe=recipe, out=tmp_path / "diverged", **settings)
