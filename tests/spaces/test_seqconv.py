"""The space `seqconv`: the paper's counts, and its shortcut that is added step by step ahead of normalisation."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from corpus.variants import variant
from torch import Tensor, nn
from torch.nn import functional as F

import nas_agg
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import open_space

CIFAR, IMAGENET = open_space("seqconv"), open_space("seqconv-imagenet")

# Parameters, and MACs in G.
COUNTS = {
    "seqresnet-r4-k8": (1_233_370, 0.282),
    "table5-row1": (1_233_370, 0.282),
    "table5-row2": (1_229_658, 0.282),
    "table5-row3": (1_254_106, 0.283),
    "table5-row4": (1_256_154, 0.228),
    "seqresnet-r10-k8": (7_575_514, 1.722),
    "seqresnet-b-r7-k16": (843_834, 0.204),
    "seqresnet-b-r22-k16": (6_072_474, 1.306),
    "seqresnet-b22": (11_859_656, 2.883),
    "seqresnet-b42": (25_642_696, 5.644),
    "seqresnext-24": (26_211_784, 4.544),
}
# Multiply-adds as the paper counts on ImageNet.
PAPER_FLOPS = {"seqresnet-b22": 2.730, "seqresnet-b42": 5.335, "seqresnext-24": 4.322}
# Table 3 and Table 5, in millions: 6.0 and Table 4's 11.8 are cut, not rounded.
PRINTED = {
    "seqresnet-r4-k8": 1.2,
    "table5-row1": 1.2,
    "table5-row2": 1.2,
    "table5-row3": 1.3,
    "table5-row4": 1.3,
    "seqresnet-r10-k8": 7.6,
    "seqresnet-b-r7-k16": 0.8,
    "seqresnet-b42": 25.6,
    "seqresnext-24": 26.2,
}

network = partial(variant, "seqconv")


def test_the_points_are_the_paper_s_networks() -> None:
    assert {*CIFAR.points, *IMAGENET.points} == {*COUNTS}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    counted = cost(network(name))
    assert (counted.params, round(counted.macs / 1e9, 3)) == COUNTS[name]


@pytest.mark.parametrize("name", PRINTED)
def test_counts_as_printed(name: str) -> None:
    assert round(COUNTS[name][0] / 1e6, 1) == PRINTED[name]


@pytest.mark.parametrize("name", PAPER_FLOPS)
def test_flops_as_the_paper_counts(name: str) -> None:
    """Multiply-adds and five operations for each value that leaves a BN, in units of 2**30."""
    graph = expand(network(name))
    normed = sum(c * h * w for op, (c, h, w) in zip(graph.ops, graph.shapes, strict=True) if op.word == "norm")
    assert round((cost(network(name)).macs + 5 * normed) / 2**30, 3) == PAPER_FLOPS[name]


@pytest.mark.parametrize(("name", "params"), [("seqresnet-r4-k8", 1_250_740), ("seqresnet-r10-k8", 7_618_804)])
def test_counts_for_100_classes(name: str, params: int) -> None:
    assert cost(network(name, 100)).params == params


# Settings (r, k, N) of SeqResNet-B that come near the paper's 0.8M and 6.0M, of which it prints none.
@pytest.mark.parametrize(
    ("r", "k", "blocks", "params"),
    [
        (4, 8, (4, 4, 4), 785_242),
        (5, 16, (2, 2, 2), 820_474),
        (4, 16, (3, 3, 3), 814_682),
        (20, 32, (1, 1, 1), 6_024_794),
        (12, 32, (3, 3, 3), 6_029_658),
        (15, 4, (3, 3, 3), 5_990_874),
        (19, 8, (1, 1, 2), 6_019_066),
        (14, 16, (1, 1, 4), 6_009_498),
        (18, 16, (1, 1, 2), 5_970_714),
    ],
)
def test_other_settings(r: int, k: int, blocks: tuple[int, int, int], params: int) -> None:
    depths = dict(zip(("blocks1", "blocks2", "blocks3"), blocks, strict=True))
    assert cost(network("seqresnet-b-r7-k16", r=r, k=k, **depths)).params == params


# ---- the shortcut


def small(**values: Any) -> Genotype:
    """Stages of 16, 32 and 48 channels in steps of 8, two blocks in the first, on 8x8 images."""
    return network("seqresnet-r4-k8", **{"r": 1, "blocks1": 2, "drop": 0, **values}).with_task(input=(3, 8, 8))


def placed(graph: Graph, word: str, *places: str) -> list[int]:
    """The operations of a kind whose paths hold one of some places, in their order."""
    return [i for i, op in enumerate(graph.ops) if op.word == word and any(place in graph.paths[i] for place in places)]


def channels_of(graph: Graph, tensor: int) -> tuple[int, int, int]:
    """A tensor, or where it is a slice what it was taken from: ``(tensor, first channel, channels)``."""
    op: Any = graph.ops[tensor]
    if op.word == "slice":
        return graph.inputs[tensor][0], op.first, op.channels
    return tensor, 0, graph.shapes[tensor][0]


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("step", ["plain", "bottleneck"])
def test_each_step_is_added_its_slice_of_the_raw_shortcut_ahead_of_bn(step: str, window: int) -> None:
    graph = expand(small(step=step, window=window))
    # What enters a stage, ahead of BN: the outputs of these convolutions.
    stages = {
        "lead.": ["block1.0.", "block1.1."],
        "down1.0.unit.conv": ["block2.0."],
        "down2.0.unit.conv": ["block3.0."],
    }
    for stage, (entering, places) in enumerate(stages.items(), 1):
        convs = [i for i in placed(graph, "conv", entering) if graph.ops[i].kernel == 3]
        stream = [(i, first, 8) for i in convs for first in range(0, graph.shapes[i][0], 8)]
        for place in places:
            adds = placed(graph, "add", place)
            assert len(adds) == len(stream) == 2 * stage
            for add, piece in zip(adds, stream, strict=True):
                shortcut, conv = graph.inputs[add]
                assert channels_of(graph, shortcut) == piece
                assert graph.ops[conv].word == "conv" and graph.ops[conv].kernel == 3 and graph.readers[conv] == [add]
                normed = [i for i in graph.readers[add] if graph.ops[i].word == "norm"]
                assert len(normed) == 1 and [graph.ops[i].word for i in graph.readers[normed[0]]] == ["act"]
                # All else that reads the sum is the shortcut of the next block.
                assert {graph.ops[i].word for i in graph.readers[add]} <= {"norm", "add"}
            stream = [(add, 0, 8) for add in adds]


# ---- numbers


def reference(net: nn.Module, image: Tensor, k: int, blocks: tuple[int, ...], window: bool, bottleneck: bool) -> Tensor:
    """The paper's network with r = 1, by its text alone; the weights are a module's, in the order of their use."""
    convs = iter([m for m in net.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)])

    def conv(x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = next(convs).weight
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)

    def active(x: Tensor) -> Tensor:
        bn = next(norms)
        return F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias))

    def seqconv(x: Tensor, made: int, sliding: bool, shortcut: Tensor | None = None) -> tuple[Tensor, Tensor]:
        view, raw, out = x, [], []
        for i in range(made // k):
            y = conv(active(conv(view))) if bottleneck else conv(view)
            if shortcut is not None:
                y = y + shortcut[:, i * k : (i + 1) * k]
            raw.append(y)
            out.append(active(y))
            view = torch.cat([view, out[-1]], 1)[:, k if sliding else 0 :]
        return torch.cat(raw, 1), torch.cat(out, 1)

    raw, x = seqconv(active(conv(image)), 16, False)
    for stage, depth in enumerate(blocks, 1):
        if stage > 1:
            x = torch.cat([x, seqconv(x, 16, window)[1]], 1)
            raw = conv(x, stride=2, groups=16 * stage // k)
            x = active(raw)
        for _ in range(depth):
            raw, x = seqconv(seqconv(x, 16 * stage, window)[1], 16 * stage, window, raw)
    x = active(conv(x)).mean((2, 3))
    assert next(convs, None) is None and next(norms, None) is None
    head = next(m for m in net.modules() if isinstance(m, nn.Linear))
    return F.linear(x, head.weight, head.bias)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("step", ["plain", "bottleneck"])
def test_the_network_computes_what_the_paper_s_text_says(step: str, window: int) -> None:
    torch.set_num_threads(1)
    genotype = small(step=step, window=window, k=4, blocks2=2, drop=0.1)
    net = nas_agg.compile(genotype, seed=0).double().eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in net.state_dict().items():
        if ".bn" in name and tensor.dtype == torch.float64:  # no two channels, and no two norms, alike
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(drawn + 0.5 if name.endswith(("weight", "var")) else drawn - 0.5)
    image = torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(net, image, 4, (2, 2, 1), window == 1, step == "bottleneck")
        torch.testing.assert_close(net(image), expected, rtol=1e-10, atol=0)
    assert expected.std(0).min() > 1e-3  # the images differ, so that the comparison says something


def test_whole_channels_of_a_view_are_dropped_and_none_of_the_first_layer() -> None:
    graph = expand(small(drop=0.1))
    assert not placed(graph, "dropout", "lead.")
    for i in placed(graph, "conv", ".seq", ".extend."):
        dropped = graph.ops[graph.inputs[i][0]]
        assert dropped.word == "dropout" and (dropped.rate, dropped.channels) == (0.1, True)
    last = placed(graph, "conv", "")[-1]
    assert graph.ops[last].kernel == 1 and graph.ops[graph.inputs[last][0]].word == "dropout"


def test_a_window_keeps_the_views_constant_and_none_lets_them_grow() -> None:
    views = {}
    for window in (1, 2):
        graph = expand(small(window=window))
        views[window] = [graph.ops[i].channels for i in placed(graph, "conv", "block3.0.unit.seq.")]
    assert views == {1: [48] * 6, 2: [48, 56, 64, 72, 80, 88]}


@pytest.mark.parametrize("step", CIFAR.domains["step"].values)
def test_the_largest_networks_stay_within_the_language_s_limits(step: str) -> None:
    values = {"r": 22, "third": 4, "k": 8, "blocks1": 3, "blocks2": 3, "blocks3": 3, "wires": "dense", "window": 2}
    largest = CIFAR.points["seqresnet-r4-k8"].values | values | {"step": step, "reach": "dense", "joined": "gated"}
    assert len(expand(CIFAR.genotype(largest))) < 50_000
