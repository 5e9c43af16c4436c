"""Halving against whole trainings, at equal epochs: what each finds of one objective or several.

    python benchmarks/halving.py [--objectives accuracy,macs] [--space agg-bench]

Both ways propose by the same searcher. Whole trainings spend all epochs on each network; halving pauses at rungs, and
one in so many of each rung go on. What counts is the networks that were trained to the end: of several objectives the
hypervolume of their front, relative to that of all networks of the table (reference: the median accuracy, the largest
costs); of the accuracy alone how far the best of them is from the table's best.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

import optuna
from judging import Regret, Volume, figures_of, objectives_named

from nas_agg.search_space.space import open_space
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.settings import Settings
from nas_agg.study.proposer import Proposal, Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import find_searcher, make_searcher
from nas_agg.study.scheduling.constraints import make_successive_halving
from nas_agg.study.scheduling.successive_halving import SuccessiveHalving
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.tables.table_file import Row


def run(
    space: TabularSpace, objectives: Objectives, searcher: str, seed: int, epochs: int, rungs: SuccessiveHalving | None
) -> tuple[list[Row], int]:
    """One search; gives the networks trained to the end, and how many were begun."""
    record = StudyRecord(optuna.pruners.NopPruner(), objectives=objectives)
    proposer = Proposer(
        space, make_searcher(find_searcher(searcher), space, seed, objectives), record, cost=space.network
    )
    spent, whole = 0, []
    while True:
        trial = rungs.next_promotion(record.trials) if rungs else None
        if trial is not None:
            record.promote(trial.number)
        else:
            proposal = proposer.propose()
            if not isinstance(proposal, Proposal):
                break
            trial = record.trials[proposal.number]
        row = space.row(space.values(trial.labels))
        until = rungs.next_rung(trial) if rungs else space.epochs
        step = until - max(trial.rungs, default=0)
        if spent + step > epochs:
            break
        spent += step
        if until == space.epochs:
            record.complete(trial.number, objectives.values(figures_of(row)))
            whole.append(row)
        else:
            there = {**figures_of(row), "accuracy": row.curve[until - 1]}
            record.pause(trial.number, until, objectives.values(there))
    return whole, len(record.trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="agg-bench")
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=["accuracy", "macs"])
    parser.add_argument("--searchers", type=lambda text: text.split(","), default=["random", "nsga2", "predictor"])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--networks", type=lambda text: [int(word) for word in text.split(",")], default=[25, 50])
    parser.add_argument("--min-epochs", type=int)
    parser.add_argument("--reduction-factor", type=int)
    parser.add_argument("--pruner", choices=["halving", "hyperband"], default="halving")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = TabularSpace(open_space(options.space))
    objectives = objectives_named(parser, options.objectives)
    judge, said = (
        (Volume(space, objectives), "volume_end") if objectives.is_multi_objective else (Regret(), "regret_end")
    )
    print("| epochs | searcher | whole trainings | halving | networks begun | better in | worse in |")
    print(f"|{'---|' * 7}")
    settings = Settings.parse(
        space=options.space,
        pruner=options.pruner,
        epochs=space.epochs,
        min_epochs=options.min_epochs,
        reduction_factor=options.reduction_factor,
    )
    rungs = make_successive_halving(settings, objectives)
    for networks in options.networks:
        epochs = networks * space.epochs
        for searcher in options.searchers:
            shares: list[list[float]] = [[], []]
            begun = []
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                for place, way in enumerate((None, rungs)):
                    found, count = run(space, objectives, searcher, seed, epochs, way)
                    nothing = 0.0 if objectives.is_multi_objective else space.best
                    shares[place].append(judge.of(found, len(found), space)[said] if found else nothing)
                begun.append(count)
            pairs = list(zip(*shares, strict=True))
            counts = [sum(half > full for full, half in pairs), sum(half < full for full, half in pairs)]
            counts = counts if objectives.is_multi_objective else counts[::-1]  # less regret is better
            cells = [f"{epochs:,}", searcher, *map(told, shares), f"{networks} and {statistics.mean(begun):.0f}"]
            print(f"| {' | '.join([*cells, *(f'{count} of {options.seeds}' for count in counts)])} |", flush=True)


def told(values: list[float]) -> str:
    """A mean with its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
