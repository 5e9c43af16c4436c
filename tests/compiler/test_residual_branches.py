"""Zero-initialised residual branches, and the other initialisation options of recipes."""

from __future__ import annotations

import math
import re

import pytest
import torch
from corpus import NETWORKS
from corpus.formulas import graph_of

from nas_agg.compiler import build, compile
from nas_agg.compiler.residual_branches import branch_ends
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype

torch.set_num_threads(1)
GENOTYPES = {network["name"]: network["genotype"] for network in NETWORKS}


def genotype(name):
    return Genotype.from_dict(GENOTYPES[name])


@pytest.mark.parametrize(
    "name, count, pattern",
    [
        ("ResNet-50", 16, r"stage\d\.\d\.unit\.bn3"),
        ("Micro-Dense Net 30a64", 30, r"aggregate\.\d+\.unit\.bn2"),
        ("PyramidNet-110 a48", 54, r"aggregate\.\d+\.unit\.bn3"),
        ("SeqResNet r=4 k=8", 8 + 16 + 24, r"block\d\.0\.unit\.seq_join\.\d+\.unit\.conv\.conv"),
        ("DS2Net-50", 16 + 13, r"(first|rest)\d\.\d\.unit\.(bn2|aggregate\.0\.unit\.bn)"),  # 13 of stride 1
        ("EfficientNet-B0", 9, r"stage\d\.[1-3]\.unit\.bn3"),  # first blocks have no shortcut
        ("DenseNet-121", 0, ""),
    ],
)
def test_ends_of_the_papers_branches(name, count, pattern):
    ends = branch_ends(expand(genotype(name)))
    assert len(ends) == count
    assert all(re.fullmatch(pattern, path) for path in ends)


def ends(unit, **fields):
    return branch_ends(graph_of({"conv": 3, "out": 4}, {"unit": unit, "growth": 4, "shortcut": {}, **fields}))


PRODUCT = {"operator": "product"}
PARALLEL = {"units": [[{"conv": 1}], ["relu", {"conv": 3}, "bn"]], "reads": {"pattern": "input"}}


@pytest.mark.parametrize(
    "unit, wanted",
    [
        ([{"conv": 3}, "bn", "join"], ["bn"]),
        (["bn", "relu", {"conv": 3}, {"dropout": 0.1}, "join", "relu"], ["conv"]),
        ([{"conv": 3}, "scale", "relu", "join"], ["scale"]),
        ([{"conv": 3}, {"se": 2}, "join"], ["conv"]),
        ([{"conv": 3}, {"unit": ["channel-mean", "sigmoid", "join"], "shortcut": PRODUCT}, "join"], ["conv"]),
        ([{"conv": 3}, {"unit": [{"conv": 3}, "join"], "shortcut": PRODUCT}, "join"], []),  # either factor would do
        ([{"conv": 3}, {"times": 0.5}, {"drop-path": 0.2}, "join"], ["conv"]),
        ([{"conv": 3}, "sigmoid", "join"], []),
        (["relu", "join"], []),
        ([{"conv": 3, "out": 8}, {"slice": 4}, "join"], []),
        ([PARALLEL | {"output": {"pattern": "nodes", "operator": "sum"}}, "join"], ["0.unit.conv", "1.unit.bn"]),
        ([PARALLEL | {"output": {"pattern": "nodes", "operator": "concat"}, "growth": 2}, "join"],
         ["0.unit.conv", "1.unit.bn"]),
    ],
)  # fmt: skip
def test_the_last_layer_with_weights_is_the_end(unit, wanted):
    result = [path.removeprefix("aggregate.0.unit.").removeprefix("aggregate.") for path in ends(unit)]
    assert sorted(result) == wanted


def test_sums_that_are_read_have_no_branches():
    assert ends([{"conv": 3}], shortcut=None, nodes=3, reads={"pattern": "dense", "operator": "sum"}) == []


@pytest.mark.parametrize("pattern", ["previous", "dense"])
def test_a_dealt_shortcut_has_a_branch_at_each_inner_node(pattern):
    inner = {"nodes": 2, "growth": 2, "unit": [{"conv": 3}, "join"]}
    inner["output"] = {"pattern": "nodes", "operator": "concat"}
    result = ends([{"conv": 3}, inner], nodes=2, shortcut={"pattern": pattern})
    assert result == [f"aggregate.{l}.unit.aggregate.{node}.unit.conv" for l in (0, 1) for node in (0, 1)]


@pytest.mark.parametrize("name", ["SeqResNet r=4 k=8", "ResNet-50"])
def test_with_its_ends_at_zero_a_sum_is_its_shortcut(name):
    """What a shortcut's sum adds is watched as the network runs."""
    graph = expand(genotype(name).with_task(input=(3, 32, 32)))
    network = build(graph, 0, zeros=branch_ends(graph)).eval()
    lines, watched = network.source.splitlines(), 0
    for i, op in enumerate(graph.ops):
        if op.word == "add":
            at = next(n for n, line in enumerate(lines) if line.startswith(f"    x{i} = "))
            lines[at] = lines[at].replace(f"x{i} =", f"seen(x{graph.inputs[i][-1]}); x{i} =", 1)
            watched += 1
    observed = []
    scope = {"torch": torch, "F": torch.nn.functional, "seen": lambda x: observed.append(x.abs().max().item())}
    exec("\n".join(lines), scope)
    with torch.no_grad():
        scope["forward"](network, torch.randn(2, 3, 32, 32))
    assert len(observed) == watched > 0 and not any(observed)


def test_nothing_else_changes():
    text = genotype("SeqResNet r=4 k=8")
    plain, zeroed = compile(text, 3).state_dict(), compile(text, 3, zero_branches=True).state_dict()
    changed = {name.removesuffix(".weight") for name in plain if not torch.equal(plain[name], zeroed[name])}
    assert changed == set(branch_ends(expand(text)))
    assert all(not zeroed[f"{path}.weight"].any() for path in changed)


@pytest.mark.parametrize("conv_init", ["fan_in", "fan_out", "fan_out_uniform"])
def test_convolutions_start_with_the_variance_of_their_fan(conv_init):
    net = [{"conv": 3, "out": 64, "groups": 4}, "relu", {"conv": 3, "out": 256}, "relu", "gap", {"linear": 30}]
    text = Genotype.from_dict({"input": [16, 8, 8], "classes": 30, "net": net})
    started = compile(text, 0, conv_init=conv_init)
    for name, fan_in, fan_out in (("conv1", 4 * 9, 64 * 9), ("conv2", 64 * 9, 256 * 9)):
        weight = started.get_parameter(f"{name}.weight").detach()
        deviation = math.sqrt(2 / (fan_in if conv_init == "fan_in" else fan_out))
        assert weight.std().item() == pytest.approx(deviation, rel=0.05)
        largest = weight.abs().max().item() / deviation
        assert 1.7 < largest <= math.sqrt(3) if conv_init == "fan_out_uniform" else largest > 2.5
    if conv_init == "fan_in":
        plain = compile(text, 0).state_dict()
        assert all(torch.equal(tensor, plain[name]) for name, tensor in started.state_dict().items())


def test_glorot_is_uniform_and_of_linear_layers_alone():
    text = Genotype.from_dict(
        {"input": [16, 8, 8], "classes": 30, "net": [{"conv": 3, "out": 50}, "relu", {"linear": 30}]}
    )
    he, glorot = compile(text, 0), compile(text, 0, classifier_init="glorot")
    assert torch.equal(he.get_parameter("conv.weight"), glorot.get_parameter("conv.weight"))
    weight, bound = glorot.get_parameter("linear.weight").detach(), math.sqrt(6 / (50 * 64 + 30))
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not glorot.get_parameter("linear.bias").any()
