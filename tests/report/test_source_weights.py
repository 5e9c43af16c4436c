"""Weights by source against means computed directly from the state dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nas_agg
from nas_agg.expansion.expansion import expand
from nas_agg.report.source_weights import SourceWeights, source_weights

State = dict[str, Tensor]


def of(net: list[Any], image: tuple[int, int, int] = (3, 8, 8), **let: Any) -> tuple[list[SourceWeights], State]:
    """The tables of a network with 2 classes, and its weights."""
    genotype = nas_agg.load({"input": list(image), "classes": 2, "let": let, "net": net})
    state = nas_agg.compile(genotype, seed=0).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if ".weights." in name:  # scales, which all start alike
            tensor.uniform_(-1, 1, generator=generator)
    return source_weights(expand(genotype), state), state


def mean(weights: Tensor, first: int, channels: int) -> float:
    """The mean absolute weight on input channels of a layer."""
    return weights[:, first : first + channels].abs().double().mean().item()


def check(table: SourceWeights, cells: dict[tuple[str, str], float]) -> None:
    """A table has these cells, by source and reader, and no others."""
    result = {
        (source, reader): table.values[i, j]
        for i, source in enumerate(table.sources)
        for j, reader in enumerate(table.readers)
        if not np.isnan(table.values[i, j])
    }
    assert result == pytest.approx(cells)


HEAD: list[Any] = ["gap", {"linear": "classes"}]
DENSE = {"pattern": "dense", "operator": "concat"}


def test_a_dense_block() -> None:
    unit = ["bn", "relu", {"conv": 1, "out": 5}, "bn", "relu", {"conv": 3}]
    block = {"nodes": 3, "growth": 4, "reads": DENSE, "unit": unit}
    (table,), state = of([{"conv": 3, "out": 6}, {"like": "block"}, *HEAD], block=block)
    assert (table.aggregate, table.kind) == ("block", "filters")
    assert table.sources == ("in", "1", "2", "3")
    assert table.readers == ("1", "2", "3", "linear")
    ranges = {"in": (0, 6), "1": (6, 4), "2": (10, 4), "3": (14, 4)}
    cells = {
        (source, str(l)): mean(state[f"block.{l - 1}.unit.conv1.weight"], *ranges[source])
        for l in (1, 2, 3)
        for source in list(ranges)[:l]
    }
    cells |= {(source, "linear"): mean(state["linear.weight"], *ranges[source]) for source in ranges}
    check(table, cells)


def test_the_features_of_a_concat_that_enters_are_rows_of_their_own() -> None:
    """Two layers of SeqConv with a window: what a group reads falls on the groups of both layers."""
    observed = [{"slice": 8, "from": "c - 8"}, {"conv": 3}, "relu"]
    first = {"nodes": 2, "growth": 4, "reads": {"pattern": "input"}, "unit": [{"conv": 3}], "output": "all"}
    second = {"nodes": 2, "growth": 4, "reads": DENSE, "unit": observed, "output": "all"}
    net = [{"conv": 1, "out": 6}, {"like": "first"}, {"like": "second"}, {"conv": 1, "out": 3}, *HEAD]
    (table,), state = of(net, first=first, second=second, all={"pattern": "nodes", "operator": "concat"})
    assert table.sources == ("in 1", "in 2", "1", "2")
    one, two = state["second.0.unit.conv.weight"], state["second.1.unit.conv.weight"]
    out = state["conv2.weight"]
    check(table, {
        ("in 1", "1"): mean(one, 0, 4), ("in 2", "1"): mean(one, 4, 4),
        ("in 2", "2"): mean(two, 0, 4), ("1", "2"): mean(two, 4, 4),
        ("1", "conv2"): mean(out, 0, 4), ("2", "conv2"): mean(out, 4, 4),
    })  # fmt: skip


def test_a_step_called_output_is_no_gather() -> None:
    block = {
        "nodes": 3,
        "growth": 4,
        "reads": DENSE,
        "unit": ["output", {"conv": 3}],
        "output": {"pattern": "previous"},
    }
    net = [{"conv": 1, "out": 6}, {"like": "block"}, *HEAD]
    (table,), state = of(net, block=block, output=[{"slice": 6, "from": "c - 6"}])
    weights = [state[f"block.{k}.unit.conv.weight"] for k in range(3)]
    check(table, {
        ("in", "1"): mean(weights[0], 0, 6),
        ("in", "2"): mean(weights[1], 0, 2), ("1", "2"): mean(weights[1], 2, 4),
        ("1", "3"): mean(weights[2], 0, 2), ("2", "3"): mean(weights[2], 2, 4),
    })  # fmt: skip


def test_groups_and_a_shuffle() -> None:
    """Channels of two branches are shuffled, so that each of two groups of filters reads half of each branch."""
    branches = {"units": [[{"conv": 1}], [{"conv": 1}]], "growth": 4, "reads": {"pattern": "input"}, "output": "all"}
    net = [{"like": "branches"}, {"shuffle": 2}, {"conv": 1, "out": 6, "groups": 2}, *HEAD]
    (table,), state = of(net, branches=branches, all={"pattern": "nodes", "operator": "concat"})
    weights = state["conv.weight"]  # (6, 4, 1, 1): input channels 1a 2a 1b 2b, then 1c 2c 1d 2d
    cells = {(str(k + 1), "conv"): weights[:, k::2].abs().mean().item() for k in (0, 1)}
    check(table, cells | {("in", "1"): mean(state["branches.0.unit.conv.weight"], 0, 3),
                          ("in", "2"): mean(state["branches.1.unit.conv.weight"], 0, 3)})  # fmt: skip


def test_a_linear_layer_reads_several_pixels_of_a_channel_and_zeros_are_no_source() -> None:
    block = {"nodes": 1, "growth": 2, "reads": DENSE, "unit": [{"conv": 3}]}
    net = [{"conv": 1, "out": 3}, {"like": "block"}, {"pad": 7}, {"gap": 2}, {"linear": "classes"}]
    (table,), state = of(net, block=block)
    weights = state["linear.weight"].reshape(2, 7, 4)
    check(table, {
        ("in", "1"): mean(state["block.0.unit.conv.weight"], 0, 3),
        ("in", "linear"): mean(weights, 0, 3), ("1", "linear"): mean(weights, 3, 2),
    })  # fmt: skip


def test_a_gate_reads_nothing() -> None:
    block = {"nodes": 2, "growth": 4, "reads": DENSE, "unit": [{"se": 2}, {"conv": 3}]}
    (table,), state = of([{"conv": 1, "out": 6}, {"like": "block"}, *HEAD], block=block)
    weights = state["block.1.unit.conv.weight"]
    assert table.values[:2, 1] == pytest.approx([mean(weights, 0, 6), mean(weights, 6, 4)])


def test_branches_of_a_reader_are_averaged_over_all_weights() -> None:
    parts = {"units": [[{"conv": 1}], [{"conv": 3}]], "growth": 2, "reads": {"pattern": "input"}, "output": "all"}
    block = {"nodes": 2, "growth": 4, "reads": DENSE, "unit": ["parts"]}
    net = [{"conv": 1, "out": 6}, {"like": "block"}, *HEAD]
    tables, state = of(net, block=block, parts=parts, all={"pattern": "nodes", "operator": "concat"})
    table = next(table for table in tables if table.aggregate == "block")
    one, three = (state[f"block.1.unit.parts.{k}.unit.conv.weight"] for k in (0, 1))
    expected = (one[:, :6].abs().sum() + three[:, :6].abs().sum()) / (one[:, :6].numel() + three[:, :6].numel())
    assert table.values[table.sources.index("in"), table.readers.index("2")] == pytest.approx(expected.item())


def test_nodes_that_hold_aggregates_read_as_nodes() -> None:
    genotype = nas_agg.load("aggregation/densenet")
    network = nas_agg.compile(genotype, seed=0)
    tables = source_weights(expand(genotype), network.state_dict())
    assert [table.aggregate for table in tables] == ["stage1", "stage2", "stage3"]
    assert tables[0].readers == (*map(str, range(1, 9)), "down1.conv")
    for table in tables:
        assert np.array_equal(~np.isnan(table.values), np.triu(np.ones((9, 9), bool)))


def test_scales_of_a_weighted_shortcut() -> None:
    """DSNet: each source's scale at each reader, a projection counted as the feature that it projects."""
    block = {"nodes": 3, "growth": [4, 4, 6], "unit": [{"conv": 3}, "join"]}
    shortcut = {"pattern": "dense", "operator": "weighted", "match": [{"conv": 1}]}
    (table,), state = of([{"conv": 3, "out": 4}, {"like": "block"}, *HEAD], block={**block, "shortcut": shortcut})
    assert (table.aggregate, table.kind) == ("block", "scales")
    cells = {}
    for l in (1, 2, 3):
        for k, source in enumerate(["in", "1", "2"][:l]):
            cells[source, str(l)] = state[f"block.{l - 1}.shortcut.weights.{k}"].abs().mean().item()
    assert len(set(cells.values())) == 6
    check(table, cells)


def test_scales_of_reads_and_output() -> None:
    block = {"nodes": 2, "growth": 4, "reads": {"pattern": "dense", "operator": "weighted"}, "unit": [{"conv": 3}]}
    (table,), state = of([{"conv": 3, "out": 4}, {"like": "block"}, *HEAD], block=block)
    check(table, {
        ("in", "2"): state["block.1.reads.weights.0"].abs().mean().item(),
        ("in", "output"): state["block.output.weights.0"].abs().mean().item(),
        ("1", "output"): state["block.output.weights.1"].abs().mean().item(),
    })  # fmt: skip


@pytest.mark.parametrize("point", ["aggregation/resnet", "dsnet/resnet50-dense", "microdense/fig4-n0"])
def test_where_each_layer_reads_one_tensor_there_is_nothing_to_compare(point: str) -> None:
    genotype = nas_agg.load(point)
    assert source_weights(expand(genotype), nas_agg.compile(genotype, seed=0).state_dict()) == []


def test_a_reader_has_cells_for_the_features_in_its_input() -> None:
    genotype = nas_agg.load("sparsenet/40-k24").with_task((3, 8, 8), 10)
    network = nas_agg.compile(genotype, seed=0).eval()
    (block, *_) = source_weights(expand(genotype), network.state_dict())
    inputs: dict[int, Tensor] = {}
    for l in range(1, 13):
        layer = network.get_submodule(f"block1.{l - 1}.unit.bn")
        layer.register_forward_hook(lambda _, args, out, l=l: inputs.__setitem__(l, args[0]))  # type: ignore[misc]
    outputs = {}
    for l in range(1, 13):
        layer = network.get_submodule(f"block1.{l - 1}.unit.conv")
        layer.register_forward_hook(lambda _, args, out, l=l: outputs.__setitem__(l, out))  # type: ignore[misc]
    network(torch.randn(2, 3, 8, 8))
    for l in range(1, 13):
        reads = {str(k) for k in range(1, l) if _holds(inputs[l], outputs[k])}
        column = block.values[:, block.readers.index(str(l))]
        assert {s for s, value in zip(block.sources, column, strict=True) if not np.isnan(value)} - {"in"} == reads


def _holds(concat: Tensor, part: Tensor) -> bool:
    """Whether a tensor stands among the channels of another."""
    width = part.shape[1]
    return any(torch.equal(concat[:, k : k + width], part) for k in range(concat.shape[1] - width + 1))
