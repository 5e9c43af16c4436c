"""ImageNet's protocol on a stand-in: 100 classes of JPEGs of odd sizes, in ImageNet's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import nas_agg
from nas_agg.cli.main import app
from nas_agg.training.data import load_data

CLASSES = 100


def write_imagenet(root: Path, largest: int, train: int) -> None:
    """JPEGs with a colour and a frequency per class, in folders ``train`` and ``val``."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        colour = rng.integers(60, 196, 3)
        for number in range(train + 1):
            folder = root / ("val" if number == train else "train") / f"n{label:08}"
            folder.mkdir(parents=True, exist_ok=True)
            height, width = (int(side) for side in rng.integers(largest // 2, largest, 2))
            waves = np.sin(np.arange(width) * (label % 10 + 1) / 9)[None, :, None] * 50
            pixels = (colour + waves + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(pixels)
            (image.convert("L") if label % 25 == 24 else image).save(folder / f"{number}.JPEG")


@pytest.mark.parametrize(
    ("size", "scaled", "train", "options"),
    [
        (32, 32, 2, ["--image-size", "32", "--batch-size", "50", "--epochs", "1"]),
        pytest.param(
            224, 256, 2, ["--batch-size", "50", "--epochs", "1"], marks=[pytest.mark.slow, pytest.mark.timeout(3600)]
        ),
    ],
)
def test_densenet_on_a_stand_in_of_imagenet(tmp_path, monkeypatch, capsys, size, scaled, train, options):
    """Training and evaluation by the command; the test metrics are those of torchvision's transforms."""
    monkeypatch.setenv("NAS_AGG_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_imagenet(tmp_path / "imagenet", 2 * size, train)
    words = ["--dataset", "folder:imagenet", "--recipe", "densenet-imagenet", "--device", "cpu", "--out", "run"]
    app(["train", "densenet/121", *words, *options], standalone_mode=False)
    assert "top-5" in capsys.readouterr().out.splitlines()[-2]
    metrics = json.loads((tmp_path / "run/best/metrics.json").read_text())
    about = (metrics["images"], metrics["recipe"], metrics["epochs"])
    assert about == (CLASSES, "densenet-imagenet with batch_size=50", int(options[-1]))
    assert metrics["preprocessing"]["size"] == [size, size] and metrics["preprocessing"]["stored"] == [scaled, scaled]

    files = sorted((tmp_path / "imagenet/val").glob("*/*.JPEG"))
    crop = v2.Compose([v2.Resize(scaled), v2.CenterCrop(size), v2.PILToTensor()])
    images = torch.stack([crop(Image.open(file).convert("RGB")) for file in files])
    data = load_data("folder:imagenet", image_size=size)
    assert torch.equal(data.test.images, images)

    network = nas_agg.compile("run", weights="run/best/weights.safetensors").eval()
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(metrics["mean"], metrics["std"])])
    with torch.no_grad():
        logits = torch.cat([network(normalize(batch)) for batch in images.split(50)])
    ranked = logits.argsort(dim=1, descending=True, stable=True)[:, :5] == torch.arange(CLASSES)[:, None]
    counts = (int(ranked[:, 0].sum()), int(ranked.sum()))
    assert counts == (metrics["correct"], round(CLASSES * metrics["test_top5_accuracy"]))
    app(["evaluate", "run", "--format", "json"], standalone_mode=False)
    evaluated = json.loads(capsys.readouterr().out)
    assert (evaluated["correct"], evaluated["test_top5_accuracy"]) == (counts[0], metrics["test_top5_accuracy"])
