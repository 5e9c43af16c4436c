"""What Gaussian processes expect of networks that were not trained: more of one score, or more of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_ndtr, ndtri

from nas_agg.search_space.encoding import Rows
from nas_agg.study.definition.pareto import box_decomposition, nondominated_sort
from nas_agg.study.samplers.features import FeatureExtractor
from nas_agg.study.samplers.gaussian_process import GaussianProcess, SumKernel

if TYPE_CHECKING:
    from nas_agg.study.definition.objectives import Objectives

Array = np.ndarray

FEWEST = 12  # networks that are fitted to, however many open names there are
MANY = 60  # networks from which on a process is not fitted at each ask
MOST_FITTED = 400  # points; the fit takes time by the cube of them
MOST_DISTANCES = 20_000_000  # between fitted points, over all open names
SHORT_LIST = 40  # candidates whose figures are worked out, where that takes time
MOST_COUNTED = 200  # where most are over a limit
QUANTILES = ndtri((np.arange(16) + 0.5) / 16)  # of a normal variable, by which a gain of volume is expected


@dataclass(frozen=True)
class Trials:
    """What was seen, as rows of genes.

    Attributes:
        rows: Networks that have scores.
        scores: Theirs, ``(networks, objectives)``, of each of which more is better.
        failed: Networks that have none.
        pending: Networks that are being trained.
        latest: How many of the last networks are too new to be fitted to, though they are learnt from.
    """

    rows: Rows
    scores: Array
    failed: Rows
    pending: Rows
    latest: int = 0

    def fewer(self) -> Trials:
        """The best and the latest of them, as many as can be fitted to in time.

        Once they are many, the last one, two or three wait for a fourth before all is chosen and fitted anew.
        """
        most = min(MOST_FITTED, max(FEWEST, int((MOST_DISTANCES / self.rows.shape[1]) ** 0.5)))
        latest = len(self.rows) % 4 if len(self.rows) >= MANY else 0
        kept = np.arange(len(self.rows) - latest)
        if len(kept) > most:
            kept = np.union1d(nondominated_sort(self.scores[kept])[: most // 2], kept[-(most // 2) :])
        kept = np.append(kept, np.arange(len(self.rows) - latest, len(self.rows)))
        return Trials(self.rows[kept], self.scores[kept], self.failed[-most:], self.pending, latest)


class SurrogateCache:
    """The processes of a search. What they are follows from the trials; fits are kept only to save time."""

    def __init__(self, figures: FeatureExtractor):
        self.encoding, self.figures = figures.encoding, figures
        self._kept: dict[str, tuple[bytes, Array]] = {}

    def theta(
        self,
        name: str,
        kernel: SumKernel,
        trials: Trials,
        figures: Sequence[Array],
        target: TargetTransform,
        scores: Array,
    ) -> Array:
        """The covariance's numbers, fitted anew to each network and, once they are many, to each fourth.

        They are also where scores that are expected of paused networks have changed.
        """
        rows, count = trials.rows, len(trials.rows) - trials.latest
        given = rows[:count].tobytes() + scores[:count].tobytes()
        if self._kept.get(name, (b"",))[0] != given:
            own = [group[:count] for group in figures]
            codes = self.encoding.bucketize(rows[:count])
            self._kept[name] = (
                given,
                GaussianProcess(kernel, codes, standardised(own, own), target(scores[:count])).theta,
            )
        return self._kept[name][1]


class Surrogate:
    """A process of one score, at one ask.

    Networks that failed count as the worst, those that are being trained as if they had what is predicted.

    Args:
        fits: The search's.
        name: Which of its processes this is.
        trials: What was seen.
        scores: The score of each network that has one.
        bend: From scores to targets.
        figured: Whether it learns from figures of networks too.

    Attributes:
        target: The bent score of each network that has one.
        guess: What is predicted for each that is being trained.
    """

    def __init__(
        self,
        fits: SurrogateCache,
        name: str,
        trials: Trials,
        scores: Array,
        bend: TargetTransform,
        figured: bool = True,
    ):
        self._fits, self._figured = fits, figured
        self._own = fits.figures.of(trials.rows) if figured else []
        self._kernel = SumKernel(fits.encoding.distance_tables, [group.shape[1] for group in self._own])
        self._theta = fits.theta(name, self._kernel, trials, self._own, bend, scores)
        self.target = bend(scores)
        rows = np.concatenate([trials.rows, trials.failed])
        target = np.concatenate([self.target, np.full(len(trials.failed), self.target.min())])
        self._process = self._of(rows, target)
        self.guess = np.zeros(0)
        if len(trials.pending):
            self.guess, _ = self.predict(trials.pending, self._figures(trials.pending))
            self._process = self._of(np.concatenate([rows, trials.pending]), np.concatenate([target, self.guess]))

    def _of(self, rows: Rows, target: Array) -> GaussianProcess:
        figures = standardised(self._figures(rows), self._own)
        return GaussianProcess(self._kernel, self._fits.encoding.bucketize(rows), figures, target, self._theta)

    def _figures(self, rows: Rows) -> list[Array]:
        return self._fits.figures.of(rows) if self._figured else []

    def predict(self, rows: Rows, figures: Sequence[Array]) -> tuple[Array, Array]:
        """Mean and deviation of the targets of some points, whose figures may be unknown: then there are none."""
        return self._process.predict(self._fits.encoding.bucketize(rows), standardised(figures, self._own))


class KnownCost:
    """The log of a cost that arithmetic knows.

    Where counting takes time, a process of the open names alone stands for it until a candidate is among the first.

    Args:
        fits: The search's.
        figure: The cost's name.
        trials: What was seen.
    """

    def __init__(self, fits: SurrogateCache, figure: str, trials: Trials):
        self._figures, self._figure = fits.figures, figure
        self.seen = self.exactly(trials.rows)
        if not fits.figures.cheap:
            self._middle, self._unit = float(self.seen.mean()), float(self.seen.std() or 1.0)
            scored = Trials(trials.rows, trials.scores, trials.rows[:0], trials.rows[:0], trials.latest)
            self._surrogate = Surrogate(fits, figure, scored, self.seen, plain, figured=False)

    def exactly(self, rows: Rows) -> Array:
        """Of some points; infinite where they make no network."""
        return np.log1p(self._figures.costs(rows, self._figure))

    def predict(self, rows: Rows, dear: bool) -> tuple[Array, Array]:
        """Mean and deviation, which is 0 where the cost is known."""
        if dear or self._figures.cheap:
            return self.exactly(rows), np.zeros(len(rows))
        mean, deviation = self._surrogate.predict(rows, [])
        return self._middle + self._unit * mean, self._unit * deviation


class AcquisitionFunction(ABC):
    """What is expected of candidates at one ask.

    Args:
        fits: The search's.
        trials: What was seen.
        limits: The most that costs may be, by their figures' names; 0 is no limit.
        known: Further costs that are asked for.
    """

    def __init__(self, fits: SurrogateCache, trials: Trials, limits: Mapping[str, int], known: Collection[str] = ()):
        self.fits = fits
        self._limits = {figure: limit for figure, limit in limits.items() if limit and fits.figures.knows(figure)}
        self.known = {figure: KnownCost(fits, figure, trials) for figure in {**self._limits, **dict.fromkeys(known)}}

    @abstractmethod
    def expected(self, rows: Rows, dear: bool) -> Array:
        """The log of what each is expected to gain, whatever the limits."""

    def gains(self, rows: Rows, dear: bool = False) -> Array:
        """The log of what each is expected to gain, given how likely it is within the limits.

        Minus infinity above the limits, and of what a table has no row of.

        Args:
            rows: Candidates.
            dear: Whether their figures are worked out where this takes time.
        """
        found = self.expected(rows, dear)
        for figure, limit in self._limits.items():
            mean, deviation = self.known[figure].predict(rows, dear)
            away = np.log1p(limit) + 1e-12 - mean
            likely = log_ndtr(away / np.maximum(deviation, 1e-12))
            found += np.where(deviation > 0, likely, np.where(away >= 0, 0.0, -np.inf))
        return np.where(self.fits.figures.unknown(rows), -np.inf, found)

    def reconsidered(self, rows: Rows) -> Rows:
        """Candidates in the order of their gains, the first of them by all their figures."""
        if self.fits.figures.cheap:
            return rows
        for end in range(SHORT_LIST, MOST_COUNTED + 1, SHORT_LIST):
            gains = self.gains(rows[:end], dear=True)
            if (gains > -np.inf).sum() >= SHORT_LIST / 2:
                break
        order = np.argsort(-gains, kind="stable")
        return np.concatenate([rows[order[gains[order] > -np.inf]], rows[end:]])

    def figures(self, rows: Rows, dear: bool) -> list[Array]:
        """Figures of candidates, or none."""
        return self.fits.figures.of(rows) if dear or self.fits.figures.cheap else []


class ExpectedImprovement(AcquisitionFunction):
    """The expected improvement of one score."""

    def __init__(self, fits: SurrogateCache, trials: Trials, limits: Mapping[str, int]):
        super().__init__(fits, trials, limits)
        self._surrogate = Surrogate(fits, "score", trials, trials.scores[:, 0], bent)

    def expected(self, rows: Rows, dear: bool) -> Array:
        """The log of the expected improvement."""
        mean, deviation = self._surrogate.predict(rows, self.figures(rows, dear))
        return log_improvement(mean, deviation, self._surrogate.target.max())


class ExpectedHypervolumeImprovement(AcquisitionFunction):
    """The expected gain of the volume that the front of several scores beats; costs count by their logarithms."""

    def __init__(self, fits: SurrogateCache, trials: Trials, limits: Mapping[str, int], objectives: Objectives):
        figures = [objective.attribute if objective.known_a_priori else "" for objective in objectives]
        self._figures = [figure if fits.figures.knows(figure) else "" for figure in figures]
        super().__init__(fits, trials, limits, [figure for figure in self._figures if figure])
        self._surrogates: list[Surrogate | None] = []
        front, reference = [], []
        for place, figure in enumerate(self._figures):
            if figure:
                self._surrogates.append(None)
                scores, pending = -self.known[figure].seen, -self.known[figure].exactly(trials.pending)
                reference.append(scores.min() - 0.05 * np.ptp(scores))
            else:
                learnt = Surrogate(fits, f"score {place}", trials, trials.scores[:, place], half_ranked)
                self._surrogates.append(learnt)
                scores, pending = learnt.target, learnt.guess
                reference.append(np.quantile(scores, 0.25))
            front.append(np.concatenate([scores, pending]))
        self._lows, self._highs = box_decomposition(np.stack(front, 1), np.array(reference))

    def expected(self, rows: Rows, dear: bool) -> Array:
        """The log of the expected gain of volume; what gains nothing stands behind, by its predictions."""
        figures = self.figures(rows, dear)
        volumes, hope = np.ones((len(rows), len(self._lows))), np.zeros(len(rows))
        for place, surrogate in enumerate(self._surrogates):
            if surrogate is None:
                mean, deviation = self.known[self._figures[place]].predict(rows, dear)
                mean = -mean
            else:
                mean, deviation = surrogate.predict(rows, figures)
            volumes *= above(mean, deviation, self._lows[:, place]) - above(mean, deviation, self._highs[:, place])
            hope += mean + deviation
        gained = volumes.sum(1)
        return np.where(gained > 1e-300, np.log(np.maximum(gained, 1e-300)), hope - 1e6)


TargetTransform = Callable[[Array], Array]


def standardised(figures: Sequence[Array], of: Sequence[Array]) -> list[Array]:
    """Figures less the mean of others, by their deviation."""
    return [(f - o.mean(0)) / np.maximum(o.std(0), 1e-9) for f, o in zip(figures, of, strict=False)]  # all, or none


def plain(scores: Array) -> Array:
    """Scores, standardised."""
    return (scores - scores.mean()) / (scores.std() or 1.0)


def bent(scores: Array) -> Array:
    """Scores so bent that the gaps below the best count by their logarithm; standardised."""
    scores = scores / (np.abs(scores).max() or 1.0)  # whatever the size of a penalty, differences are finite
    best, middle = scores.max(), np.median(scores)
    gap = best - middle if best > middle else scores.std() or 1.0
    return plain(-np.log(np.minimum((best - scores) / gap, 1e9) + 0.2))


def half_ranked(scores: Array) -> Array:
    """Scores of the upper half as they are, in their own units; of the lower half their ranks alone; standardised."""
    scores = scores / (np.abs(scores).max() or 1.0)
    away = scores - np.median(scores)
    upper = away[away > 0]
    unit = np.sqrt((upper**2).mean()) if len(upper) else 1.0
    ranks = (scores[:, None] > scores[None]).sum(1) + 0.5 * (scores[:, None] == scores[None]).sum(1)
    return plain(np.where(away > 0, away / unit, np.minimum(ndtri(ranks / len(scores)), 0.0)))


def log_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """The log of the expected improvement over ``best``, also where that is next to nothing."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    whole = density + z * np.exp(log_ndtr(z))
    far = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(np.maximum(-z, 1.0))  # phi(z) / z**2
    return np.log(deviation) + np.where(z > -5, np.log(np.maximum(whole, 1e-300)), far)


def above(mean: Array, deviation: Array, levels: Array) -> Array:
    """By how much normal variables are expected to be above levels, ``(variables, levels)``; 0 above infinity.

    By quantiles: what is less likely than one in thirty counts for nothing, which finds more than the whole integral.
    """
    each, places = np.unique(levels, return_inverse=True)
    found = np.zeros((len(mean), len(each)))
    for quantile in QUANTILES:
        found += np.maximum((mean + deviation * quantile)[:, None] - each[None], 0.0)
    return found[:, places] / len(QUANTILES)
