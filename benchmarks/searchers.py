"""Searchers on tables of results: how far the best network found is from the table's best, after 50 and 150 networks.

    python benchmarks/searchers.py --table macro.csv.gz --genes arch --value mean_acc --costs params,flops --equal canon

Ours run as in a search, where a network counts once; Optuna's own samplers run as their documentation has it, `ask` and
`tell`, where every trial counts; two textbook forms count distinct networks. Each run of a seed is a line of the file
that `--out` names, so that a benchmark that was stopped goes on. The table: mean regret with its standard error, the
median, and the share of runs that hold the table's best network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna

from nas_agg.study.genes import Genes, key
from nas_agg.study.proposer import Proposer
from nas_agg.study.record import Record
from nas_agg.study.searcher import find_searcher, make_searcher, searchers
from nas_agg.study.table import Table

Run = Iterator[float]  # the results, one a network that counts

PLAIN: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "optuna random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "optuna tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "optuna gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
FEWER = {"gp": 20, "optuna gp": 20}  # seeds, where asks are slow


def ours(table: Table, name: str, seed: int) -> Run:
    """A searcher of ours, through the engine's proposals and record."""
    record = Record(optuna.pruners.NopPruner())
    proposer = Proposer(table, make_searcher(find_searcher(name), table, seed), record, cost=table.row)
    while isinstance(found := proposer.propose(), tuple):
        number, network = found
        value = table.row(network.genotype).value
        record.complete(number, value)
        yield value


def plain(table: Table, name: str, seed: int) -> Run:
    """A sampler of Optuna by itself."""
    study = optuna.create_study(direction="maximize", sampler=PLAIN[name](seed))
    while True:
        trial = study.ask(table.distributions)
        value = table.row(table.values(trial.params)).value
        study.tell(trial, value)
        yield value


def textbook_evolution(table: Table, seed: int) -> Run:
    """Regularised evolution: a population of 20, tournaments of 5, one mutation."""
    genes, rng = Genes(table), np.random.default_rng(seed)
    population: list[tuple[float, np.ndarray]] = []
    known: set[str] = set()
    while True:
        if len(population) < 20:
            row = genes.random(1, rng)[0]
        else:
            chosen = rng.choice(20, 5, replace=False)
            parent = max((population[place] for place in chosen), key=lambda one: one[0])[1]
            row = genes.mutants(parent[None], 1, rng)[0]
        found = table.rows[key(row)]
        population = [*population, (found.value, row)][-20:]
        if found.hash not in known:
            known.add(found.hash)
            yield found.value


def textbook_local(table: Table, seed: int) -> Run:
    """Local search: the best of all neighbours, until none is better; then from a random network."""
    genes, rng = Genes(table), np.random.default_rng(seed)
    known: set[str] = set()
    while len(known) < len({row.hash for row in table.rows.values()}):
        centre = genes.random(1, rng)[0]
        value = table.rows[key(centre)].value
        if table.rows[key(centre)].hash not in known:
            known.add(table.rows[key(centre)].hash)
            yield value
        while True:
            around = genes.neighbours(centre, rng)
            values = []
            for row in around:
                found = table.rows[key(row)]
                values.append(found.value)
                if found.hash not in known:
                    known.add(found.hash)
                    yield found.value
            if max(values) <= value:
                break
            centre, value = around[int(np.argmax(values))], max(values)


def runs(table: Table) -> dict[str, Callable[[int], Run]]:
    """Every searcher by name, each a function of the seed."""
    found: dict[str, Callable[[int], Run]] = {}
    for name in searchers():
        found[name] = lambda seed, name=name: ours(table, name, seed)
    for name in PLAIN:
        found[name] = lambda seed, name=name: plain(table, name, seed)
    found["textbook evolution"] = lambda seed: textbook_evolution(table, seed)
    found["textbook local"] = lambda seed: textbook_local(table, seed)
    return found


def measure(table: Table, name: str, seed: int, budget: int) -> dict:
    """One run: regret after each network, and the median milliseconds of an ask with all that belongs to it."""
    best, regrets, times = -np.inf, [], []
    run, begin = runs(table)[name](seed), time.perf_counter()
    for value in run:
        times.append(time.perf_counter() - begin)
        best = max(best, value)
        regrets.append(round(table.best - best, 6))
        if len(regrets) == budget:
            break
        begin = time.perf_counter()
    regrets += regrets[-1:] * (budget - len(regrets))
    kept = {"regret_50": regrets[min(49, budget - 1)], "regret_end": regrets[-1]}
    return {
        "table": table.name,
        "searcher": name,
        "seed": seed,
        "budget": budget,
        **kept,
        "ms": 1000 * statistics.median(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, required=True)
    for option in ("genes", "costs"):
        parser.add_argument(f"--{option}", type=lambda text: text.split(","))
    for option in ("value", "equal"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--searchers", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("searchers.jsonl"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table(options.table, options.genes, options.value, options.costs, options.equal)
    if len(table.rows) < table.size():
        parser.error(f"{options.table}: {table.size() - len(table.rows):,} of its points have no row")
    for name in options.searchers or ():
        if name not in runs(table):
            parser.error(f"no searcher {name!r}; there are {', '.join(runs(table))}")
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(line["table"], line["searcher"], line["seed"], line["budget"]): line for line in done}
    print("| searcher | seeds | regret at 50 | median | at the best | regret at the end | at the best | ms an ask |")
    print(f"|{'---|' * 8}")
    for name in options.searchers or runs(table):
        for seed in range(min(options.seeds, FEWER.get(name, options.seeds))):
            if (table.name, name, seed, options.budget) not in known:
                known[table.name, name, seed, options.budget] = measure(table, name, seed, options.budget)
                with options.out.open("a") as file:
                    file.write(json.dumps(known[table.name, name, seed, options.budget]) + "\n")
        lines = [
            line
            for run, line in known.items()
            if (run[0], run[1], run[3]) == (table.name, name, options.budget) and run[2] < options.seeds
        ]
        print(row(name, lines), flush=True)


def row(name: str, lines: list[dict]) -> str:
    cells = [name, str(len(lines))]
    for field in ("regret_50", "regret_end"):
        values = [line[field] for line in lines]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        cells.append(f"{statistics.mean(values):.4f} ± {error:.4f}")
        if field == "regret_50":
            cells.append(f"{statistics.median(values):.4f}")
        cells.append(f"{100 * sum(value == 0 for value in values) / len(values):.0f} %")
    cells.append(f"{statistics.median(line['ms'] for line in lines):.1f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
