"""Gaussian process surrogates of scores and costs, fitted to the trials of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from nas_agg.search_space.encoding import Rows
from nas_agg.study.definition.pareto import nondominated_sort
from nas_agg.study.samplers.features import FeatureExtractor
from nas_agg.study.samplers.gaussian_process import GaussianProcess, SumKernel

Array = np.ndarray
TargetTransform = Callable[[Array], Array]

MIN_FITTED = 12  # networks in the training set at least, however many search variables there are
MAX_FITTED = 400  # networks in the training set; the time of predictions grows with the square of them
MAX_FITTED_HYPERPARAMETERS = 200  # of them; the time of a fit grows with the cube
MAX_DISTANCES = 20_000_000  # between networks of the training set, over all search variables
REFIT_EVERY_TRIAL_BELOW = 60  # networks; from there on hyperparameters are refitted at each fourth network
REFIT_INTERVAL, LATE_REFIT_INTERVAL = 4, 16  # the latter from `MAX_FITTED` networks on


@dataclass(frozen=True)
class EncodedCurves:
    """The learning curves of networks, where trainings pause and continue.

    Attributes:
        network: The index of the network of each score, ``(scores,)``.
        remaining: The logarithm of the ratio of the epochs of a full training to those of each score, ``(scores,)``.
        scores: The scores, those at rungs as extrapolations to the end of training, ``(scores, objectives)``.
        epochs_left: The epochs left of the training of each network that is paused, else infinite, ``(networks,)``.
    """

    network: Array
    remaining: Array
    scores: Array
    epochs_left: Array

    @property
    def is_complete(self) -> Array:
        """Whether each network was trained in full, ``(networks,)``."""
        return np.isin(np.arange(len(self.epochs_left)), self.network[self.remaining == 0])

    def of(self, networks: Array) -> EncodedCurves:
        """The curves of some networks, given by ascending indices."""
        kept = np.isin(self.network, networks)
        network = np.searchsorted(networks, self.network[kept])
        return EncodedCurves(network, self.remaining[kept], self.scores[kept], self.epochs_left[networks])


@dataclass(frozen=True)
class EncodedTrials:
    """The trials of a search as rows of an encoding.

    Attributes:
        rows: Networks with scores.
        scores: Their scores, ``(networks, objectives)``, all maximized.
        failed: Networks without scores.
        pending: Networks that are being trained.
        unfitted: How many of the last rows hyperparameters are not fitted to; predictions are conditioned on them.
        curves: Their learning curves, if the searcher decides which paused trainings continue.
    """

    rows: Rows
    scores: Array
    failed: Rows
    pending: Rows
    unfitted: int = 0
    curves: EncodedCurves | None = None

    def subsample(self) -> EncodedTrials:
        """The best and the latest trials, as many as can be fitted in acceptable time.

        From `REFIT_EVERY_TRIAL_BELOW` networks on, the choice changes at each fourth network only, and from
        `MAX_FITTED` on at each sixteenth; networks that follow are added to it as `unfitted`.
        """
        limit = min(MAX_FITTED, max(MIN_FITTED, int((MAX_DISTANCES / self.rows.shape[1]) ** 0.5)))
        count = len(self.rows)
        interval = LATE_REFIT_INTERVAL if count >= MAX_FITTED else REFIT_INTERVAL
        unfitted = count % interval if count >= REFIT_EVERY_TRIAL_BELOW else 0
        chosen = np.arange(count - unfitted)
        if len(chosen) > limit:
            chosen = np.union1d(nondominated_sort(self.scores[chosen])[: limit // 2], chosen[-(limit // 2) :])
        chosen = np.append(chosen, np.arange(count - unfitted, count))
        curves = self.curves.of(chosen) if self.curves is not None else None
        rows, scores = self.rows[chosen], self.scores[chosen]
        return EncodedTrials(rows, scores, self.failed[-limit:], self.pending, unfitted, curves)


class SurrogateCache:
    """The hyperparameters of a search's surrogates.

    They follow from the trials alone; the cache only saves time.

    Args:
        extractor: Computes the features of networks.
    """

    def __init__(self, extractor: FeatureExtractor):
        self.encoding, self.extractor = extractor.encoding, extractor
        self._fitted: dict[str, tuple[bytes, Array]] = {}

    def theta(
        self,
        name: str,
        kernel: SumKernel,
        trials: EncodedTrials,
        features: Sequence[Array],
        transform: TargetTransform,
        scores: Array,
    ) -> Array:
        """The hyperparameters of a surrogate, refitted if its training set has changed.

        Args:
            name: The surrogate's name.
            kernel: Its kernel.
            trials: The trials.
            features: The features of their rows, by group.
            transform: From scores to targets.
            scores: The scores of their rows, ``(networks,)``; those of paused networks are extrapolations, and may
                change from trial to trial.
        """
        count = len(trials.rows) - trials.unfitted
        if count > MAX_FITTED_HYPERPARAMETERS:
            chosen = np.linspace(0, count - 1, MAX_FITTED_HYPERPARAMETERS).astype(int)
        else:
            chosen = np.arange(count)
        training_set = trials.rows[:count].tobytes() + scores[:count].tobytes()
        if self._fitted.get(name, (b"",))[0] != training_set:
            groups = standardize_features([group[chosen] for group in features], [group[:count] for group in features])
            codes = self.encoding.bucketize(trials.rows[chosen])
            process = GaussianProcess(kernel, codes, groups, transform(scores[:count])[chosen])
            self._fitted[name] = training_set, process.theta
        return self._fitted[name][1]


class Surrogate:
    """A Gaussian process model of one score, conditioned on the trials so far.

    Failed networks have the worst target of all. Networks that are being trained have targets that the surrogate
    predicts without them, so that parallel workers explore different regions: the mean ("kriging believer", Ginsbourger
    et al., "Kriging Is Well-Suited to Parallelize Optimization", 2010) or joint samples, with a posterior mean for each
    of them (fantasies: Snoek, Larochelle and Adams, "Practical Bayesian Optimization of Machine Learning Algorithms",
    NeurIPS 2012, section 3.3).

    Args:
        cache: The hyperparameters of the search's surrogates.
        name: The surrogate's name in the cache.
        trials: The trials so far.
        scores: The score of each of their rows, ``(networks,)``.
        transform: From scores to targets.
        use_features: Model features of the networks besides the search variables.
        fantasies: The number of joint samples of the targets of pending networks, which is even; 0: their mean.

    Attributes:
        target: The target of each row, ``(networks,)``.
        pending_mean: The predicted target of each pending network, ``(pending,)``.
        fantasies: The joint samples of their targets, ``(pending, samples)``.
        best: The highest target of a row.
    """

    def __init__(
        self,
        cache: SurrogateCache,
        name: str,
        trials: EncodedTrials,
        scores: Array,
        transform: TargetTransform,
        use_features: bool = True,
        fantasies: int = 0,
    ):
        self._cache, self._use_features = cache, use_features
        self._observed_features = self._features(trials.rows)
        group_sizes = [group.shape[1] for group in self._observed_features]
        self._kernel = SumKernel(cache.encoding.distance_tables, group_sizes)
        self._theta = cache.theta(name, self._kernel, trials, self._observed_features, transform, scores)
        self.target = transform(scores)
        self.best = float(self.target.max())
        rows = np.concatenate([trials.rows, trials.failed])
        target = np.concatenate([self.target, np.full(len(trials.failed), self.target.min())])
        self._process = self._condition(rows, target)
        self.pending_mean, self.fantasies = np.zeros(0), np.zeros((0, 1))
        if len(trials.pending):
            features = self._features(trials.pending)
            self.pending_mean, _ = self.predict(trials.pending, features)
            outcomes = self.pending_mean
            if fantasies:
                outcomes = self.fantasies = self._sample(trials.pending, features, fantasies)
                target = np.repeat(target[:, None], fantasies, 1)
            self._process = self._condition(np.concatenate([rows, trials.pending]), np.concatenate([target, outcomes]))

    def _sample(self, rows: Rows, features: Sequence[Array], count: int) -> Array:
        """Joint samples of the targets of points, ``(points, count)``; half of them mirror the others."""
        half = np.random.default_rng(len(rows)).normal(size=(len(rows), count // 2))
        codes = self._cache.encoding.bucketize(rows)
        features = standardize_features(features, self._observed_features)
        return self._process.sample(codes, features, np.concatenate([half, -half], 1))

    def _condition(self, rows: Rows, target: Array) -> GaussianProcess:
        features = standardize_features(self._features(rows), self._observed_features)
        return GaussianProcess(self._kernel, self._cache.encoding.bucketize(rows), features, target, self._theta)

    def _features(self, rows: Rows) -> list[Array]:
        return self._cache.extractor.features(rows) if self._use_features else []

    def predict(self, rows: Rows, features: Sequence[Array]) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the targets of points, ``(points,)`` each.

        With fantasies there is a mean for each of them, ``(points, samples)``.

        Args:
            rows: The points.
            features: Their features, by group; only the first groups where others have not been computed.
        """
        codes = self._cache.encoding.bucketize(rows)
        return self._process.predict(codes, standardize_features(features, self._observed_features))


class KnownCost:
    """The logarithm of a cost that can be computed before training.

    Where computing takes time, a Gaussian process over the search variables predicts the cost of candidates that are
    not on the short list.

    Args:
        cache: The hyperparameters of the search's surrogates.
        cost: The cost's name.
        trials: The trials so far.

    Attributes:
        observed: The logarithm of the cost of each row of the trials, ``(networks,)``.
    """

    def __init__(self, cache: SurrogateCache, cost: str, trials: EncodedTrials):
        self._extractor, self._cost = cache.extractor, cost
        self.observed = self.compute(trials.rows)
        if not self._extractor.is_cheap:
            self._mean, self._deviation = float(self.observed.mean()), float(self.observed.std() or 1.0)
            scored = EncodedTrials(trials.rows, trials.scores, trials.rows[:0], trials.rows[:0], trials.unfitted)
            self._surrogate = Surrogate(cache, cost, scored, self.observed, standardize, use_features=False)

    def compute(self, rows: Rows) -> Array:
        """The logarithm of the cost of points, ``(points,)``; infinite where they make no valid network."""
        return np.log1p(self._extractor.cost(rows, self._cost))

    def predict(self, rows: Rows, exact: bool) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm, ``(points,)`` each; the deviation of computed costs is 0.

        Args:
            rows: The points.
            exact: Compute the cost even where that takes time.
        """
        if exact or self._extractor.is_cheap:
            return self.compute(rows), np.zeros(len(rows))
        mean, deviation = self._surrogate.predict(rows, [])
        return self._mean + self._deviation * mean, self._deviation * deviation


def standardize_features(features: Sequence[Array], reference: Sequence[Array]) -> list[Array]:
    """Features by group, shifted and scaled to zero mean and unit variance of reference features.

    Those that are constant in the reference are shifted only.
    """
    standardized = []
    for group, own in zip(features, reference, strict=False):  # all groups, or the first
        deviation = own.std(0)
        standardized.append((group - own.mean(0)) / np.where(deviation > 1e-9, deviation, 1.0))
    return standardized


def standardize(scores: Array) -> Array:
    """Scores, shifted and scaled to zero mean and unit variance."""
    return (scores - scores.mean()) / (scores.std() or 1.0)


def log_gap_transform(scores: Array) -> Array:
    """Standardized negative logarithms of the gaps to the best score, so that differences among the best count most.

    ``-log((best - score) / (best - median) + 0.2)``.
    """
    scores = scores / (np.abs(scores).max() or 1.0)  # differences of scores of any size are finite
    best, middle = scores.max(), np.median(scores)
    gap = best - middle if best > middle else scores.std() or 1.0
    return standardize(-np.log(np.minimum((best - scores) / gap, 1e9) + 0.2))


def semi_rank_transform(scores: Array) -> Array:
    """Standardized scores of which the lower half is replaced by normal quantiles of its ranks.

    Scores above the median keep their distances, so that they can be compared by hypervolume; outliers below it have no
    influence beyond their rank.
    """
    scores = scores / (np.abs(scores).max() or 1.0)
    centred = scores - np.median(scores)
    upper = centred[centred > 0]
    unit = np.sqrt((upper**2).mean()) if len(upper) else 1.0
    ranks = (scores[:, None] > scores[None]).sum(1) + 0.5 * (scores[:, None] == scores[None]).sum(1)
    return standardize(np.where(centred > 0, centred / unit, np.minimum(ndtri(ranks / len(scores)), 0.0)))
