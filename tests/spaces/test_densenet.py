"""The spaces of the family `densenet`: the paper's networks to the integer, and what a layer reads."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from corpus.variants import variant

from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.search_space.space import open_space

SPACES = [open_space(name) for name in ("densenet", "densenet-imagenet")]

# A point, what is changed in it, classes (None: the point's own), parameters.
CIFAR: list[tuple[str, dict[str, Any], int | None, int]] = [
    ("40-k12", {}, None, 1_019_722),
    ("100-k12", {}, None, 6_979_642),
    ("100-k24", {}, None, 27_249_082),
    ("40-k12-stem24", {}, None, 1_100_428),
    ("100-k12-stem24", {}, None, 7_189_468),
    ("100-k24-stem48", {}, None, 28_283_476),
    ("bc-100-k12", {}, None, 769_162),
    ("bc-190-k40", {}, None, 25_624_430),
    ("bc-100-k12", {}, 100, 800_032),
    ("bc-190-k40", {}, 100, 25_821_620),
    ("bc-250-k24", {}, None, 15_324_406),
    ("bc-250-k24", {}, 100, 15_480_556),
    ("bc-100-k12", {"k": 16, "rise": 2, "stem": 64}, 100, 7_925_188),
]
# Parameters, and MACs in G.
IMAGENET = {
    "121": (7_978_856, 2.834),
    "169": (14_149_480, 3.360),
    "201": (20_013_928, 4.291),
    "264": (33_337_704, 5.752),
}
# Millions of parameters, as the papers print them.
PRINTED = {"40-k12": 1.0, "100-k12": 7.0, "100-k24": 27.2, "bc-100-k12": 0.8, "bc-250-k24": 15.3, "bc-190-k40": 25.6,
           "40-k12-stem24": 1.1, "100-k12-stem24": 7.2, "100-k24-stem48": 28.3}  # fmt: skip

network = partial(variant, "densenet")


def by_hand(n: int, k: tuple[int, int, int], stem: int, bottleneck: bool, classes: int) -> tuple[int, int]:
    """Parameters and MACs on 32x32, from the paper's text alone; BC compresses by a half."""
    side, c = 32, stem
    params, macs = 27 * c, 27 * c * side**2
    for block in range(3):
        for _ in range(n):
            k_here = k[block]
            weights = c * 4 * k_here + 36 * k_here**2 if bottleneck else 9 * c * k_here
            params += weights + 2 * c + (8 * k_here if bottleneck else 0)
            macs += weights * side**2
            c += k_here
        if block < 2:
            out = c // 2 if bottleneck else c
            params, macs = params + 2 * c + c * out, macs + c * out * side**2
            side, c = side // 2, out
    return params + 2 * c + (c + 1) * classes, macs + c * classes


def test_the_points_are_the_paper_s_networks() -> None:
    assert {name for space in SPACES for name in space.points} == PRINTED.keys() | IMAGENET.keys()


@pytest.mark.parametrize(("point", "values", "classes", "params"), CIFAR)
def test_the_counts_on_small_images(point: str, values: dict[str, Any], classes: int | None, params: int) -> None:
    assert cost(network(point, classes, **values)).params == params


@pytest.mark.parametrize("point", PRINTED)
def test_the_counts_printed_in_the_papers(point: str) -> None:
    assert round(cost(network(point)).params / 1e6, 1) == PRINTED[point]


@pytest.mark.parametrize(
    ("point", "k", "stem", "values"),
    [
        ("40-k12", (12, 12, 12), 16, {}),
        ("100-k24", (24, 24, 24), 16, {}),
        ("bc-250-k24", (24, 24, 24), 48, {}),
        ("bc-100-k12", (16, 32, 64), 64, {"k": 16, "rise": 2, "stem": 64}),
        ("bc-190-k40", (40, 60, 90), 80, {"rise": 1.5}),
    ],
)
def test_params_and_macs_by_hand(point: str, k: tuple[int, int, int], stem: int, values: dict[str, Any]) -> None:
    layers = SPACES[0].points[point].values["layers"]
    found = cost(network(point, 100, **values))
    assert (found.params, found.macs) == by_hand(layers, k, stem, point.startswith("bc"), 100)


@pytest.mark.parametrize("point", IMAGENET)
def test_the_counts_on_large_images(point: str) -> None:
    found = cost(network(point))
    assert (found.params, round(found.macs / 1e9, 3)) == IMAGENET[point]


def test_a_layer_reads_everything_before_it_and_all_of_it_leaves() -> None:
    graph = expand(network("bc-100-k12", layers=6))
    at = {path: i for i, path in enumerate(graph.paths)}
    features = [at["conv"]] + [at[f"block1.{l}.unit.conv2"] for l in range(6)]
    for l in range(1, 6):
        (read,) = graph.inputs[at[f"block1.{l}.unit.bn1"]]
        assert list(graph.inputs[read]) == features[: l + 1]
    (left,) = graph.inputs[at["down1.bn"]]
    assert list(graph.inputs[left]) == features


def test_without_its_input_a_block_leaves_n_times_k_channels() -> None:
    graph = expand(network("bc-100-k12", layers=6, leaves="nodes"))
    at = {path: i for i, path in enumerate(graph.paths)}
    assert graph.shapes[at["down1.bn"]][0] == 6 * 12


def test_parameters_have_readable_names() -> None:
    names = {f"{path}.weight" for path in expand(network("121")).paths}
    assert {"conv.weight", "bn1.weight", "block1.3.unit.conv1.weight", "block4.15.unit.bn2.weight"} <= names
    assert {"down3.bn.weight", "down1.conv.weight", "bn2.weight", "linear.weight"} <= names
