"""The space `aggregation`: both variants of DSNet against a few lines of PyTorch, and its part agg-bench."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_agg.compiler import compile
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.search_space.space import open_space

SPACE = open_space("aggregation")


@pytest.mark.parametrize(
    ("point", "params", "macs"),
    [
        ("resnet", 470_650, 69_911_168),
        ("dsnet", 469_770, 69_649_024),
        ("dsnet-a", 472_330, 69_911_168),
    ],
)
def test_counts(point: str, params: int, macs: int) -> None:
    counted = cost(SPACE.point(point))
    assert (counted.params, counted.macs) == (params, macs)


def weighted(state: dict[str, Tensor], at: str, sources: list[Tensor], main: Tensor | None, matches: str) -> Tensor:
    """A sum of sources normalised and weighted by channel, which `main` joins as it is."""
    if main is None:
        *sources, main = sources
    for k, y in enumerate(sources):
        if y.shape[1] != main.shape[1]:
            y = F.conv2d(y, state[f"{matches}.{k}.conv.weight"])
        main = main + state[f"{at}.weights.{k}"] * F.group_norm(y, math.gcd(32, y.shape[1]))
    return main


def reference(state: dict[str, Tensor], form: str, x: Tensor) -> Tensor:
    """Variants a and b of DSNet's Figure 3 with pre-activated blocks of two 3x3; three stages of three."""

    def bn_relu(x: Tensor, at: str) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, state[f"{at}.weight"], state[f"{at}.bias"], training=True))

    def block(x: Tensor, at: str) -> Tensor:
        for k in (0, 1):
            own = f"{at}.block.{k}.unit"
            x = F.conv2d(bn_relu(x, f"{own}.bn"), state[f"{own}.conv.weight"], padding=1)
        return x

    x = F.conv2d(x, state["conv.weight"], padding=1)
    for stage in (1, 2, 3):
        features = [x]
        for l in range(3):
            at = f"stage{stage}.{l}"
            if form == "sums":
                made = block(features[-1], f"{at}.unit.bare")
                y = weighted(state, f"{at}.shortcut", features, made, f"stage{stage}.0.shortcut.match")
            else:
                read = weighted(state, f"{at}.reads", features, None, f"stage{stage}.1.reads.match")
                y = block(read, f"{at}.unit")
            features.append(y)
        x = features[-1]
        if form == "reads":
            x = weighted(state, f"stage{stage}.output", features, None, f"stage{stage}.output.match")
        if stage < 3:
            down = f"down{stage}"
            x = F.avg_pool2d(F.conv2d(bn_relu(x, f"{down}.bn"), state[f"{down}.conv.weight"]), 2)
    return F.linear(bn_relu(x, "bn").mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("point", ["dsnet", "dsnet-a"])
def test_dsnet_s_variants_are_a_few_lines_of_torch(point: str) -> None:
    torch.set_num_threads(1)
    values = SPACE.points[point].values | {"blocks": 3, "width": 8, "stem": 8}
    module = compile(SPACE.genotype(values, input=(3, 8, 8), classes=5), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    images = torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    expected = reference(module.state_dict(), str(values["stage_form"]), images)
    torch.testing.assert_close(module.train()(images), expected, rtol=1e-9, atol=1e-9)


def test_a_sum_of_the_block_before_is_the_resnet_that_reads_the_sum_of_all() -> None:
    """A residual stage is a dense aggregation; stages of one width, so that nothing is projected."""
    resnet = SPACE.points["resnet"].values | {"rise": 1}
    sums = resnet | {"stage_form": "sums", "stage_pattern": "previous", "stage_output": "previous"}
    assert len({canonical_hash(expand(SPACE.genotype(values))) for values in (resnet, sums)}) == 1


def test_agg_bench_has_the_networks_that_its_table_is_of() -> None:
    bench = open_space("agg-bench")
    hashes = {name: cost(bench.point(name)).hash for name in bench.points}
    assert hashes == {"best": "61fd1f42162f22435601a465e16ad09d", "light": "a84e50fa91566a98a872a5f27912444b"}
