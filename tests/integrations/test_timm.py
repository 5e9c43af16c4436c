"""Trained networks as models of timm."""

from __future__ import annotations

import copy
import json
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler.codegen import predict
from nas_agg.integrations.timm import register
from nas_agg.study.export import export_genotype
from nas_agg.study.standalone_training import train_genotype

NET = {
    "input": [3, 16, 16],
    "classes": 3,
    "net": [
        {"conv": 3, "out": 8},
        {"nodes": 2, "growth": 4, "reads": {"pattern": "dense", "operator": "concat"}, "unit": ["relu", {"conv": 3}]},
        {"conv": 3, "out": 16, "stride": 2},
        "bn",
        "relu",
        "gap",
        {"linear": "classes"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run on image files, its compiled model, and a file."""
    root = tmp_path_factory.mktemp("timm")
    rng = np.random.default_rng(0)
    for number in range(30):
        folder = root / "images" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    settings = {"dataset": f"folder:{root / 'images'}", "image_size": 16, "recipe": "search", "epochs": 1}
    train_genotype(nas_agg.load(NET), out=root / "my-run", device="cpu", **settings)
    export_genotype(str(root / "my-run"), root / "model")
    return root / "my-run", root / "model", root / "images/a/0.jpg"


@pytest.fixture(scope="module")
def name(folders):
    return register(folders[0])


def test_a_run_is_a_model_of_timm(folders, name):
    run, folder, _ = folders
    assert name == "my_run"
    assert timm.list_models("my_r*") == timm.list_models("my_r*", pretrained=True) == ["my_run"]
    images = torch.randn(2, 3, 16, 16)
    network = nas_agg.compile(run, weights=run / "best/weights.safetensors").eval()
    model = timm.create_model(name, pretrained=True).eval()
    assert torch.equal(model(images), network(images))
    assert model.state_dict().keys() == network.state_dict().keys()
    assert timm.create_model("my_run", pretrained=False).conv1.weight.ne(model.conv1.weight).any()
    with warnings.catch_warnings(action="error"):  # timm warns of names that exist
        assert register(folder, name="my run") == "my_run"
    assert torch.equal(timm.create_model("my_run", pretrained=True).eval()(images), network(images))
    assert torch.equal(copy.deepcopy(model)(images), network(images))


def test_its_transform_is_that_of_the_training(folders, name):
    _, folder, file = folders
    model = timm.create_model(name, pretrained=True)
    transform = create_transform(**resolve_model_data_config(model))
    config = json.loads((folder / "config.json").read_text())
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(-1, 1, 1) for key in ("mean", "std"))
    pixels = predict.read_image(file, config["preprocessing"], 3)
    torch.testing.assert_close(transform(Image.open(file)), (pixels / 255 - mean) / std)
    assert model.pretrained_cfg["label_names"] == ["a", "b", "c"]


def test_other_classes_channels_and_sizes(name):
    own = timm.create_model(name, pretrained=True)
    other = timm.create_model(name, pretrained=True, num_classes=7, drop_rate=0.5)
    assert (other.num_classes, other.get_classifier().out_features) == (7, 7)
    assert torch.equal(other.conv1.weight, own.conv1.weight)
    grey = timm.create_model(name, pretrained=True, in_chans=1, img_size=(20, 24)).eval()
    assert grey(torch.zeros(1, 1, 20, 24)).shape == (1, 3)
    torch.testing.assert_close(grey.conv1.weight, own.conv1.weight.sum(1, keepdim=True))
    bare = timm.create_model(name, pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 16, 16)
    assert bare(images).shape == (2, 16) == (2, bare.num_features)
    own.reset_classifier(5)
    assert own(images).shape == (2, 5)


def test_features(name):
    images = torch.randn(2, 3, 16, 16)
    model = timm.create_model(name, pretrained=True).eval()
    maps = model.forward_features(images)
    assert maps.shape == (2, 16, 8, 8)
    assert torch.equal(model.forward_head(maps), model(images))
    pooled = model.forward_head(maps, pre_logits=True)
    assert torch.equal(model.get_classifier()(pooled), model(images))
    backbone = timm.create_model(name, pretrained=True, features_only=True, out_indices=(-1,)).eval()
    assert (backbone.feature_info.channels(), backbone.feature_info.reduction()) == ([16], [2])
    (last,) = backbone(images)
    assert torch.equal(last, maps)
    every = timm.create_model(name, features_only=True)
    assert [found.shape[1] for found in every(images)] == every.feature_info.channels()


def test_errors(folders, name, tmp_path, monkeypatch):
    run, folder, _ = folders
    for source, options, message in (
        (tmp_path / "none", {}, "no such folder"),
        (tmp_path, {}, "no trained network"),
        (run, {"name": "resnet50"}, "timm has a model 'resnet50' of its own; specify another name"),
    ):
        with pytest.raises(InputError, match=message):
            register(source, **options)
    with pytest.raises(InputError, match="my_run: no such option 'patch_size' of networks of nas_agg"):
        timm.create_model(name, patch_size=4)
    with pytest.raises(InputError, match="drop_path: the network has no residual branch"):
        timm.create_model(name, drop_path_rate=0.1)
    with pytest.raises(InputError, match=r"out_indices: the network has \d feature maps"):
        timm.create_model(name, features_only=True, out_indices=(9,))
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(InputError, match=r"pip install 'nas-agg\[timm\]'"):
        register(folder)
