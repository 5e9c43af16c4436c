"""The command that scores networks by proxies, and says what such scores are worth."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.cli.options import GENOTYPE_HELP, ClassesOption, Format, FormatOption, InputOption, of, print_json, shape
from nas_agg.common.console import count_text, print_table
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.search_space.space import SUFFIXES, list_spaces
from nas_agg.study.samplers.proxy_scorer import BATCH, COST_PROXIES, PROXIES, ProxyScorer, with_cost_proxies

if TYPE_CHECKING:
    from nas_agg.study.proxy_ranking import Correlation, Interval, Ranking

_INITS = 3  # of one network


def proxies(
    genotype: Annotated[str | None, typer.Argument(metavar="GENOTYPE", help=f"{GENOTYPE_HELP} Scores it.")] = None,
    rank: Annotated[
        Path | None,
        typer.Option(
            "--rank",
            metavar="RUN",
            help="Correlate scores with what this search's networks, or a table's such as agg-bench, have reached.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one beside params and macs; repeatable.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="As for train; the images of a score (default: digits, or the run's own).")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help=f"Images of a score (default: {BATCH}).")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Draws the images, and weights (default: 0).")
    ] = None,
    inits: Annotated[
        int | None,
        typer.Option(min=1, help=f"Initialisations that a score is the mean of (default: {_INITS}, with --rank 1)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=3, help="Of --rank: only the first N trials that were trained.")
    ] = None,
    classes: ClassesOption = None,
    input: InputOption = None,
    format: FormatOption = Format.table,
) -> None:
    """List the proxies, score a network by them, or see how well they rank a search's networks.

    Unless named, one-epoch is left out: it trains.
    """
    names = with_cost_proxies(proxy or ())
    said: dict[str, Any] = {"dataset": dataset, "batch": batch, "seed": seed, "inits": inits}
    given = {name: value for name, value in said.items() if value is not None}
    if rank is not None:
        if genotype is not None:
            raise InputError("--rank: ranks a run's networks; leave out the genotype, or --rank")
        _refuse({"classes": classes, "input": input}, "only with a genotype")
        _print_ranking(_ranked(rank, names, {**given, "limit": limit}, format), format)
    elif genotype is not None:
        _refuse({"limit": limit}, "only with --rank")
        shaped = None if input is None else shape(input)
        with _stopping("stopped"):
            found = of(genotype, lambda: _scored(genotype, names, shaped, classes, **given))
        _print_scores(genotype, found, format)
    else:
        _refuse({**said, "classes": classes, "input": input, "limit": limit}, "only with a genotype or --rank RUN")
        _print_proxies(names if proxy else tuple(PROXIES), format)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuses options that say nothing here."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"--{name}: {why}")


@contextmanager
def _stopping(line: str) -> Iterator[None]:
    """Says in a line that a signal came."""
    from nas_agg.study.definition.signals import Stopped, stoppable

    try:
        with stoppable():
            yield
    except Stopped as stopped:
        error = NasAggError(line)
        error.status = stopped.status
        raise error from None


def _print_proxies(names: tuple[str, ...], format: Format) -> None:
    if format is Format.json:
        keys = ("measures", "cost", "paper")
        print_json([{"name": name} | {key: getattr(PROXIES[name], key) for key in keys} for name in names])
        return
    rows = [[name, PROXIES[name].cost, PROXIES[name].paper or "-", PROXIES[name].measures] for name in names]
    print_table(["proxy", "takes", "paper", "measures"], rows)


# ---- one network


def _scored(
    source: str,
    names: tuple[str, ...],
    input: tuple[int, int, int] | None,
    classes: int | None,
    dataset: str = "digits",
    batch: int = BATCH,
    seed: int = 0,
    inits: int = _INITS,
) -> dict[str, Any]:
    """A network's scores, a list of them for each proxy."""
    from nas_agg import load

    genotype = load(source)  # before what takes seconds
    from nas_agg.study.definition.task import cores
    from nas_agg.training.data import load_data
    from nas_agg.training.memory import free_main_memory, memory_budget

    data = load_data(dataset, seed)
    try:
        free = memory_budget(free_main_memory())
        scorer = ProxyScorer(data, seed, batch, input=input, classes=classes, threads=cores(), memory_limit=free)
    except InputError as error:
        raise InputError(f"--{error}") from None
    each = [scorer.scores(genotype, names, init) for init in range(inits)]
    return {
        "dataset": data.name,
        "images": len(scorer.labels),
        "input": list(scorer.input or ()),
        "classes": scorer.classes,
        "seed": seed,
        "inits": inits,
        "scores": {name: [scores[name] for scores in each] for name in names},
        "failed": scorer.failed,
    }


def _print_scores(source: str, found: dict[str, Any], format: Format) -> None:
    scores: dict[str, list[float]] = found.pop("scores")
    rows, told = [], []
    for name, each in scores.items():
        finite = all(map(math.isfinite, each))
        mean = statistics.fmean(each) if finite else None
        spread = statistics.stdev(each) if finite and len(each) > 1 else None
        values = [score if math.isfinite(score) else None for score in each]
        told.append({"proxy": name, "mean": mean, "std": spread, "scores": values})
        if name in COST_PROXIES:
            rows.append([name, count_text(int(each[0])), "", PROXIES[name].measures])
        else:
            shown = _number(mean) if mean is not None else str(sum(each))
            rows.append([name, shown, "" if spread is None else f"{float(f'{spread:.2g}'):,g}", PROXIES[name].measures])
    if format is Format.json:
        print_json(found | {"proxies": told})
        return
    print_table(["proxy", "score", "deviation", "measures"], rows, title=source, right=(1, 2))
    several = f"{found['inits']} initialisations" if found["inits"] > 1 else "one initialisation"
    print(f"{found['images']} training images of {found['dataset']}, {several}, seed {found['seed']}")
    for name, reason in found["failed"].items():
        print(f"Note: {name} could not be computed: {reason}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:.5g}"


# ---- a run


def _ranked(run: Path, names: tuple[str, ...], options: dict[str, Any], format: Format) -> Ranking:
    from nas_agg.study.proxy_ranking import rank_run, rank_table

    def report(done: int, count: int) -> None:
        end = "\n" if done == count else ""
        print(f"\r{done} of {count} networks scored", end=end, file=sys.stderr, flush=True)

    show = format is Format.table and sys.stderr.isatty()
    if not run.is_dir() and (str(run) in list_spaces() or run.suffix in SUFFIXES):
        with _stopping("stopped"):
            return rank_table(str(run), names, **options, report=report if show else None)
    with _stopping("stopped; the scores so far are kept with the run, and the same command goes on"):
        return rank_run(run, names, **options, report=report if show else None)


def _print_ranking(ranking: Ranking, format: Format) -> None:
    if format is Format.json:
        print_json(ranking.as_dict())
        return
    rows = []
    for c in ranking.correlations:
        both = ((c.kendall, c.kendall_interval), (c.spearman, c.spearman_interval))
        seconds = ranking.seconds.get(c.proxy)
        texts = [text for found in both for text in _texts(*found)]
        rows.append([c.proxy, str(c.networks), *texts, "-" if seconds is None else f"{seconds:.3f}"])
    header = ["proxy", "networks", "Kendall", "95 % interval", "Spearman", "95 % interval", "seconds"]
    print_table(header, rows, title=ranking.run, right=range(1, 7))
    several = f"means of {ranking.inits} initialisations" if ranking.inits > 1 else "one initialisation"
    print(
        f"{ranking.networks} networks trained in full, by {ranking.figure}; scores on {ranking.batch} training images "
        f"of {ranking.dataset}, {several}, seed {ranking.seed}; seconds: the "
        "processor's, for a network"
    )
    for note in _notes(ranking):
        print(f"Note: {note}")


def _notes(ranking: Ranking) -> list[str]:
    """What a reader of the table should know."""
    params, *others = ranking.correlations
    notes = []
    if alike := [c.proxy for c in others if c.overlaps(params)]:
        notes.append(f"not told apart from params, as intervals of Kendall's tau overlap: {', '.join(alike)}")
    for c in ranking.correlations:
        if c.left_out:
            why = ranking.failed.get(c.proxy, "the score is no finite number")
            notes.append(f"{c.proxy}: {_networks(c)} left out: {why}")
    if ranking.unkept:
        notes.append(f"the scores are not kept: {ranking.unkept}")
    return notes


def _networks(c: Correlation) -> str:
    return f"{c.left_out} network{'s' * (c.left_out != 1)}"


def _texts(value: float | None, interval: Interval | None) -> tuple[str, str]:
    """A correlation and its interval; there may be none."""
    shown = "-" if value is None else f"{value:.2f}"
    return shown, "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
