"""The space `dsnet`: the paper's networks, its readings, and that each source is normalised once."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from corpus import NETWORKS
from corpus.variants import variant
from torch.nn import functional as F

from nas_agg.compiler import compile
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import open_space

SPACE = open_space("dsnet")
network = partial(variant, "dsnet")
PLAIN = {"wires": "previous", "norm": "none", "weight": False, "within": "transform"}
SIX = {"ratio": 1.5, "groups": 6}
DEPTHS = {26: (2, 2, 2, 2), 38: (3, 3, 3, 3), 50: (3, 4, 6, 3), 77: (3, 4, 15, 3), 101: (3, 4, 23, 3)}

# Other readings of what happens at a stage's first block.
INNER = {"inner_fit": [{"avgpool": "s"}]}  # A': inner shortcuts at stride 2 too
EDGE = {"pattern": "wires", "operator": "weighted", "norm": "norm", "weight": "weight"}
B = {"b": [{"like": "first", "nodes": "blocks", "stride": "s", "shortcut": EDGE | {"match": "projection"}}]}


def reading_c(*blocks: int) -> dict[str, Any]:
    """B, but what the projection makes joins the first block as it is: T_1 is the projection, T_3 is Y_1."""
    stages = []
    for k, n in enumerate(blocks):
        late = range(4, n + 3)
        stages.append({
            "units": [["projection"], ["block"], ["act"], *[["block", "join", "act"] for _ in late]],
            "let": {"opens": [1, 1, 1, *[0 for _ in late]]},
            "growth": f"width*{2**k}",
            "stride": [1 + (k > 0)] * 2 + [1] * n,
            "reads": {"pattern": {"edges": [[0], [0], [1, 2], *[[l - 1] for l in late]]}, "operator": "sum"},
            "shortcut": EDGE | {"pattern": {"edges": [[], [], [], *[[1, *range(3, l)] for l in late]]}},
        })  # fmt: skip
    return {"stage": stages}


def pairs(blocks: tuple[int, ...], width: int) -> int:
    """Weights of the dense shortcuts: B*(B - 1)/2 pairs a stage."""
    return sum(b * (b - 1) // 2 * width * 2**k for k, b in enumerate(blocks))


COUNTS: list[tuple[str, dict[str, Any], int | None, int, float]] = [
    ("dsnet50", {}, None, 25_582_376, 4.089),
    ("ds2net50", {}, None, 25_585_256, 4.089),
    ("ds2res2net50", {}, None, 25_699_120 + 25_344 + 4_680, 4.255),
    ("dsnet50-0.25x", {}, None, 1_530_356 + pairs(DEPTHS[50], 64), 0.0815),
    ("resnet50-dense", {}, None, 1_530_356, 0.0815),
    ("dsnet50-0.25x-unweighted", {}, None, 1_530_356, 0.0815),
    ("dswrn-28-10", {}, 10, 36_485_914, 5.243),
    ("dswrn-28-10", {}, 100, 36_543_604, 5.243),
    ("dsnext-29-8x64d", {}, 10, 34_426_698 + 5_376, 5.387),
    ("dsnext-29-8x64d", {}, 100, 34_518_948 + 5_376, 5.387),
    ("dsnext-29-8x64d", SIX, 10, 25_994_570 + 5_376, 4.062),
    ("dsnext-29-8x64d", SIX, 100, 26_086_820 + 5_376, 4.062),
    # other readings
    ("ds2net50", INNER, None, 25_586_152, 4.089),
    ("ds2res2net50", INNER, None, 25_699_120 + 25_344 + 6_136, 4.255),
    ("dsnet50", B, None, 25_597_480, 4.089),
    ("ds2net50", B, None, 25_600_360, 4.089),
    ("ds2net50", B | INNER, None, 25_601_256, 4.089),
    ("dsnet50", reading_c(3, 4, 6, 3), None, 25_593_640, 4.089),
    ("ds2net50", reading_c(3, 4, 6, 3), None, 25_596_520, 4.089),
    ("ds2net50", reading_c(3, 4, 6, 3) | INNER, None, 25_597_416, 4.089),
    ("dsnet50-0.25x", {"stem": "large"}, None, 1_536_692 + 1_920, 0.008),
    ("dsnet50-1x", {"stem": "large"}, None, 23_730_596 + 7_680, 0.127),
    # Table 4, 0.25(WRN)
    ("dswrn50-0.25x", {}, None, 4_241_076 + pairs(DEPTHS[50], 64), 0.231),
    ("ds2wrn50-0.25x", {}, None, 4_247_412 + 1_440, 0.231),
    # the plain networks of the same layout
    ("resnet26-0.25x", {}, None, 928_564, 0.0458),
    ("resnet38-0.25x", {}, None, 1_301_364, 0.0637),
    ("resnet50-0.25x", {}, None, 1_530_356, 0.0815),
    ("resnet77-0.25x", {}, None, 2_163_956, 0.122),
    ("resnet101-0.25x", {}, None, 2_727_156, 0.157),
    ("resnet50-0.5x", {}, None, 5_991_300, 0.325),
    ("resnet50-1x", {}, None, 23_705_252, 1.298),
    ("wrn50-0.25x", {}, None, 4_241_076, 0.231),
    ("resnext50-0.25x", {}, None, 1_500_180, 0.0844),
    ("resnext50-0.5x", {}, None, 5_863_044, 0.337),
    ("resnext50-1x", {}, None, 23_177_124, 1.344),
    ("dsnet50", PLAIN, None, 25_557_032, 4.089),
    ("dsnet50", PLAIN | {"blocks3": 23}, None, 44_549_160, 7.801),
    ("dsnet50", PLAIN | {"blocks2": 8, "blocks3": 36}, None, 60_192_808, 11.514),
    ("dsnet50", PLAIN | {"ratio": 0.5}, None, 68_883_240, 11.40),
    ("dsnet50", PLAIN | {"ratio": 0.5, "groups": 32}, None, 25_028_904, 4.230),
    ("ds2res2net50", PLAIN, None, 25_699_120, 4.255),
    ("dsnet50-0.25x", PLAIN, None, 1_530_356, 0.0815),
    ("dsnet101-0.25x", PLAIN, None, 2_727_156, 0.157),
    ("dsnet26-0.25x", PLAIN, None, 928_564, 0.0458),
    ("dsnet38-0.25x", PLAIN, None, 1_301_364, 0.0637),
    ("dsnet77-0.25x", PLAIN, None, 2_163_956, 0.122),
    ("dsnet50-0.5x", PLAIN, None, 5_991_300, 0.325),
    ("dsnet50-1x", PLAIN, None, 23_705_252, 1.298),
    ("dsnet50-0.25x", PLAIN | {"ratio": 0.5}, None, 4_241_076, 0.231),
    ("dswrn-28-10", PLAIN, 10, 36_479_194, 5.243),
    ("dswrn-28-10", PLAIN, 100, 36_536_884, 5.243),
    ("dsnext-29-8x64d", PLAIN, 10, 34_426_698, 5.387),
    ("dsnext-29-8x64d", PLAIN, 100, 34_518_948, 5.387),
    ("dsnext-29-8x64d", PLAIN | {"ratio": 4, "groups": 16}, 10, 68_155_210, 10.689),
    ("dsnext-29-8x64d", PLAIN | {"ratio": 4, "groups": 16}, 100, 68_247_460, 10.689),
    ("dsnext-29-8x64d", PLAIN | SIX, 10, 25_994_570, 4.062),
    ("dsnext-29-8x64d", PLAIN | SIX, 100, 26_086_820, 4.062),
]


@pytest.mark.parametrize(("point", "let", "classes", "params", "gmacs"), COUNTS)
def test_counts(point: str, let: dict[str, Any], classes: int | None, params: int, gmacs: float) -> None:
    counted = cost(network(point, classes, **let))
    assert counted.params == params
    digits = len(str(gmacs).partition(".")[2])
    assert round(counted.macs / 1e9, digits) == gmacs


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_and_weights_of_the_cifar_networks(depth: int) -> None:
    blocks = DEPTHS[depth]
    plain, one, two = (
        cost(network(f"{name}{depth}-0.25x", **let)) for name, let in (("dsnet", PLAIN), ("dsnet", {}), ("ds2net", {}))
    )
    inner = sum((b - (k > 0)) * 16 * 2**k for k, b in enumerate(blocks))  # 3x3 of stride 1
    assert (plain.depth, one.depth) == (depth, depth)
    assert (one.params - plain.params, two.params - one.params) == (pairs(blocks, 64), inner)
    assert plain.macs == one.macs == two.macs


@pytest.mark.parametrize("name", [name for name in SPACE.points if name.startswith(("resnet", "resnext", "wrn"))])
def test_each_plain_network_has_a_dsnet_that_differs_in_its_shortcuts_alone(name: str) -> None:
    if name == "resnet50-dense":
        return
    other = name.replace("resn", "dsn") if name.startswith("resn") else f"ds{name}"
    assert canonical_hash(expand(network(other, **PLAIN))) == canonical_hash(expand(network(name)))


def test_the_dense_shortcuts_add_less_than_the_paper_s_0_15_percent() -> None:
    assert 1 - cost(network("ds2net50", **PLAIN)).params / cost(network("ds2net50")).params < 0.0015


@pytest.mark.parametrize("name", [name for name in SPACE.points if name.startswith(("dsnext50", "ds2next50"))])
def test_dsnext_is_resnext_with_weights(name: str) -> None:
    width = SPACE.points[name].values["width"]
    added = pairs(DEPTHS[50], width) + (0 if name.startswith("dsnext") else 2_880 * 2 * width // 256)
    assert cost(network(name)).params - cost(network(name, **PLAIN)).params == added


def test_dsnet_50_and_resnet_50_are_those_written_by_hand() -> None:
    hashes = {one["name"]: canonical_hash(expand(Genotype.from_dict(one["genotype"]))) for one in NETWORKS}
    assert canonical_hash(expand(network("dsnet50"))) == hashes["DSNet-50"]
    assert canonical_hash(expand(network("ds2net50"))) == hashes["DS2Net-50"]


@pytest.mark.parametrize(
    ("point", "plain"),
    [("dsnet50", "resnet50"), ("dswrn-28-10", "wrn-28-10"), ("dsnext-29-8x64d", "resnext-29-8x64d")],
)
def test_without_its_shortcuts_it_is_the_residual_network(point: str, plain: str) -> None:
    found = network(point, **PLAIN)
    assert canonical_hash(expand(found)) == canonical_hash(expand(variant("residual", plain, found.classes)))


def words(graph: Graph) -> Counter[str]:
    return Counter(op.word for op in graph.ops)


def norms_without_affine(graph: Graph) -> list[int]:
    return [i for i, op in enumerate(graph.ops) if op.word == "norm" and not op.affine]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name, point in SPACE.points.items() if point.values["norm"] != "none"])
def test_each_source_is_normalised_once_for_all_its_readers(name: str) -> None:
    graph, values = expand(network(name)), SPACE.points[name].values
    blocks = [values[f"blocks{k}"] for k in (1, 2, 3, 4)]
    norms = norms_without_affine(graph)
    inner = sum(blocks) - sum(b > 0 for b in blocks[1:]) if values["within"] == "with_shortcut" else 0
    assert len(norms) == sum(max(0, b - 1) for b in blocks) + inner
    assert len({graph.inputs[i] for i in norms}) == len(norms)
    groups = {"gn": 32, "ln": 1, "bn": 0}.get(values["norm"])
    readers = graph.readers
    for i in norms:
        channels = graph.shapes[i][0]
        assert graph.ops[i].groups == (channels if groups is None else groups and math.gcd(groups, channels))  # type: ignore[attr-defined]
        assert {graph.ops[k].word for k in readers[i]} == ({"scale"} if values["weight"] else {"add"})
    joined = sum(b * (b - 1) // 2 for b in blocks) + inner
    assert words(graph)["scale"] == (joined if values["weight"] else 0)
    assert sum(len(readers[i]) for i in norms) == joined


@pytest.mark.parametrize("name", ["resnet50-dense", "dsnet50-0.25x-none"])
def test_without_a_norm_there_is_none(name: str) -> None:
    graph = expand(network(name))
    assert not norms_without_affine(graph)
    assert words(graph)["scale"] == (0 if "dense" in name else 3 + 6 + 15 + 3)


def test_weights_start_at_one_over_the_sources_joined() -> None:
    weights = {k: v for k, v in compile(network("dsnet26-0.25x", blocks1=4)).named_parameters() if "weights." in k}
    for source in range(3):
        for node in range(source, 3):
            assert torch.equal(
                weights[f"stage.0.unit.rest.{node}.shortcut.weights.{source}"], torch.full((64, 1, 1), 1 / (node + 1))
            )


def reference(state: dict[str, torch.Tensor], blocks: tuple[int, int], variant: str, x: torch.Tensor) -> torch.Tensor:
    """DS2Net of two stages: post-activated bottlenecks, shortcuts summed pair by pair."""

    def conv(x: torch.Tensor, at: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{at}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    def bn(x: torch.Tensor, at: str) -> torch.Tensor:
        return F.batch_norm(x, None, None, state[f"{at}.weight"], state[f"{at}.bias"], training=True)

    def joined(x: torch.Tensor, earlier: list[torch.Tensor], at: str) -> torch.Tensor:
        for k, y in enumerate(earlier):
            x = x + state[f"{at}.weights.{k}"] * F.group_norm(y, math.gcd(32, y.shape[1]))
        return x

    def block(x: torch.Tensor, at: str, stride: int) -> torch.Tensor:
        inside = f"{at}.with_shortcut.0"
        h = F.relu(bn(conv(x, f"{at}.conv1"), f"{at}.bn"))
        y = bn(conv(h, f"{inside}.unit.conv.conv", stride), f"{inside}.unit.conv.bn")
        y = F.relu(joined(y, [h] if stride == 1 else [], f"{inside}.shortcut"))
        return bn(conv(y, f"{at}.conv2"), f"{at}.bn_after.0.unit.bn")

    x = F.relu(bn(conv(x, "small.conv"), "small.bn_after.0.unit.bn"))
    for stage, count in enumerate(blocks):
        at, stride = f"stage.{stage}.unit", 1 + stage
        projection = bn(conv(x, f"{at}.first.0.shortcut.match.0.conv", stride),
                        f"{at}.first.0.shortcut.match.0.bn_after.0.unit.bn")  # fmt: skip
        first = block(x, f"{at}.first.0.unit.bottleneck", stride) + projection
        if variant == "b":
            sums = [F.relu(first)]
            for l in range(count - 1):
                y = block(sums[-1], f"{at}.rest.{l}.unit.bottleneck", 1)
                sums.append(F.relu(joined(y, sums, f"{at}.rest.{l}.shortcut")))
            x = sums[-1]
        else:
            made, x = [first], F.relu(first)
            for l in range(count - 1):
                made.append(block(x, f"{at}.rest.{l}.unit.bottleneck", 1))
                reads = f"{at}.rest.{l + 1}.reads" if l + 2 < count else f"{at}.rest.output"
                x = F.relu(joined(made[-1], made[:-1], reads))
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("variant", ["b", "a"])
def test_outputs_are_those_of_a_few_lines_of_torch(variant: str) -> None:
    torch.set_num_threads(1)
    blocks = (4, 3)
    values = SPACE.points["ds2net50-0.25x"].values | {
        "variant": variant, "width": 48, "ratio": 0.5, "blocks1": 4, "blocks2": 3, "blocks3": 0, "blocks4": 0
    }  # fmt: skip
    module = compile(SPACE.genotype(values, input=(3, 8, 8), classes=5), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    expected = reference(module.state_dict(), blocks, variant, images)
    torch.testing.assert_close(module.train()(images), expected, rtol=1e-9, atol=1e-9)
