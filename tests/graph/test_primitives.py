"""Primitives and layers: shapes, parameters and multiply-adds, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Gap
from nas_agg.language.genotype import Genotype
from nas_agg.language.layers import LAYERS


def graph_of(*net: Any, image: tuple[int, int, int] = (8, 9, 9), **fields: Any) -> Graph:
    return expand(
        Genotype.from_dict({"input": list(image), "classes": 1, "net": [*net, "gap", {"linear": 1}], **fields})
    )


def behind(*net: Any, image: tuple[int, int, int] = (8, 9, 9)) -> tuple[tuple[int, int, int], int, int]:
    """Shape, parameters and multiply-adds of some layers behind an image."""
    graph = graph_of(*net, image=image)
    cost, shape = Cost(graph), graph.shapes[graph.inputs[-2][0]]
    return shape, cost.params - shape[0] - 1, cost.macs - shape[0]


LAYER_COUNTS = [
    ({"conv": 3, "out": 16}, (16, 9, 9), 9 * 8 * 16, 9 * 8 * 16 * 81),
    ({"conv": 3, "out": 16, "stride": 2}, (16, 5, 5), 1152, 1152 * 25),
    ({"conv": 4, "out": 16, "stride": 2}, (16, 4, 4), 16 * 128, 16 * 128 * 16),
    ({"conv": 1, "out": 16, "stride": 2}, (16, 5, 5), 128, 128 * 25),
    ({"conv": 3, "out": 16, "groups": 4, "bias": True}, (16, 9, 9), 9 * 2 * 16 + 16, 288 * 81),
    ({"conv": 3, "out": 8, "groups": 8, "padding": 0}, (8, 7, 7), 72, 72 * 49),
    ({"conv": 5, "out": "2*c", "padding": 3}, (16, 11, 11), 25 * 128, 25 * 128 * 121),
    ("bn", (8, 9, 9), 16, 0),
    ("gn", (8, 9, 9), 16, 0),
    ("ln", (8, 9, 9), 16, 0),
    ("in", (8, 9, 9), 16, 0),
    ({"gn": 3}, (8, 9, 9), 16, 0),
    *[(word, (8, 9, 9), 0, 0) for word in LAYERS["relu"].bare],
    ({"maxpool": 3, "stride": 2}, (8, 5, 5), 0, 0),
    ({"maxpool": 2}, (8, 4, 4), 0, 0),
    ({"maxpool": 3, "stride": 1}, (8, 9, 9), 0, 0),
    ({"avgpool": 3}, (8, 3, 3), 0, 0),
    ({"avgpool": 2, "padding": 1}, (8, 5, 5), 0, 0),
    ("gap", (8, 1, 1), 0, 0),
    ({"gap": 4}, (8, 4, 4), 0, 0),
    ("gmp", (8, 1, 1), 0, 0),
    ({"gmp": 4}, (8, 4, 4), 0, 0),
    ("channel-mean", (1, 9, 9), 0, 0),
    ("channel-max", (1, 9, 9), 0, 0),
    ({"linear": 5}, (5, 1, 1), 8 * 81 * 5 + 5, 8 * 81 * 5),
    ({"se": 2}, (8, 9, 9), 8 * 2 + 2 + 2 * 8 + 8, 32),
    ({"se": 0}, (8, 9, 9), 64 + 8, 64),
    ("scale", (8, 9, 9), 8, 0),
    ({"times": "-1/3"}, (8, 9, 9), 0, 0),
    ({"slice": 3}, (3, 9, 9), 0, 0),
    ({"slice": 3, "from": 5}, (3, 9, 9), 0, 0),
    ({"pad": 11}, (11, 9, 9), 0, 0),
    ({"shuffle": 4}, (8, 9, 9), 0, 0),
    ({"dropout": "1/3"}, (8, 9, 9), 0, 0),
    ({"dropout": 0.1, "channels": True}, (8, 9, 9), 0, 0),
    ({"drop-path": 0.1}, (8, 9, 9), 0, 0),
]


@pytest.mark.parametrize(("layer", "shape", "params", "macs"), LAYER_COUNTS, ids=[str(row[0]) for row in LAYER_COUNTS])
def test_layers_by_hand(layer: Any, shape: tuple[int, int, int], params: int, macs: int) -> None:
    assert behind(layer) == (shape, params, macs)


def test_every_layer_is_counted_above() -> None:
    said = {row[0] if isinstance(row[0], str) else next(iter(row[0])) for row in LAYER_COUNTS}
    assert said == set(LAYERS)


def test_layers_that_do_nothing_are_no_operations() -> None:
    nothing = [{"maxpool": 1}, {"avgpool": 1}, {"slice": 8}, {"pad": 8}, {"shuffle": 1}, {"dropout": 0}]
    nothing += [{"drop-path": 0}, {"times": 1}, []]
    assert len(graph_of(*nothing)) == len(graph_of())
    assert len(graph_of({"avgpool": 1, "stride": 2})) == len(graph_of()) + 1


def test_groups_of_a_norm_are_reduced_to_their_gcd_with_the_channels() -> None:
    for layer, channels, groups in [
        ("gn", 48, 16),
        ("gn", 7, 1),
        ({"gn": 6}, 8, 2),
        ("ln", 8, 1),
        ("in", 8, 8),
        ("bn", 8, 0),
    ]:
        norm = graph_of(layer, image=(channels, 4, 4)).ops[1]
        assert (norm.groups, norm.affine) == (groups, True)  # type: ignore[attr-defined]


def test_squeeze_and_gate_are_what_is_said() -> None:
    graph = graph_of({"se": 2, "act": "swish", "gate": "hardsigmoid"})
    assert [getattr(op, "function", op.word) for op in graph.ops[1:7]] == [
        "gap",
        "conv",
        "swish",
        "conv",
        "hardsigmoid",
        "mul",
    ]
    assert [op.bias for op in graph.ops if op.word == "conv"] == [True, True]  # type: ignore[attr-defined]


def test_not_square() -> None:
    assert behind({"conv": 3, "out": 4, "stride": 2}, image=(3, 7, 4))[0] == (4, 4, 2)
    assert behind({"gap": 2}, image=(3, 7, 4))[0] == (3, 2, 2)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"conv": 3, "out": 8, "groups": 3}, "net[0].groups: 3 groups do not divide 8 input and 8 output channels"),
        ({"conv": 3, "out": 9, "groups": 2}, "net[0].groups: 2 groups do not divide 8 input and 9 output channels"),
        ({"conv": 11, "out": 8, "padding": 0}, "net[0]: kernel size 11 with padding 0 does not fit a 9x9 map"),
        ({"conv": 256, "out": 8}, "net[0].conv: the kernel size must be from 1 to 255, not 256"),
        ({"conv": 3, "out": 0}, "net[0].out: the number of channels must be from 1 to 1,000,000, not 0"),
        (
            {"conv": 3, "out": 1.5},
            "net[0].out: the number of channels must be an integer, but '1.5' is 1.5; use floor(...)",
        ),
        (
            {"conv": 1, "out": "c*200000"},
            "net[0].out: the number of channels must be from 1 to 1,000,000, but 'c*200000' is 1,600,000",
        ),
        ({"maxpool": 3, "padding": 2}, "net[0]: padding 2 is more than half the kernel size 3"),
        ({"slice": 5, "from": 4}, "net[0]: channels 4 to 8 exceed the input's 8 channels"),
        ({"pad": 7}, "net[0].pad: cannot pad 8 channels to 7"),
        ({"shuffle": 3}, "net[0]: 3 groups do not divide 8 channels"),
        ({"dropout": 1}, "net[0].dropout: the dropout rate must be at least 0 and below 1, not 1"),
        ({"dropout": "-1/2"}, "net[0].dropout: the dropout rate must be at least 0 and below 1, not -0.5"),
        ({"drop-path": 1}, "net[0].drop-path: the dropout rate must be at least 0 and below 1, not 1"),
        ({"times": 1000}, "net[0].times: the factor must be at least -1000 and below 1000, not 1000"),
        ({"gmp": 10}, "net[0]: a 9x9 map cannot be pooled to the larger size 10x10"),
        ({"se": 2, "act": "relo"}, "net[0].act: 'relo' is not one of"),
        ({"conv": 1, "out": 8, "padding": 255}, ""),
    ],
)
def test_layers_that_do_not_fit(layer: Any, said: str) -> None:
    if not said:
        assert behind(layer)[0] == (8, 519, 519)
        return
    with pytest.raises(GenotypeError) as caught:
        graph_of(layer)
    assert str(caught.value).startswith(said)


def test_maps_and_channels_are_bounded_before_anything_is_allocated() -> None:
    with pytest.raises(GenotypeError, match="exceeds the limit of 1,000,000 channels or map size 16,384"):
        graph_of({"conv": 1, "out": 4, "padding": 255}, image=(3, 16_384, 16_384))
    with pytest.raises(GenotypeError, match="exceeds the limit"):
        graph_of({"nodes": 2, "unit": [], "reads": {"pattern": "dense", "operator": "concat"}}, image=(600_000, 1, 1))
    cost = Cost(graph_of({"conv": 255, "out": 10**6}, image=(10**6, 16_384, 16_384)))
    assert cost.params == 255**2 * 10**12 + 10**6 + 1  # refused by its cost, not by an allocation


def test_a_pool_does_not_enlarge_a_map():
    with pytest.raises(GenotypeError, match="2x2 map cannot be pooled to the larger size 3x3"):
        Gap(3).shape((4, 2, 2))
    assert Gap(2).shape((4, 2, 2)) == (4, 2, 2)
