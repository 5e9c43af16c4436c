"""A Gaussian process over the values of a space's open names and over figures of the networks they make.

The covariance is a sum of exponentials, one of how far the open names differ, one of each group of figures:
``K = a exp(-sum_j t_j D_j) + sum_g b_g exp(-sum_c u_c E_c) + s I``. Its numbers are the most probable ones under
log-normal priors. Gene j of a point is the index of its value of open name j.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = np.ndarray

_BOUNDS = (-9.0, 4.0)
_NOISE = np.log(0.05)
_JITTER = 1e-5
_STEPS = 40


class SumKernel:
    """The covariance, for a space and some groups of figures.

    Args:
        tables: For each gene the distances of its values, (values, values), in 0 to 1.
        groups: How many figures each group has.
    """

    def __init__(self, tables: Sequence[Array], groups: Sequence[int] = ()):
        self.tables, self.groups = list(tables), list(groups)
        genes = len(self.tables)
        widths = [genes, *groups]
        # ln a, then one ln l that all of a part share, then each channel's deviation from it; the noise is last.
        self.parts: list[slice] = []
        begin, mean = 0, list[float]()
        for width in widths:
            self.parts.append(slice(begin, begin + 2 + width))
            mean += [0.0, np.log(2 / width) if width > 2 else np.log(0.3), *[0.0] * width]
            begin += 2 + width
        self.mean = np.array([*mean, _NOISE])
        self.start = np.array([*mean, _NOISE])
        for part in self.parts:
            self.start[part.start] = -0.3

    def distances(self, genes: Array, figures: Sequence[Array], others: Array, other_figures: Sequence[Array]) -> list:
        """For each part the distances of its channels, ``(channels, points, others)``."""
        found = [np.stack([table[np.ix_(genes[:, j], others[:, j])] for j, table in enumerate(self.tables)])]
        for own, theirs in zip(figures, other_figures, strict=True):
            found.append(np.stack([(own[:, None, c] - theirs[None, :, c]) ** 2 for c in range(own.shape[1])]))
        return found

    def scales(self, theta: Array, part: slice) -> tuple[float, Array]:
        """A part's height and the scale of each of its channels."""
        return float(np.exp(theta[part.start])), np.exp(theta[part.start + 1] + theta[part.start + 2 : part.stop])

    def covariance(self, theta: Array, distances: Sequence[Array]) -> list[Array]:
        """The covariance that each part gives."""
        found = []
        for part, channels in zip(self.parts, distances, strict=True):
            height, scales = self.scales(theta, part)
            found.append(height * np.exp(-np.tensordot(scales, channels, 1)))
        return found

    def loss(self, theta: Array, distances: Sequence[Array], y: Array) -> tuple[float, Array]:
        """Minus the log of the posterior density of the covariance's numbers, and its gradient."""
        parts = self.covariance(theta, distances)
        noise = float(np.exp(theta[-1]))
        count = len(y)
        total = sum(parts[1:], parts[0]) + (noise + _JITTER) * np.eye(count)
        factor = cho_factor(total, lower=True)
        alpha = cho_solve(factor, y)
        away = theta - self.mean
        loss = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
        inner = cho_solve(factor, np.eye(count)) - np.outer(alpha, alpha)  # twice the gradient by the covariance
        gradient = away.copy()
        for part, channels, covariance in zip(self.parts, distances, parts, strict=True):
            weighed = 0.5 * inner * covariance
            gradient[part.start] += weighed.sum()
            _, scales = self.scales(theta, part)
            each = -scales * np.tensordot(channels, weighed, 2)
            gradient[part.start + 1] += each.sum()
            gradient[part.start + 2 : part.stop] += each
        gradient[-1] += 0.5 * noise * np.trace(inner)
        return float(loss), gradient


class GaussianProcess:
    """A Gaussian process fitted to points.

    Args:
        kernel: Its covariance.
        genes: The points, ``(points, genes)``.
        figures: Of each group, ``(points, figures)``, standardised.
        y: Their targets, standardised.
        theta: The covariance's numbers; fitted if unsaid.
    """

    def __init__(self, kernel: SumKernel, genes: Array, figures: Sequence[Array], y: Array, theta: Array | None = None):
        self.kernel, self.encoding, self.figures = kernel, genes, list(figures)
        distances = kernel.distances(genes, self.figures, genes, self.figures)
        self.theta = fitted(kernel, distances, y) if theta is None else theta
        parts = kernel.covariance(self.theta, distances)
        noise = float(np.exp(self.theta[-1]))
        self.factor = cho_factor(sum(parts[1:], parts[0]) + (noise + _JITTER) * np.eye(len(y)), lower=True)
        self.alpha = cho_solve(self.factor, y)
        self._tables = self._weighed(genes)

    def _weighed(self, genes: Array) -> list[Array]:
        """For each gene what each of its values is away from each point, scaled."""
        _, scales = self.kernel.scales(self.theta, self.kernel.parts[0])
        return [
            scale * table[:, genes[:, j]]
            for j, (scale, table) in enumerate(zip(scales, self.kernel.tables, strict=True))
        ]

    def predict(self, genes: Array, figures: Sequence[Array]) -> tuple[Array, Array]:
        """Mean and standard deviation at points, without the noise.

        Args:
            genes: ``(points, genes)``.
            figures: Of each group, or of none: then the parts of the figures are as unknown as they can be.
        """
        heights = [self.kernel.scales(self.theta, part)[0] for part in self.kernel.parts]
        away = np.zeros((len(genes), len(self.encoding)))
        for j, table in enumerate(self._tables):
            away += table[genes[:, j]]
        covariance = heights[0] * np.exp(-away)
        for part, own, theirs in zip(self.kernel.parts[1:], figures, self.figures, strict=False):  # all, or none
            height, scales = self.kernel.scales(self.theta, part)
            root = np.sqrt(scales)
            a, b = own * root, theirs * root
            square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
            covariance += height * np.exp(-np.maximum(square, 0))
        half = solve_triangular(self.factor[0], covariance.T, lower=True, check_finite=False)
        variance = sum(heights) - (half**2).sum(0)
        return covariance @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))


def fitted(kernel: SumKernel, distances: Sequence[Array], y: Array) -> Array:
    """The most probable numbers of a covariance, sought from the same start each time."""
    found = minimize(
        kernel.loss,
        kernel.start,
        (distances, y),
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(kernel.start),
        options={"maxiter": _STEPS},
    )
    return found.x
