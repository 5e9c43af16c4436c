"""A Gaussian process over open names and figures of networks, and where it expects the most improvement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nas_agg.study.figures import Figures
from nas_agg.study.gaussian import Kernel, Process
from nas_agg.study.genes import Genes, Rows, distinct, key
from nas_agg.study.points import PointSearcher, Seen

if TYPE_CHECKING:
    from nas_agg.open_names import Values
    from nas_agg.space import Space

STARTS = 12
MANY = 60  # networks from which on the process is not fitted at each ask
MOST_FITTED = 400  # points; the fit takes time by the cube of them
ROUNDS = 5  # of climbing
MOST_DISTANCES = 20_000_000  # between fitted points, over all open names
SHORT_LIST = 40  # candidates whose figures are worked out, where that takes time


class PredictorSearcher(PointSearcher):
    """A Gaussian process predicts scores from open names, costs and shapes; the first twelve networks are random.

    The target is bent so that differences among the best count most. Candidates are neighbours and mutants of the best
    networks and random ones; those of the highest expected improvement are climbed from, neighbour by neighbour.
    Networks that are being trained count as if they had scored what is predicted, so that workers spread out; what
    failed or was refused counts as the worst.
    """

    def __init__(self, space: Space, seed: int):
        super().__init__(space, seed)
        self.genes = Genes(space)
        self.figures = Figures(space)
        self._theta: dict[tuple[bytes, bytes], np.ndarray] = {}

    def proposals(self, seen: Sequence[Seen], rng: np.random.Generator) -> Iterator[Values]:
        """Candidates, the highest expected improvement first."""
        scored = [other for other in seen if other.value is not None]
        known = {key(self.genes.row(other.values)) for other in seen}
        if len(scored) < STARTS:
            return
        for row in self._ranked(seen, scored, known, rng):
            yield self.genes.values(row)

    def theta(self, kernel: Kernel, rows: Rows, figures: Sequence[np.ndarray], scores: np.ndarray) -> np.ndarray:
        """The covariance's numbers, fitted anew for each network and, once they are many, for each fourth.

        They follow from what is given alone; they are kept only to save time.
        """
        count = len(rows) if len(rows) < MANY else len(rows) - len(rows) % 4
        name = (rows[:count].tobytes(), scores[:count].tobytes())
        if name not in self._theta:
            own = [group[:count] for group in figures]
            fitted = Process(kernel, self.genes.codes(rows[:count]), standardised(own, own), bent(scores[:count]))
            self._theta = {name: fitted.theta}
        return self._theta[name]

    def _ranked(
        self, seen: Sequence[Seen], scored: Sequence[Seen], known: set[bytes], rng: np.random.Generator
    ) -> Rows:
        rows = np.stack([self.genes.row(other.values) for other in scored])
        scores = np.array([other.value for other in scored])
        best = rows[np.argsort(-scores, kind="stable")]
        without = [other for other in seen if other.value is None]
        failed = [self.genes.row(other.values) for other in without if not other.running]
        pending = [self.genes.row(other.values) for other in without if other.running]
        model = Model(self, rows, scores, failed, pending)
        candidates = distinct(self._candidates(best, rng), known)
        if not len(candidates):
            return candidates
        gains = model.gains(candidates)
        for _ in range(ROUNDS):
            highest = gains.max()
            top = candidates[np.argsort(-gains, kind="stable")[:5]]
            more = distinct(np.concatenate([self.genes.neighbours(row, rng) for row in top]), known)
            if not len(more):
                break
            candidates, gains = np.concatenate([candidates, more]), np.concatenate([gains, model.gains(more)])
            if gains.max() <= highest:
                break
        order = np.argsort(-gains, kind="stable")
        return model.reconsidered(candidates[order])

    def _candidates(self, best: Rows, rng: np.random.Generator) -> Rows:
        found = [self.genes.neighbours(row, rng) for row in best[:5]]
        parents = best[:10]
        for changes in (1, 2, 3):
            found.append(self.genes.mutants(parents[rng.integers(len(parents), size=400)], changes, rng))
        found.append(self.genes.random(600, rng))
        return np.concatenate(found)


def standardised(figures: Sequence[np.ndarray], of: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Figures less the mean of others, by their deviation."""
    return [(f - o.mean(0)) / np.maximum(o.std(0), 1e-9) for f, o in zip(figures, of, strict=True)]


class Model:
    """The process of one ask, and what it expects of candidates."""

    def __init__(
        self,
        searcher: PredictorSearcher,
        rows: Rows,
        scores: np.ndarray,
        failed: list[np.ndarray],
        pending: list[np.ndarray],
    ):
        most = min(MOST_FITTED, max(STARTS, int((MOST_DISTANCES / rows.shape[1]) ** 0.5)))
        if len(rows) > most:  # the best half, and the latest
            kept = np.argsort(-scores, kind="stable")[: most // 2]
            kept = np.union1d(kept, np.arange(len(rows) - most // 2, len(rows)))
            rows, scores = rows[kept], scores[kept]
        self.figures, self.codes = searcher.figures, searcher.genes.codes
        self.own = self.figures.of(rows)
        target = bent(scores)
        self.best = target.max()
        kernel = Kernel(searcher.genes.tables, [figures.shape[1] for figures in self.own])
        theta = searcher.theta(kernel, rows, self.own, scores)
        if failed:
            rows = np.concatenate([rows, np.stack(failed[-most:])])
            target = np.concatenate([target, np.full(len(rows) - len(target), target.min())])
        self.process = self._process(kernel, rows, target, theta)
        if pending:
            guess, _ = self._predicted(np.stack(pending))
            rows = np.concatenate([rows, np.stack(pending)])
            self.process = self._process(kernel, rows, np.concatenate([target, guess]), theta)

    def _process(self, kernel: Kernel, rows: Rows, target: np.ndarray, theta: np.ndarray) -> Process:
        return Process(kernel, self.codes(rows), standardised(self.figures.of(rows), self.own), target, theta)

    def _predicted(self, rows: Rows, figures: bool = True) -> tuple[np.ndarray, np.ndarray]:
        known = standardised(self.figures.of(rows), self.own) if figures else []
        return self.process.predict(self.codes(rows), known)

    def gains(self, rows: Rows, dear: bool = False) -> np.ndarray:
        """The log of the expected improvement; without figures where these take time, unless ``dear``."""
        return log_improvement(*self._predicted(rows, dear or self.figures.cheap), self.best)

    def reconsidered(self, rows: Rows) -> Rows:
        """Candidates in the order of their gains, the first of them by all their figures."""
        if self.figures.cheap:
            return rows
        first = rows[:SHORT_LIST]
        return np.concatenate([first[np.argsort(-self.gains(first, dear=True), kind="stable")], rows[SHORT_LIST:]])


def bent(scores: np.ndarray) -> np.ndarray:
    """Scores so bent that the gaps below the best count by their logarithm; standardised."""
    scores = scores / (np.abs(scores).max() or 1.0)  # whatever the size of a penalty, differences are finite
    best, middle = scores.max(), np.median(scores)
    gap = best - middle if best > middle else scores.std() or 1.0
    target = -np.log(np.minimum((best - scores) / gap, 1e9) + 0.2)
    return (target - target.mean()) / (target.std() or 1.0)


def log_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """The log of the expected improvement over ``best``, also where that is next to nothing."""
    from scipy.special import log_ndtr

    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    plain = density + z * np.exp(log_ndtr(z))
    far = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(np.maximum(-z, 1.0))  # phi(z) / z**2
    return np.log(deviation) + np.where(z > -5, np.log(np.maximum(plain, 1e-300)), far)
