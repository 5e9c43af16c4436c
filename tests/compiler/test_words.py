"""Products, shared units, stochastic depth and other operations against plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from corpus.points import randomized
from torch import Tensor, nn
from torch.nn import functional as F

from nas_agg.common.errors import GenotypeError
from nas_agg.compiler import build
from nas_agg.compiler.codegen import emit
from nas_agg.compiler.inference_fusion import fuse
from nas_agg.expansion.costs import Cost, cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.rematerialization import MEMORY_MODES
from nas_agg.language.genotype import Genotype

STEM = {"conv": 3, "out": 8}
GATE = {"conv": 3, "bias": True}
HIGHWAY = {  # T_2 is the gate ahead of its sigmoid, T_5 = H(x) T(x), T_6 = x (1 - T(x))
    "units": [[GATE, "relu"], [GATE], ["sigmoid"], [{"times": -1}, "sigmoid"], [], []],
    "reads": {"pattern": {"edges": [[0], [0], [2], [2], [1, 3], [0, 4]]}, "operator": "product"},
    "output": {"pattern": {"edges": [[5, 6]]}, "operator": "sum"},
}
INPUT, NODES = {"pattern": "input"}, {"pattern": "nodes"}
PERCEPTRON = [{"conv": 1, "out": "c/4", "bias": True}, "relu", {"conv": 1, "out": "in", "bias": True}]
AVERAGES = {"units": [["gap"], ["gmp"]], "reads": INPUT, "output": {**NODES, "operator": "sum", "each": PERCEPTRON}}
EXTREMES = {"units": [["channel-max"], ["channel-mean"]], "reads": INPUT, "output": {**NODES, "operator": "concat"}}
TIMES_INPUT = {"operator": "product"}
CBAM = [
    {"unit": [AVERAGES, "sigmoid", "join"], "shortcut": TIMES_INPUT},
    {"unit": [EXTREMES, {"conv": 7, "out": 1}, "bn", "sigmoid", "join"], "shortcut": TIMES_INPUT},
]


def network_of(*net: Any, **let: Any) -> Genotype:
    steps = [STEM, *net, "gap", {"linear": "classes"}]
    return Genotype.from_dict({"input": [3, 8, 8], "classes": 5, "let": let, "net": steps})


def assert_computes(genotype: Genotype, reference: Any, steps: int = 1) -> None:
    """Logits, gradients and running statistics of every form of a network are those of a function of its parameters.

    Args:
        genotype: A network.
        reference: Its logits, given a state by name and images; moves the state's running statistics in training.
        steps: Passes in training.
    """
    graph = expand(genotype)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for memory in MEMORY_MODES:
        network = randomized(build(graph, 0, memory=memory)).double().train()  # type: ignore[arg-type]
        assert sum(p.numel() for p in network.parameters()) == Cost(graph).params
        state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        params = {name: state[name].requires_grad_() for name, _ in network.named_parameters()}
        for _ in range(steps):
            torch.manual_seed(3)
            ours = network(images)
            torch.manual_seed(3)
            theirs = reference(state, images, True)
            torch.testing.assert_close(ours, theirs)
        ours.square().mean().backward()
        theirs.square().mean().backward()
        for name, p in network.named_parameters():
            torch.testing.assert_close(p.grad, params[name].grad, msg=name)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, state[name], msg=name, check_dtype=False)
        network.eval()
        with torch.no_grad():
            wanted = reference(state, images, False)
            torch.testing.assert_close(network(images), wanted)
            torch.testing.assert_close(
                fuse(network.float(), graph)(images.float()).double(), wanted, rtol=1e-4, atol=1e-4
            )


def head(state: dict[str, Tensor], x: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


def conv(state: dict[str, Tensor], path: str, x: Tensor) -> Tensor:
    weight = state[f"{path}.weight"]
    return F.conv2d(x, weight, state.get(f"{path}.bias"), padding=weight.shape[-1] // 2)


def batch_norm(state: dict[str, Tensor], path: str, x: Tensor, training: bool) -> Tensor:
    mean, var, weight, bias = (state[f"{path}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    if training:
        state[f"{path}.num_batches_tracked"] += 1
    return F.batch_norm(x, mean, var, weight, bias, training)


def test_highway_networks() -> None:
    """Srivastava, Greff and Schmidhuber 2015, equation 3: y = H(x) T(x) + x (1 - T(x))."""

    def reference(state: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        x = conv(state, "conv", x)
        for l in range(2):
            place = f"aggregate.{l}.unit.aggregate"
            gate = torch.sigmoid(conv(state, f"{place}.1.unit.conv", x))
            x = torch.relu(conv(state, f"{place}.0.unit.conv", x)) * gate + x * (1 - gate)
        return head(state, x)

    genotype = network_of({"nodes": 2, "growth": 8, "unit": [HIGHWAY]})
    assert_computes(genotype, reference)
    assert cost(genotype).params == 3 * 8 * 9 + 2 * 2 * (8 * 8 * 9 + 8) + 8 * 5 + 5
    assert "def put(" not in emit(genotype)


def test_squeeze_and_excitation_is_a_product() -> None:
    gate = ["gap", {"conv": 1, "out": 2, "bias": True}, "relu", {"conv": 1, "out": 8, "bias": True}, "sigmoid"]
    product = {**NODES, "operator": "product"}
    hashes = {
        cost(network_of(*net)).hash
        for net in (
            [{"se": 2}],
            [{"units": [[], gate], "reads": INPUT, "output": product}],
            [{"units": [gate, []], "reads": INPUT, "output": product}],
            [{"unit": [*gate, "join"], "shortcut": TIMES_INPUT}],
        )
    }
    assert len(hashes) == 1
    assert cost(network_of({"se": 2, "gate": "hardsigmoid"})).hash not in hashes


def channel_gate(state: dict[str, Tensor], path: str, x: Tensor) -> Tensor:
    """One perceptron for the average and for the largest value."""
    pooled = F.avg_pool2d(x, x.shape[2:]), F.max_pool2d(x, x.shape[2:])
    hidden = [torch.relu(conv(state, f"{path}.conv1", y)) for y in pooled]
    return torch.sigmoid(sum(conv(state, f"{path}.conv2", y) for y in hidden))


def cbam(state: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
    x = conv(state, "conv", x)
    x = x * channel_gate(state, "aggregate1.0.unit.aggregate.output.each", x)
    y = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
    y = batch_norm(state, "aggregate2.0.unit.bn", conv(state, "aggregate2.0.unit.conv", y), training)
    return head(state, x * torch.sigmoid(y))


def test_cbam() -> None:
    """Woo et al. 2018, as its authors wrote it: both pools through one perceptron, a norm in the spatial gate."""
    genotype = network_of(*CBAM)
    assert_computes(genotype, cbam, steps=2)
    assert cost(genotype).params == 3 * 8 * 9 + (8 * 2 + 2 + 2 * 8 + 8) + (2 * 49 + 2) + 8 * 5 + 5
    assert "def put(" not in emit(genotype)


def test_a_norm_that_features_share_moves_once_for_each() -> None:
    each = [{"conv": 1, "out": "c"}, "bn", "relu"]
    genotype = network_of(
        {"nodes": 2, "growth": 8, "unit": ["swish"], "output": {**NODES, "operator": "sum", "each": each}}
    )

    def reference(state: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        first = F.silu(conv(state, "conv", x))
        path, total = "aggregate.output.each", 0
        for y in (first, F.silu(first)):
            total = total + torch.relu(batch_norm(state, f"{path}.bn", conv(state, f"{path}.conv", y), training))
        return head(state, total)

    assert_computes(genotype, reference, steps=3)


def test_shared_weights_change_the_network() -> None:
    """By its hash and its parameters; the order of the features does not matter, nor who comes by the weights first."""

    def twice(units: list, *, each: list | None = None, edges: Any = ((1, 2),)) -> Any:
        output = {"pattern": {"edges": [list(row) for row in edges]}, "operator": "sum"}
        return cost(
            network_of({"units": units, "reads": INPUT, "output": {**output, "each": each} if each else output})
        )

    unit = [{"conv": 3, "out": 8}]
    shared = twice([["gap"], ["gmp"]], each=unit)
    assert shared.hash == twice([["gmp"], ["gap"]], each=unit).hash
    assert shared.hash != twice([["gap", *unit], ["gmp", *unit]]).hash
    assert twice([["gap", *unit], ["gmp", *unit]]).params == shared.params + 9 * 64
    assert twice([["gap"], ["gmp"]], each=["relu"]).hash == twice([["gap", "relu"], ["gmp", "relu"]]).hash
    assert twice([["gap"]], each=unit, edges=[[1]]).hash == twice([["gap", *unit]], edges=[[1]]).hash
    assert shared.macs == twice([["gap", *unit], ["gmp", *unit]]).macs


def test_features_that_cannot_share_weights() -> None:
    each = [{"conv": 1, "out": 4}]
    reads = {"pattern": "dense", "operator": "concat", "each": each}
    with pytest.raises(GenotypeError) as caught:
        expand(network_of({"nodes": 2, "unit": [{"conv": 3, "out": 6}], "reads": reads}))
    assert str(caught.value) == (
        "net[1].reads.each (node 2): all features share its weights, but feature 0 is 8x8x8 and feature 1 is 6x8x8"
    )
    with pytest.raises(GenotypeError, match=r"each\[1\]: 'each' cannot contain a 'join', as it has no shortcut"):
        expand(network_of({"nodes": 2, "unit": [], "reads": {"each": [*each, "join"]}}))
    with pytest.raises(GenotypeError, match=r"feature 0, 8x8x8, does not fit 8x4x4; add a 'match'"):
        expand(network_of({"units": [[{"maxpool": 2}, "join"]], "shortcut": TIMES_INPUT}))


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_stochastic_depth_is_torchvision_s(rate: float) -> None:
    """Draw by draw, with the same seed: `torchvision.ops.stochastic_depth` in mode row."""

    def reference(state: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        x = conv(state, "conv", x)
        for l in (0, 1):
            y = conv(state, f"aggregate.{l}.unit.conv", x)
            x = x + torchvision.ops.stochastic_depth(y, rate * l, "row", training)
        return head(state, x)

    unit = [{"conv": 3}, {"drop-path": f"{rate}*(l - 1)"}, "join"]
    genotype = network_of({"nodes": 2, "growth": 8, "unit": unit, "shortcut": {}})
    assert [op.word for op in expand(genotype).ops].count("drop-path") == 1  # a rate of 0 is nothing
    assert_computes(genotype, reference)


def test_stochastic_depth_drops_whole_images_at_its_rate() -> None:
    genotype = network_of({"drop-path": 0.25})
    network = build(expand(genotype), 0).train()
    kept = []
    network.linear = nn.Identity()
    for seed in range(40):
        torch.manual_seed(seed)
        out = network.get_parameter("conv.weight").new_ones(50, 3, 8, 8)
        logits = network(out).flatten(1)
        alive = logits.abs().sum(1) > 0
        torch.testing.assert_close(logits[alive], logits[alive][:1].expand_as(logits[alive]))
        kept.append(alive.float().mean())
    assert 0.72 < torch.stack(kept).mean() < 0.78
    alike = build(expand(network_of()), 0).eval()
    alike.linear = nn.Identity()
    torch.testing.assert_close(logits[alive][0], alike(out).flatten(1)[0] / 0.75)
