"""The example genotypes: published counts, outputs of other implementations, and NAS-Bench-201."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus.formulas import formula
from torch import nn
from torchvision import models

from nas_agg.common.files import read_document
from nas_agg.compiler import build
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "examples" / "genotypes").glob("*.yaml"))}

# Exact counts, then the parameters in millions as they are printed.
COUNTS = {
    "cspresnext50": (20_569_896, 3_074_424_832, "20.57"),  # timm's table of results
    "dla60": (22_036_632, 4_235_878_400, "22.04"),  # timm
    "ghostnet": (5_182_508, 141_150_512, "5.18"),  # timm
    "hardnet68": (17_565_348, 4_246_114_304, "17.6"),  # the authors' code
    "nasbench201": (1_288_506, 184_730_240, "1.288506"),  # by arithmetic, below
    "regnety400mf": (4_344_144, 401_842_848, "4.344144"),  # torchvision's num_params
    "shufflenetv2": (2_278_604, 144_907_992, "2.278604"),  # torchvision
    "vovnet39": (24_568_936, 7_074_193_408, "24.57"),  # timm
}


def example(name: str, side: int | None = None) -> Genotype:
    """An example, for images of another side if one is given."""
    genotype = Genotype.from_dict(read_document(FILES[name]))
    return genotype if side is None else genotype.with_task(input=(3, side, side))


def in_float64(graph: Graph) -> nn.Module:
    return build(graph).double().eval()


def randomised(model: nn.Module) -> nn.Module:
    """A model with distinct norms, in float64 and evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.double().eval()


def assert_equal_outputs(genotype: Genotype, theirs: nn.Module, order: list[str] | None = None) -> None:
    """The same outputs with the same weights, whose names in theirs are given where their order is not ours."""
    graph = expand(genotype)
    ours = in_float64(graph)
    given, wanted = theirs.state_dict(), ours.state_dict()
    keys = order or list(given)
    assert [given[key].shape for key in keys] == [tensor.shape for tensor in wanted.values()]
    ours.load_state_dict({name: given[key] for name, key in zip(wanted, keys, strict=True)})
    x = torch.randn(2, *graph.shapes[0], dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- what is published


def test_every_example_is_here() -> None:
    assert set(FILES) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    params, macs, printed = COUNTS[name]
    cost = Cost(expand(example(name)))
    assert (cost.params, cost.macs) == (params, macs)
    assert f"{params / 1e6:.{len(printed.partition('.')[2])}f}" == printed
    head = FILES[name].read_text(encoding="utf-8").partition("\n")[0]
    message = re.search(r"([\d,]+) parameters, ([\d.]+) ([GM])MACs\.", head)
    assert message and int(message[1].replace(",", "")) == params
    unit = 1e9 if message[3] == "G" else 1e6
    assert f"{macs / unit:.{len(message[2].partition('.')[2])}f}" == message[2]


def all_operations(graph: Graph) -> int:
    """MACs, and what counters of operations add to them: norms by two, the values pooled globally, and biases."""
    count = Cost(graph).macs
    for op, shape, inputs in zip(graph.ops, graph.shapes, graph.inputs, strict=True):
        if op.word == "norm":
            count += 2 * math.prod(shape)
        elif op.word == "gap":
            count += math.prod(graph.shapes[inputs[0]]) + shape[0]
        elif op.word == "linear":
            count += shape[0]
    return count


def test_published_macs() -> None:
    macs = {name: Cost(expand(example(name))).macs for name in COUNTS}
    assert round(macs["vovnet39"] / 1e9, 1) == 7.1  # timm
    assert round(Cost(expand(example("cspresnext50", 256))).macs / 1e9, 1) == 4.0  # timm, on 256x256 images
    assert round(macs["ghostnet"] / 1e6) == 141  # the paper: 141M
    assert round(macs["regnety400mf"] / 1e9, 3) == 0.402  # torchvision
    assert round(macs["shufflenetv2"] / 1e9, 3) == 0.145  # torchvision
    # These agree once norms are counted among the operations.
    assert all_operations(expand(example("dla60"))) == 4_256_251_880  # timm's documentation
    assert round(all_operations(expand(example("hardnet68"))) / 1e9, 1) == 4.3  # the paper and the authors' code


@pytest.mark.parametrize("name", COUNTS)
def test_runs(name: str) -> None:
    graph = expand(example(name, 32))
    network = build(graph, seed=0)
    assert not graph.notes
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name][0]
    output = network(torch.randn(2, 3, 32, 32))
    assert output.shape == (2, graph.shapes[graph.output][0]) and output.isfinite().all()


# ---------------------------------------------------------------------- equal to torchvision's


def test_shufflenet_is_torchvision_s() -> None:
    torch.manual_seed(0)
    assert_equal_outputs(example("shufflenetv2", 64), randomised(models.shufflenet_v2_x1_0(weights=None)))


def test_regnet_is_torchvision_s() -> None:
    torch.manual_seed(0)
    theirs = randomised(models.regnet_y_400mf(weights=None))
    parts = {key: ".".join(key.split(".")[:3]) for key in theirs.state_dict()}  # trunk_output.block1.block1-0, ...
    first = list(dict.fromkeys(parts.values()))
    # Theirs has a block's projection first, ours has it behind the block.
    order = sorted(parts, key=lambda key: (first.index(parts[key]), ".proj." in key))
    assert_equal_outputs(example("regnety400mf", 64), theirs, order)


# ---------------------------------------------------------------------- the wires


@pytest.mark.parametrize(
    ("name", "block", "channels", "wanted"),
    [
        (
            "cspresnext50",
            {"like": "stage", "growth": 64, "let": {"depth": 1}},
            64,
            "leaky(bn(f([bn(a(x)){0:32}, leaky(bn(e(leaky("
            "(bn(a){32:64} + bn(d(leaky(bn(c(leaky(bn(b(bn(a){32:64})))))))))))))])))",
        ),
        (
            "vovnet39",  # the chain in each of two blocks, and the second's squeeze-and-excitation and identity
            {"like": "double", "growth": 8, "let": {"k": 4}},
            8,
            "(relu(bn(f([x, relu(bn(a(x))), relu(bn(b(relu(bn(a))))), relu(bn(c(relu(bn(b))))), "
            "relu(bn(d(relu(bn(c))))), relu(bn(e(relu(bn(d)))))]))) + "
            "(relu(bn(l([relu(bn(f)), relu(bn(g(relu(bn(f))))), relu(bn(h(relu(bn(g))))), relu(bn(i(relu(bn(h))))), "
            "relu(bn(j(relu(bn(i))))), relu(bn(k(relu(bn(j)))))]))) * hardsigmoid(m(gap(relu(bn(l)))))))",
        ),
        (
            "ghostnet",
            {"like": "block", "growth": 8, "let": {"exp": 16, "k": 3}},
            8,
            "(x + [bn(c([relu(bn(a(x))), relu(bn(b(relu(bn(a)))))])), bn(d(bn(c)))])",
        ),
        (
            "ghostnet",
            {"like": "down_se", "growth": 8, "let": {"exp": 16, "k": 3}},
            4,
            "(bn(i(bn(h(x)))) + [bn(f((bn(c([relu(bn(a(x))), relu(bn(b(relu(bn(a)))))])) * "
            "hardsigmoid(e(relu(d(gap(bn(c))))))))), bn(g(bn(f)))])",
        ),
        (
            "dla60",
            {"like": "tree1", "growth": 8},
            4,
            "relu(bn(h([relu((bn(d(maxpool(x))) + bn(c(relu(bn(b(relu(bn(a(x)))))))))), "
            "relu((relu((bn(d) + bn(c))) + bn(g(relu(bn(f(relu(bn(e(relu((bn(d) + bn(c)))))))))))))])))",
        ),
    ],
)
def test_blocks(name: str, block: dict[str, Any], channels: int, wanted: str) -> None:
    assert formula(block, image=(channels, 8, 8), let=example(name).to_dict()["let"]) == wanted


def powers_dividing(l: int) -> list[int]:
    return [2**i for i in range(l.bit_length()) if l % 2**i == 0]


@pytest.mark.parametrize("layers", [4, 8, 16])
def test_hardnet_reads_and_widths_follow_the_powers_of_two(layers: int) -> None:
    block = example("hardnet68").to_dict()["let"][f"block{layers}"]
    reads = [sorted(l - power for power in powers_dividing(l)) for l in range(1, layers + 1)]
    assert block["reads"]["pattern"] == {"edges": reads}
    assert block["output"]["pattern"] == {"edges": [sorted({*range(1, layers, 2), layers})]}


def test_hardnet_widths_grow_with_the_number_of_sources() -> None:
    graph = expand(example("hardnet68"))
    widths = [shape[0] for op, shape in zip(graph.ops, graph.shapes, strict=True) if op.word == "conv"][2:]
    wanted = []
    for layers, k, out in [(8, 14, 128), (16, 16, 256), (16, 20, 320), (16, 40, 640), (4, 160, 1024)]:
        grown = [k * 1.7 ** (len(powers_dividing(l)) - 1) for l in range(1, layers + 1)]
        wanted += [int(int(width + 1) / 2) * 2 for width in grown] + [out]
    assert widths == wanted


def tree(levels: int, x: int, children: list[int], rows: list[list[int]]) -> int:
    """Hierarchical aggregation as the paper defines it: what each node reads is appended; the root is given back."""
    if levels == 1:
        rows += [[x], [len(rows) + 1], sorted([*children, len(rows) + 1, len(rows) + 2])]
        return len(rows)
    left = tree(levels - 1, x, [], rows)
    return tree(levels - 1, left, [*children, left], rows)


@pytest.mark.parametrize(("name", "levels", "children"), [("tree1", 1, []), ("tree1_input", 1, [0]), ("tree2", 2, [0])])
def test_dla_trees(name: str, levels: int, children: list[int]) -> None:
    rows: list[list[int]] = []
    tree(levels, 0, children, rows)
    assert example("dla60").to_dict()["let"][name]["reads"]["pattern"] == {"edges": rows}


def test_dla_tree_of_three_levels() -> None:
    rows: list[list[int]] = []
    tree(3, 0, [0], rows)
    let = example("dla60").to_dict()["let"]
    assert let["tree3"]["reads"]["pattern"] == {"edges": rows}
    leaves = [unit == "leaf" for unit in let["tree3"]["units"]]
    assert let["tree3"]["shortcut"]["pattern"] == {
        "edges": [row if leaf else [] for row, leaf in zip(rows, leaves, strict=True)]
    }


# ---------------------------------------------------------------------- NAS-Bench-201

EDGES = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]


def cell_of(operations: list[str]) -> Genotype:
    """The example with other operations on the six edges."""
    text = example("nasbench201").to_dict()
    text["let"]["cell"]["units"] = operations
    return Genotype.from_dict(text)


@pytest.mark.parametrize(
    ("operations", "params", "flops"),  # in millions, as the benchmark's API prints them for CIFAR-10
    [
        (["nor_conv_3x3"] * 6, 1.531546, 220.11969),  # its largest
        (["skip_connect"] * 6, 0.073306, 7.78305),  # its smallest
        (["skip_connect"] * 3 + ["nor_conv_3x3"] * 3, 0.802426, 113.95137),  # any with three convolutions
    ],
)
def test_nas_bench_201_counts(operations: list[str], params: float, flops: float) -> None:
    cost = Cost(expand(cell_of(operations)))
    assert cost.params == round(params * 1e6)
    assert cost.macs + 10 == round(flops * 1e6)  # it counts the classifier's bias


@pytest.mark.parametrize("seed", range(5))
def test_nas_bench_201_counts_by_arithmetic(seed: int) -> None:
    choices = torch.randint(3, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
    kernels = [(0, 1, 3)[choice] for choice in choices]
    cost = Cost(expand(cell_of([f"nor_conv_{k}x{k}" if k else "skip_connect" for k in kernels])))
    weights = {16: 432, 32: 13_824 + 512, 64: 55_296 + 2_048}  # by width: the stem, and the two residual blocks
    norms = 2 * (16 + 2 * 32 + 2 * 64 + 64)
    for width in weights:
        weights[width] += 5 * sum((k * width) ** 2 for k in kernels)
        norms += 5 * 2 * width * sum(k > 0 for k in kernels)
    assert cost.params == sum(weights.values()) + norms + 64 * 10 + 10
    assert cost.macs == sum(count * (512 // width) ** 2 for width, count in weights.items()) + 64 * 10


def test_nas_bench_201_wires() -> None:
    cell: dict[str, Any] = example("nasbench201").to_dict()["let"]["cell"]
    conv = [{"conv": 1, "out": 4}]
    assert formula({**cell, "units": [conv] * 6}) == "(d(x) + e(a(x)) + f((b(x) + c(a))))"


class Cell(nn.Module):
    """A cell as the benchmark says it: nodes are sums over edges, an edge has an operation."""

    def __init__(self, message: str, width: int):
        super().__init__()
        self.words = re.findall(r"(\w+)~(\d)", message)
        self.edges = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            if name == "nor_conv_3x3"
            else nn.Identity()
            for name, _ in self.words
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x, torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)]
        for edge, (source, target) in zip(self.edges, EDGES, strict=True):
            nodes[target] = nodes[target] + edge(nodes[source])
        return nodes[3]


class Reduction(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.side = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, out, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x) + self.side(x)


def test_nas_bench_201_network_matches_its_string() -> None:
    (message,) = re.findall(r"^#\s+(\|.*\|)$", FILES["nasbench201"].read_text(encoding="utf-8"), re.M)
    assert [int(source) for source in re.findall(r"~(\d)", message)] == [source for source, _ in EDGES]
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    for width, wider in pairwise((16, 32, 64, None)):
        theirs.extend([Cell(message, width) for _ in range(5)])
        if wider:
            theirs.append(Reduction(width, wider))
    theirs.extend([nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)])
    assert_equal_outputs(example("nasbench201"), randomised(theirs))
