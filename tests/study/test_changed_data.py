"""Runs keep what their data set was, and say what has changed of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NETWORK = "input: [3, 8, 8]\nclasses: 2\nnet: [{conv: 3, out: 4}, bn, relu, gap, {linear: classes}]\n"
SPACE = NETWORK.replace("out: 4", "out: width") + "open: {width: [4, 6, 8, 10]}\n"


@pytest.fixture
def photos(tmp_path):
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(30):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    (tmp_path / "net.yaml").write_text(NETWORK)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "photos"


TRAIN = ("train", "net.yaml", "--dataset", "folder:photos", "--image-size", "8", "--epochs", "1", "--out", "run")


def test_evaluate_and_train_say_what_has_changed(photos, run):
    (photos / "cat" / "notes.txt").write_text("x")
    status, out, err = run(*TRAIN)
    assert status == 0, err
    assert "data: left out 1 files with other suffixes than images (cat/notes.txt)" in out
    assert run("evaluate", "run")[2] == ""
    before = run("evaluate", "run")[1]
    Image.new("RGB", (8, 8), (1, 2, 3)).save(photos / "dog" / "new.png")
    status, out, err = run("evaluate", "run")
    assert status == 0 and "note: folder:" in err and "has changed since the run began: " in err and "now " in err
    status, out, err = run(*TRAIN)
    assert status == 2 and "has changed since the run began" in err and err.count("\n") == 1
    (photos / "dog" / "new.png").unlink()
    assert run("evaluate", "run")[1] == before


def test_a_search_is_not_resumed_on_other_images(photos, run):
    words = (
        "--space",
        "space.yaml",
        "--dataset",
        "folder:photos",
        "--image-size",
        "8",
        "--epochs",
        "1",
        "--final",
        "0",
        "--budget",
    )
    status, _, err = run("search", *words, "1", "--workers", "1", "--out", "run")
    assert status == 0, err
    shutil.rmtree(photos / "cat")
    shutil.copytree(photos / "dog", photos / "cow")
    status, _, err = run("search", *words, "2", "--workers", "1", "--out", "run")
    assert status == 2 and "classes added cow and removed cat" in err
    assert Path("run/run.json").exists()


@pytest.mark.parametrize("kind", ["val", "train", "npz"])
def test_networks_are_not_tested_on_what_they_were_trained_on(photos, run, kind):
    """Without the test images, validation or training images would take their place: as of ImageNet, or drawn."""
    images, labels = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 2
    place = Path(f"set{'.npz' * (kind == 'npz')}")
    arrays = {"x_train": images[:40], "y_train": labels[:40]}
    if kind == "npz":
        np.savez(place, **arrays, x_test=images[40:], y_test=labels[40:])
    else:
        for part in ("train", "test", *(("val",) if kind == "val" else ())):
            for label in ("cat", "dog"):
                shutil.copytree(photos / label, place / part / label)
    words = ("train", "net.yaml", "--dataset", f"{'npz' if kind == 'npz' else 'folder'}:{place}", *TRAIN[4:])
    status, _, err = run(*words)
    assert status == 0, err
    if kind == "npz":
        np.savez(place, **arrays)
    else:
        shutil.rmtree(place / "test")
    status, _, err = run("evaluate", "run")
    assert status == 2 and err.count("\n") == 1, err
    assert "so that images it was trained or chosen on could be test images; restore it" in err
    had = {"val": "train + validation + test", "train": "train + test", "npz": "train + test"}[kind]
    assert f" was {had} when the run began and is {had.removesuffix(' + test')} now, " in err


def test_images_that_are_not_square_train_and_are_described(photos, run):
    status, _, err = run(*TRAIN[:5], "8x6", *TRAIN[6:], "--resize", "pad")
    assert status == 0, err
    assert run("evaluate", "run")[0] == 0
    assert "invalid image size '8x'" in run(*TRAIN[:5], "8x", *TRAIN[6:])[2]
    assert "did you mean 'squash'?" in run(*TRAIN, "--resize", "sqash")[2]
