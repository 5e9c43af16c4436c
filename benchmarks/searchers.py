"""Searchers on tables of results: regret after 50 and after 150 networks.

    python benchmarks/searchers.py --table macro.csv.gz --genes arch --value mean_acc --costs params,flops --equal canon
    python benchmarks/searchers.py --table ... --objectives accuracy,macs
    python benchmarks/searchers.py --space agg-bench --objectives accuracy,latency
    python benchmarks/searchers.py --synthetic
    python benchmarks/searchers.py --space agg-bench --workers 8
    python benchmarks/searchers.py --table macro.csv.gz ... --noise test_acc_1,test_acc_2,test_acc_3

With several workers, each trial begins without the results of as many trials before it, for our searchers. With noise,
each network of a run has the result in one of the columns, drawn at random.

Our searchers run as in a search, where duplicates do not count. Optuna's samplers run as documented, with `ask` and
`tell`, where every trial counts; the two textbook algorithms count distinct networks. Networks that are missing from
the table are rejected for our searchers and the textbook algorithms, as in a search; for Optuna's samplers they are
failed trials, which do not count, and after as many of them in a row as our limit of rejections, points are drawn at
random until one is in the table. Each run is a line of the file given by `--out`, so that an interrupted benchmark can
be resumed.

For one objective it prints the mean regret with its 95 % bootstrap interval, the median, and the share of runs that
found the optimum; for several objectives the hypervolume as a share of that of the table's Pareto front (reference: the
table's median result and largest costs). `--synthetic` is a synthetic benchmark of 6 x 10^10 configurations of 20
search variables, one function per seed; regret is in standard deviations of the function, from the best value found by
long local searches.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import itertools
import json
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
from judging import NoisyRegret, Regret, RelativeHypervolume, metrics_of, parse_objectives

from nas_agg.common.errors import InputError
from nas_agg.search_space.domains import Choice
from nas_agg.search_space.encoding import Encoding, Rows, row_key
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.search_space.space import open_space
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.proposals import Proposal
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, derive_seed, find_searcher, installed_searchers, make_searcher
from nas_agg.study.tables.results_table import Table, TabularSpace
from nas_agg.study.tables.table_file import Row

Run = Iterator[Row]  # one row per network that counts
SearchSpace = "Table | TabularSpace | SyntheticBenchmark"

OPTUNA_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "optuna random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "optuna tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "optuna gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
MAX_SEEDS = {"gp": 20, "optuna gp": 20}  # of slow searchers


class SyntheticBenchmark(SearchVariables):
    """A smooth function with pairwise interactions of ten categorical variables and ten ordered ones.

    Args:
        seed: Selects the function.

    Attributes:
        best: The best value found by long local searches.
    """

    name = "synthetic"

    def __init__(self, seed: int = 0):
        words, numbers = Choice(("a", "b", "c")), Choice((1, 2, 4, 8))
        super().__init__({f"n{j}": words if j < 10 else numbers for j in range(20)})
        self._encoding = Encoding(self)
        rng = np.random.default_rng(seed)
        weights = rng.permutation(0.85 ** np.arange(20))
        self._alone = [
            weight * (rng.normal(size=3) if j < 10 else -((np.arange(4) - rng.uniform(0, 3)) ** 2) / 2)
            for j, weight in enumerate(weights)
        ]
        chosen = rng.permutation(list(itertools.combinations(range(20), 2)))[:40]
        self._pairs = [
            (
                a,
                b,
                0.7
                * (weights[a] * weights[b]) ** 0.5
                * rng.normal(size=[self._encoding.sizes[a], self._encoding.sizes[b]]),
            )
            for a, b in chosen
        ]
        self._unit = 1.0
        self._unit = float(self.scores(self._encoding.sample(10_000, rng)).std())
        tops = sorted((self._climb(row) for row in self._encoding.sample(100, rng)), key=lambda top: -top[0])
        for _ in range(300):  # iterated local search from perturbed optima
            score, row = self._climb(self._encoding.mutate(tops[0][1][None], 4, rng)[0])
            tops = sorted([*tops, (score, row)], key=lambda top: -top[0])
        self.best = tops[0][0]

    def scores(self, rows: Rows) -> np.ndarray:
        """The function's values at encoded points."""
        total = sum(alone[rows[:, j]] for j, alone in enumerate(self._alone))
        return (total + sum(table[rows[:, a], rows[:, b]] for a, b, table in self._pairs)) / self._unit

    def _climb(self, row: np.ndarray) -> tuple[float, np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            around = np.concatenate([row[None], self._encoding.neighbours(row, rng)])
            scores = self.scores(around)
            place = int(np.argmax(scores))
            if place == 0:
                return float(scores[0]), row
            row = around[place]

    def genotype(self, values: Values, input: object = None, classes: object = None) -> Values:
        """The point itself; there is no network."""
        return self.validate(values)

    def row(self, values: Values) -> Row:
        """The result of a point."""
        row = self._encoding.encode(values)
        return Row(float(self.scores(row[None])[0]), (), row_key(row).hex())


def run_searcher(space: SearchSpace, objectives: Objectives, name: str, seed: int, workers: int = 1) -> Run:
    """Run one of our searchers with the search's own proposer and record.

    Trainings take equally long: with several workers, the result of a trial is known when ``workers - 1`` trials have
    begun after it.
    """
    record = StudyRecord(optuna.pruners.NopPruner(), objectives=objectives)
    searcher = make_searcher(find_searcher(name), space, seed, objectives)
    look_up_genotype = space.network if isinstance(space, TabularSpace) else space.row
    proposer = Proposer(space, searcher, record, cost=look_up_genotype)
    running: deque[tuple[int, Row]] = deque()
    while True:
        while len(running) < workers and isinstance(proposal := proposer.propose(), Proposal):
            running.append((proposal.number, look_up_genotype(proposal.candidate.genotype)))
        if not running:
            return
        number, row = running.popleft()
        record.complete(number, objectives.values(metrics_of(row)))
        yield row


def with_noise(table: Table, columns: Sequence[str], seed: int) -> Table:
    """A table whose results are those in one of some columns, drawn for each network."""
    noisy = copy.copy(table)
    noisy.rows = {}
    for key, row in table.rows.items():
        place = derive_seed(seed, 0, row.hash) % len(columns)
        noisy.rows[key] = dataclasses.replace(row, value=row.extra_metrics[columns[place]])
    return noisy


def look_up(space: SearchSpace, values: Values) -> Row | None:
    """The row of a point; None if it is missing from the table."""
    try:
        return space.row(values)
    except InputError:
        return None


def run_optuna(space: SearchSpace, objectives: Objectives, name: str, seed: int) -> Run:
    """Run a sampler of Optuna with ask and tell."""
    study = optuna.create_study(directions=objectives.directions, sampler=OPTUNA_SAMPLERS[name](seed))
    sampler, random_sampler, rejections = study.sampler, optuna.samplers.RandomSampler(seed=seed), 0
    max_rejections = find_searcher("gp").max_rejections if name in MAX_SEEDS else Searcher.max_rejections
    while True:
        # A confident Gaussian process proposes the same missing point again and again.
        study.sampler = sampler if rejections < max_rejections else random_sampler
        trial = study.ask(space.distributions)
        row = look_up(space, space.values(trial.params))
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            rejections += 1
        else:
            study.tell(trial, objectives.values(metrics_of(row)))
            rejections = 0
            yield row


def textbook_evolution(space: SearchSpace, seed: int) -> Run:
    """Regularised evolution: a population of 20, tournaments of 5, one mutation."""
    encoding, rng = Encoding(space), np.random.default_rng(seed)
    population: list[tuple[float, np.ndarray]] = []
    evaluated: set[str] = set()
    while True:
        if len(population) < 20:
            row = encoding.sample(1, rng)[0]
        else:
            chosen = rng.choice(20, 5, replace=False)
            parent = max((population[place] for place in chosen), key=lambda one: one[0])[1]
            row = encoding.mutate(parent[None], 1, rng)[0]
        result = look_up(space, encoding.decode(row))
        if result is None:
            continue
        population = [*population, (result.value, row)][-20:]
        if result.hash not in evaluated:
            evaluated.add(result.hash)
            yield result


def textbook_local(space: SearchSpace, seed: int) -> Run:
    """Local search: the best of all neighbours, until none is better; then from a random network."""
    encoding, rng = Encoding(space), np.random.default_rng(seed)
    evaluated: set[str] = set()
    size = len({row.hash for row in space.rows.values()}) if isinstance(space, (Table, TabularSpace)) else space.size()
    while len(evaluated) < size:
        around, value = encoding.sample(1, rng), -np.inf
        while True:
            values, rows = [], []
            for row in around:
                result = look_up(space, encoding.decode(row))
                if result is None:
                    continue
                values.append(result.value)
                rows.append(row)
                if result.hash not in evaluated:
                    evaluated.add(result.hash)
                    yield result
            if max(values, default=-np.inf) <= value:
                break
            centre, value = rows[int(np.argmax(values))], max(values)
            around = encoding.neighbours(centre, rng)


def runs(space: SearchSpace, objectives: Objectives, workers: int = 1) -> dict[str, Callable[[int], Run]]:
    """All searchers by name, as functions of the seed; with several workers our own ones."""
    by_name: dict[str, Callable[[int], Run]] = {}
    for name in installed_searchers():
        if find_searcher(name).supports_multi_objective or not objectives.is_multi_objective:
            by_name[name] = lambda seed, name=name: run_searcher(space, objectives, name, seed, workers)
    if workers > 1:
        return by_name
    for name in OPTUNA_SAMPLERS:
        by_name[name] = lambda seed, name=name: run_optuna(space, objectives, name, seed)
    if not objectives.is_multi_objective:
        by_name["textbook evolution"] = lambda seed: textbook_evolution(space, seed)
        by_name["textbook local"] = lambda seed: textbook_local(space, seed)
    return by_name


def measure(run: Run, budget: int) -> tuple[list[Row], float, float]:
    """A run's networks, and the median milliseconds per trial: CPU time and wall time."""
    rows, times = [], []
    begin = time.process_time(), time.perf_counter()
    for row in itertools.islice(run, budget):
        times.append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
        rows.append(row)
        begin = time.process_time(), time.perf_counter()
    cpu, wall = 1000 * np.median(times, axis=0)
    return rows, float(cpu), float(wall)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--space", help="a space with a table, whose networks have features of their graphs")
    parser.add_argument("--synthetic", action="store_true")
    for option in ("genes", "costs", "features", "noise"):
        parser.add_argument(f"--{option}", type=lambda text: text.split(","))
    for option in ("value", "equal"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=["accuracy"])
    parser.add_argument("--searchers", type=lambda text: text.split(","))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("searchers.jsonl"))
    return parser


def search_task(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[Callable[[int], SearchSpace], Objectives]:
    """The search space of each seed, and the objectives."""
    if sum([options.synthetic, options.table is not None, options.space is not None]) != 1:
        parser.error("specify either --table, --space or --synthetic")
    objectives = parse_objectives(parser, options.objectives)
    if options.noise and (options.table is None or objectives.is_multi_objective):
        parser.error("--noise requires --table and a single objective")
    if options.synthetic and objectives.is_multi_objective:
        parser.error("--synthetic supports the objective accuracy only")
    if options.synthetic:
        return functools.cache(SyntheticBenchmark), objectives
    if options.space is not None:
        space = TabularSpace(open_space(options.space))
        return lambda seed: space, objectives
    table = Table(options.table, options.genes, options.value, options.costs, options.equal, options.features)
    if options.noise:
        return lambda seed: with_noise(table, options.noise, seed), objectives
    return lambda seed: table, objectives


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, objectives = search_task(parser, options)
    judge = RelativeHypervolume(space(0), objectives) if objectives.is_multi_objective else Regret()
    if options.noise:
        judge = NoisyRegret(Table(options.table, options.genes, options.value, None, options.equal))
    names = list(runs(space(0), objectives, options.workers))
    for name in options.searchers or ():
        if name not in names:
            parser.error(f"unknown searcher {name!r}; choose from {', '.join(names)}")
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    table = f"space {options.space}" if options.space else space(0).name
    case = {"table": table, "objectives": ",".join(objectives.names), "budget": options.budget}
    case |= {"workers": options.workers} if options.workers > 1 else {}
    case |= {"noise": options.noise} if options.noise else {}
    same = [line for line in done if all(line.get(name) == case.get(name) for name in {*case, "workers", "noise"})]
    known = {(line["searcher"], line["seed"]): line for line in same}
    print(f"| searcher | seeds | {' | '.join(judge.columns)} | ms per trial |")
    print(f"|{'---|' * (len(judge.columns) + 3)}")
    for name in options.searchers or names:
        for seed in range(min(options.seeds, MAX_SEEDS.get(name, options.seeds))):
            if (name, seed) not in known:
                rows, cpu, wall = measure(runs(space(seed), objectives, options.workers)[name](seed), options.budget)
                line = {"searcher": name, "seed": seed, **case, **judge.evaluate(rows, options.budget, space(seed))}
                known[name, seed] = {**line, "ms": cpu, "ms_by_the_clock": wall}
                with options.out.open("a") as file:
                    file.write(json.dumps(known[name, seed]) + "\n")
        lines = [line for (of_name, seed), line in known.items() if of_name == name and seed < options.seeds]
        cells = [name, str(len(lines)), *judge.cells(lines), f"{statistics.median(line['ms'] for line in lines):.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
