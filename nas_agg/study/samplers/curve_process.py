"""Gaussian process regression over networks and epochs, for trainings that pause and continue.

The covariance of the scores of networks x and x' after e and e' epochs is a product::

    K = (k(x, x') + c [x = x']) exp(-r |log e - log e'|) + s [the same score]

where k is the kernel over networks of `nas_agg.study.samplers.gaussian_process`, and c the variance of what is
particular to a network. So a score after few epochs says the more about the network's later scores, and about similar
networks, the closer the epochs are. Swersky, Snoek and Adams ("Freeze-Thaw Bayesian Optimization", 2014) introduced
such processes, with curves that decay exponentially.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from nas_agg.study.samplers.gaussian_process import SumKernel

Array = np.ndarray

_BOUNDS = (-9.0, 4.0)  # of each logarithm
_JITTER = 1e-5
_MAX_ITERATIONS = 40
_LOG_OWN_VARIANCE, _LOG_RATE = np.log(0.05), np.log(0.3)


@dataclass(frozen=True)
class CurvePositions:
    """Where scores are on the learning curves of networks.

    Attributes:
        network: The index of the network of each score, ``(scores,)``.
        remaining: The logarithm of the ratio of the epochs of a full training to those of each score, ``(scores,)``.
    """

    network: Array
    remaining: Array


class CurveProcess:
    """A Gaussian process conditioned on scores of networks after different numbers of epochs.

    Args:
        kernel: The kernel over networks.
        codes: The search variables of the networks, ``(networks, variables)``.
        features: Their standardized features, for each group ``(networks, features)``.
        positions: The network and the epoch of each score.
        y: The standardized scores, ``(scores,)``.
        theta: The logarithms of the hyperparameters: those of the kernel without its noise, c, r and s; fitted to the
            scores if None.
    """

    def __init__(
        self,
        kernel: SumKernel,
        codes: Array,
        features: Sequence[Array],
        positions: CurvePositions,
        y: Array,
        theta: Array | None = None,
    ):
        self._kernel, self._positions = kernel, positions
        self._codes, self._features = codes[positions.network], [group[positions.network] for group in features]
        distances = kernel.distances(self._codes, self._features, self._codes, self._features)
        is_same = (positions.network[:, None] == positions.network).astype(float)
        gaps = np.abs(positions.remaining[:, None] - positions.remaining)
        prior = np.array([*kernel.prior_mean[:-1], _LOG_OWN_VARIANCE, _LOG_RATE, kernel.prior_mean[-1]])

        def covariance(theta: Array) -> tuple[list[Array], Array, Array]:
            """Of each term of the kernel and of what is particular to the networks, and their sum with noise."""
            own_variance, rate, noise = np.exp(theta[-3:])
            decay = np.exp(-rate * gaps)
            terms = [term * decay for term in kernel.covariances(theta, distances)]
            own = own_variance * is_same * decay
            return terms, own, sum(terms, own) + (noise + _JITTER) * np.eye(len(y))

        def loss(theta: Array) -> tuple[float, Array]:
            """Negative log posterior density up to a constant, and its gradient."""
            _, rate, noise = np.exp(theta[-3:])
            terms, own, total = covariance(theta)
            factor = cho_factor(total, lower=True)
            alpha, deviation = cho_solve(factor, y), theta - prior
            value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * deviation @ deviation
            by_covariance = 0.5 * (cho_solve(factor, np.eye(len(y))) - np.outer(alpha, alpha))
            gradient = deviation + kernel.gradient_by_terms(theta, distances, terms, by_covariance)
            gradient[-3] += (by_covariance * own).sum()
            gradient[-2] -= rate * (by_covariance * gaps * sum(terms, own)).sum()
            gradient[-1] += noise * np.trace(by_covariance)
            return float(value), gradient

        if theta is None:
            start = np.array([*kernel.start[:-1], *prior[-3:]])
            bounds, options = [_BOUNDS] * len(start), {"maxiter": _MAX_ITERATIONS}
            theta = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        self.theta: Array = theta
        self._factor = cho_factor(covariance(self.theta)[2], lower=True)
        self._alpha = cho_solve(self._factor, y)

    def predict(self, codes: Array, features: Sequence[Array], networks: Array | None = None) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the scores of points after full trainings, ``(points,)`` each.

        Args:
            codes: ``(points, variables)``.
            features: For each group ``(points, features)``; features of further groups are unknown, and their terms
                contribute their prior variance and no covariance.
            networks: The index of each point among the networks with scores; None: they are other networks.
        """
        own_variance, rate = np.exp(self.theta[-3:-1])
        amplitudes = [self._kernel.term_parameters(self.theta, term)[0] for term in self._kernel.terms]
        known = self._features[: len(features)]
        distances = self._kernel.distances(codes, features, self._codes, known)
        covariance = np.sum(self._kernel.covariances(self.theta, distances), axis=0)
        if networks is not None:
            covariance += own_variance * (networks[:, None] == self._positions.network)
        covariance *= np.exp(-rate * self._positions.remaining)
        half = solve_triangular(self._factor[0], covariance.T, lower=True, check_finite=False)
        variance = sum(amplitudes) + own_variance - (half**2).sum(0)
        return covariance @ self._alpha, np.sqrt(np.maximum(variance, 1e-12))
