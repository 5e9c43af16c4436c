"""Compiled models on image files: the accuracy of the evaluation, without nas_agg."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import nas_agg
from nas_agg.cli.main import app
from nas_agg.common.errors import InputError
from nas_agg.compiler.codegen import predict
from nas_agg.study.export import export_genotype
from nas_agg.study.model_input import ModelInput, weights_input
from nas_agg.study.saved_evaluation import evaluate_genotype
from nas_agg.study.standalone_training import train_genotype
from nas_agg.training.data import load_data
from nas_agg.training.data.load import own_image_size

NET = {
    "input": [3, 16, 16],
    "classes": 3,
    "net": [
        {"conv": 3, "out": 8, "stride": 2},
        "bn",
        "relu",
        {"conv": 3, "out": 16},
        "relu",
        "gap",
        {"linear": "classes"},
    ],
}
#: Counts, where nas_agg cannot be imported, the images of folders of classes that each form of a model classifies
#: correctly: model.py, ONNX and pt2 on normalized or on plain images, and the command predict.py.
ALONE = """
import contextlib, importlib.util, io, json, os, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nas_agg", "safetensors", "torchvision", "pydantic"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import numpy, onnxruntime, torch
torch.set_num_threads(1)

def module(path):
    spec = importlib.util.spec_from_file_location("it", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules["it"] = found
    spec.loader.exec_module(found)
    return found

result = {}
for folder, images in zip(sys.argv[1::2], sys.argv[2::2]):
    tool = module(folder + "/predict.py")
    config = json.load(open(folder + "/config.json"))
    files = [file for file in sorted(Path(images).rglob("*")) if file.is_file()]
    labels = torch.tensor([config["label_names"].index(file.parent.name) for file in files])
    channels = config["pretrained_cfg"]["input_size"][0]
    values = torch.stack([tool.read_image(file, config["preprocessing"], channels) for file in files]) / 255
    mean, std = (torch.tensor(config["pretrained_cfg"][name]).view(-1, 1, 1) for name in ("mean", "std"))
    normalized = (values - mean) / std
    with torch.no_grad():
        logits = {"model.py": module(folder + "/model.py").build(folder + "/weights.safetensors").eval()(normalized)}
    if os.path.exists(folder + "/model.pt2"):
        extra = {"config.json": ""}
        program = torch.export.load(folder + "/model.pt2", extra_files=extra).module()
        normalizes = "normalize" in folder
        inside = {**config, "normalizes_input": normalizes}
        assert json.loads(extra["config.json"]) == inside
        logits["model.pt2"] = program(values if normalizes else normalized)
    if os.path.exists(folder + "/model.onnx"):
        session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["config"]) == inside
        logits["model.onnx"] = torch.from_numpy(session.run(None, {"images": normalized.numpy()})[0])
    counts = {name: int((found.argmax(1) == labels).sum()) for name, found in logits.items()}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert tool.main([images, "--json"]) == 0
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["file"] for line in lines] == [str(file) for file in files]
    best = [max(line["predictions"], key=line["predictions"].get) for line in lines]
    counts["predict.py"] = sum(name == file.parent.name for name, file in zip(best, files))
    probabilities = torch.tensor([list(line["predictions"].values()) for line in lines])
    torch.testing.assert_close(probabilities, logits["model.py"].softmax(1), rtol=1e-4, atol=1e-5)
    result[folder] = counts
assert "nas_agg" not in sys.modules
print(json.dumps(result))
"""


def write_images(root, kind, count=60):
    """Image files of odd sizes in folders of splits and classes, which a small network learns in part."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label, split = number % 3, "test" if number % 4 == 0 else "train"
        height, width = rng.integers(17, 61, 2)
        folder = root / split / "abc"[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.normal(128, 50, (height, width, 3))
        pixels[..., label] += 12
        pixels[: height // 2, : width // (label + 2)] += 40
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        if kind == "16-bit":
            Image.fromarray((pixels[..., 0].clip(0, 255) * 257).astype(np.uint16)).save(folder / f"{number}.png")
        elif kind == "grey":
            image.convert("L").save(folder / f"{number}.jpg")
        elif number % 10 == 3:
            image.convert("L").save(folder / f"{number}.jpg")  # a grey one among those in colour
        elif number % 10 == 7:
            image.quantize(60).save(folder / f"{number}.png")
        else:
            turned = Image.Exif()
            turned[0x0112] = 1 + number % 8  # the orientation of a camera
            image.save(folder / f"{number}.jpg", exif=turned)
    return root


CASES = {
    "crop": ("colour", "20x16", "crop", {"onnx": True, "export": True}),
    "normalize": ("colour", 16, "squash", {"export": True, "normalize": True}),
    "margin": ("colour", 128, "crop", {}),
    "pad": ("grey", "16x20", "pad", {}),
    "deep": ("16-bit", 16, "crop", {}),
}
CROP_SHARES = {"deep": 0.8}  # of the other cases: the default


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Runs on image files and their compiled models by case."""
    root = tmp_path_factory.mktemp("shipped")
    found = {}
    for case, (kind, size, resize, options) in CASES.items():
        images = write_images(root / case / "images", kind)
        spec = {
            "dataset": f"folder:{images}",
            "image_size": size,
            "resize": resize,
            "crop_share": CROP_SHARES.get(case),
        }
        train_genotype(nas_agg.load(NET), out=root / case / "run", recipe="search", epochs=3, device="cpu", **spec)
        export_genotype(str(root / case / "run"), root / case / "model", **options)
        found[case] = (root / case / "run", root / case / "model", images / "test")
    return found


def test_image_files_give_the_accuracy_of_the_evaluation(shipped):
    arguments = [str(path) for _, model, images in shipped.values() for path in (model, images)]
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    for case, (run, model, _) in shipped.items():
        correct = evaluate_genotype(str(run), device="cpu")["correct"]
        assert 0 < correct < 15, case
        names = ["predict.py", *(path.name for path in model.glob("model.*"))]
        assert counts[str(model)] == dict.fromkeys(names, correct), case


@pytest.mark.parametrize("case", CASES)
def test_predict_reads_pixels_as_the_training_does(shipped, case):
    _, model, images = shipped[case]
    _, size, resize, _ = CASES[case]
    share = CROP_SHARES.get(case)
    data = load_data(f"folder:{images.parent}", image_size=size, resize=resize, crop_share=share)
    if share:
        assert data.preprocessing.stored == (20, 20)
    config = json.loads((model / "config.json").read_text())
    files = [file for label in data.class_names for file in sorted((images / label).iterdir())]
    read = [predict.read_image(file, config["preprocessing"], data.input[0]) for file in files]
    positions = torch.arange(len(data.test))
    assert torch.equal(torch.stack(read), data.test.rows(positions).float())


def test_the_configuration_is_that_of_timm_and_in_the_metadata(shipped):
    run, model, _ = shipped["margin"]
    config = json.loads((model / "config.json").read_text())
    metrics = json.loads((run / "best/metrics.json").read_text())
    assert config["genotype_hash"] == nas_agg.cost(run).hash
    assert config["label_names"] == ["a", "b", "c"]
    assert config["pretrained_cfg"] == {
        "input_size": [3, 128, 128], "num_classes": 3, "mean": metrics["mean"], "std": metrics["std"],
        "interpolation": "bilinear", "crop_pct": pytest.approx(128 / 148), "crop_mode": "center",
        "first_conv": "conv1", "classifier": "linear",
    }  # fmt: skip
    assert math.floor(128 / config["pretrained_cfg"]["crop_pct"]) == 148 == config["preprocessing"]["stored"][0]
    with safe_open(model / "weights.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["nas_agg:config"]) == config


def test_the_input_follows_the_weights(shipped, tmp_path):
    """Weights of a compiled model or of ``best`` bring their input along; of others nothing is known."""
    run, model, _ = shipped["normalize"]
    config = json.loads((model / "config.json").read_text())
    for place in (model, run / "best"):
        out = tmp_path / place.name
        export_genotype(str(model / "genotype.json"), out, weights=str(place / "weights.safetensors"))
        again = json.loads((out / "config.json").read_text())
        assert again["pretrained_cfg"] == config["pretrained_cfg"] and again["label_names"] == ["a", "b", "c"]
    export_genotype(str(model / "genotype.json"), tmp_path / "untrained")
    assert "mean" not in json.loads((tmp_path / "untrained/config.json").read_text())["pretrained_cfg"]
    with pytest.raises(ValueError, match=r"config.json: no mean, std and preprocessing; the weights are untrained"):
        predict.Predictor(tmp_path / "untrained")
    for options, message in (
        ({"normalize": True, "onnx": True}, "the mean and std of the images are unknown"),
        ({"normalize": True}, "add --onnx or --export"),
    ):
        with pytest.raises(InputError, match=message):
            export_genotype(str(model / "genotype.json"), tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_the_input_of_torchvision_weights_is_known():
    known = weights_input("resnet50.IMAGENET1K_V1")
    assert known == weights_input("/elsewhere/resnet50-0676ba61.pth")
    assert (known.image_input.size, known.image_input.stored, known.image_input.crop_pct) == (
        (224,) * 2,
        (256,) * 2,
        0.875,
    )
    assert known.image_input.mean == (0.485, 0.456, 0.406)
    assert (len(known.label_names), known.label_names[0]) == (1000, "tench")
    assert weights_input("efficientnet_b0").image_input.interpolation == "bicubic"
    assert known.adapted(nas_agg.load(NET)).label_names == ()  # of other classes
    assert known.adapted(nas_agg.load(NET)).image_input.stored == (18, 18)
    assert weights_input("other.pth") == ModelInput()


def test_files_are_read_at_the_size_of_the_network(shipped):
    run, _, images = shipped["margin"]
    best = run / "best"
    arguments = {"weights": best / "weights.safetensors", "dataset": f"folder:{images.parent}", "device": "cpu"}
    assert evaluate_genotype(str(best / "genotype.json"), **arguments) == evaluate_genotype(str(run), device="cpu")
    assert own_image_size("folder:x", (3, 20, 16)) == own_image_size("flowers102", (3, 20, 16)) == "20x16"
    assert own_image_size("cifar10", (3, 20, 16)) is None is own_image_size("npz:x.npz", (3, 20, 16))


def test_cost_shows_the_preprocessing_of_a_run(shipped, capsys):
    run, _, _ = shipped["margin"]
    metrics = json.loads((run / "best/metrics.json").read_text())
    app(["cost", str(run)], standalone_mode=False)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("preprocessing: shorter side to 148, centre crop of 128x128; mean (0.")
    app(["cost", str(run), "--format", "json"], standalone_mode=False)
    counted = json.loads(capsys.readouterr().out)
    assert {name: counted[name] for name in ("mean", "std", "preprocessing")}.items() <= metrics.items()
