"""The space `microdense`: the paper's networks are points of it, and every sample is a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import open_space

SPACE = open_space("microdense")
PAPER = {"30a64": (30, 64, "0.2"), "60a115": (60, 115, "0.2175"), "table6": (9, 218, "0.2")}
PARAMS = {"30a64": 724_727, "60a115": 4_031_046}


def as_the_paper_says(blocks: int, alpha: int, ratio: str, n: int = 3) -> tuple[int, int]:
    """Parameters and MACs on 32x32 for 10 classes, by the paper's tables alone."""
    numerator, denominator = int(float(ratio) * 10_000), 10_000
    side, c = 32, 16
    params, macs = 27 * 16 + 2 * 16, 27 * 16 * side**2
    for k in range(1, blocks + 1):
        kernel = 4 if k > 1 and (k - 1) % (blocks // 3) == 0 else 1
        side //= 2 if kernel == 4 else 1
        w, u = math.floor(16 + k * alpha / blocks), c * numerator // denominator
        weights, norms, gathered = kernel**2 * c * 4 * u, 4 * u, 4 * u
        for dense in range(1, n + 1):
            width = u * (dense + 1)
            weights += gathered * width + 9 * width * u
            norms += 2 * width
            gathered += width
        weights += gathered * w
        params += weights + 2 * (norms + w)
        macs += weights * side**2
        c = w
    return params + 2 * c + c * 10 + 10, macs + c * 10


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_networks_are_points(name: str) -> None:
    counted = cost(SPACE.point(name))
    assert (counted.params, counted.macs) == as_the_paper_says(*PAPER[name])
    assert counted.params == PARAMS.get(name, counted.params)


def test_the_network_of_table_6_has_its_printed_size() -> None:
    counted = cost(SPACE.point("table6"))
    assert round(counted.params / 1e6, 3) == 1.804 and round(counted.macs / 1e9, 3) == 0.258


def test_30a64_is_the_network_of_the_language_s_specification() -> None:
    written = {
        "input": [3, 32, 32],
        "classes": 10,
        "let": {
            "micro": {
                "nodes": 3,
                "growth": "g*in/4",
                "cardinality": "l + 1",
                "reads": {"pattern": "dense", "operator": "concat"},
                "unit": [{"conv": 1}, "bn", "relu", {"conv": 3, "groups": "g"}, "bn", "relu"],
            }
        },
        "net": [
            {"conv": 3, "out": 16},
            "bn",
            {
                "nodes": 30,
                "growth": "floor(16 + 64*l/n)",
                "stride": "2 if l > 1 and l % 10 == 1 else 1",
                "unit": [
                    {"conv": "4 if s > 1 else 1", "out": "4*floor(0.2*in)", "stride": "s"},
                    *["bn", "relu", "micro", {"conv": 1}, "bn", "join"],
                ],
                "shortcut": {"operator": "sum", "match": [{"avgpool": "s"}, {"pad": "w"}]},
            },
            *["bn", "gap", {"linear": "classes"}],
        ],
    }
    assert canonical_hash(expand(SPACE.point("30a64"))) == canonical_hash(expand(Genotype.from_dict(written)))


@pytest.mark.parametrize("side", [8, 28, 32])
def test_every_sample_is_a_network(side: int) -> None:
    rng = np.random.default_rng(side)
    for _ in range(200):
        graph = expand(SPACE.genotype(SPACE.sample(rng), input=(3, side, side)))
        assert graph.shapes[graph.output][0] == 10


@pytest.mark.parametrize("side", [1, 2, 5, 9, 15, 25, 29, 30, 31, 50, 64])
def test_odd_and_tiny_maps_serve_too(side: int) -> None:
    rng = np.random.default_rng(side)
    for reach in ("previous", "dense"):
        values = SPACE.sample(rng) | {"reach": reach, "blocks": 2}
        assert cost(SPACE.genotype(values, input=(1, side, side), classes=3)).params > 0


@pytest.mark.parametrize(("side", "last"), [(2, 2), (4, 2), (8, 2), (16, 4), (28, 7), (32, 8), (64, 16)])
def test_a_stage_halves_its_map_as_long_as_two_pixels_are_left(side: int, last: int) -> None:
    graph = expand(SPACE.genotype(SPACE.points["30a64"].values, input=(3, side, side)))
    sides = [shape[1] for shape in graph.shapes if len(shape) == 3 and shape[1] > 1]
    assert min(sides) == last


def test_each_value_of_each_name_makes_another_network() -> None:
    base: dict[str, Any] = SPACE.points["30a64"].values | {"blocks": 2, "layers": 5, "alpha": 160}
    hashes = [canonical_hash(expand(SPACE.genotype(values))) for values in (base, *SPACE.neighbours(base))]
    assert len(set(hashes)) == len(hashes)


def test_without_layers_the_block_is_a_plain_bottleneck() -> None:
    values = SPACE.points["30a64"].values | {"layers": 0, "blocks": 1}
    counted = cost(SPACE.genotype(values))
    assert (counted.params, counted.macs) == as_the_paper_says(3, 64, "0.2", n=0)


def test_a_default_search_s_limit_leaves_enough_of_the_space() -> None:
    rng, limit = np.random.default_rng(0), SPACE.search_defaults((1, 8, 8)).max_macs
    assert limit is not None
    small = [cost(SPACE.genotype(SPACE.sample(rng), input=(1, 8, 8))).macs <= limit for _ in range(200)]
    assert np.mean(small) >= 0.05
