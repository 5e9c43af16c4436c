"""Compiled networks against torchvision's models and PyTorch's own counts, and under PyTorch's tools."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import NETWORKS
from corpus.formulas import graph_of
from corpus.random_genotypes import random_genotype
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import build, compile, forward_source
from nas_agg.expansion.costs import BATCH, Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype
from nas_agg.language.layers import LAYERS
from nas_agg.language.module_attributes import MODULE_ATTRIBUTES
from nas_agg.language.operators import OPERATORS
from nas_agg.language.patterns import PATTERNS

GENOTYPES = {network["name"]: network["genotype"] for network in NETWORKS}
SMALL: dict[str, Any] = {
    "input": [3, 16, 16],
    "classes": 4,
    "let": {"match": [{"conv": 1, "stride": "s"}, "gn"]},
    "net": [
        {"conv": 3, "out": 8},
        "bn",
        "relu",
        {
            "nodes": 3,
            "growth": 8,
            "unit": ["bn", "relu", {"conv": 3}],
            "reads": {"pattern": "dense", "operator": "concat"},
        },
        {
            "nodes": 2,
            "growth": 16,
            "stride": 2,
            "unit": [{"conv": 3, "stride": "s"}, "ln", {"se": 4}, "join", "swish"],
            "shortcut": {"pattern": "dense", "operator": "weighted", "match": "match"},
        },
        {"shuffle": 2},
        {"dropout": 0.1},
        "scale",
        "gap",
        {"linear": "classes"},
    ],
}


@pytest.fixture
def network() -> torch.nn.Module:
    return compile(Genotype.from_dict(SMALL), seed=0)


def images(graph: Graph, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *graph.shapes[0], generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- equal to others' models


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("ResNet-50", models.resnet50),
        ("ResNeXt-50 32x4d", models.resnext50_32x4d),
        ("DenseNet-121", models.densenet121),
        ("EfficientNet-B0", models.efficientnet_b0),
    ],
)
def test_the_same_weights_give_torchvision_s_outputs(name: str, model: Any) -> None:
    torch.manual_seed(0)
    theirs = model(weights=None).double().eval()
    ours = compile(Genotype.from_dict(GENOTYPES[name])).double().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    given, wanted = theirs.state_dict(), ours.state_dict()
    assert [tensor.shape for tensor in given.values()] == [tensor.shape for tensor in wanted.values()]
    ours.load_state_dict(dict(zip(wanted, given.values(), strict=True)))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- equal to what is counted by arithmetic


def kept(network: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The output, and the bytes that are kept for backward: each storage once, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    storages: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.numel():
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its address might be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(x)
    return output, sum(storages.values())


def check(graph: Graph, seed: int) -> None:
    """One network: static and counted costs, forward and backward."""
    cost, network = Cost(graph), build(graph, seed)
    parameters = dict(network.named_parameters())
    assert sum(tensor.numel() for tensor in parameters.values()) == cost.params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(images(graph, 1))
    assert counter.get_total_flops() == cost.flops == 2 * cost.macs
    output, count = kept(network.train(), images(graph, BATCH))
    assert count / BATCH == pytest.approx(cost.activation_bytes, rel=0.02)
    assert output.shape == (BATCH, graph.shapes[graph.output][0]) and output.isfinite().all()
    (output * torch.randn_like(output)).sum().backward()
    for name, tensor in parameters.items():
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name


def message(value: Any) -> set[str]:
    """All words and keys of a genotype."""
    if isinstance(value, dict):
        return set(value) | {word for item in value.values() for word in message(item)}
    if isinstance(value, list):
        return {word for item in value for word in message(item)}
    return {value} if isinstance(value, str) else set()


def test_costs_of_300_random_networks_equal_counts_of_built_networks() -> None:
    rng = random.Random(2024)
    words: set[str] = set()
    for number in range(300):
        genotype = random_genotype(rng)
        words |= message(genotype)
        try:
            check(expand(Genotype.from_dict(genotype)), number)
        except Exception as error:
            raise AssertionError(f"{error}: {json.dumps(genotype)}") from error
    assert {*PATTERNS, *OPERATORS, *LAYERS} <= words, "every pattern, operator and layer is met"


@pytest.mark.parametrize("name", ["Micro-Dense Net 30a64", "SeqResNet r=4 k=8", "MixNet-100", "Res2Net-50 26w4s"])
def test_costs_of_the_papers_networks_equal_counts(name: str) -> None:
    genotype = Genotype.from_dict(GENOTYPES[name])
    graph = expand(genotype.with_task(input=(3, 64, 64) if genotype.input[1] > 64 else None))
    cost, network = Cost(graph), build(graph, 0).train()
    few = 2
    with FlopCounterMode(display=False) as counter:
        _, count = kept(network, images(graph, few))
    statistics = sum(2 * 4 * op.channels for op in graph.ops if op.word == "norm" and not op.groups)  # type: ignore[attr-defined]
    assert counter.get_total_flops() == few * cost.flops
    assert count / few == pytest.approx(cost.activation_bytes + statistics * (1 / few - 1 / BATCH), rel=0.02)
    assert sum(tensor.numel() for tensor in network.parameters()) == cost.params


# ---------------------------------------------------------------------- what PyTorch can do with it


def test_logits_of_images(network: torch.nn.Module) -> None:
    assert network(torch.randn(5, 3, 16, 16)).shape == (5, 4)
    assert network.eval()(torch.randn(1, 3, 16, 16)).shape == (1, 4)
    with pytest.raises(RuntimeError):
        network(torch.randn(5, 4, 16, 16))


def test_equal_seeds_give_equal_weights_and_leave_the_global_state_alone() -> None:
    genotype = Genotype.from_dict(SMALL)
    before = torch.get_rng_state()
    one, two, other = (compile(genotype, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    torch.manual_seed(5)
    unseeded = compile(genotype).state_dict()
    torch.manual_seed(5)
    assert all(
        torch.equal(a, b) for a, b in zip(unseeded.values(), compile(genotype).state_dict().values(), strict=True)
    )
    torch.set_rng_state(before)


def test_weights_start_as_he_et_al_say() -> None:
    genotype = Genotype.from_dict(
        {"input": [16, 4, 4], "classes": 9, "net": [{"conv": 3, "out": 400, "bias": True}, "relu", {"linear": 9}]}
    )
    network = compile(genotype, seed=0)
    conv, linear = network.get_submodule("conv"), network.get_submodule("linear")
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 16)), rel=0.02)  # type: ignore[union-attr, operator]
    assert linear.weight.std().item() == pytest.approx(math.sqrt(1 / 6400), rel=0.02)  # type: ignore[union-attr, operator]
    assert not conv.bias.any() and not linear.bias.any()  # type: ignore[union-attr, operator]


def test_parameters_bear_the_names_of_the_genotype_s_parts(network: torch.nn.Module) -> None:
    names = [name for name, _ in network.named_parameters()]
    assert len(set(names)) == len(names) == len(list(network.parameters()))
    assert {
        "conv.weight",
        "bn.weight",
        "bn.bias",
        "aggregate1.0.unit.conv.weight",
        "aggregate1.2.unit.bn.bias",
        "aggregate2.0.unit.se.squeeze.bias",
        "aggregate2.0.shortcut.match.0.conv.weight",
        "aggregate2.1.shortcut.weights.0",
        "aggregate2.1.shortcut.weights.1",
        "scale",
        "linear.bias",
    } <= set(names)


def test_names_that_are_hard_on_python_are_harmless() -> None:
    let = {
        name: [{"conv": 1, "out": 3}, "in"]
        for name in ("forward", "train", "source", "start", "self", "x0", "F", "torch", "parameters", "T_destination")
    }
    graph = graph_of(*let, "in", {"unit": ["in", "in"]}, image=(3, 4, 4), let=let)
    network = build(graph, 0)
    assert network(torch.randn(2, 3, 4, 4)).shape == (2, 3)
    assert copy.deepcopy(network).state_dict().keys() == network.state_dict().keys()


def test_a_norm_of_single_values_takes_one_image() -> None:
    network = build(graph_of("gap", "in", {"gn": 4}, image=(4, 4, 4)), 0)
    assert network(torch.randn(1, 4, 4, 4)).shape == (1, 3)


def test_copies_and_pickles_compute_the_same(network: torch.nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 16, 16)
    network.eval()
    others = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded = compile(Genotype.from_dict(SMALL)).eval()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for other in (*others, loaded):
        assert torch.equal(other(x), network(x))
        assert not {id(tensor) for tensor in other.parameters()} & {id(tensor) for tensor in network.parameters()}


def test_channels_last_and_autocast(network: torch.nn.Module) -> None:
    x = torch.randn(4, 3, 16, 16)
    network.eval()
    wanted = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(network(x).float(), wanted, atol=0.1 * wanted.abs().max().item())
    network.to(memory_format=torch.channels_last)
    assert torch.allclose(network(x.to(memory_format=torch.channels_last)), wanted, atol=1e-5)
    network.train()(x.to(memory_format=torch.channels_last)).sum().backward()
    assert all(tensor.grad is not None for tensor in network.parameters())


def test_export(network: torch.nn.Module) -> None:
    x = torch.randn(2, 3, 16, 16)
    network.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    for count in (2, 7):
        x = torch.randn(count, 3, 16, 16)
        assert torch.allclose(program(x), network(x), atol=1e-6)


def test_compile_without_a_break(network: torch.nn.Module) -> None:
    x = torch.randn(2, 3, 16, 16)
    network.eval()
    for backend in ("eager", "aot_eager"):
        fast = torch.compile(network, backend=backend, fullgraph=True)
        assert torch.allclose(fast(x), network(x), atol=1e-6)
    torch._dynamo.reset()


def test_random_networks_can_be_copied_pickled_exported_and_compiled() -> None:
    rng = random.Random(7)
    for number in range(6):
        graph = expand(Genotype.from_dict(random_genotype(rng, most_ops=60)))
        network, x = build(graph, number).eval(), images(graph, 2)
        wanted = network(x)
        assert torch.equal(copy.deepcopy(network)(x), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(network))(x), wanted)
        assert torch.allclose(torch.export.export(network, (x,)).module()(x), wanted, atol=1e-5)
        assert torch.allclose(torch.compile(network, backend="eager", fullgraph=True)(x), wanted, atol=1e-5)
        assert torch.allclose(network(x.to(memory_format=torch.channels_last)), wanted, atol=1e-4)
    torch._dynamo.reset()


def test_the_source_of_the_forward_is_one_line_an_operation() -> None:
    graph = graph_of({"conv": 3, "out": 4}, "relu", {"unit": ["bn", "join"], "shortcut": {}}, image=(3, 8, 8))
    assert forward_source(graph) == (
        "def forward(self, x0):\n"
        "    x1 = self.conv(x0); del x0\n"
        "    x2 = F.relu(x1); del x1\n"
        "    x3 = getattr(self.aggregate, '0').unit.bn(x2)\n"
        "    x4 = x2 + x3; del x2, x3\n"
        "    x5 = F.adaptive_avg_pool2d(x4, 1); del x4\n"
        "    x6 = self.linear(x5.flatten(1))[:, :, None, None]; del x5\n"
        "    return x6.flatten(1)\n"
    )


def test_parts_may_have_names_of_network_attributes():
    """A part whose name is an attribute of the network is distinguished from the attribute."""
    bare = nas_agg.load({"input": [3, 8, 8], "classes": 3, "net": ["gap"]})
    for network in (nas_agg.compile(bare), nas_agg.compile(bare, fuse=True)):
        assert {name for name in dir(network) if not name.startswith("_")} <= MODULE_ATTRIBUTES
    for name in ("memory", "source", "training", "forward"):
        net = {"input": [3, 8, 8], "classes": 3, "let": {name: ["relu", {"conv": 3, "out": 4}]},
               "net": [name, "gap", {"linear": 3}]}  # fmt: skip
        for options in ({}, {"fuse": True}, {"memory": "lean"}):
            assert nas_agg.compile(net, 0, **options)(torch.ones(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("seed", [True, 1.5, "x", -1, 2**63])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(InputError, match="seed: must be an integer from 0 to"):
        nas_agg.compile("residual/resnet-110", seed)


def test_weights_are_no_folder(tmp_path):
    with pytest.raises(InputError, match="a folder, not a weights file"):
        nas_agg.compile("residual/resnet-110", weights=tmp_path)


@pytest.mark.parametrize("weights", [5, 1.5, [], True])
def test_weights_are_a_state_a_file_or_a_name(weights):
    with pytest.raises(InputError, match="weights: expected a state dict, a file or a name"):
        nas_agg.compile("residual/resnet-110", weights=weights)
