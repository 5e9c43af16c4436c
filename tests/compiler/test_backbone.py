"""Networks as backbones."""

from __future__ import annotations

import copy
import pickle
import random
import re
from pathlib import Path
from typing import Any

import networkx
import pytest
import torch
import torchvision
from corpus.random_genotypes import random_genotype
from torchvision.models.feature_extraction import create_feature_extractor

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import build, save_weights
from nas_agg.compiler.backbone import Backbone, features
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import list_spaces, open_space

torch.set_num_threads(1)

POINTS = [(s, point) for s in map(open_space, list_spaces()) for point in s.points]
IMAGENET = [(s, point) for s, point in POINTS if s.point(point).input == (3, 224, 224)]
#: What each stage puts out, as the papers' tables of architectures say.
CHANNELS = {
    "residual/resnet50": [64, 256, 512, 1024, 2048],
    "residual/res2net50-26w4s": [64, 256, 512, 1024, 2048],
    "densenet/121": [64, 256, 512, 1024, 1024],
    "densenet/169": [64, 256, 512, 1280, 1664],
    "densenet/264": [64, 256, 512, 2304, 2688],
    "efficientnet/b0": [16, 24, 40, 112, 320],
    "efficientnet/b0-mdconv": [16, 24, 40, 112, 320],
    "mixed/dpn-92": [64, 336, 704, 1552, 2688],
    "dsnet/ds2net50": [64, 256, 512, 1024, 2048],
    "examples/genotypes/dla60.yaml": [16, 32, 128, 256, 512, 1024],
    "examples/genotypes/hardnet68.yaml": [64, 124, 328, 654, 782],
    "examples/genotypes/vovnet39.yaml": [64, 256, 512, 768, 1024],
}


def result(name: str) -> tuple[Any, list]:
    path = Path(__file__).parents[2] / name
    graph = expand(nas_agg.load(path if path.suffix == ".yaml" else name))
    return graph, features(graph)


@pytest.mark.parametrize(("space", "point"), IMAGENET, ids=[f"{s.family}/{point}" for s, point in IMAGENET])
def test_strides_of_every_imagenet_point(space: Any, point: str) -> None:
    graph = expand(space.point(point))
    stages = features(graph)
    assert [stage.stride for stage in stages] == [2, 4, 8, 16, 32]
    assert [graph.shapes[stage.tensor][1:] for stage in stages] == [(side, side) for side in (112, 56, 28, 14, 7)]
    assert [stage.name for stage in stages] == ["stride2", "stride4", "stride8", "stride16", "stride32"]


@pytest.mark.parametrize(("space", "point"), POINTS, ids=[f"{s.family}/{point}" for s, point in POINTS])
def test_maps_halve_at_every_point(space: Any, point: str) -> None:
    graph = expand(space.point(point))
    stages = features(graph)
    side = graph.shapes[0][1]
    sides = [graph.shapes[stage.tensor][1] for stage in stages]
    assert len(stages) >= 3
    if (space.family, point) == ("plain", "all-cnn-c"):  # its last stage begins with a convolution without padding
        assert sides == [32, 16, 6]
        return
    assert sides == [side // stage.stride for stage in stages]
    convolved = {shape[1] for op, shape in zip(graph.ops, graph.shapes, strict=True) if op.word == "conv"}
    least = min(convolved - {1})  # gates are on a map of one pixel
    assert sides[-1] == (
        least // 2 if space.family == "fractal" else least
    )  # a fractal's columns are pooled at their ends


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_are_the_papers(name: str) -> None:
    assert [stage.channels for stage in result(name)[1]] == CHANNELS[name]


# ---------------------------------------------------------------------- the tensors


def weighted(model: torch.nn.Module, path: Path) -> torch.nn.Module:
    """torchvision's model with running statistics that are not those of the start, saved to a file."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(model.state_dict(), path)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (75, 107)])
@pytest.mark.parametrize(
    ("name", "model", "nodes"),
    [
        ("residual/resnet50", "resnet50", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        (
            "densenet/121",
            "densenet121",
            ["features.relu0", *(f"features.transition{k}.relu" for k in (1, 2, 3)), "relu"],
        ),
        ("efficientnet/b0", "efficientnet_b0", [f"features.{k}" for k in (1, 2, 3, 5, 7)]),
    ],
)
def test_stages_are_those_of_torchvision(
    name: str, model: str, nodes: list[str], size: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = weighted(torchvision.models.get_model(model), tmp_path / "weights.pth")
    stages = create_feature_extractor(theirs, {node: node for node in nodes})
    ours = nas_agg.compile(name, weights=tmp_path / "weights.pth", features=True).eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        wanted, given = stages(x), ours(x)
    assert list(given) == ["stride2", "stride4", "stride8", "stride16", "stride32"]
    for one, other in zip(given.values(), wanted.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["aggregation/microdense", "dsnet/ds2net26-0.25x", "seqconv/table5-row4", "mixed/mixnet-100", "residual/preact-164",
     "sparsenet/40-k24", "examples/genotypes/nasbench201.yaml", "examples/genotypes/dla60.yaml"],
)  # fmt: skip
def test_outputs_are_tensors_of_the_whole_network(name: str) -> None:
    graph, stages = result(name)
    network = build(graph, 0).eval()
    backbone = Backbone(graph)
    backbone.load_state_dict(network.state_dict())
    text = re.sub(r"; del .*", "", network.source).replace("return", "return locals(),")
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
    exec(text, scope)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tensors, logits = scope["forward"](network, x)
        assert torch.equal(logits, network(x))
        given = backbone.eval()(x)
    for stage in stages:
        assert torch.equal(given[stage.name], tensors[f"x{stage.tensor}"])


@pytest.mark.parametrize("seed", range(40))
def test_random_genotypes(seed: int) -> None:
    graph = expand(Genotype.from_dict(random_genotype(random.Random(seed))))
    try:
        stages = features(graph)
    except InputError as error:
        assert "no feature maps" in str(error)
        return
    backbone = Backbone(graph).eval()
    given = backbone(torch.randn(2, *graph.shapes[0]))
    assert [tuple(tensor.shape[1:]) for tensor in given.values()] == [graph.shapes[stage.tensor] for stage in stages]
    assert list(given) == list(backbone.channels) == list(backbone.strides)
    assert [tensor.shape[1] for tensor in given.values()] == list(backbone.channels.values())
    wires = graph.digraph()
    for stage in stages:  # everything goes through it
        rest = wires.subgraph(set(wires) - {stage.tensor})
        assert not networkx.has_path(rest, 0, graph.output)
    strides = [stage.stride for stage in stages]
    assert strides == sorted(set(strides))


def test_a_backbone_trains() -> None:
    backbone = nas_agg.compile("aggregation/densenet", seed=0, features=True)
    sum(tensor.mean() for tensor in backbone(torch.randn(2, 3, 24, 40)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


# ---------------------------------------------------------------------- weights


def test_a_backbone_is_initialised_as_the_whole_network() -> None:
    whole = nas_agg.compile("residual/preact-164", seed=3).state_dict()
    backbone = nas_agg.compile("residual/preact-164", seed=3, features=True)
    own = backbone.state_dict()
    assert set(whole) - set(own) == {"linear.weight", "linear.bias"}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in own.items())


def test_weights_of_the_whole_network_load(tmp_path: Path) -> None:
    whole = nas_agg.compile("aggregation/dsnet", seed=1)
    save_weights(whole, tmp_path / "weights.safetensors")
    backbone = nas_agg.compile("aggregation/dsnet", weights=tmp_path / "weights.safetensors", features=True)
    own = backbone.state_dict()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in own.items())
    other = nas_agg.compile("aggregation/dsnet", seed=2, features=True)
    other.load_state_dict(whole.state_dict())
    assert torch.equal(next(other.parameters()), next(whole.parameters()))
    other.load_state_dict(own)
    with pytest.raises(InputError, match="another network"):
        nas_agg.compile("aggregation/densenet", weights=tmp_path / "weights.safetensors", features=True)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**own, "more": torch.zeros(1)})


def test_units_may_bear_the_names_of_attributes() -> None:
    let = {"channels": [{"conv": 3, "out": 4}, "bn"], "strides": [{"dropout": 0.5}, {"conv": 3, "out": 8, "stride": 2}]}
    net = ["channels", "strides", "scale", "relu", "gap", {"linear": "classes"}]
    genotype = nas_agg.load({"input": [3, 8, 8], "classes": 2, "let": let, "net": net})
    backbone = nas_agg.compile(genotype, seed=0, features=True)
    assert backbone.channels == {"stride1": 4, "stride2": 8}
    assert backbone.strides == {"stride1": 1, "stride2": 2}
    assert "channels.conv.weight" in backbone.state_dict() and "scale" in backbone.state_dict()
    x = torch.randn(2, 3, 10, 6)
    assert not torch.equal(backbone(x)["stride2"], backbone(x)["stride2"])
    backbone.eval()
    given = backbone(x)
    assert [tuple(tensor.shape) for tensor in given.values()] == [(2, 4, 10, 6), (2, 8, 5, 3)]
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert all(torch.equal(tensor, given[name]) for name, tensor in twin(x).items())


def test_gates_and_a_head_that_takes_the_largest_values() -> None:
    gate = {"unit": ["channel-mean", {"conv": 3, "out": 1}, "sigmoid", "join"], "shortcut": {"operator": "product"}}
    gates = {"unit": ["gmp", {"conv": 1, "out": "c"}, "sigmoid", "join"], "shortcut": {"operator": "product"}}
    net = [{"conv": 3, "out": 4}, gate, {"conv": 3, "out": 8, "stride": 2}, gates, "gmp", {"linear": "classes"}]
    genotype = nas_agg.load({"input": [3, 8, 8], "classes": 2, "net": net})
    backbone = nas_agg.compile(genotype, seed=0, features=True).eval()
    assert backbone.strides == {"stride1": 1, "stride2": 2}
    assert [tuple(t.shape) for t in backbone(torch.randn(2, 3, 10, 6)).values()] == [(2, 4, 10, 6), (2, 8, 5, 3)]


# ---------------------------------------------------------------------- errors


def test_a_network_without_maps() -> None:
    genotype = nas_agg.load({"input": [3, 8, 8], "classes": 2, "net": ["gap", {"linear": "classes"}]})
    with pytest.raises(InputError, match="no feature maps ahead of its head"):
        nas_agg.compile(genotype, features=True)


def test_a_backbone_is_plain() -> None:
    with pytest.raises(InputError, match="memory mode 'plain' only, not 'lean'"):
        nas_agg.compile("aggregation/densenet", features=True, memory="lean")
