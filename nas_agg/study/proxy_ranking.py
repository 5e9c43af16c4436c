"""Rank correlations of proxies with the results of trained networks, beside those of params and MACs."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.common.files import canonical_json
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.space import open_space
from nas_agg.study.definition.objectives import objectives_of
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import absolute, cores
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.progress import pluralize
from nas_agg.study.records.proxy_score_cache import ScoreCache, Scores
from nas_agg.study.records.run_folder import dataset_arguments, read_run
from nas_agg.study.records.saved_run import read_saved_trials
from nas_agg.study.samplers.proxy_scorer import BATCH, ProxyScorer, genotype_digest, with_cost_proxies
from nas_agg.study.tables.results_table import TabularSpace

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data

SCORES_FILE = "proxies.json"  # in a run folder
MIN_NETWORKS = 3  # for a rank correlation
RESAMPLES = 1000  # of the bootstrap

#: Receives the number of scored networks, and the number of all.
Report = Callable[[int, int], None]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of a proxy's scores with results.

    Attributes:
        proxy: The proxy's name.
        networks: The number of networks with a finite score.
        excluded: The number of networks without one.
        kendall: Kendall's tau-b, -1 to 1; ``None`` if all scores or all results are equal, or networks are too few.
        kendall_interval: Its 95 % percentile bootstrap interval.
        spearman, spearman_interval: Spearman's rho and its interval, likewise.
    """

    proxy: str
    networks: int
    excluded: int
    kendall: float | None
    kendall_interval: Interval | None
    spearman: float | None
    spearman_interval: Interval | None

    def overlaps(self, other: Correlation) -> bool:
        """Whether the intervals of Kendall's tau overlap, or one of them is unknown."""
        own, others = self.kendall_interval, other.kendall_interval
        return own is None or others is None or (own[0] <= others[1] and others[0] <= own[1])


@dataclass(frozen=True)
class Ranking:
    """Rank correlations of proxies with the results of a search or of a table.

    Attributes:
        run: The run folder, or the name of the table.
        dataset: The data set that networks are scored on.
        metric: The results: ``accuracy`` if it is known, else the first objective.
        networks: The number of fully trained networks.
        batch: Images per score.
        seed: Seed of the scores and of the bootstrap.
        inits: Initializations that a score is averaged over.
        correlations: One for each proxy; params and MACs come first.
        failed: By proxy, the last reason why a score could not be computed.
        cache_error: Why the scores could not be saved, else empty.
        seconds: By proxy, the mean processor time of the scores that were computed for this ranking.
    """

    run: str
    dataset: str
    metric: str
    networks: int
    batch: int
    seed: int
    inits: int
    correlations: list[Correlation]
    failed: dict[str, str]
    cache_error: str = ""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for ``--format json``."""
        return asdict(self)


def rank_genotypes(
    genotypes: Sequence[Genotype],
    accuracies: Sequence[float],
    data: Data,
    proxies: Sequence[str] = (),
    seed: int = 0,
    inits: int = 1,
    report: Report | None = None,
    batch: int = BATCH,
) -> list[Correlation]:
    """Rank correlations of proxies with the results of networks.

    Args:
        genotypes: The networks, at least 3.
        accuracies: Their results, of which more is better.
        data: The data set to score on.
        proxies: Names of proxies, by default all; params and MACs are always included, first.
        seed: Seed of the scores and of the bootstrap.
        inits: Initializations that a score is averaged over.
        report: Receives the progress.
        batch: Images per score.

    Raises:
        InputError: A proxy is unknown, networks are too few, or there are not as many accuracies as genotypes.
    """
    if len(genotypes) != len(accuracies):
        raise InputError(
            f"{len(genotypes)} genotypes and {len(accuracies)} accuracies: specify one accuracy per genotype"
        )
    scorer = ProxyScorer(data, seed, batch, threads=cores())
    scores = _scores(genotypes, with_cost_proxies(proxies), inits, lambda: scorer, {}, report)
    return correlations(scores, accuracies, seed)


def correlations(scores: Mapping[str, Sequence[float]], results: Sequence[float], seed: int = 0) -> list[Correlation]:
    """Rank correlations of scores with results, with percentile bootstrap intervals.

    Args:
        scores: By proxy, the scores of the networks; those that are not finite are excluded.
        results: The results of the networks, all finite.
        seed: Seed of the bootstrap.

    Raises:
        InputError: Networks are too few, or a result is not finite.
    """
    if len(results) < MIN_NETWORKS:
        raise InputError(f"{len(results)} networks: at least {MIN_NETWORKS} are needed for a rank correlation")
    y = np.asarray(results, float)
    if not np.isfinite(y).all():
        raise InputError("results: a result is not finite; omit its network")
    return [_correlation(name, np.asarray(values, float), y, seed) for name, values in scores.items()]


def _correlation(name: str, scores: np.ndarray, results: np.ndarray, seed: int) -> Correlation:
    from scipy import stats

    finite = np.isfinite(scores)
    x, y = scores[finite], results[finite]
    count, excluded = len(x), int((~finite).sum())
    if count < MIN_NETWORKS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(name, count, excluded, None, None, None, None)
    samples = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    samples = samples[(np.ptp(x[samples], 1) > 0) & (np.ptp(y[samples], 1) > 0)]  # constants have no correlation
    taus = [stats.kendalltau(x[sample], y[sample]).statistic for sample in samples]
    ranks = [stats.rankdata(values[samples], axis=1) for values in (x, y)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    norms = [np.sqrt((values**2).sum(1)) for values in centred]
    rhos = (centred[0] * centred[1]).sum(1) / (norms[0] * norms[1])
    tau, rho = stats.kendalltau(x, y).statistic, stats.spearmanr(x, y).statistic
    return Correlation(name, count, excluded, float(tau), _interval(taus), float(rho), _interval(rhos))


def _interval(values: Sequence[float] | np.ndarray) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def rank_run(
    path: str | os.PathLike[str],
    proxies: Sequence[str] = (),
    *,
    dataset: str | None = None,
    batch: int = BATCH,
    seed: int = 0,
    inits: int = 1,
    limit: int | None = None,
    report: Report | None = None,
) -> Ranking:
    """Rank correlations of proxies with the results of the networks that a search has trained in full so far.

    The run is only read, and may be in progress. Scores are saved in its folder, so that each is computed once.

    Args:
        path: The run folder.
        proxies: As for `rank_genotypes`.
        dataset: The data set to score on, by default the run's own.
        batch, seed, inits, report: As for `rank_genotypes`.
        limit: The number of trials to rank, the first ones; None: all.

    Raises:
        InputError: There is no such run, too few networks are trained, or a proxy or data set is unknown.
    """
    names, folder = with_cost_proxies(proxies), Path(path)
    run = read_run(folder)
    if "study" not in run:
        raise InputError(f"{path}: the run folder of a standalone training, not of a search")
    arguments = _scoring_dataset(run, folder, dataset)
    numbers, results, metric = _trained(folder, run, limit)
    if len(numbers) < MIN_NETWORKS:
        raise InputError(
            f"{path}: {pluralize(len(numbers), 'network')} trained in full so far; at least {MIN_NETWORKS} are needed"
        )
    genotypes = [_genotype(folder, number) for number in numbers]
    cache = ScoreCache(folder / SCORES_FILE, canonical_json({"data": arguments, "seed": seed, "batch": batch}))

    @functools.cache
    def scorer() -> ProxyScorer:  # created only if a score is missing, since loading a data set takes time
        from nas_agg.training.data import load_data

        return _make_scorer(load_data(**arguments), seed, batch)

    try:
        scores = _scores(genotypes, names, inits, scorer, cache.scores, report, cache.write_if_due)
    finally:
        cache.write()
    return Ranking(
        run=str(path),
        dataset=arguments["spec"],
        metric=metric,
        networks=len(numbers),
        batch=batch,
        seed=seed,
        inits=inits,
        correlations=correlations(scores, results, seed),
        failed=scorer().failed if scorer.cache_info().currsize else {},
        seconds=_means(scorer().seconds) if scorer.cache_info().currsize else {},
        cache_error=cache.write_error,
    )


def _make_scorer(data: Data, seed: int, batch: int) -> ProxyScorer:
    from nas_agg.training.memory import free_main_memory, memory_budget

    return ProxyScorer(data, seed, batch, threads=cores(), memory_limit=memory_budget(free_main_memory()))


def rank_table(
    name: str,
    proxies: Sequence[str] = (),
    *,
    dataset: str | None = None,
    batch: int = BATCH,
    seed: int = 0,
    inits: int = 1,
    limit: int | None = None,
    report: Report | None = None,
) -> Ranking:
    """Rank correlations of proxies with the results in the table of a space.

    Args:
        name: The space's name, or its file.
        proxies: As for `rank_genotypes`.
        dataset: The data set to score on, by default the table's own.
        batch, seed, inits, report: As for `rank_genotypes`.
        limit: The number of networks to rank, the first in the order of their hashes; None: all.

    Raises:
        InputError: There is no such space, or it has no table.
    """
    from nas_agg.training.data import load_data

    names, space = with_cost_proxies(proxies), TabularSpace(open_space(name))
    settings = space.table_settings
    spec = dataset or settings.dataset
    data = load_data(spec, seed=seed, image_size=None if dataset else settings.image_size)
    encoding = Encoding(space)
    by_hash = {row.hash: (encoding.decode(np.frombuffer(key, np.int64)), row) for key, row in space.rows.items()}
    selected = [by_hash[hash] for hash in sorted(by_hash)[:limit]]
    genotypes = [space.genotype(point, data.input, data.classes) for point, _ in selected]
    scorer = _make_scorer(data, seed, batch)
    scores = _scores(genotypes, names, inits, lambda: scorer, {}, report)
    return Ranking(
        run=f"the table of {space.name}",
        dataset=spec,
        metric="accuracy",
        networks=len(selected),
        batch=batch,
        seed=seed,
        inits=inits,
        correlations=correlations(scores, [row.value for _, row in selected], seed),
        failed=scorer.failed,
        seconds=_means(scorer.seconds),
    )


def _means(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in seconds.items()}


def _scoring_dataset(run: dict[str, Any], folder: Path, dataset: str | None) -> dict[str, Any]:
    """The data set to score on, as arguments of `nas_agg.training.data.load_data`."""
    if dataset is None and "data" not in run:
        raise InputError(f"{folder}: its networks were not trained on a data set; specify one with --dataset")
    own = dataset_arguments(run, folder) if "data" in run else {"seed": 0}
    return own if dataset is None else {**own, "spec": absolute(dataset)}


def _trained(folder: Path, run: Mapping[str, Any], limit: int | None) -> tuple[list[int], list[float], str]:
    """The trials that were trained in full.

    Returns:
        Their numbers, their results (more is better), and the metric of the results.
    """
    objectives = objectives_of(Settings.parse(**run["settings"]), run.get("evaluate", False))
    objective, trials = objectives[0], read_saved_trials(folder, run, objectives)
    complete = [trial for trial in trials if trial.state == RecordState.COMPLETE][:limit]
    numbers, accuracies = [trial.number for trial in complete], [trial.accuracy for trial in complete]
    if any(accuracies):
        return numbers, [math.nan if accuracy is None else accuracy for accuracy in accuracies], "accuracy"
    return numbers, [objective.score(trial.value or 0.0) for trial in complete], objective.name


def _genotype(folder: Path, number: int) -> Genotype:
    from nas_agg.search_space.references import open_genotype

    if not (folder / "trials" / str(number) / "genotype.json").is_file():
        raise InputError(f"{folder}: trial {number} has no genotype, as its search variables do not describe a network")
    return open_genotype(f"{folder}:{number}")


def _scores(
    genotypes: Sequence[Genotype],
    names: Sequence[str],
    inits: int,
    scorer: Callable[[], ProxyScorer],
    known: Scores,
    report: Report | None,
    save: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """By proxy, the scores of networks, averaged over initializations.

    Args:
        genotypes: The networks.
        names: Names of the proxies.
        inits: The number of initializations.
        scorer: Returns the scorer; called only if a score is missing.
        known: The known scores, to which missing ones are added.
        report: Receives the progress.
        save: Called when scores were added.
    """
    if inits < 1:
        raise InputError(f"inits: must be at least 1, not {inits}")
    averages: dict[str, list[float]] = {name: [] for name in names}
    for count, genotype in enumerate(genotypes, 1):
        by_proxy = known.setdefault(genotype_digest(genotype), {})
        for init in range(inits):
            missing = [name for name in names if len(by_proxy.get(name, ())) <= init]
            if missing:
                for name, score in scorer().scores_or_nan(genotype, missing, init).items():
                    by_proxy.setdefault(name, []).append(score)
                save()
        for name in names:
            averages[name].append(sum(by_proxy[name][:inits]) / inits)
        if report is not None:
            report(count, len(genotypes))
    return averages
