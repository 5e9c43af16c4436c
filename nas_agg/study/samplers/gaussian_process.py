"""Gaussian process regression over the search variables of networks and over features of the networks.

The kernel is a sum of exponential kernels, one over the search variables, one per group of features::

    K = a exp(-sum_j t_j D_j) + sum_g b_g exp(-sum_c u_c E_c) + s I

where ``D_j`` are distances between values of search variable j, and ``E_c`` squared differences of feature c. Its
hyperparameters maximise the posterior density under log-normal priors (Rasmussen and Williams, "Gaussian Processes for
Machine Learning", MIT Press 2006, chapter 5). Search variables are given as codes, see
`nas_agg.search_space.encoding.Encoding.bucketize`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = np.ndarray

_BOUNDS = (-9.0, 4.0)  # of each logarithm
_LOG_NOISE = np.log(0.05)
_JITTER = 1e-5
_MAX_ITERATIONS = 40


class SumKernel:
    """Sum of one exponential kernel over the search variables and one per group of features.

    Args:
        distance_tables: For each search variable the distances between its codes, ``(codes, codes)``, in 0 to 1.
        group_sizes: The number of features in each group.

    Attributes:
        terms: The slice of ``theta`` of each term of the sum. ``theta`` holds logarithms: for each term its amplitude,
            the inverse length scale that its inputs share, and the deviation of each input from it; at the end the
            noise.
        prior_mean: The mean of the normal prior of ``theta``, whose variance is 1.
        start: Where the maximisation of the posterior starts.
    """

    def __init__(self, distance_tables: Sequence[Array], group_sizes: Sequence[int] = ()):
        self.distance_tables, self.group_sizes = list(distance_tables), list(group_sizes)
        widths = [len(self.distance_tables), *group_sizes]
        self.terms: list[slice] = []
        begin, prior_mean = 0, list[float]()
        for width in widths:
            self.terms.append(slice(begin, begin + 2 + width))
            prior_mean += [0.0, np.log(2 / width) if width > 2 else np.log(0.3), *[0.0] * width]
            begin += 2 + width
        self.prior_mean = np.array([*prior_mean, _LOG_NOISE])
        self.start = self.prior_mean.copy()
        for term in self.terms:
            self.start[term.start] = -0.3

    def distances(
        self, codes: Array, features: Sequence[Array], other_codes: Array, other_features: Sequence[Array]
    ) -> list[Array]:
        """For each term the distances of its inputs, ``(inputs, points, others)``."""
        tables = enumerate(self.distance_tables)
        distances = [np.stack([table[np.ix_(codes[:, j], other_codes[:, j])] for j, table in tables])]
        for group, other in zip(features, other_features, strict=True):
            distances.append(np.stack([(group[:, None, c] - other[None, :, c]) ** 2 for c in range(group.shape[1])]))
        return distances

    def term_parameters(self, theta: Array, term: slice) -> tuple[float, Array]:
        """The amplitude of a term and the inverse length scale of each of its inputs."""
        return float(np.exp(theta[term.start])), np.exp(theta[term.start + 1] + theta[term.start + 2 : term.stop])

    def covariances(self, theta: Array, distances: Sequence[Array]) -> list[Array]:
        """The covariance matrix of each term, or of the first if there are fewer distances, ``(points, others)``."""
        covariances = []
        for term, inputs in zip(self.terms, distances, strict=False):
            amplitude, scales = self.term_parameters(theta, term)
            covariances.append(amplitude * np.exp(-np.tensordot(scales, inputs, 1)))
        return covariances

    def loss(self, theta: Array, distances: Sequence[Array], y: Array) -> tuple[float, Array]:
        """Negative log posterior density of ``theta`` up to a constant, and its gradient.

        The gradient of the marginal likelihood is equation 5.9 of Rasmussen and Williams.

        Args:
            theta: The logarithms of the hyperparameters.
            distances: Of the observed points to one another, see `distances`.
            y: Their targets.
        """
        covariances = self.covariances(theta, distances)
        noise = float(np.exp(theta[-1]))
        count = len(y)
        total = sum(covariances[1:], covariances[0]) + (noise + _JITTER) * np.eye(count)
        factor = cho_factor(total, lower=True)
        alpha = cho_solve(factor, y)
        deviation = theta - self.prior_mean
        loss = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * deviation @ deviation
        inner = cho_solve(factor, np.eye(count)) - np.outer(alpha, alpha)  # twice the gradient by the covariance
        gradient = deviation + self.gradient_by_terms(theta, distances, covariances, 0.5 * inner)
        gradient[-1] += 0.5 * noise * np.trace(inner)
        return float(loss), gradient

    def gradient_by_terms(
        self, theta: Array, distances: Sequence[Array], covariances: Sequence[Array], by_covariance: Array
    ) -> Array:
        """The gradient of a function of the sum of the terms' covariances, 0 for what is not of a term.

        Args:
            theta: The logarithms of the hyperparameters.
            distances: See `distances`.
            covariances: See `covariances`.
            by_covariance: The function's derivatives by the elements of the sum, ``(points, others)``.
        """
        gradient = np.zeros(len(theta))
        for term, inputs, covariance in zip(self.terms, distances, covariances, strict=True):
            weighted = by_covariance * covariance
            gradient[term.start] = weighted.sum()
            _, scales = self.term_parameters(theta, term)
            by_input = -scales * np.tensordot(inputs, weighted, 2)
            gradient[term.start + 1] = by_input.sum()
            gradient[term.start + 2 : term.stop] = by_input
        return gradient


class GaussianProcess:
    """A Gaussian process conditioned on observed points.

    Args:
        kernel: The kernel.
        codes: The search variables of the points, ``(points, variables)``.
        features: The standardized features of the points, for each group ``(points, features)``.
        y: Their standardized targets, ``(points,)``, or several columns of them.
        theta: The logarithms of the kernel's hyperparameters; fitted to the points if None, which takes one column.
    """

    def __init__(
        self, kernel: SumKernel, codes: Array, features: Sequence[Array], y: Array, theta: Array | None = None
    ):
        self.kernel, self.codes, self.features = kernel, codes, list(features)
        distances = kernel.distances(codes, self.features, codes, self.features)
        self.theta = maximize_posterior(kernel, distances, y) if theta is None else theta
        covariances = kernel.covariances(self.theta, distances)
        noise = float(np.exp(self.theta[-1]))
        total = sum(covariances[1:], covariances[0]) + (noise + _JITTER) * np.eye(len(y))
        self.factor = cho_factor(total, lower=True)
        self.alpha = cho_solve(self.factor, y)
        self._scaled_tables = self._scale_tables(codes)

    def _scale_tables(self, codes: Array) -> list[Array]:
        """For each search variable the scaled distances of its codes to the points, ``(codes, points)``."""
        _, scales = self.kernel.term_parameters(self.theta, self.kernel.terms[0])
        return [
            scale * table[:, codes[:, j]]
            for j, (scale, table) in enumerate(zip(scales, self.kernel.distance_tables, strict=True))
        ]

    def sample(self, codes: Array, features: Sequence[Array], normals: Array) -> Array:
        """Draw joint observations of points, with observation noise, ``(points, samples)``.

        Args:
            codes: ``(points, variables)``.
            features: For each group ``(points, features)``.
            normals: Standard normal numbers, ``(points, samples)``.
        """
        distances = self.kernel.distances(codes, features, codes, features)
        across = self.kernel.distances(codes, features, self.codes, self.features)
        prior, cross = (np.sum(self.kernel.covariances(self.theta, part), axis=0) for part in (distances, across))
        half = solve_triangular(self.factor[0], cross.T, lower=True, check_finite=False)
        covariance = prior - half.T @ half + (float(np.exp(self.theta[-1])) + _JITTER) * np.eye(len(codes))
        return (cross @ self.alpha)[:, None] + np.linalg.cholesky(covariance) @ normals

    def predict(self, codes: Array, features: Sequence[Array]) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of points, without observation noise.

        Returns:
            The means, ``(points,)`` or, if there are several targets, ``(points, targets)``; the deviations,
            ``(points,)``.

        Args:
            codes: ``(points, variables)``.
            features: For each group ``(points, features)``; features of further groups are unknown, and their terms
                contribute their prior variance and no covariance.
        """
        amplitudes = [self.kernel.term_parameters(self.theta, term)[0] for term in self.kernel.terms]
        distance = np.zeros((len(codes), len(self.codes)))
        for j, table in enumerate(self._scaled_tables):
            distance += table[codes[:, j]]
        covariance = amplitudes[0] * np.exp(-distance)
        for term, group, observed in zip(self.kernel.terms[1:], features, self.features, strict=False):
            amplitude, scales = self.kernel.term_parameters(self.theta, term)
            root = np.sqrt(scales)
            a, b = group * root, observed * root
            squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
            covariance += amplitude * np.exp(-np.maximum(squares, 0))
        half = solve_triangular(self.factor[0], covariance.T, lower=True, check_finite=False)
        variance = sum(amplitudes) - (half**2).sum(0)
        return covariance @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))


def maximize_posterior(kernel: SumKernel, distances: Sequence[Array], y: Array) -> Array:
    """The ``theta`` of highest posterior density, sought by L-BFGS-B from the kernel's start.

    Args:
        kernel: The kernel.
        distances: Of the observed points to one another, see `SumKernel.distances`.
        y: Their standardized targets.
    """
    result = minimize(
        kernel.loss,
        kernel.start,
        (distances, y),
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(kernel.start),
        options={"maxiter": _MAX_ITERATIONS},
    )
    return result.x
