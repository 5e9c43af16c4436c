"""Searchers on tables of results: how far the best network found is from the table's best, after 50 and 150 networks.

    python benchmarks/searchers.py --table macro.csv.gz --genes arch --value mean_acc --costs params,flops --equal canon
    python benchmarks/searchers.py --table ... --objectives accuracy,macs
    python benchmarks/searchers.py --synthetic

Ours run as in a search, where a network counts once; Optuna's own samplers run as their documentation has it, `ask` and
`tell`, where every trial counts; two textbook forms count distinct networks. Networks that a table has no row of are
refused to ours and to the textbook forms as in a search; to Optuna's samplers they are failed trials, which do not
count, and after as many in a row as ours would wait, points are drawn at random until one is known. Each run of a seed
is a line of the file that `--out` names, so that a benchmark that was stopped goes on.

Of one objective it prints the mean regret with its 95 % interval (bootstrap), the median, and the share of runs that
hold the best network; of several the hypervolume as a share of that of the table's whole front, above the table's
median result and largest costs. `--synthetic` is made-up scores, one a seed, on 20 names, 6 x 10^10 points in all, in
units of their deviation; the best is the best of long local searches.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
from judging import Regret, Volume, figures_of, objectives_named

from nas_agg.common.errors import InputError
from nas_agg.search_space.domains import Choice
from nas_agg.search_space.encoding import Encoding, Rows, row_key
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.proposer import Proposal, Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, find_searcher, installed_searchers, make_searcher
from nas_agg.study.tables.results_table import Table
from nas_agg.study.tables.table_file import Row

Run = Iterator[Row]  # one a network that counts
Searched = "Table | MadeUp"

PLAIN: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "optuna random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "optuna tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "optuna gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
FEWER = {"gp": 20, "optuna gp": 20}  # seeds, where asks are slow


class MadeUp(SearchVariables):
    """A smooth score with interactions on ten lists of three words and ten of four numbers; nothing is enumerated.

    Args:
        seed: Which score.

    Attributes:
        best: The best score that long local searches find.
    """

    name = "made up"

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
        tops = sorted((self._climbed(row) for row in self._encoding.sample(100, rng)), key=lambda top: -top[0])
        for _ in range(300):  # the best of them, shaken
            score, row = self._climbed(self._encoding.mutate(tops[0][1][None], 4, rng)[0])
            tops = sorted([*tops, (score, row)], key=lambda top: -top[0])
        self.best = tops[0][0]

    def scores(self, rows: Rows) -> np.ndarray:
        """The scores of some points."""
        found = sum(alone[rows[:, j]] for j, alone in enumerate(self._alone))
        return (found + sum(table[rows[:, a], rows[:, b]] for a, b, table in self._pairs)) / self._unit

    def _climbed(self, row: np.ndarray) -> tuple[float, np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            around = np.concatenate([row[None], self._encoding.neighbours(row, rng)])
            scores = self.scores(around)
            place = int(np.argmax(scores))
            if place == 0:
                return float(scores[0]), row
            row = around[place]

    def genotype(self, values: Values, input: object = None, classes: object = None) -> Values:
        """The point itself."""
        return self.validate(values)

    def row(self, values: Values) -> Row:
        """The score of a point."""
        row = self._encoding.encode(values)
        return Row(float(self.scores(row[None])[0]), (), row_key(row).hex())


def ours(space: Searched, objectives: Objectives, name: str, seed: int) -> Run:
    """A searcher of ours, through the engine's proposals and record."""
    record = StudyRecord(optuna.pruners.NopPruner(), objectives=objectives)
    searcher = make_searcher(find_searcher(name), space, seed, objectives)
    proposer = Proposer(space, searcher, record, cost=space.row)
    while isinstance(proposal := proposer.propose(), Proposal):
        number, network = proposal
        row = space.row(network.genotype)
        record.complete(number, objectives.values(figures_of(row)))
        yield row


def looked_up(space: Searched, values: Values) -> Row | None:
    """The row of a point; None if the table has none."""
    try:
        return space.row(values)
    except InputError:
        return None


def plain(space: Searched, objectives: Objectives, name: str, seed: int) -> Run:
    """A sampler of Optuna by itself."""
    study = optuna.create_study(directions=objectives.directions, sampler=PLAIN[name](seed))
    own, chance, unknown = study.sampler, optuna.samplers.RandomSampler(seed=seed), 0
    max_rejections = find_searcher("gp").max_rejections if name in FEWER else Searcher.max_rejections
    while True:
        study.sampler = (
            own if unknown < max_rejections else chance
        )  # a sure Gaussian process proposes the same for ever
        trial = study.ask(space.distributions)
        row = looked_up(space, space.values(trial.params))
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            unknown += 1
        else:
            study.tell(trial, objectives.values(figures_of(row)))
            unknown = 0
            yield row


def textbook_evolution(space: Searched, seed: int) -> Run:
    """Regularised evolution: a population of 20, tournaments of 5, one mutation."""
    encoding, rng = Encoding(space), np.random.default_rng(seed)
    population: list[tuple[float, np.ndarray]] = []
    known: set[str] = set()
    while True:
        if len(population) < 20:
            row = encoding.sample(1, rng)[0]
        else:
            chosen = rng.choice(20, 5, replace=False)
            parent = max((population[place] for place in chosen), key=lambda one: one[0])[1]
            row = encoding.mutate(parent[None], 1, rng)[0]
        found = looked_up(space, encoding.decode(row))
        if found is None:
            continue
        population = [*population, (found.value, row)][-20:]
        if found.hash not in known:
            known.add(found.hash)
            yield found


def textbook_local(space: Searched, seed: int) -> Run:
    """Local search: the best of all neighbours, until none is better; then from a random network."""
    encoding, rng = Encoding(space), np.random.default_rng(seed)
    known: set[str] = set()
    size = len({row.hash for row in space.rows.values()}) if isinstance(space, Table) else space.size()
    while len(known) < size:
        around, value = encoding.sample(1, rng), -np.inf
        while True:
            values, rows = [], []
            for row in around:
                found = looked_up(space, encoding.decode(row))
                if found is None:
                    continue
                values.append(found.value)
                rows.append(row)
                if found.hash not in known:
                    known.add(found.hash)
                    yield found
            if max(values, default=-np.inf) <= value:
                break
            centre, value = rows[int(np.argmax(values))], max(values)
            around = encoding.neighbours(centre, rng)


def runs(space: Searched, objectives: Objectives) -> dict[str, Callable[[int], Run]]:
    """Every searcher by name, each a function of the seed."""
    found: dict[str, Callable[[int], Run]] = {}
    for name in installed_searchers():
        if find_searcher(name).supports_multi_objective or not objectives.is_multi_objective:
            found[name] = lambda seed, name=name: ours(space, objectives, name, seed)
    for name in PLAIN:
        found[name] = lambda seed, name=name: plain(space, objectives, name, seed)
    if not objectives.is_multi_objective:
        found["textbook evolution"] = lambda seed: textbook_evolution(space, seed)
        found["textbook local"] = lambda seed: textbook_local(space, seed)
    return found


def measure(run: Run, budget: int) -> tuple[list[Row], float, float]:
    """A run's networks, and the median milliseconds of a trial: of the processor and by the clock."""
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
    parser.add_argument("--synthetic", action="store_true")
    for option in ("genes", "costs"):
        parser.add_argument(f"--{option}", type=lambda text: text.split(","))
    for option in ("value", "equal"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=["accuracy"])
    parser.add_argument("--searchers", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("searchers.jsonl"))
    return parser


def searched(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[Callable[[int], Searched], Objectives]:
    """What each seed searches, and for what."""
    if options.synthetic == (options.table is not None):
        parser.error("name a --table, or --synthetic")
    objectives = objectives_named(parser, options.objectives)
    if options.synthetic and objectives.is_multi_objective:
        parser.error("the objective of --synthetic is accuracy alone")
    if options.synthetic:
        return functools.cache(MadeUp), objectives
    table = Table(options.table, options.genes, options.value, options.costs, options.equal)
    return lambda seed: table, objectives


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, objectives = searched(parser, options)
    judge = Volume(space(0), objectives) if objectives.is_multi_objective else Regret()
    names = list(runs(space(0), objectives))
    for name in options.searchers or ():
        if name not in names:
            parser.error(f"no searcher {name!r}; there are {', '.join(names)}")
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    of = {"table": space(0).name, "objectives": ",".join(objectives.names), "budget": options.budget}
    known = {(line["searcher"], line["seed"]): line for line in done if of.items() <= line.items()}
    print(f"| searcher | seeds | {' | '.join(judge.columns)} | ms a trial |")
    print(f"|{'---|' * (len(judge.columns) + 3)}")
    for name in options.searchers or names:
        for seed in range(min(options.seeds, FEWER.get(name, options.seeds))):
            if (name, seed) not in known:
                rows, cpu, wall = measure(runs(space(seed), objectives)[name](seed), options.budget)
                line = {"searcher": name, "seed": seed, **of, **judge.of(rows, options.budget, space(seed))}
                known[name, seed] = {**line, "ms": cpu, "ms_by_the_clock": wall}
                with options.out.open("a") as file:
                    file.write(json.dumps(known[name, seed]) + "\n")
        lines = [line for (of_name, seed), line in known.items() if of_name == name and seed < options.seeds]
        cells = [name, str(len(lines)), *judge.cells(lines), f"{statistics.median(line['ms'] for line in lines):.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
