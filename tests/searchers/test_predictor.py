"""The Gaussian process, its target and its acquisition, and that the searcher finds what it should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from nas_agg.space import Space, open_space
from nas_agg.study.figures import Figures
from nas_agg.study.gaussian import Kernel, Process
from nas_agg.study.genes import Genes, distinct, key
from nas_agg.study.points import Seen
from nas_agg.study.searcher import find_searcher
from nas_agg.testing import TEXT

TABLES = [1 - np.eye(3)] * 4 + [np.abs(np.arange(5)[:, None] - np.arange(5)) / 4] * 3


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(TEXT, "testing")


@pytest.fixture(scope="module")
def predictor():
    import nas_agg.study.surrogate as module

    return module


def drawn(count: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, len(t), count) for t in TABLES], 1), [rng.normal(size=(count, 2))]


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    kernel, (genes, figures) = Kernel(TABLES, [2]), drawn(30, 0)
    rng = np.random.default_rng(1)
    distances = kernel.distances(genes, figures, genes, figures)
    theta, y = kernel.start + 0.2 * rng.normal(size=len(kernel.start)), rng.normal(size=30)
    _, gradient = kernel.loss(theta, distances, y)
    for i, step in enumerate(1e-5 * np.eye(len(theta))):
        slope = (kernel.loss(theta + step, distances, y)[0] - kernel.loss(theta - step, distances, y)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, abs=1e-6)


def test_predictions_are_those_of_the_textbook():
    kernel, (genes, figures), (others, their_figures) = Kernel(TABLES, [2]), drawn(20, 0), drawn(7, 1)
    y = np.random.default_rng(2).normal(size=20)
    process = Process(kernel, genes, figures, y)
    own = sum(kernel.covariance(process.theta, kernel.distances(genes, figures, genes, figures)))
    cross = sum(kernel.covariance(process.theta, kernel.distances(others, their_figures, genes, figures)))
    noisy = own + (np.exp(process.theta[-1]) + 1e-5) * np.eye(20)
    mean, deviation = process.predict(others, their_figures)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(noisy, y), rtol=1e-8)
    variance = own[0, 0] - np.einsum("ij,ji->i", cross, np.linalg.solve(noisy, cross.T))
    np.testing.assert_allclose(deviation**2, variance, rtol=1e-6)


def test_it_learns_which_genes_and_figures_matter():
    genes, figures = drawn(80, 0)
    y = (genes[:, 0] == 1) + 0.5 * genes[:, 5] / 4 + 0.7 * figures[0][:, 1]
    process = Process(Kernel(TABLES, [2]), genes[:60], [figures[0][:60]], (y - y.mean())[:60])
    mean, _ = process.predict(genes[60:], [figures[0][60:]])
    assert np.corrcoef(mean, y[60:])[0, 1] > 0.95


def test_improvement_is_that_of_the_normal_distribution(predictor):
    mean, deviation = np.array([0.0, 1.0, -2.0, -7.0]), np.array([1.0, 0.5, 0.7, 1.0])
    z = (mean - 0.3) / deviation
    wanted = deviation * (z * norm.cdf(z) + norm.pdf(z))
    found = predictor.log_improvement(mean, deviation, 0.3)
    np.testing.assert_allclose(np.exp(found[:3]), wanted[:3], rtol=1e-9)
    assert found[3] == pytest.approx(np.log(wanted[3]), abs=0.1)
    far = predictor.log_improvement(np.array([-50.0, -60.0]), np.ones(2), 0.0)
    assert np.isfinite(far).all()
    assert far[0] > far[1]


def test_the_target_keeps_the_order_and_spreads_the_best(predictor):
    scores = np.array([0.1, 0.5, 0.9, 0.95, 0.97])
    target = predictor.bent(scores)
    assert (np.diff(target) > 0).all()
    assert target.mean() == pytest.approx(0)
    assert (target[4] - target[2]) / (target[2] - target[0]) > 0.07 / 0.8
    assert np.isfinite(predictor.bent(np.ones(5))).all()
    assert np.isfinite(predictor.bent(np.array([-1.7e308, 0.0, 1.0, 1.7e308]))).all()
    assert np.isfinite(predictor.bent(np.array([1.0, 1.0, 1.0, 0.0]))).all()


def test_genes_are_the_points_of_a_space(space):
    genes, rng = Genes(space), np.random.default_rng(0)
    for row in genes.random(50, rng):
        values = genes.values(row)
        assert (genes.row(space.checked(values)) == row).all()
        near = {key(other) for other in genes.neighbours(row, rng)}
        assert near == {key(genes.row(other)) for other in space.neighbours(values)}
        for changes in (1, 2, 3):
            mutants = genes.mutants(np.repeat(row[None], 30, 0), changes, rng)
            assert ((mutants != row).sum(1) == changes).all()
            assert (mutants < genes.sizes).all()
    known = {key(row)}
    assert len(distinct(np.stack([row, row]), known)) == 0
    kind, count = space.names.index("kind"), space.names.index("count")
    assert genes.tables[kind][0, 3] == 1  # one of a list
    assert genes.tables[count][0, 4] == 1  # ranks of 1, 2, 3, 4, 6
    assert genes.tables[count][0, 1] == 0.25


def test_figures_are_what_networks_cost(space):
    import nas_agg

    figures, genes = Figures(space), Genes(space)
    rows = genes.random(3, np.random.default_rng(0))
    costs, shapes = figures.of(rows)
    counted = [nas_agg.cost(space.genotype(genes.values(row))) for row in rows]
    np.testing.assert_allclose(np.expm1(costs[:, 0]), [cost.params for cost in counted])
    np.testing.assert_allclose(np.expm1(costs[:, 1]), [cost.macs for cost in counted])
    np.testing.assert_allclose(np.expm1(shapes[:, 0]), [cost.depth for cost in counted])


def test_workers_spread_out(space):
    """What is in training is not proposed, and a neighbour of it is worth less."""
    searcher = find_searcher("predictor")(space, 0)
    rng = np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(20)]
    scored = [Seen(point, (float(point["rate"]),)) for point in points]
    first = next(searcher.proposals(scored, np.random.default_rng(1)))
    pending = [Seen(first, None, True)]
    six = [first]
    for _ in range(5):
        six.append(next(searcher.proposals([*scored, *pending], np.random.default_rng(1))))
        pending.append(Seen(six[-1], None, True))
    assert len({str(sorted(point.items(), key=str)) for point in six}) == 6


def test_it_beats_chance_by_far_on_a_space_of_ten_million():
    space = open_space("microdense")

    def score(values: dict) -> float:
        return -sum(abs(index - size // 3) / size for index, size in zip(genes.row(values), genes.sizes, strict=True))

    genes = Genes(space)
    best = {}
    for name in ("predictor", "random"):
        searcher, seen = find_searcher(name)(space, 0), []
        for number in range(50):
            rng = np.random.default_rng(number)
            proposed = next(searcher.proposals(seen, rng), None) if name == "predictor" else None
            point = proposed or space.sample(rng)
            seen.append(Seen(point, (score(point),)))
        best[name] = max(other.value for other in seen)
    assert best["predictor"] > best["random"] / 3
