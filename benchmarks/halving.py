"""Successive halving or freeze-thaw against full training at an equal number of epochs, for one or several objectives.

    python benchmarks/halving.py [--objectives accuracy,macs] [--space agg-bench] [--pruner freeze-thaw]

Both variants use the same searcher. Full training spends all epochs on each network; successive halving pauses trials
at rungs and promotes one in ``reduction_factor`` of each rung; with freeze-thaw the searcher decides which continue.
Only networks trained to the end are evaluated: for several objectives by the hypervolume of their front relative to
that of all networks in the table (reference: median accuracy, largest costs), for accuracy alone by the regret of the
best one.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

import optuna
from judging import Regret, RelativeHypervolume, metrics_of, parse_objectives

from nas_agg.search_space.space import open_space
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.proposals import Promotion, Proposal
from nas_agg.study.definition.settings import Settings
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import find_searcher, make_searcher
from nas_agg.study.scheduling.constraints import make_rungs
from nas_agg.study.scheduling.freeze_thaw import FreezeThaw
from nas_agg.study.scheduling.rungs import Rungs
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.tables.table_file import Row


def run(
    space: TabularSpace, objectives: Objectives, searcher: str, seed: int, epochs: int, rungs: Rungs | None
) -> tuple[list[Row], int]:
    """Run one search; returns the networks trained to the end and the number of networks started."""
    record = StudyRecord(optuna.pruners.NopPruner(), objectives=objectives)
    instance = make_searcher(find_searcher(searcher), space, seed, objectives)
    full_epochs = space.epochs if isinstance(rungs, FreezeThaw) else 0
    proposer = Proposer(space, instance, record, cost=space.network, full_epochs=full_epochs)
    spent, completed = 0, []
    while True:
        trial = rungs.next_promotion(record.trials) if rungs else None
        if trial is not None:
            record.promote(trial.number)
        else:
            proposal = proposer.propose()
            if not isinstance(proposal, Proposal | Promotion):
                break
            trial = record.trials[proposal.number]
            if isinstance(proposal, Promotion):
                record.promote(trial.number)
        row = space.row(space.values(trial.labels))
        next_epoch = rungs.next_rung(trial) if rungs else space.epochs
        step = next_epoch - max(trial.rungs, default=0)
        if spent + step > epochs:
            break
        spent += step
        if next_epoch == space.epochs:
            record.complete(trial.number, objectives.values(metrics_of(row)))
            completed.append(row)
        else:
            metrics = {**metrics_of(row), "accuracy": row.curve[next_epoch - 1]}
            record.pause(trial.number, next_epoch, objectives.values(metrics))
    return completed, len(record.trials)


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
    parser.add_argument("--pruner", choices=["halving", "hyperband", "freeze-thaw"], default="halving")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = TabularSpace(open_space(options.space))
    objectives = parse_objectives(parser, options.objectives)
    judge, key = (
        (RelativeHypervolume(space, objectives), "volume_end")
        if objectives.is_multi_objective
        else (Regret(), "regret_end")
    )
    print(f"| epochs | searcher | full training | {options.pruner} | networks started | better in | worse in |")
    print(f"|{'---|' * 7}")
    settings = Settings.parse(
        space=options.space,
        pruner=options.pruner,
        epochs=space.epochs,
        min_epochs=options.min_epochs,
        reduction_factor=options.reduction_factor,
    )
    rungs = make_rungs(settings, objectives)
    for networks in options.networks:
        epochs = networks * space.epochs
        for searcher in options.searchers:
            shares: list[list[float]] = [[], []]
            started = []
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                for position, schedule in enumerate((None, rungs)):
                    rows, count = run(space, objectives, searcher, seed, epochs, schedule)
                    worst = 0.0 if objectives.is_multi_objective else space.best
                    shares[position].append(judge.evaluate(rows, len(rows), space)[key] if rows else worst)
                started.append(count)
            pairs = list(zip(*shares, strict=True))
            counts = [sum(half > full for full, half in pairs), sum(half < full for full, half in pairs)]
            counts = counts if objectives.is_multi_objective else counts[::-1]  # smaller regret is better
            cells = [
                f"{epochs:,}",
                searcher,
                *map(mean_with_error, shares),
                f"{networks} and {statistics.mean(started):.0f}",
            ]
            print(f"| {' | '.join([*cells, *(f'{count} of {options.seeds}' for count in counts)])} |", flush=True)


def mean_with_error(values: list[float]) -> str:
    """A mean with its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
