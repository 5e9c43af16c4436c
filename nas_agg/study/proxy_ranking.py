"""How well proxies rank networks that were trained: correlations, with intervals, beside those of costs."""

from __future__ import annotations

import csv
import io
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
from nas_agg.study.records.run_folder import dataset_arguments, read_run
from nas_agg.study.records.score_cache import ScoreCache, Scores
from nas_agg.study.samplers.proxy_scorer import BATCH, ProxyScorer, genotype_digest, with_cost_proxies
from nas_agg.study.tables.results_table import TabularSpace

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data

KEPT = "proxies.json"  # in a run's folder
LEAST = 3  # networks to rank
RESAMPLES = 1000

#: Is told how many networks of how many have their scores.
Report = Callable[[int, int], None]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Correlation:
    """How a proxy's scores go with results.

    Attributes:
        proxy: Its name.
        networks: How many were compared.
        left_out: How many were not, as their scores are no finite numbers.
        kendall: Kendall's tau-b, of -1 to 1; ``None`` where all scores or all results are equal, or networks too few.
        kendall_interval: The 95 % bootstrap interval.
        spearman, spearman_interval: Likewise of Spearman's rho.
    """

    proxy: str
    networks: int
    left_out: int
    kendall: float | None
    kendall_interval: Interval | None
    spearman: float | None
    spearman_interval: Interval | None

    def overlaps(self, other: Correlation) -> bool:
        """Whether the intervals of Kendall's tau have a common point, or there is none to tell by."""
        mine, its = self.kendall_interval, other.kendall_interval
        return mine is None or its is None or (mine[0] <= its[1] and its[0] <= mine[1])


@dataclass(frozen=True)
class Ranking:
    """The proxies of a run.

    Attributes:
        run: Its folder, or the table.
        dataset: What networks were scored on.
        figure: What their results are: ``accuracy``, or what else the search went for first.
        networks: Trials that were trained in full.
        batch: Images of a score.
        seed: Of the scores and the intervals.
        inits: Initialisations that a score is the mean of.
        correlations: Params' and MACs' first.
        failed: The last reason why a proxy could not be computed, by its name.
        unkept: Why the scores could not be kept, else empty.
        seconds: Mean processor time of a score, of those that were computed now, by the proxy's name.
    """

    run: str
    dataset: str
    figure: str
    networks: int
    batch: int
    seed: int
    inits: int
    correlations: list[Correlation]
    failed: dict[str, str]
    unkept: str = ""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``--format json``."""
        return asdict(self)


def rank(
    genotypes: Sequence[Genotype],
    accuracies: Sequence[float],
    data: Data,
    proxies: Sequence[str] = (),
    seed: int = 0,
    inits: int = 1,
    report: Report | None = None,
    batch: int = BATCH,
) -> list[Correlation]:
    """How well proxies rank some networks.

    Args:
        genotypes: The networks; at least 3.
        accuracies: Their results, of which more is better.
        data: The data set that they are scored on.
        proxies: Names of proxies, all if there are none; params and MACs are always ranked too, first.
        seed: Of the scores and the intervals.
        inits: Initialisations that a score is the mean of.
        report: Is told how far it is.
        batch: Images of a score.

    Raises:
        InputError: A proxy is unknown, networks are too few, or something else does not fit.
    """
    if len(genotypes) != len(accuracies):
        raise InputError(f"{len(genotypes)} genotypes and {len(accuracies)} accuracies: one each is needed")
    scorer = ProxyScorer(data, seed, batch, threads=cores())
    scores = _scores(genotypes, with_cost_proxies(proxies), inits, lambda: scorer, {}, report)
    return correlations(scores, accuracies, seed)


def correlations(scores: Mapping[str, Sequence[float]], results: Sequence[float], seed: int = 0) -> list[Correlation]:
    """How scores go with results, with percentile bootstrap intervals.

    Args:
        scores: The networks' scores by each proxy; those that are no finite numbers are left out.
        results: The networks' results, all finite.
        seed: Of the resamples.

    Raises:
        InputError: Networks are too few, or a result is no finite number.
    """
    if len(results) < LEAST:
        raise InputError(f"{len(results)} networks: at least {LEAST} are needed to rank them")
    y = np.asarray(results, float)
    if not np.isfinite(y).all():
        raise InputError("results: one is no finite number; leave its network out")
    return [_correlation(name, np.asarray(of, float), y, seed) for name, of in scores.items()]


def _correlation(name: str, scores: np.ndarray, results: np.ndarray, seed: int) -> Correlation:
    from scipy import stats

    finite = np.isfinite(scores)
    x, y = scores[finite], results[finite]
    count, without = len(x), int((~finite).sum())
    if count < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(name, count, without, None, None, None, None)
    draws = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    draws = draws[(np.ptp(x[draws], 1) > 0) & (np.ptp(y[draws], 1) > 0)]  # of equal numbers there is no correlation
    taus = [stats.kendalltau(x[draw], y[draw]).statistic for draw in draws]
    ranks = [stats.rankdata(numbers[draws], axis=1) for numbers in (x, y)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    lengths = [np.sqrt((of**2).sum(1)) for of in centred]
    rhos = (centred[0] * centred[1]).sum(1) / (lengths[0] * lengths[1])
    tau, rho = stats.kendalltau(x, y).statistic, stats.spearmanr(x, y).statistic
    return Correlation(name, count, without, float(tau), _interval(taus), float(rho), _interval(rhos))


def _interval(found: Sequence[float] | np.ndarray) -> Interval:
    low, high = np.percentile(found, (2.5, 97.5))
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
    """How well proxies rank the networks that a search has trained in full, be it finished or not.

    The run is only read, whoever searches in it. Scores are kept in its folder, so that they are computed once.

    Args:
        path: The run's folder.
        proxies: As for `rank`.
        dataset: What networks are scored on; the run's own data set if unsaid.
        batch, seed, inits, report: As for `rank`.
        limit: Only the first trials, so many.

    Raises:
        InputError: There is no such run, too few networks are trained, or something does not fit.
    """
    names, folder = with_cost_proxies(proxies), Path(path)
    run = read_run(folder)
    if "study" not in run:
        raise InputError(f"{path}: the folder of a training, not of a search")
    arguments = _arguments(run, folder, dataset)
    numbers, results, figure = _trained(folder, run, limit)
    if len(numbers) < LEAST:
        count = f"{len(numbers)} network{'s' * (len(numbers) != 1)}"
        raise InputError(f"{path}: {count} trained in full so far; at least {LEAST} are needed")
    genotypes = [_genotype(folder, number) for number in numbers]
    kept = ScoreCache(folder / KEPT, canonical_json({"data": arguments, "seed": seed, "batch": batch}))
    made: list[ProxyScorer] = []

    def scorer() -> ProxyScorer:  # once it is known that there is something to score: data sets take time
        if not made:
            from nas_agg.training.data import load_data
            from nas_agg.training.memory import free_main_memory, memory_budget

            data = load_data(**arguments)
            made.append(ProxyScorer(data, seed, batch, threads=cores(), memory_limit=memory_budget(free_main_memory())))
        return made[0]

    try:
        scores = _scores(genotypes, names, inits, scorer, kept.scores, report, kept.write_if_due)
    finally:
        kept.write()
    return Ranking(
        run=str(path),
        dataset=arguments["spec"],
        figure=figure,
        networks=len(numbers),
        batch=batch,
        seed=seed,
        inits=inits,
        correlations=correlations(scores, results, seed),
        failed=made[0].failed if made else {},
        seconds=_means(made[0].seconds) if made else {},
        unkept=kept.write_error,
    )


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
    """How well proxies rank the networks of a space that has a table of their results.

    Args:
        name: The space's name, or its file.
        proxies: As for `rank`.
        dataset: What networks are scored on; the table's own data set if unsaid.
        batch, seed, inits, report: As for `rank`.
        limit: Only so many of the networks, the first in the order of their hashes.

    Raises:
        InputError: There is no such space, or it has no table.
    """
    from nas_agg.training.data import load_data
    from nas_agg.training.memory import free_main_memory, memory_budget

    names, space = with_cost_proxies(proxies), TabularSpace(open_space(name))
    own = space.table_settings
    spec = dataset or own.dataset
    data = load_data(spec, seed=seed, image_size=None if dataset else own.image_size)
    encoding = Encoding(space)
    values = {row.hash: (encoding.decode(np.frombuffer(key, np.int64)), row) for key, row in space.rows.items()}
    chosen = [values[hash] for hash in sorted(values)[:limit]]
    genotypes = [space.genotype(point, data.input, data.classes) for point, _ in chosen]
    scorer = ProxyScorer(data, seed, batch, threads=cores(), memory_limit=memory_budget(free_main_memory()))
    scores = _scores(genotypes, names, inits, lambda: scorer, {}, report)
    return Ranking(
        run=f"the table of {space.name}",
        dataset=spec,
        figure="accuracy",
        networks=len(chosen),
        batch=batch,
        seed=seed,
        inits=inits,
        correlations=correlations(scores, [row.value for _, row in chosen], seed),
        failed=scorer.failed,
        seconds=_means(scorer.seconds),
    )


def _means(each: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in each.items()}


def _arguments(run: dict[str, Any], folder: Path, dataset: str | None) -> dict[str, Any]:
    """What `nas_agg.training.data.load_data` is told."""
    if dataset is None and "data" not in run:
        raise InputError(f"{folder}: its networks were not trained on a data set; name one with --dataset to score on")
    own = dataset_arguments(run, folder) if "data" in run else {"seed": 0}
    return own if dataset is None else {**own, "spec": absolute(dataset)}


def _trained(folder: Path, run: Mapping[str, Any], limit: int | None) -> tuple[list[int], list[float], str]:
    """The trials that were trained in full: their numbers, their results so turned that more is better, their name."""
    path, first = folder / "trials.csv", objectives_of(Settings.parse(**run["settings"]), run.get("evaluate", False))[0]
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        number, state, value, accuracy = map(lines[0].index, ("number", "state", "value", "accuracy"))
        done = [line for line in lines[1:] if line[state] == "complete"][:limit]
        if any(line[accuracy] for line in done):
            figure, results = "accuracy", [float(line[accuracy]) for line in done]
        else:
            figure, results = first.name, [first.score(float(line[value])) for line in done]
        if not all(map(math.isfinite, results)):
            raise ValueError
        return [int(line[number]) for line in done], results, figure
    except FileNotFoundError:
        return [], [], first.name
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, csv.Error):
        raise InputError(f"{path}: no record of trials; a search that goes on writes it anew") from None


def _genotype(folder: Path, number: int) -> Genotype:
    from nas_agg.search_space.references import open_genotype

    if not (folder / "trials" / str(number) / "genotype.json").is_file():
        raise InputError(f"{folder}: trial {number} has no genotype: names alone make no networks")
    return open_genotype(f"{folder}:{number}")


def _scores(
    genotypes: Sequence[Genotype],
    names: Sequence[str],
    inits: int,
    scorer: Callable[[], ProxyScorer],
    known: Scores,
    report: Report | None,
    keep: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Each proxy's scores of some networks, means over initialisations.

    Args:
        genotypes: The networks.
        names: The proxies'.
        inits: How many initialisations.
        scorer: Gives who scores.
        known: To which scores that are missing are added.
        report: Is told how many networks are done.
        keep: Is called when some were added.
    """
    if inits < 1:
        raise InputError(f"inits: 1 or more, not {inits}")
    found: dict[str, list[float]] = {name: [] for name in names}
    for done, genotype in enumerate(genotypes, 1):
        mine = known.setdefault(genotype_digest(genotype), {})
        for init in range(inits):
            missing = [name for name in names if len(mine.get(name, ())) <= init]
            if missing:
                for name, score in scorer().scores_or_nan(genotype, missing, init).items():
                    mine.setdefault(name, []).append(score)
                keep()
        for name in names:
            found[name].append(sum(mine[name][:inits]) / inits)
        if report is not None:
            report(done, len(genotypes))
    return found
