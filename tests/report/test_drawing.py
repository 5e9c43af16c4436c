"""Drawings of networks."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from corpus.random_genotypes import random_genotype

import nas_agg
from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.report.drawing import draw
from nas_agg.report.outline import AggregateOutline, outline
from nas_agg.report.panels import PANEL_COLOURS, STEP_COLOURS
from nas_agg.report.svg import GREY, INK, dark_colour
from nas_agg.report.wires import KIND_COLOURS
from nas_agg.search_space.space import list_spaces, open_space

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "genotypes").glob("*.yaml"))
NET: dict[str, Any] = {"input": [3, 8, 8], "classes": 4}


def network(block: dict[str, Any], **let: Any) -> Genotype:
    """A network of one aggregate between a convolution and a classifier."""
    net = [{"conv": 3, "out": 6}, "block", "gap", {"linear": "classes"}]
    return Genotype.from_dict({**NET, "let": {"block": block, **let}, "net": net})


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.get("class") == name]


def panels(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {panel.get("data-path", ""): panel for panel in of_class(root, "aggregate")}


def wires(root: ElementTree.Element, *kinds: str) -> set[tuple[int, int]]:
    result = [(int(e.get("data-from", "")), int(e.get("data-to", ""))) for kind in kinds for e in of_class(root, kind)]
    assert len(set(result)) == len(result)
    return set(result)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter() if element.tag.endswith("text")]


def reads_in_graph(genotype: Genotype, n: int) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Who reads whom and whose shortcut joins where, off the graph of an aggregate of `[conv, join]` or `[conv]`."""
    graph = expand(genotype)
    feature = {graph.paths.index("conv"): 0}
    for l in range(1, n + 1):
        joined = f"block.{l - 1}.shortcut"
        own = joined if joined in graph.paths else f"block.{l - 1}.unit.conv"
        feature[graph.paths.index(own)] = l

    def sources(tensor: int) -> set[int]:
        return {feature[tensor]} if tensor in feature else {f for i in graph.inputs[tensor] for f in sources(i)}

    reads, shortcuts = set(), set()
    for l in range(1, n + 1):
        conv = graph.paths.index(f"block.{l - 1}.unit.conv")
        reads |= {(source, l) for source in sources(graph.inputs[conv][0])}
        if f"block.{l - 1}.shortcut" in graph.paths:
            joined_at = graph.paths.index(f"block.{l - 1}.shortcut")
            shortcuts |= {(s, l) for i in graph.inputs[joined_at] if i != conv for s in sources(i)}
    reads |= {(source, n + 1) for source in sources(graph.inputs[graph.paths.index("gap")][0])}
    return reads, shortcuts


# ---------------------------------------------------------------------- arcs and boxes


@pytest.mark.parametrize("operator", ["sum", "concat"])
@pytest.mark.parametrize("pattern", ["previous", "dense", {"window": 2}, {"exponential": 2}, {"micro-dense": 3}])
def test_arcs_are_the_reads_of_the_graph(pattern: Any, operator: str) -> None:
    genotype = network(
        {"nodes": 7, "growth": 6, "reads": {"pattern": pattern, "operator": operator}, "unit": [{"conv": 3}]}
    )
    root = parsed(draw(genotype))
    panel = panels(root)["block"]
    assert wires(panel, "read", "out") == reads_in_graph(genotype, 7)[0]
    assert [node.get("data-number") for node in of_class(panel, "node")] == [str(l) for l in range(1, 8)]
    assert len(of_class(panel, "input")) == 1
    assert len(of_class(root, "bar")) == 7


@pytest.mark.parametrize("seed", range(20))
def test_arcs_of_any_edges(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(2, 9)
    rows = [sorted(rng.sample(range(l), rng.randint(1, min(l, 3)))) for l in range(1, n + 2)]
    joins = [sorted(rng.sample(range(l), rng.randint(1, min(l, 2)))) for l in range(1, n + 1)]
    block = {
        "nodes": n,
        "growth": 6,
        "reads": {"pattern": {"edges": rows}, "operator": "concat"},
        "unit": [{"conv": 3}, "join"],
        "shortcut": {"pattern": {"edges": joins}},
    }
    root = panels(parsed(draw(network(block))))["block"]
    assert wires(root, "read", "out") == {(source, l) for l, row in enumerate(rows, 1) for source in row}
    assert wires(root, "shortcut") == {(source, l) for l, row in enumerate(joins, 1) for source in row}
    assert len(of_class(root, "node")) == n


@pytest.mark.parametrize("pattern", ["previous", "dense", {"exponential": 3}])
def test_shortcuts_are_those_of_the_graph(pattern: Any) -> None:
    genotype = network({"nodes": 5, "growth": 6, "unit": [{"conv": 3}, "join"], "shortcut": {"pattern": pattern}})
    panel = panels(parsed(draw(genotype)))["block"]
    reads, shortcuts = reads_in_graph(genotype, 5)
    assert wires(panel, "read", "out") == reads
    assert wires(panel, "shortcut") == shortcuts
    assert all(element.get("stroke-dasharray") for element in of_class(panel, "shortcut"))


def test_no_two_boxes_of_branches_overlap() -> None:
    rows = [[0], [0], [1], [0], [1], [2, 3], [0, 4], [5], [6, 7]]
    block = {"nodes": 9, "growth": 6, "reads": {"pattern": {"edges": [*rows, [8, 9]]}}, "unit": [{"conv": 3}]}
    panel = panels(parsed(draw(network(block))))["block"]
    boxes = [(float(b.get("x", "")), float(b.get("y", ""))) for k in ("node", "input") for b in of_class(panel, k)]
    assert len(boxes) == 10
    assert all(abs(x - u) > 46 or abs(y - v) > 36 for i, (x, y) in enumerate(boxes) for u, v in boxes[:i])


def test_a_source_that_does_not_fit_and_is_skipped_has_no_arc() -> None:
    reads = {"pattern": "dense", "operator": "sum", "match": "skip"}
    block = {"nodes": 3, "growth": [6, 8, 8], "reads": reads, "unit": [{"conv": 3}]}
    panel = panels(parsed(draw(network(block))))["block"]
    assert wires(panel, "read", "out") == {(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)}


# ---------------------------------------------------------------------- panels


def test_an_inner_aggregate_is_opened_once_with_its_widths_and_groups() -> None:
    root = parsed(draw(nas_agg.load("microdense/30a64"), "30a64"))
    aggregates = panels(root)
    assert len(aggregates) == 2
    outer, inner = aggregates.values()
    assert wires(inner, "read", "out") == {(i, l) for l in range(1, 5) for i in range(l)}
    assert {"6", "9", "12", "2 gr", "3 gr", "4 gr", "39 ch"} <= set(texts(inner))
    assert wires(outer, "shortcut") >= {(0, 1), (1, 2), (10, 11), (20, 21), (29, 30)}
    shown = [int(node.get("data-number", "")) for node in of_class(outer, "node")]
    assert {1, 2, 3, 10, 11, 20, 21, 29, 30} <= set(shown)  # the first, those where the map halves, and the last
    assert "5 more" in texts(outer)
    assert {"w 18–37", "37×32×32", "w 60–80", "80×8×8"} <= set(texts(root))


def test_equal_stages_are_opened_once() -> None:
    root = parsed(draw(nas_agg.load("densenet/121")))
    (panel,) = panels(root).values()
    assert len(of_class(panel, "node")) == 6
    assert "block1 (6 nodes), block2 (12), block3 (24), block4 (16)" in texts(panel)
    assert {"6 × A", "12 × A", "24 × A", "16 × A", "stem", "head", "7×7, 64, /2"} <= set(texts(root))
    assert {"1×1, 128", "3×3, 32", "96×56×56"} <= set(texts(panel))


def test_stages_of_a_single_block_are_not_part_of_stem_and_head() -> None:
    root = parsed(draw(nas_agg.load("efficientnet/b0")))
    assert {"stage1 (1 node)", "stage7 (1 node)", "dw 3×3, 32", "32×112×112", "1×1, 1280"} <= set(texts(root))
    assert len(of_class(root, "bar")) == 16


def test_a_dark_form_has_a_colour_for_every_colour() -> None:
    text = draw(nas_agg.load("densenet/121"))
    used = set(re.findall(r'(fill|stroke)="(#[0-9a-f]{6})"', text))
    assert used and all(f'[{kind}="{colour}"]' in text for kind, colour in used)
    assert "prefers-color-scheme" not in draw(nas_agg.load("densenet/121"), adapts=False)


@pytest.mark.parametrize("convert", [lambda colour: colour, dark_colour], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(convert: Any) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(convert(a)), luminance(convert(b))))
        return (high + 0.05) / (low + 0.05)

    assert contrast(GREY, "#ffffff") >= 4.5
    for area in ("#ffffff", "#fafafa", *PANEL_COLOURS, *STEP_COLOURS.values(), *KIND_COLOURS):
        assert contrast(INK, area) >= 4.5, area


def test_bars_shrink_with_the_map() -> None:
    root = parsed(draw(nas_agg.load("residual/resnet50")))
    heights = [float(bar.get("height", "")) for bar in of_class(root, "bar")]
    assert len(heights) == 16
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 4


def test_a_split_shortcut_is_labelled() -> None:
    root = parsed(draw(nas_agg.load("seqconv/seqresnet-r4-k8")))
    message = texts(root)
    assert "shortcut, split among its nodes" in message
    assert "its part of the outer shortcut" in message


# ---------------------------------------------------------------------- all networks


@pytest.mark.parametrize("name", list_spaces())
def test_points_and_samples_of_every_space(name: str) -> None:
    space = open_space(name)
    genotypes = [space.point(next(iter(space.points)))] if space.points else []
    genotypes += [space.genotype(space.sample(np.random.default_rng(seed))) for seed in range(2)]
    for genotype in genotypes:
        text = draw(genotype, name)
        root = parsed(text)
        assert len(text) < 250_000
        assert all("nan" not in value and "inf" not in value for e in root.iter() for value in e.attrib.values())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    assert parsed(draw(nas_agg.load(path), path.stem)).tag.endswith("svg")


@pytest.mark.parametrize("seed", range(40))
def test_random_genotypes(seed: int) -> None:
    genotype = Genotype.from_dict(random_genotype(random.Random(seed)))
    text = draw(genotype, f"random {seed}")
    root = parsed(text)
    assert text == draw(genotype, f"random {seed}")
    by_path = {aggregate.path: aggregate for aggregate in _every(outline(genotype)[1])}
    for path, panel in panels(root).items():
        nodes = [int(node.get("data-number", "")) for node in of_class(panel, "node")]
        assert sorted(nodes) == list(range(1, len(by_path[path].nodes) + 1))
        all_nodes = by_path[path].nodes
        assert wires(panel, "read") == {(source, node.number) for node in all_nodes for source in node.reads.sources}
        joins = [(node.number, node.shortcut.sources) for node in all_nodes if node.shortcut]
        assert wires(panel, "shortcut") == {(source, l) for l, sources in joins for source in sources}


def _every(steps: list) -> list[AggregateOutline]:
    result = [step for step in steps if isinstance(step, AggregateOutline)]
    return result + [inner for one in result for node in one.nodes for inner in _every(node.steps)]


def test_the_outline_has_the_shapes_of_the_graph() -> None:
    graph, steps = outline(nas_agg.load("dsnet/ds2net50"))
    for aggregate in _every(steps):
        for node in aggregate.nodes:
            inside = re.compile(re.escape(f"{aggregate.path}.{node.number - 1}.") + r"(unit|shortcut)(\.|$)")
            last = max(i for i, path in enumerate(graph.paths) if inside.match(path) and ".match." not in path)
            assert graph.shapes[last] == node.shape


@pytest.mark.parametrize(
    "block",
    [
        {"nodes": 600, "growth": 1, "reads": {"pattern": "dense", "operator": "concat"}, "unit": [{"conv": 1}]},
        {"nodes": 400, "reads": {"pattern": "input"}, "unit": [{"conv": 1, "out": 2}], "output": {"pattern": "nodes"}},
        {"nodes": 2, "unit": [{"conv": 1, "out": "c"}, "bn", "relu"] * 300},
        {"units": [[{"conv": 2 * k + 1, "out": 6}] for k in range(100)]},
    ],
    ids=["dense", "branches", "long unit", "many kinds"],
)
def test_huge_aggregates_stay_small(block: dict[str, Any]) -> None:
    text = draw(network(block))
    root = parsed(text)
    assert len(text) < 100_000
    assert float(root.get("width", "")) < 2500 and float(root.get("height", "")) < 2000
    n = len(outline(network(block))[1][1].nodes)  # type: ignore[union-attr]
    if n > 2:
        shown = [int(node.get("data-number", "")) for node in of_class(root, "node")]
        assert {1, 2, 3, n - 1, n} <= set(shown)
        assert f"{n - len(shown)} more" in texts(root)


def test_a_network_of_many_stages_stays_small() -> None:
    net: list[Any] = [{"conv": 3, "out": 4}]
    for k in range(120):
        net.append({"nodes": 2, "growth": 4, "unit": [{"conv": 2 * k + 1}, "join"], "shortcut": {}})
    text = draw(Genotype.from_dict({**NET, "net": [*net, "gap", {"linear": "classes"}]}))
    root = parsed(text)
    assert len(text) < 150_000
    assert len(panels(root)) == 16
    assert "and 104 more kinds of aggregates" in texts(root)


def test_a_thousand_layers() -> None:
    assert len(draw(nas_agg.load("residual/preact-1001"))) < 60_000


def test_without_aggregates() -> None:
    root = parsed(
        draw(Genotype.from_dict({**NET, "net": [{"conv": 3, "out": 6}, "relu", "gap", {"linear": "classes"}]}))
    )
    assert not panels(root)
    assert {"3×3, 6", "global avg", "linear 4"} <= set(texts(root))


# ---------------------------------------------------------------------- text


def test_text_is_escaped() -> None:
    hostile = "</text><script>alert(1)</script>&\"'<b>\x00\ud800\u202e"
    text = draw(network({"nodes": 2, "growth": 6, "unit": [{"conv": 3}, "join"], "shortcut": {}}), hostile)
    root = parsed(text.encode("utf-8").decode("utf-8"))
    assert "<script" not in text
    assert "\x00" not in text and "\u202e" not in text
    assert texts(root)[0].startswith("</text><script>alert(1)</script>&\"'<b>")
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg", "title", "style", "rect", "text", "path", "polygon", "circle", "g"
    }  # fmt: skip


def test_long_names_and_titles_are_cut() -> None:
    name = "a" * 100
    text = draw(network("other", other=name, **{name: {"nodes": 2, "growth": 6, "unit": [{"conv": 3}]}}), "t" * 5000)
    assert max(len(line) for line in texts(parsed(text))) < 200


def test_invalid_networks_are_refused() -> None:
    with pytest.raises(GenotypeError, match="the net must end in"):
        draw(Genotype.from_dict({**NET, "net": [{"conv": 3, "out": 6}]}))
