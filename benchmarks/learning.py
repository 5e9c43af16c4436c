"""Searches that learn from an earlier run, against searches that do not: regret after some networks.

    python benchmarks/learning.py --table spaces/agg-bench.csv.gz --earlier 4
    python benchmarks/learning.py --table macro.csv.gz --genes arch --value mean_acc --earlier reversed

The earlier run is a search of 50 networks, with another seed, on a related table: the results after fewer epochs, in
both directions, or the results of the table with their ranks reversed, as an earlier run that misleads.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna

from nas_agg.search_space.space import open_space
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.proposals import Proposal
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.earlier_runs import EarlierRuns
from nas_agg.study.samplers.searcher import find_searcher, make_searcher
from nas_agg.study.tables.results_table import Table, TabularSpace
from nas_agg.study.tables.table_file import Row

OBJECTIVES = Objectives([METRICS["accuracy"]])
EARLIER_NETWORKS, EARLIER_SEED = 50, 500  # of the earlier run
COUNTS = (5, 10, 15, 25, 50)

AnyTable = Table | TabularSpace


def with_results(table: AnyTable, result: Callable[[Row], float]) -> AnyTable:
    """A table with other results."""
    other = copy.copy(table)
    other.rows = {key: dataclasses.replace(row, value=result(row)) for key, row in table.rows.items()}
    return other


def run(table: AnyTable, seed: int, budget: int, earlier: dict | None = None) -> list[tuple[dict, float]]:
    """The points and results of a search with the default searcher."""
    record = StudyRecord(optuna.pruners.NopPruner(), objectives=OBJECTIVES)
    searcher = make_searcher(find_searcher("predictor"), table, seed, OBJECTIVES)
    start = []
    if earlier is not None:
        searcher.earlier = EarlierRuns(table, OBJECTIVES, [earlier])
        start = searcher.earlier.first_points(np.random.default_rng(seed))
    look_up = table.network if isinstance(table, TabularSpace) else table.row
    proposer = Proposer(table, searcher, record, start=start, cost=look_up)
    found: list[tuple[dict, float]] = []
    while len(found) < budget and isinstance(proposal := proposer.propose(), Proposal):
        value = look_up(proposal.candidate.genotype).value
        record.complete(proposal.number, (value,))
        found.append((table.values(record.trials[proposal.number].labels), value))
    return found


def compare(title: str, source: AnyTable, target: AnyTable, seeds: int) -> None:
    """Print the mean regrets of searches of a table, alone and after a search of another."""
    regrets: tuple[list, list] = [], []
    for seed in range(seeds):
        results = run(source, EARLIER_SEED + seed, EARLIER_NETWORKS)
        networks = [{"values": values, "metrics": {"accuracy": value}} for values, value in results]
        for place, earlier in enumerate((None, {"run": "earlier", "networks": networks})):
            best = np.maximum.accumulate([value for _, value in run(target, seed, max(COUNTS), earlier)])
            regrets[place].append([target.best - best[min(count, len(best)) - 1] for count in COUNTS])
    alone, learning = map(np.array, regrets)
    for name, values in (("alone", alone), ("learning", learning)):
        print(f"| {title}, {name} | {' | '.join(f'{mean:.4f}' for mean in values.mean(0))} |", flush=True)
    counts = [
        f"{more} of {seeds}, {fewer}"
        for more, fewer in zip((learning < alone).sum(0), (learning > alone).sum(0), strict=True)
    ]
    print(f"| better in, worse in | {' | '.join(counts)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space")
    parser.add_argument("--table", type=Path)
    for option in ("genes", "costs"):
        parser.add_argument(f"--{option}", type=lambda text: text.split(","))
    for option in ("value", "equal"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--earlier", default="4", help="'reversed', or the number of epochs of the other table")
    parser.add_argument("--seeds", type=int, default=30)
    options = parser.parse_args()
    if (options.space is None) == (options.table is None):
        parser.error("specify either --space or --table")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table: AnyTable = (
        TabularSpace(open_space(options.space))
        if options.space
        else Table(options.table, options.genes, options.value, options.costs, options.equal)
    )
    print(f"| search | {' | '.join(f'after {count}' for count in COUNTS)} |")
    print(f"|{'---|' * (len(COUNTS) + 1)}")
    if options.earlier == "reversed":
        values = sorted({row.value for row in table.rows.values()})
        reversed_ranks = dict(zip(values, reversed(values), strict=True))
        compare("misled", with_results(table, lambda row: reversed_ranks[row.value]), table, options.seeds)
        return
    epoch = int(options.earlier)
    early = with_results(table, lambda row: row.curve[epoch - 1])
    for title, (source, target) in zip(
        ("all epochs", f"{epoch} epochs"), itertools.permutations((early, table)), strict=True
    ):
        compare(title, source, target, options.seeds)


if __name__ == "__main__":
    main()
