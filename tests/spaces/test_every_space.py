"""What holds of every space: its points count as the built networks do, its samples are networks at every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas_agg.compiler import build
from nas_agg.compiler.network import Network
from nas_agg.costs import Cost
from nas_agg.expansion import expand
from nas_agg.graph import Graph
from nas_agg.space import Space, list_spaces, open_space

SPACES = {name: open_space(name) for name in list_spaces()}
POINTS = [(space, point) for space in SPACES.values() for point in space.points]
SIDES = (8, 28, 32, 224)
LARGE = 2_000_000  # MACs of a network that is run for a test


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check_counts(graph: Graph) -> None:
    """The module, of tensors without memory, has the parameters and multiply-adds that arithmetic gives."""
    cost = Cost(graph)
    with torch.device("meta"):
        network = Network(graph).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = network(torch.empty(1, *graph.shapes[0]))
    assert output.shape == (1, graph.shapes[graph.output][0])
    assert sum(tensor.numel() for tensor in network.parameters()) == cost.params
    assert counter.get_total_flops() == cost.flops == 2 * cost.macs


def sides(space: Space) -> list[int]:
    smallest = space.min_input or 0
    return [side for side in SIDES if side >= smallest] if smallest <= 8 else sorted({smallest, *SIDES[-2:]})


@pytest.mark.parametrize(("space", "point"), POINTS, ids=[f"{space.name}-{point}" for space, point in POINTS])
def test_a_point_counts_as_the_built_network_does(space, point):
    check_counts(expand(space.point(point)))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_samples_and_their_children_are_networks_at_every_size(space):
    rng = np.random.default_rng(0)
    for side in sides(space):
        parents = [space.sample(rng) for _ in range(8)]
        children = [space.mutate(values, rng, changes=2) for values in parents[:4]]
        children += [space.crossover(a, b, rng) for a, b in zip(parents[:4], parents[4:], strict=True)]
        graphs = [expand(space.genotype(values, (3, side, side), 7)) for values in parents + children]
        for graph in [graph for graph in graphs if len(graph) < 500][:2]:
            check_counts(graph)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_small_samples_are_trained_a_step(space):
    rng = np.random.default_rng(1)
    side = sides(space)[0]
    graphs = (expand(space.genotype(space.sample(rng), (1, side, side), 3)) for _ in range(300))
    small = [graph for graph, _ in zip((g for g in graphs if Cost(g).macs < LARGE), range(2), strict=False)]
    assert small, "a search on small images finds nothing to train"
    for graph in small:
        network = build(graph, 0).train()
        network(torch.randn(4, 1, side, side)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_search_by_the_space_s_own_limits_finds_networks(space):
    rng = np.random.default_rng(2)
    side = sides(space)[0]
    limit = space.search_on((1, side, side)).max_macs
    macs = [Cost(expand(space.genotype(space.sample(rng), (1, side, side), 10))).macs for _ in range(60)]
    assert limit and sum(count <= limit for count in macs) >= 4


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_points_have_their_own_values_and_say_where_they_are(space):
    for point in space.points:
        genotype = space.point(point)
        assert space.values_of(genotype) == space.points[point].values
    assert space.about and space.family in (space.name, space.name.rpartition("-")[0])


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("spaces/*.yaml")), ids=lambda path: path.stem)
def test_a_space_reads_in_one_sitting(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120
