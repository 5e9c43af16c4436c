"""Halving against whole trainings, at equal epochs: what each finds of one objective or several.

    python benchmarks/halving.py [--objectives accuracy,macs] [--space agg-bench]

Both ways propose by the same searcher. Whole trainings spend all epochs on each network; halving pauses at rungs, and
one in so many of each rung go on. What counts is the networks that were trained to the end: of several objectives the
hypervolume of their front, relative to that of all networks of the table (reference: the median accuracy, the largest
costs); of the accuracy alone how far the best of them is from the table's best.
"""

from __future__ import annotations

import argparse
import math
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
from nas_agg.study.table import Row, Tabled

Scores = tuple[float, ...]


def values_of(row: Row, objectives: Objectives, accuracy: float) -> Scores:
    """A trial's values."""
    return tuple(accuracy if one.name == "accuracy" else float(getattr(row, one.name)) for one in objectives)


def run(
    space: Tabled, objectives: Objectives, searcher: str, seed: int, epochs: int, rungs: Rungs | None
) -> tuple[list[Scores], int]:
    """One search; gives the scores of the networks trained to the end, and how many were begun."""
    record = Record(optuna.pruners.NopPruner(), objectives=objectives)
    proposer = Proposer(
        space, make_searcher(find_searcher(searcher), space, seed, objectives), record, cost=space.network
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
            values = values_of(row, objectives, row.value)
            record.complete(trial.number, values)
            whole.append(objectives.scores(values))
        else:
            record.pause(trial.number, until, values_of(row, objectives, row.curve[until - 1]))
    return whole, len(record.trials)


class Judge:
    """What the networks found are worth.

    Args:
        space: With all networks.
        objectives: What is searched for.
    """

    def __init__(self, space: Tabled, objectives: Objectives):
        self._several = objectives.several
        rows = space.rows.values()
        scores = np.array([objectives.scores(values_of(row, objectives, row.value)) for row in rows])
        known = np.array([one.known for one in objectives])
        self._best = scores[:, 0].max()
        self._reference = np.where(known, scores.min(0), np.median(scores, 0))
        self._whole = hypervolume(np.unique(scores, axis=0), self._reference)

    def __call__(self, found: list[Scores]) -> float:
        if not self._several:
            return float(max((score[0] for score in found), default=0.0) - self._best)
        return hypervolume(np.array(found), self._reference) / self._whole if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="agg-bench")
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=["accuracy", "macs"])
    parser.add_argument("--searchers", type=lambda text: text.split(","), default=["random", "nsga2", "predictor"])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--networks", type=lambda text: [int(word) for word in text.split(",")], default=[25, 50])
    parser.add_argument("--first-epochs", type=int)
    parser.add_argument("--reduction", type=int, default=3)
    parser.add_argument("--brackets", action="store_true", help="Hyperband")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Tabled(open_space(options.space))
    for name in options.objectives:
        if name not in ("accuracy", "params", "macs"):
            parser.error(f"no objective {name!r}; there are accuracy, params and macs")
    if options.objectives[0] != "accuracy":
        parser.error("the first objective is accuracy")
    objectives = Objectives([OBJECTIVES[name] for name in options.objectives])
    judge = Judge(space, objectives)
    print("| epochs | searcher | whole trainings | halving | networks begun | better in | worse in |")
    print(f"|{'---|' * 7}")
    first = options.first_epochs or math.ceil(space.epochs / 3)
    rungs = Rungs(first, options.reduction, space.epochs, options.brackets, objectives)
    for networks in options.networks:
        epochs = networks * space.epochs
        for searcher in options.searchers:
            shares: list[list[float]] = [[], []]
            begun = []
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                for place, way in enumerate((None, rungs)):
                    found, count = run(space, objectives, searcher, seed, epochs, way)
                    shares[place].append(judge(found))
                begun.append(count)
            pairs = list(zip(*shares, strict=True))
            counts = [sum(half > full for full, half in pairs), sum(half < full for full, half in pairs)]
            cells = [f"{epochs:,}", searcher, *map(told, shares), f"{networks} and {statistics.mean(begun):.0f}"]
            print(f"| {' | '.join([*cells, *(f'{count} of {options.seeds}' for count in counts)])} |", flush=True)


def told(values: list[float]) -> str:
    """A mean with its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
