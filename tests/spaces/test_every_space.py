"""What holds of every space: its points count as the built networks do, its samples are networks at every size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nas_agg
from nas_agg.compiler import build
from nas_agg.compiler.network import Network
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space, Values, list_spaces, open_space

SPACES = {name: open_space(name) for name in list_spaces()}
POINTS = [(space, point) for space in SPACES.values() for point in space.points]
EACH = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
DRAWS = 40
MANY = 30_000  # operations: of large networks fewer are drawn, yet 8
LARGE = 2_000_000  # MACs of a network that is run for a test


def check_counts(graph: Graph) -> None:
    """The module, of tensors without memory, has the parameters and multiply-adds that arithmetic gives."""
    cost = Cost(graph)
    with torch.device("meta"):
        network = Network(graph).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = network(torch.empty(1, *graph.shapes[0], device="meta"))
    assert output.shape == (1, graph.shapes[graph.output][0])
    assert sum(tensor.numel() for tensor in network.parameters()) == cost.params
    assert counter.get_total_flops() == cost.flops == 2 * cost.macs


def smallest(space: Space) -> int:
    """The side of the smallest images that a search takes."""
    return space.min_input or 8


def sides(space: Space) -> list[int]:
    odd = 33 if space.min_input else 7
    return sorted({odd, *(side for side in (8, 28, 32, 224) if side >= smallest(space))})


def families(space: Space, rng: np.random.Generator) -> Iterator[tuple[Values, Values, Values]]:
    """Samples, each with a mutant of it and a child of it and the one before."""
    last = space.sample(rng)
    for _ in range(DRAWS):
        values = space.sample(rng)
        yield values, space.mutate(values, rng, changes=2), space.crossover(last, values, rng)
        last = values


@pytest.mark.parametrize(("space", "point"), POINTS, ids=[f"{space.name}-{point}" for space, point in POINTS])
def test_a_point_counts_as_the_built_network_does(space, point):
    check_counts(expand(space.point(point)))


@EACH
def test_samples_and_their_children_are_networks_at_every_size(space):
    rng = np.random.default_rng(0)
    for side in sides(space):
        operations, counted = 0, []
        for draw, family in enumerate(families(space, rng), 1):
            graphs = [expand(space.genotype(values, (3, side, side), 7)) for values in family]
            assert all(graph.shapes[graph.output] == (7, 1, 1) for graph in graphs)
            operations += sum(map(len, graphs))
            counted += [graph for graph in graphs[:1] if len(graph) < 500][: 2 - len(counted)]
            if operations > MANY and draw >= 8 and counted:
                break
        assert counted
        for graph in counted:
            check_counts(graph)


@EACH
def test_a_search_by_the_space_s_own_limits_finds_networks_that_train(space):
    rng, image = np.random.default_rng(1), (1, smallest(space), smallest(space))
    limit = space.search_defaults(image).max_macs
    graphs = [expand(space.genotype(space.sample(rng), image, 3)) for _ in range(64)]
    small = [graph for graph in graphs if Cost(graph).macs <= limit]
    assert len(small) >= 4
    for graph in small[:2]:
        network = build(graph, 0).train()
        network(torch.randn(4, *image)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@EACH
def test_a_search_of_it_comes_to_its_end(space):
    image = (3, smallest(space), smallest(space))

    def fewest(genotype: Genotype, trial: optuna.Trial) -> float:
        """The fewer multiply-adds the better; networks of few of them are run."""
        genotype = genotype.with_task(image, 5)
        macs = nas_agg.cost(genotype).macs
        if macs < LARGE:
            with torch.no_grad():
                output = nas_agg.compile(genotype, seed=0).eval()(torch.randn(1, *image))
            assert output.shape == (1, 5) and output.isfinite().all()
        return -macs

    result = nas_agg.search(space, fewest, searcher="random", budget=5, seed=0)
    assert result.reason == "budget exhausted"
    assert {trial.state for trial in result.trials} <= {"complete", "duplicate"}
    scores = [trial.value for trial in result.trials if trial.state == "complete"]
    assert len(scores) == 5 and result.value == max(scores) == fewest(result.best, None)
    assert result.best.to_json() == space.genotype(result.values).to_json()


@EACH
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
