"""What changed between two networks: as text and drawn, in colours that are not the only sign."""

from __future__ import annotations

import random
from typing import Any
from xml.etree import ElementTree

import pytest
from pages import HOSTILE

from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import Genotype
from nas_agg.report.difference_drawing import STYLES, draw_difference
from nas_agg.report.differences import Difference, compare_trees, cost_changes, difference_lines
from nas_agg.report.svg import dark_colour
from nas_agg.report.tree import network_tree


def network(block: dict[str, Any], *steps: Any, out: int = 6) -> Genotype:
    net = [{"conv": 3, "out": out}, "block", *steps, "gap", {"linear": "classes"}]
    return Genotype.from_dict({"input": [3, 8, 8], "classes": 4, "let": {"block": block}, "net": net})


def dense(nodes: int, pattern: Any = "dense", growth: int = 4, **fields: Any) -> dict[str, Any]:
    reads = {"pattern": pattern, "operator": "concat"}
    return {"nodes": nodes, "growth": growth, "reads": reads, "unit": ["bn", "relu", {"conv": 3}], **fields}


def compared(before: Genotype, after: Genotype) -> Difference:
    return compare_trees(network_tree(before), network_tree(after))


def states(difference: Difference) -> dict[str, str]:
    return {part.label: part.state for part in difference.parts}


def test_equal_networks_are_the_same_whatever_their_parts_are_called() -> None:
    one = network(dense(3))
    other = Genotype.from_dict(
        {
            **one.to_dict(),
            "let": {"stage": dense(3)},
            "net": [one.to_dict()["net"][0], "stage", *one.to_dict()["net"][2:]],
        }
    )
    assert compared(one, other).state == "same"
    assert cost_changes(cost(one), cost(other)) == []
    assert "Both are the same network." in draw_difference(one, other, ("a", "b"))


def test_added_nodes_and_layers() -> None:
    difference = compared(network(dense(3)), network(dense(5), {"dropout": 0.5}))
    assert states(difference) == {
        "conv": "same",
        "block": "changed",
        "dropout": "added",
        "gap": "changed",
        "linear": "changed",
    }
    (block,) = [part for part in difference.parts if part.label == "block"]
    assert states(block) | {"0": "same", "3": "added", "4": "added"} == states(block)
    lines = [line.split() for line in difference_lines(difference, 2)]
    assert ["+", "│", "├─", "3", "…", "4", "(2)"] in [line[:7] for line in lines]
    (back,) = [part for part in compared(network(dense(5)), network(dense(3))).parts if part.label == "block"]
    assert states(back)["4"] == "removed"


def test_params_of_a_difference_are_those_of_the_networks() -> None:
    before, after = network(dense(3)), network(dense(4, growth=8))
    difference = compared(before, after)
    assert difference.before and difference.after
    assert (difference.before.params, difference.after.params) == (cost(before).params, cost(after).params)
    for part in [difference, *difference.parts]:
        if part.parts:
            for side in ("before", "after"):
                nodes = [getattr(inner, side) for inner in part.parts if getattr(inner, side)]
                assert sum(node.params for node in nodes) == getattr(part, side).params
    rows = {row[0]: row[1:3] for row in cost_changes(cost(before), cost(after))}
    assert rows["params"] == [f"{cost(before).params:,}", f"{cost(after).params:,}"]


@pytest.mark.parametrize("seed", range(6))
def test_marked_arcs_are_those_that_differ(seed: int) -> None:
    rng = random.Random(seed)
    rows = [[sorted(rng.sample(range(l), rng.randint(1, min(l, 3)))) for l in range(1, 7)] for _ in range(2)]
    before, after = (network(dense(5, {"edges": edges})) for edges in rows)
    root = ElementTree.fromstring(draw_difference(before, after, ("a", "b")))
    (panel,) = [element for element in root.iter() if element.get("class") == "difference"]
    wires = [{(source, l) for l, row in enumerate(edges, 1) for source in row} for edges in rows]
    for state, expected in (("removed", wires[0] - wires[1]), ("added", wires[1] - wires[0])):
        marked = [e for e in panel.iter() if e.get("data-state") == state and e.get("class") in ("read", "out")]
        assert {(int(e.get("data-from", "")), int(e.get("data-to", ""))) for e in marked} == expected


def test_states_differ_in_more_than_colour_and_are_legible() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len({dash for _, dash in (STYLES["added"], STYLES["removed"], STYLES["changed"])}) == 3
    for colour, _ in STYLES.values():
        for shown, page in ((colour, "#ffffff"), (dark_colour(colour), dark_colour("#ffffff"))):
            light, dark = sorted((luminance(shown), luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5
    svg = draw_difference(network(dense(2)), network(dense(4)), ("a", "b"))
    assert "prefers-color-scheme: dark" in svg
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert {"+ added", "- removed", "~ changed"} <= set(texts), "the legend"


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_escaped(text: str) -> None:
    svg = draw_difference(network(dense(2)), network(dense(3)), (text, text))
    names = {element.tag.partition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert not names & {"script", "img", "b"} and "\u202e" not in svg


def test_the_command(run: Any, refused: Any) -> None:
    status, out, _ = run("show", "densenet/121", "--diff", "densenet/169")
    assert status == 0 and "+77.3 %" in out.splitlines()[1]
    assert any(line.startswith("+") for line in out.splitlines())
    assert run("show", "densenet/121", "--diff", "densenet/121")[1] == "both are the same network\n"
    assert run("show", "densenet/121", "--diff", "densenet/169", "--svg", "d.svg")[1] == "wrote d.svg\n"
    assert refused("show", "densenet/121", "--diff", "densenet/12").startswith("nas_agg: densenet has no point '12'")
