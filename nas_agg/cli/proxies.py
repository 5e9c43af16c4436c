"""The command that scores networks by zero-cost proxies and measures how well the proxies rank."""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.cli.options import (
    GENOTYPE_HELP,
    ClassesOption,
    Format,
    FormatOption,
    InputOption,
    exit_on_signal,
    parse_shape,
    prefix_errors,
    print_json,
)
from nas_agg.common.console import format_count, print_table
from nas_agg.common.errors import InputError
from nas_agg.search_space.space import SUFFIXES, list_spaces
from nas_agg.study.samplers.proxy_scorer import BATCH, COST_PROXIES, PROXIES, ProxyScorer, with_cost_proxies

if TYPE_CHECKING:
    from nas_agg.study.proxy_ranking import Correlation, Interval, Ranking

_INITS = 3  # initializations of one network


def proxies(
    genotype: Annotated[
        str | None,
        typer.Argument(metavar="GENOTYPE", help=f"Network to score. {GENOTYPE_HELP}"),
    ] = None,
    rank: Annotated[
        Path | None,
        typer.Option(
            "--rank",
            metavar="RUN",
            help="Correlate scores with the results of this run, or of a table such as agg-bench.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this proxy, besides params and macs; repeatable.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Data set of the images, as for train (default: digits, or the run's)."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help=f"Images per score (default: {BATCH}).")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Seed of the images and the initial weights (default: 0).")
    ] = None,
    inits: Annotated[
        int | None,
        typer.Option(min=1, help=f"Initializations averaged per score (default: {_INITS}; with --rank: 1)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=3, help="With --rank: only the first N trained trials.")
    ] = None,
    classes: ClassesOption = None,
    input: InputOption = None,
    format: FormatOption = Format.table,
) -> None:
    """List or evaluate zero-cost proxies. Scores a network, or measures how well scores rank the networks of a run.

    one-epoch trains each network, and is computed only if named.
    """
    names = with_cost_proxies(proxy or ())
    options: dict[str, Any] = {"dataset": dataset, "batch": batch, "seed": seed, "inits": inits}
    given = {name: value for name, value in options.items() if value is not None}
    if rank is not None:
        if genotype is not None:
            raise InputError("--rank: cannot be combined with a genotype; leave out one of them")
        _refuse({"classes": classes, "input": input}, "requires a genotype")
        _print_ranking(_rank(rank, names, {**given, "limit": limit}, format), format)
    elif genotype is not None:
        _refuse({"limit": limit}, "requires --rank")
        shape = None if input is None else parse_shape(input)
        with exit_on_signal("stopped"), prefix_errors(genotype):
            scored = _score_network(genotype, names, shape, classes, **given)
        _print_scores(genotype, scored, format)
    else:
        _refuse({**options, "classes": classes, "input": input, "limit": limit}, "requires a genotype or --rank RUN")
        _print_proxies(names if proxy else tuple(PROXIES), format)


def _refuse(options: dict[str, Any], reason: str) -> None:
    """Refuse options that have no effect here."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"--{name}: {reason}")


def _print_proxies(names: tuple[str, ...], format: Format) -> None:
    if format is Format.json:
        keys = ("measures", "cost", "paper")
        print_json([{"name": name} | {key: getattr(PROXIES[name], key) for key in keys} for name in names])
        return
    rows = [[name, PROXIES[name].cost, PROXIES[name].paper or "-", PROXIES[name].measures] for name in names]
    print_table(["proxy", "cost", "paper", "measures"], rows)


# ---- one network


def _score_network(
    source: str,
    names: tuple[str, ...],
    input: tuple[int, int, int] | None,
    classes: int | None,
    dataset: str = "digits",
    batch: int = BATCH,
    seed: int = 0,
    inits: int = _INITS,
) -> dict[str, Any]:
    """The scores of a network: one list per proxy, one score per initialization."""
    from nas_agg import load

    genotype = load(source)  # first, as the imports below take seconds
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


def _print_scores(source: str, scored: dict[str, Any], format: Format) -> None:
    scores: dict[str, list[float]] = scored.pop("scores")
    rows, records = [], []
    for name, each in scores.items():
        finite = all(map(math.isfinite, each))
        mean = statistics.fmean(each) if finite else None
        spread = statistics.stdev(each) if finite and len(each) > 1 else None
        values = [score if math.isfinite(score) else None for score in each]
        records.append({"proxy": name, "mean": mean, "std": spread, "scores": values})
        if name in COST_PROXIES:
            rows.append([name, format_count(int(each[0])), "", PROXIES[name].measures])
        else:
            text = _number_text(mean) if mean is not None else str(sum(each))
            rows.append([name, text, "" if spread is None else f"{float(f'{spread:.2g}'):,g}", PROXIES[name].measures])
    if format is Format.json:
        print_json(scored | {"proxies": records})
        return
    print_table(["proxy", "score", "std", "measures"], rows, title=source, right=(1, 2))
    inits = f"{scored['inits']} initializations" if scored["inits"] > 1 else "one initialization"
    print(f"{scored['images']} training images of {scored['dataset']}, {inits}, seed {scored['seed']}")
    for name, reason in scored["failed"].items():
        print(f"Note: {name} could not be computed: {reason}")


def _number_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:.5g}"


# ---- a run


def _rank(run: Path, names: tuple[str, ...], options: dict[str, Any], format: Format) -> Ranking:
    from nas_agg.study.proxy_ranking import rank_run, rank_table

    def report(done: int, count: int) -> None:
        end = "\n" if done == count else ""
        print(f"\rscored {done} of {count} networks", end=end, file=sys.stderr, flush=True)

    show = format is Format.table and sys.stderr.isatty()
    if not run.is_dir() and (str(run) in list_spaces() or run.suffix in SUFFIXES):
        with exit_on_signal("stopped"):
            return rank_table(str(run), names, **options, report=report if show else None)
    with exit_on_signal("stopped; the scores so far are saved with the run, rerun the command to resume"):
        return rank_run(run, names, **options, report=report if show else None)


def _print_ranking(ranking: Ranking, format: Format) -> None:
    if format is Format.json:
        print_json(ranking.as_dict())
        return
    rows = []
    for c in ranking.correlations:
        both = ((c.kendall, c.kendall_interval), (c.spearman, c.spearman_interval))
        seconds = ranking.seconds.get(c.proxy)
        texts = [text for coefficient in both for text in _coefficient_texts(*coefficient)]
        rows.append([c.proxy, str(c.networks), *texts, "-" if seconds is None else f"{seconds:.3f}"])
    header = ["proxy", "networks", "Kendall", "95 % interval", "Spearman", "95 % interval", "seconds"]
    print_table(header, rows, title=ranking.run, right=range(1, 7))
    inits = f"means of {ranking.inits} initializations" if ranking.inits > 1 else "one initialization"
    print(
        f"{ranking.networks} fully trained networks by {ranking.metric}; scores on {ranking.batch} training images "
        f"of {ranking.dataset}, {inits}, seed {ranking.seed}; seconds: processor time per network"
    )
    for note in _notes(ranking):
        print(f"Note: {note}")


def _notes(ranking: Ranking) -> list[str]:
    """Caveats below the table."""
    params, *others = ranking.correlations
    notes = []
    if similar := [c.proxy for c in others if c.overlaps(params)]:
        notes.append(f"not distinguishable from params (intervals of Kendall's tau overlap): {', '.join(similar)}")
    for c in ranking.correlations:
        if c.excluded:
            reason = ranking.failed.get(c.proxy, "the score is not finite")
            notes.append(f"{c.proxy}: {_networks(c)} left out: {reason}")
    if ranking.cache_error:
        notes.append(f"the scores are not saved: {ranking.cache_error}")
    return notes


def _networks(c: Correlation) -> str:
    return f"{c.excluded} network{'s' * (c.excluded != 1)}"


def _coefficient_texts(value: float | None, interval: Interval | None) -> tuple[str, str]:
    """A correlation coefficient and its interval; either may be missing."""
    text = "-" if value is None else f"{value:.2f}"
    return text, "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
