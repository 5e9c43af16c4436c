"""The spaces of the family `mixed`: MixNet and DPN to the integer, and how their paths mix."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corpus.variants import variant

import nas_agg
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space, open_space

SPACES = [open_space(name) for name in ("mixed", "mixed-imagenet", "mixed-dpn")]

# Parameters, and MACs in G.
COUNTS = {
    "mixnet-100": (1_464_202, 0.540),
    "mixnet-250": (28_964_122, 10.003),
    "mixnet-190": (48_537_770, 17.247),
    "mixnet-105": (11_156_776, 4.898),
    "mixnet-121": (21_859_480, 8.152),
    "mixnet-141": (41_074_600, 12.949),
    "dpn-92": (37_668_392, 6.502),
    "dpn-98": (61_570_728, 11.671),
    "dpn-131": (79_254_504, 16.014),
}

network = partial(variant, "mixed")


# ---- counts


def test_the_points_are_the_papers_networks() -> None:
    assert {name for space in SPACES for name in space.points} == COUNTS.keys()


@pytest.mark.parametrize("point", COUNTS)
def test_the_counts(point: str) -> None:
    found = cost(network(point))
    assert (found.params, round(found.macs / 1e9, 3)) == COUNTS[point]


# ---- how the paths mix


def randomised(genotype: Genotype) -> tuple[torch.nn.Module, dict[str, torch.Tensor], torch.Generator]:
    """A compiled network in float64 whose norms have more to them than 1 and 0, and its weights."""
    module, draw = nas_agg.compile(genotype, seed=0).double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=draw, dtype=torch.float64) + 0.5)
    return module.train(), module.state_dict(), draw


def bn_relu(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return F.batch_norm(x, None, None, state[f"{name}.weight"], state[f"{name}.bias"], training=True).relu()


@pytest.mark.parametrize("onto", ["back", "front"])
def test_a_mixnet_adds_its_inner_links_and_appends_its_outer_ones(onto: str) -> None:
    k1, k2, n = 4, 8, 3
    genotype = network("mixnet-100", 5, layers=n, k1=k1, k2=k2, onto=onto, compression=0.75)
    module, state, draw = randomised(genotype.with_task(input=(3, 8, 8)))
    x = torch.randn(4, 3, 8, 8, generator=draw, dtype=torch.float64)

    def link(x: torch.Tensor, at: str) -> torch.Tensor:
        x = F.conv2d(bn_relu(x, state, f"{at}.bn1"), state[f"{at}.conv1.weight"])
        return F.conv2d(bn_relu(x, state, f"{at}.bn2"), state[f"{at}.conv2.weight"], padding=1)

    y = F.conv2d(x, state["conv.weight"], padding=1)
    for block in (1, 2, 3):
        for l in range(n):
            inner, outer = (link(y, f"block{block}.{l}.unit.links.{i}.unit") for i in (0, 1))
            y = y.clone()
            where = slice(y.shape[1] - k1, None) if onto == "back" else slice(k1)
            y[:, where] += inner
            y = torch.cat([y, outer], 1)
        if block < 3:
            y = F.conv2d(bn_relu(y, state, f"down{block}.bn"), state[f"down{block}.conv.weight"])
            y = F.avg_pool2d(y, 2)
    expected = F.linear(bn_relu(y, state, "bn").mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


def test_a_dpn_adds_to_its_residual_path_and_appends_to_its_dense_path() -> None:
    layers, widths, k, groups = (2, 1, 2, 1), (32, 64, 128, 256), (4, 8, 16, 4), 4
    shape = {f"layers{i + 1}": n for i, n in enumerate(layers)} | {f"k{i + 1}": n for i, n in enumerate(k)}
    genotype = network("dpn-92", 5, residual=32, middle=16, groups=groups, stem=16, **shape)
    module, state, draw = randomised(genotype.with_task(input=(3, 32, 32)))
    x = torch.randn(4, 3, 32, 32, generator=draw, dtype=torch.float64)

    def conv(x: torch.Tensor, at: str, norm: str, **more: Any) -> torch.Tensor:
        return F.conv2d(bn_relu(x, state, norm), state[f"{at}.weight"], **more)

    y = bn_relu(F.conv2d(x, state["conv.weight"], padding=3, stride=2), state, "bn1")
    y = F.max_pool2d(y, 3, 2, 1)
    for stage in range(4):
        for l in range(layers[stage]):
            stride = 2 if stage and not l else 1
            unit, match = f"stage{stage + 1}.{l}.unit", f"stage{stage + 1}.{l}.shortcut.match.0"
            z = conv(y, f"{unit}.conv1", f"{unit}.pre1.bn")
            z = conv(z, f"{unit}.conv2", f"{unit}.pre2.bn", padding=1, stride=stride, groups=groups)
            z = conv(z, f"{unit}.conv3", f"{unit}.pre3.bn")
            if not l:
                y = conv(y, f"{match}.conv", f"{match}.pre.bn", stride=stride)
                assert y.shape[1] == widths[stage] + 2 * k[stage]
            w = widths[stage]
            y = torch.cat([y[:, :w] + z[:, :w], y[:, w:], z[:, w:]], 1)
    expected = F.linear(bn_relu(y, state, "bn2").mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


def test_without_inner_links_a_mixnet_is_a_densenet() -> None:
    dense = open_space("densenet")
    values = dense.points["bc-100-k12"].values
    assert canonical_hash(expand(network("mixnet-100", k1=0))) == canonical_hash(expand(dense.genotype(values)))


def test_without_outer_links_a_mixnet_is_a_residual_chain() -> None:
    graph = expand(network("mixnet-100", k1=24, k2=0, layers=4, compression=1))
    words = [op.word for op in graph.ops]
    assert words.count("add") == 12 and "cat" not in words and "slice" not in words


# ---- the spaces


@pytest.mark.parametrize("space", SPACES[:2], ids=lambda space: space.name)
@pytest.mark.parametrize("links", [(0, 0), (0, 40), (40, 0), (40, 4)])
def test_any_two_links_make_a_layer(space: Space, links: tuple[int, int]) -> None:
    values = space.sample(np.random.default_rng(0)) | {"k1": links[0], "k2": links[1], "stem": "2*k2"}
    for compression in (0.25, 1):
        assert cost(space.genotype(values | {"compression": compression}, input=(1, 32, 32))).params > 0
