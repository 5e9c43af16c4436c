"""Halving against whole trainings, at equal epochs: how much of the true front of accuracy and MACs each finds.

    python benchmarks/halving.py --space agg-bench

Both ways propose by the same searcher. Whole trainings spend all epochs on each network; halving pauses at rungs, and
the best of each rung, by non-dominated sorting, go on. What counts is the networks that were trained to the end: the
hypervolume of their front, relative to that of all networks of the table; reference: median accuracy, most MACs.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

import numpy as np
import optuna

from nas_agg.space import open_space
from nas_agg.study.objectives import OBJECTIVES, Objectives
from nas_agg.study.pareto import hypervolume
from nas_agg.study.proposer import Proposer
from nas_agg.study.record import Record
from nas_agg.study.rungs import Rungs
from nas_agg.study.searcher import find_searcher, make_searcher
from nas_agg.study.table import Tabled

OBJECTIVE = Objectives((OBJECTIVES["accuracy"], OBJECTIVES["macs"]))


def run(space: Tabled, searcher: str, seed: int, epochs: int, rungs: Rungs | None) -> tuple[list[tuple], int, int]:
    """One search; gives the scores of the networks trained to the end, how many were begun, and the epochs spent."""
    record = Record(optuna.pruners.NopPruner(), objectives=OBJECTIVE)
    proposer = Proposer(
        space, make_searcher(find_searcher(searcher), space, seed, OBJECTIVE), record, cost=space.network
    )
    spent, whole = 0, []
    while True:
        trial = rungs.promoted(record.trials) if rungs else None
        if trial is not None:
            record.promote(trial.number)
        else:
            found = proposer.propose()
            if not isinstance(found, tuple):
                break
            trial = record.trials[found[0]]
        row = space.row(space.values(trial.labels))
        until = rungs.until(trial) if rungs else space.epochs
        step = until - max(trial.rungs, default=0)
        if spent + step > epochs:
            break
        spent += step
        if until == space.epochs:
            record.complete(trial.number, (row.value, row.macs))
            whole.append((row.value, -row.macs))
        else:
            record.pause(trial.number, until, (row.curve[until - 1], row.macs))
    return whole, len(record.trials), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="agg-bench")
    parser.add_argument("--searchers", type=lambda text: text.split(","), default=["random", "nsga2", "predictor"])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--networks", type=lambda text: [int(word) for word in text.split(",")], default=[25, 50])
    parser.add_argument("--first-epochs", type=int, default=1)
    parser.add_argument("--reduction", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Tabled(open_space(options.space))
    rows = list(space.rows.values())
    true = np.array([(row.value, -row.macs) for row in rows], float)
    reference = np.array([statistics.median(row.value for row in rows), -max(row.macs for row in rows)], float)
    most = hypervolume(true, reference)
    print("| epochs | searcher | whole trainings | halving | networks begun | better in | ")
    print(f"|{'---|' * 6}")
    rungs = Rungs(options.first_epochs, options.reduction, space.epochs)
    for networks in options.networks:
        epochs = networks * space.epochs
        for searcher in options.searchers:
            shares: list[list[float]] = [[], []]
            begun = []
            for seed in range(options.seeds):
                for place, way in enumerate((None, rungs)):
                    scores, count, _ = run(space, searcher, seed, epochs, way)
                    shares[place].append(hypervolume(np.array(scores or [(-1.0, -1e18)]), reference) / most)
                begun.append(count)
            better = sum(half > full for full, half in zip(*shares, strict=True))
            cells = [f"{epochs:,}", searcher, *map(told, shares), f"{networks} and {statistics.mean(begun):.0f}"]
            print(f"| {' | '.join(cells)} | {better} of {options.seeds} |", flush=True)


def told(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


if __name__ == "__main__":
    main()
