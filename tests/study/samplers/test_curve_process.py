"""The Gaussian process over networks and epochs."""

from __future__ import annotations

import numpy as np
from scipy.optimize import check_grad

from nas_agg.study.samplers import curve_process
from nas_agg.study.samplers.curve_process import CurvePositions, CurveProcess
from nas_agg.study.samplers.gaussian_process import GaussianProcess, SumKernel

RNG = np.random.default_rng(0)
TABLES = [np.abs(np.subtract.outer(np.arange(5), np.arange(5))) / 4 for _ in range(3)]
KERNEL = SumKernel(TABLES, (2,))
CODES, FEATURES = RNG.integers(5, size=(12, 3)), [RNG.normal(size=(12, 2))]
NETWORK = np.append(np.arange(12), np.arange(4))  # four networks have a score after a quarter and after all epochs
REMAINING = np.append(np.full(12, np.log(4)), np.zeros(4))
TARGET = RNG.normal(size=16)
THETA = np.array([*KERNEL.start[:-1], np.log(0.1), np.log(0.5), np.log(0.05)])


def process(network=NETWORK, remaining=REMAINING, target=TARGET, theta=THETA) -> CurveProcess:
    return CurveProcess(KERNEL, CODES, FEATURES, CurvePositions(network, remaining), target, theta)


def test_the_posterior_is_that_of_the_covariance_as_documented():
    """Against the formula, element by element."""

    def covariance(a: int, e: float, b: int, f: float) -> float:
        total = 0.0
        amplitude, scales = KERNEL.term_parameters(THETA, KERNEL.terms[0])
        total += amplitude * np.exp(-sum(s * TABLES[j][CODES[a, j], CODES[b, j]] for j, s in enumerate(scales)))
        amplitude, scales = KERNEL.term_parameters(THETA, KERNEL.terms[1])
        total += amplitude * np.exp(-(scales * (FEATURES[0][a] - FEATURES[0][b]) ** 2).sum())
        return (total + 0.1 * (a == b)) * np.exp(-0.5 * abs(e - f))

    points = list(zip(NETWORK, REMAINING, strict=True))
    matrix = np.array([[covariance(*p, *q) for q in points] for p in points]) + (0.05 + 1e-5) * np.eye(16)
    cross = np.array([[covariance(a, 0.0, *q) for q in points] for a in range(12)])
    prior = np.array([covariance(a, 0.0, a, 0.0) for a in range(12)])
    mean, deviation = process().predict(CODES, FEATURES, np.arange(12))
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(matrix, TARGET), rtol=1e-9)
    variance = prior - np.einsum("ij,ji->i", cross, np.linalg.solve(matrix, cross.T))
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-7)


def test_scores_of_full_trainings_alone_are_the_process_over_networks():
    codes = np.argwhere(np.ones((3, 4)))  # 12 different networks
    kernel = SumKernel([TABLES[0], TABLES[0]])
    theta = np.append(kernel.start[:-1], np.log(0.07))
    over_networks = GaussianProcess(kernel, codes, [], TARGET[:12], theta)
    curves = CurveProcess(
        kernel,
        codes,
        [],
        CurvePositions(np.arange(12), np.zeros(12)),
        TARGET[:12],
        np.array([*theta[:-1], -60.0, 0.0, theta[-1]]),
    )
    for one, other in zip(curves.predict(codes, []), over_networks.predict(codes, []), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_a_score_after_more_epochs_says_more():
    deviations = [
        process(np.array([3]), np.array([np.log(ratio)]), np.array([1.0])).predict(
            CODES[3:4], [FEATURES[0][3:4]], np.array([3])
        )[1][0]
        for ratio in (12, 4, 2, 1)
    ]
    assert deviations == sorted(deviations, reverse=True)
    # An equal network that was not trained itself is less certain.
    _, other = process(np.array([3]), np.zeros(1), np.array([1.0])).predict(CODES[3:4], [FEATURES[0][3:4]])
    assert other[0] > deviations[-1]


def test_the_gradient_of_the_posterior_density(monkeypatch):
    calls = []

    def minimize(loss, start, **options):
        calls.append((loss, start))
        return type("Result", (), {"x": start})

    monkeypatch.setattr(curve_process, "minimize", minimize)
    process(theta=None)
    ((loss, start),) = calls
    for theta in (start, start + 0.3 * np.random.default_rng(1).normal(size=len(start))):
        assert check_grad(lambda t: loss(t)[0], lambda t: loss(t)[1], theta) < 1e-4 * np.abs(loss(theta)[1]).max()


def test_fitted_hyperparameters_see_that_early_scores_are_unrelated():
    """Where scores after a quarter are noise, the correlation between epochs is fitted to be low."""
    rng = np.random.default_rng(2)
    signal = rng.normal(size=12)
    network, remaining = np.tile(np.arange(12), 2), np.repeat([np.log(4), 0.0], 12)
    noise = process(network, remaining, np.append(rng.normal(size=12), signal), None)
    same = process(network, remaining, np.append(signal, signal), None)
    correlation = [np.exp(-np.exp(one.theta[-2]) * np.log(4)) for one in (noise, same)]
    assert correlation[0] < 0.6 < 0.8 < correlation[1]
