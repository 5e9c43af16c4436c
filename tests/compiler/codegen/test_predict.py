"""``predict.py`` of compiled models: the pixels of the training, and what it prints."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import nas_agg
from nas_agg.compiler.codegen import predict
from nas_agg.compiler.codegen.model_config import ImageInput, model_config
from nas_agg.compiler.codegen.package import write_package
from nas_agg.training.data.decoding import UnreadableImage, decode_file
from nas_agg.training.data.images import centre, in_byte_range
from nas_agg.training.data.preprocessing import plan_preprocessing

NET = {"input": [3, 8, 8], "classes": 3, "net": [{"conv": 3, "out": 4}, "gap", {"linear": "classes"}]}


def test_pixels_are_those_of_the_training(tmp_path):
    """Images and arrays of any size and kind, in every way of fitting them."""
    rng = np.random.default_rng(0)
    for number, (resize, share) in enumerate(itertools.product(("crop", "squash", "pad"), (None, 0.8))):
        height, width = (int(side) for side in rng.integers(3, 30, 2))
        plan = plan_preprocessing((13, 10), resize, share if resize == "crop" else None)
        values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        files = {"rgb.png": Image.fromarray(values), "grey.png": Image.fromarray(values[..., 0])}
        files["alpha.png"] = Image.fromarray(np.dstack([values, values[..., :1]]))
        files["16.png"] = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
        for name, image in files.items():
            image.save(tmp_path / name)
        np.save(tmp_path / "bytes.npy", values[:, : 10 if number % 2 else width])
        np.save(tmp_path / "floats.npy", rng.random((height, width)))
        for name in (*files, "bytes.npy", "floats.npy"):
            path = str(tmp_path / name)
            try:
                expected = in_byte_range(
                    centre(torch.from_numpy(decode_file(path, plan).pixels.copy())[None], plan.size)
                )
            except UnreadableImage as error:  # an array that is (H, W, C) as well as (C, H, W)
                with pytest.raises(ValueError, match=r"\(C, H, W\) or \(H, W, C\)"):
                    predict.read_image(path, plan.model_dump(), 3)
                assert "ambiguous" in str(error)
                continue
            assert torch.equal(predict.read_image(path, plan.model_dump(), 3), expected[0].float().expand(3, -1, -1)), (
                name
            )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Compiled models of each task, and images."""
    root, genotype = tmp_path_factory.mktemp("predict"), nas_agg.load(NET)
    network = nas_agg.compile(genotype, seed=0)
    torch.nn.init.zeros_(network.linear.weight)
    network.linear.bias.data = torch.tensor([0.0, 2.0, -3.0])
    image_input = ImageInput(mean=[0.5] * 3, std=[0.25] * 3, size=(8, 8), stored=(8, 8))
    for task in ("classification", "multilabel", "regression"):
        options = {"image_input": image_input, "label_names": ("cat", "dog", "fox"), "task": task}
        write_package(root / task, genotype, network, config=model_config(genotype, network, **options))
    (root / "images/more").mkdir(parents=True)
    Image.new("RGB", (9, 12), "red").save(root / "images/a.png")
    Image.new("L", (5, 5), 9).save(root / "images/more/b.JPG")
    (root / "images/notes.txt").write_text("none")
    return root


@pytest.mark.parametrize(
    ("task", "options", "text", "values"),
    [
        ("classification", ["--top", "2"], "dog 87.56 %, cat 11.85 %", [0.118499, 0.875601, 0.0059]),
        ("multilabel", [], "dog 88.08 %, cat 50.00 %", [0.5, 0.880797, 0.047426]),
        ("regression", [], "cat 0, dog 2, fox -3", [0, 2, -3]),
    ],
)
def test_predictions_are_printed(folders, monkeypatch, capsys, task, options, text, values):
    monkeypatch.setattr(predict, "__file__", str(folders / task / "predict.py"))
    monkeypatch.chdir(folders)
    assert predict.main(["images", *options]) == 0
    assert capsys.readouterr().out == f"images/a.png  {text}\nimages/more/b.JPG  {text}\n"
    assert predict.main(["images/a.png", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["file"] == "images/a.png" and list(line["predictions"]) == ["cat", "dog", "fox"]
    assert list(line["predictions"].values()) == pytest.approx(values, abs=1e-6)


def test_files_that_cannot_be_read(folders, monkeypatch, capsys):
    monkeypatch.setattr(predict, "__file__", str(folders / "classification/predict.py"))
    monkeypatch.chdir(folders)
    assert predict.main(["images/a.png", "images/notes.txt"]) == 1
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (1, "images/notes.txt: not an image of a known kind\n")
    np.save("five.npy", np.zeros((6, 7, 5), np.uint8))
    assert predict.main(["five.npy"]) == 1
    assert capsys.readouterr().err == "five.npy: 5 channels; the network is for 3\n"
    assert predict.main(["nothing"]) == 2
    assert capsys.readouterr().err == "predict.py: nothing: no such file or folder\n"


def test_hostile_files(folders, monkeypatch, capsys, tmp_path):
    """Names that are not UTF-8 or would forge lines, a pipe that nobody writes to, an image of 16 GB once scaled."""
    monkeypatch.setattr(predict, "__file__", str(folders / "classification/predict.py"))
    monkeypatch.chdir(tmp_path)
    image = (folders / "images/a.png").read_bytes()
    for name in (b"\xff\xfe.png", b"two\nlines\x1b[31m.png"):
        with open(name, "wb") as file:
            file.write(image)
    assert predict.main(["."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [r"two\nlines\x1b[31m.png", r"\udcff\udcfe.png"]
    os.mkfifo("pipe.png")
    assert predict.main(["pipe.png"]) == 2
    assert capsys.readouterr().err == "predict.py: pipe.png: a pipe or device, not a file\n"
    np.save("narrow.npy", np.zeros((1, 2**25), np.uint8))
    assert predict.main(["narrow.npy"]) == 1
    reason = "1x33554432 pixels are too narrow to be scaled to 8x8; crop it"
    assert capsys.readouterr().err == f"narrow.npy: {reason}\n"
    with pytest.raises(UnreadableImage, match=reason):
        decode_file("narrow.npy", plan_preprocessing((8, 8), "crop", None))


def test_a_reader_that_exits_early_is_no_error(folders):
    """The pipe is closed before anything is printed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, folders / "classification/predict.py", folders / "images"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
