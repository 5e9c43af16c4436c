"""Facts about every space: it conforms, its samples are valid networks at every size, searches of it end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import nas_agg
from nas_agg.compiler import build
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space, Values, list_spaces, open_space
from nas_agg.testing import _check_counts, check_space

SPACES = {name: open_space(name) for name in list_spaces()}
EACH = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
DRAWS = 40
MAX_OPERATIONS = 4_000  # of all samples of a size; at least 2 are drawn
MAX_MACS = 2_000_000  # of a network that is run


def smallest(space: Space) -> int:
    """The smallest side of images in a search."""
    return space.min_input or 8


def sides(space: Space) -> list[int]:
    odd = 33 if space.min_input else 7
    return sorted({odd, *(side for side in (8, 28, 32, 224) if side >= smallest(space))})


def families(space: Space, rng: np.random.Generator) -> Iterator[tuple[Values, Values, Values]]:
    """Samples, each with a mutant of it and a child of it and the sample before it."""
    last = space.sample(rng)
    for _ in range(DRAWS):
        values = space.sample(rng)
        yield values, space.mutate(values, rng, changes=2), space.crossover(last, values, rng)
        last = values


@EACH
def test_it_conforms(space):
    names = list(space.points)
    check_space(space, samples=3, points=names[:: max(1, len(names) // 3)])


@pytest.mark.slow
@EACH
def test_all_points_and_many_samples_conform(space):
    check_space(space, samples=40, seed=1)


@EACH
def test_samples_and_their_children_are_valid_networks_at_every_size(space):
    rng = np.random.default_rng(0)
    for side in sides(space):
        operations, counted = 0, []
        for draw, family in enumerate(families(space, rng), 1):
            graphs = [expand(space.genotype(values, (3, side, side), 7)) for values in family]
            assert all(graph.shapes[graph.output] == (7, 1, 1) for graph in graphs)
            operations += sum(map(len, graphs))
            counted += [graph for graph in graphs[:1] if len(graph) < 500][: 2 - len(counted)]
            if operations > MAX_OPERATIONS and draw >= 2 and counted:
                break
        assert counted
        for graph in counted:
            _check_counts(graph, f"{space.name}, images of {side}x{side}")


@EACH
def test_networks_within_the_default_limits_can_be_trained(space):
    rng, image = np.random.default_rng(1), (1, smallest(space), smallest(space))
    limit = space.search_defaults(image).max_macs
    graphs = (expand(space.genotype(space.sample(rng), image, 3)) for _ in range(32))
    small = list(islice((graph for graph in graphs if Cost(graph).macs <= limit), 2))
    assert len(small) == 2
    for graph in small:
        network = build(graph, 0).train()
        network(torch.randn(4, *image)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@EACH
def test_a_search_runs_to_its_end(space):
    image = (3, smallest(space), smallest(space))

    def fewest(genotype: Genotype, trial: optuna.Trial) -> float:
        """The fewer multiply-adds the better; networks of few of them are run."""
        genotype = genotype.with_task(image, 5)
        macs = nas_agg.cost(genotype).macs
        if macs < MAX_MACS:
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
def test_it_has_a_description_and_a_family(space):
    assert space.about and space.family in (space.name, space.name.rpartition("-")[0])


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("spaces/*.yaml")), ids=lambda path: path.stem)
def test_a_space_file_has_at_most_200_lines(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120
