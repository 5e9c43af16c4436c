"""torchvision's weights in our points: equal outputs, gradients and statistics, and clear errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.compiler import compile
from nas_agg.compiler.torchvision_weights import MODELS
from nas_agg.language.genotype import Genotype
from nas_agg.study.saved_evaluation import evaluate_genotype
from nas_agg.training.augment import normalise
from nas_agg.training.data import load_data

torch.set_num_threads(1)
POINTS = {
    "resnet50": "residual/resnet50",
    "resnet101": "residual/resnet101",
    "resnet152": "residual/resnet152",
    "resnext50_32x4d": "residual/resnext50-32x4d",
    "wide_resnet50_2": "residual/wrn-50-2",
    "densenet121": "densenet/121",
    "densenet169": "densenet/169",
    "densenet201": "densenet/201",
    "efficientnet_b0": "efficientnet/b0",
}


def theirs(name: str, **options: Any) -> nn.Module:
    """torchvision's model with weights of its own at random, no two of them alike."""
    torch.manual_seed(0)
    if name == "efficientnet_b0":
        options |= {"dropout": 0.0, "stochastic_depth_prob": 0.0}
    model = get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model


def shapes(name: str) -> dict[str, Tensor]:
    """A state of torchvision's model, of zeros that take no room."""
    with torch.device("meta"):
        state = get_model(name, weights=None).state_dict()
    return {key: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for key, tensor in state.items()}


def point(name: str, classes: int = 1000) -> Genotype:
    return nas_agg.load(POINTS[name]).with_task((3, 64, 64), classes)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def refusal(kind: type[Exception] = InputError, **call: Any) -> str:
    with pytest.raises(kind) as error:
        nas_agg.compile(**call)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_near(ours: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert (ours - wanted).abs().max() <= tolerance * wanted.abs().max()


# ---------------------------------------------------------------------- they compute the same


HEAVY = {"densenet169", "densenet201", "resnet101", "resnet152", "wide_resnet50_2"}
EACH_MODEL = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in MODELS]
)


@pytest.mark.parametrize("name", MODELS)
def test_each_model_has_tensors_of_the_same_shapes(name):
    """Of the heavy models the outputs are compared by slow tests alone."""
    with torch.device("meta"):
        model, ours = get_model(name, weights=None), nas_agg.compile(point(name))
    assert sorted(tuple(t.shape) for t in ours.parameters()) == sorted(tuple(t.shape) for t in model.parameters())
    assert sorted(tuple(t.shape) for t in ours.buffers()) == sorted(tuple(t.shape) for t in model.buffers())


@EACH_MODEL
def test_loaded_weights_give_the_outputs_of_torchvision(name, tmp_path):
    model = theirs(name).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    ours = nas_agg.compile(point(name), weights=tmp_path / "w.pth").eval()
    with torch.no_grad():
        assert_near(ours(images()), model(images()), 1e-5)
    model.double()
    ours.double()
    # Tensors are identified by their values, so that the test does not depend on names and order.
    place = {tensor.numpy().tobytes(): key for key, tensor in model.state_dict().items() if tensor.ndim}
    same = {key: place[tensor.numpy().tobytes()] for key, tensor in ours.state_dict().items() if tensor.ndim}
    assert len(place) == len(same) == len(set(same.values()))
    x = images().double()
    with torch.no_grad():
        assert_near(ours(x), model(x), 1e-10)
    outputs = ours.train()(x), model.train()(x)
    assert_near(*outputs, 1e-10)
    for output in outputs:
        (output * torch.arange(output.numel()).view_as(output).cos()).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert_near(parameter.grad, gradients[same[key]], 1e-10)
    buffers = dict(model.named_buffers())
    for key, buffer in ours.named_buffers():
        if key in same:
            assert_near(buffer, buffers[same[key]], 1e-10)
        else:
            assert key.endswith("num_batches_tracked") and buffer == 1


@EACH_MODEL
def test_export(name):
    network = nas_agg.compile(point(name), seed=0).eval()
    with torch.no_grad():
        exported = torch.export.export(network, (images(),))
        assert torch.equal(exported.module()(images()), network(images()))


# ---------------------------------------------------------------------- where weights come from


def equal_to(network: nn.Module, model: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(network.eval()(images()), model.eval()(images()))


def test_safetensors_and_the_classes_of_a_fine_tuned_model(tmp_path):
    model = theirs("efficientnet_b0", num_classes=7)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert equal_to(compile(point("efficientnet_b0", 7), weights=tmp_path / "w.safetensors"), model)


def test_names_of_older_densenet_files(tmp_path):
    model = theirs("densenet121")
    old = {}
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            parts = key.split(".")
            if len(parts) == 5:  # features.denseblock1.denselayer1.norm1.weight
                parts[3] = f"{parts[3][:-1]}.{parts[3][-1]}"
            old[".".join(parts)] = tensor
    assert "features.denseblock1.denselayer1.conv.2.weight" in old
    torch.save(old, tmp_path / "old.pth")
    assert equal_to(compile(point("densenet121"), weights=tmp_path / "old.pth"), model)


def test_a_name_is_looked_for_in_torch_hub_s_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("unexpected download"))
    network = point("efficientnet_b0")
    error = refusal(genotype=network, weights="efficientnet_b0")
    assert "efficientnet_b0_rwightman-" in error and "no such file" in error and "download=True" in error
    assert "has no weights 'V1'; choose from IMAGENET1K_V1" in refusal(genotype=network, weights="resnet50.V1")
    model = theirs("efficientnet_b0")
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / error.split(":")[0].rsplit("/", 1)[1])
    assert equal_to(nas_agg.compile(network, weights="efficientnet_b0.IMAGENET1K_V1"), model)


def test_weights_are_downloaded_only_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    model = theirs("resnet50")

    def fetch(url, to, *_, **__):
        fetched.append(url)
        torch.save(model.state_dict(), to)

    fetched: list[str] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        network = nas_agg.compile(point("resnet50"), weights="resnet50.IMAGENET1K_V1", download=True)
    assert equal_to(network, model)
    assert fetched == ["https://download.pytorch.org/models/resnet50-0676ba61.pth"]

    def unreachable(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    error = refusal(NasAggError, genotype=point("resnet50"), weights="resnet50", download=True)
    assert "download failed (no route to host)" in error


def test_own_names_that_look_like_old_ones(tmp_path):
    net = [{"conv": 3, "out": 4}, "denselayer1", "gap", {"linear": 3}]
    let = {"denselayer1": ["norm", "conv"], "norm": ["bn", "relu", "bn"], "conv": [{"conv": 1, "out": 4}]}
    network = nas_agg.compile({"input": [3, 64, 64], "classes": 3, "let": let, "net": net}, seed=0)
    torch.save(network.state_dict(), tmp_path / "own.pt")
    again = {"input": [3, 64, 64], "classes": 3, "let": let, "net": net}
    assert equal_to(nas_agg.compile(again, weights=tmp_path / "own.pt"), network)


def test_a_state_dict_itself():
    model = theirs("efficientnet_b0")
    assert equal_to(nas_agg.compile(point("efficientnet_b0"), weights=model.state_dict()), model)
    assert refusal(genotype=point("efficientnet_b0"), weights={"a": 1}).startswith("weights: not a state dict")


def test_own_weights_in_a_state_dict(tmp_path):
    small = {"input": [3, 64, 64], "classes": 3, "net": [{"conv": 3, "out": 4}, "bn", "gap", {"linear": 3}]}
    network = nas_agg.compile(small, seed=0)
    torch.save(network.state_dict(), tmp_path / "own.pt")
    assert equal_to(nas_agg.compile(small, weights=tmp_path / "own.pt"), network)


def test_a_model_is_tested_on_a_data_set(tmp_path):
    model = theirs("efficientnet_b0", num_classes=2).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(24) % 2
    np.savez(tmp_path / "d.npz", x_train=pixels[:12], y_train=labels[:12], x_test=pixels[12:], y_test=labels[12:])
    spec = f"npz:{tmp_path / 'd.npz'}"
    result = evaluate_genotype("efficientnet/b0", weights=tmp_path / "w.pth", dataset=spec, device="cpu")
    data = load_data(spec)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(normalise(data.test.images, data.mean, data.std)), data.test.labels)
    assert result["images"] == 12 and result["loss"] == pytest.approx(loss.item(), rel=1e-4)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "point_name, change, words",
    [
        (
            "resnet50",
            {"layer2.1.bn2.running_var": None},
            "'layer2.1.bn2.running_var' of torchvision's resnet50 is missing",
        ),
        ("resnet50", {"layer2.1.bn4.weight": torch.ones(1)}, "'layer2.1.bn4.weight' is not in torchvision's resnet50"),
        ("resnet50", {"fc.bias": torch.ones(10)}, "'fc.bias' has shape (10,), 'linear' (1000,)"),
        ("resnext50_32x4d", {}, "'layer1.0.conv1.weight' has shape (64, 64, 1, 1)"),
        ("densenet121", {}, "the network has 'block1.0.unit.bn1' in place of 'layer1.0.conv1'"),
        ("efficientnet_b0", {}, "'conv1.weight' has shape (64, 3, 7, 7), 'stem.conv' (32, 3, 3, 3)"),
    ],
)
def test_another_network_s_weights_are_named(tmp_path, point_name, change, words):
    state = {key: tensor for key, tensor in {**shapes("resnet50"), **change}.items() if tensor is not None}
    torch.save(state, tmp_path / "w.pth")
    error = refusal(genotype=point(point_name), weights=tmp_path / "w.pth")
    assert error.startswith(str(tmp_path / "w.pth")) and words in error


def test_deeper_and_shallower_networks_are_refused(tmp_path):
    torch.save(shapes("resnet101"), tmp_path / "w.pth")
    assert "the network is not torchvision's resnet101" in refusal(
        genotype=point("resnet50"), weights=tmp_path / "w.pth"
    )
    torch.save(shapes("resnet18"), tmp_path / "w.pth")
    assert "these are the weights of another network" in refusal(genotype=point("resnet50"), weights=tmp_path / "w.pth")
    net = [{"conv": 7, "out": 64, "stride": 2}, "bn", "gap", {"linear": 1000}]
    short = {"input": [3, 64, 64], "classes": 1000, "net": net}
    torch.save(shapes("resnet50"), tmp_path / "w.pth")
    assert "the network has 'linear' in place of 'layer1.0.conv1'" in refusal(
        genotype=short, weights=tmp_path / "w.pth"
    )


def test_a_projection_of_the_same_shape_elsewhere_is_refused(tmp_path):
    """Written as two branches, the projection first: the shapes in the first block of ResNet-50 would not tell."""
    branches: list[Any] = [
        [{"conv": 1, "out": 256}, "bn"],
        [{"conv": 1, "out": 64}, "bn", "relu", {"conv": 3, "out": 64}, "bn", "relu", {"conv": 1, "out": 256}, "bn"],
    ]
    block = {"units": branches[::-1], "reads": {"pattern": "input"}, "output": {"pattern": "nodes"}}
    stem = [{"conv": 7, "out": 64, "stride": 2}, "bn", "relu", {"maxpool": 3, "stride": 2}]
    text = {"input": [3, 64, 64], "classes": 1000, "net": [*stem, block, "relu", "gap", {"linear": 1000}]}
    torch.save(shapes("resnet50"), tmp_path / "w.pth")
    error = refusal(genotype=text, weights=tmp_path / "w.pth")
    assert "the network has 'aggregate.1.unit.conv' in place of 'layer1.0.downsample.0'" in error


def test_files_that_hold_no_state(tmp_path):
    network = point("efficientnet_b0")
    assert "no such file; did you mean 'resnet50'" in refusal(genotype=network, weights="resnet5")
    for name, content in (("bad.pth", b"\x80garbage"), ("bad.safetensors", b"garbage" * 10), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        assert name in refusal(genotype=network, weights=tmp_path / name)
    torch.save(theirs("efficientnet_b0"), tmp_path / "model.pth")  # a whole model: reading it would execute code
    assert "without executing" in refusal(genotype=network, weights=tmp_path / "model.pth")
    ones = torch.ones(3)
    for state in ({"epoch": 3}, {1: ones}, {"w": ones.to_sparse()}, [ones], ones):
        torch.save(state, tmp_path / "more.pth")
        assert "save model.state_dict()" in refusal(genotype=network, weights=tmp_path / "more.pth")
    torch.save({"w": ones.to(torch.int8)}, tmp_path / "whole.pth")
    assert "'w' has type int8, not floating point" in refusal(genotype=network, weights=tmp_path / "whole.pth")


def test_a_stride_elsewhere_is_refused(tmp_path):
    torch.save(shapes("resnet50"), tmp_path / "w.pth")
    text = nas_agg.load("residual/resnet50").to_dict()
    error = refusal(genotype=text | {"let": text["let"] | {"strided": 1}}, weights=tmp_path / "w.pth")
    assert "'layer2.0.conv1' has stride (1, 1), 'stage2.0.unit.bottleneck.conv1' (2, 2)" in error
