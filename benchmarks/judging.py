"""Objectives and quality metrics shared by the benchmarks on tables of results."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.pareto import hypervolume
from nas_agg.study.tables.results_table import ResultsTable
from nas_agg.study.tables.table_file import Row


def parse_objectives(parser: argparse.ArgumentParser, names: Sequence[str]) -> Objectives:
    """The objectives of some names, which a table of results must provide."""
    for name in names:
        if name not in ("accuracy", "params", "macs", "latency"):
            parser.error(f"unknown objective {name!r}; choose from accuracy (the table's value), params, macs, latency")
    if names[0] != "accuracy":
        parser.error("the first objective must be accuracy")
    return Objectives([METRICS[name] for name in names])


def metrics_of(row: Row) -> dict[str, float]:
    """The metrics of a network."""
    return {**row.extra_metrics, "accuracy": row.value, "params": row.params, "macs": row.macs}


class Regret:
    """Simple regret: the difference between the best network of the table and the best one evaluated."""

    columns = ("regret at 50", "median", "optimum found", "final regret", "optimum found")

    def evaluate(self, rows: Sequence[Row], budget: int, space: Any) -> dict[str, float]:
        """The results of one run."""
        best = np.maximum.accumulate([row.value for row in rows])
        at = {"regret_50": min(50, budget), "regret_end": budget}
        return {name: round(space.best - float(best[min(count, len(best)) - 1]), 6) for name, count in at.items()}

    def cells(self, lines: list[dict]) -> list[str]:
        """Table cells for all runs."""
        early, end = ([line[name] for line in lines] for name in ("regret_50", "regret_end"))
        found_optimum = [f"{100 * sum(value <= 0 for value in values) / len(values):.0f} %" for values in (early, end)]
        return [
            mean_with_interval(early),
            f"{statistics.median(early):.4f}",
            found_optimum[0],
            mean_with_interval(end),
            found_optimum[1],
        ]


class NoisyRegret:
    """Regret in the mean result of the network that looks best, where trials see one of several results each.

    As a search recommends it: the one with the best result, or the best mean of the three, five or ten with the best
    results, which stands for training these in full (``--final``).
    """

    columns = ("regret of the first", "best of 3", "best of 5", "best of 10", "best evaluated")

    def __init__(self, table: ResultsTable):
        self._means = {row.hash: row.value for row in table.rows.values()}

    def evaluate(self, rows: Sequence[Row], budget: int, space: Any) -> dict[str, float]:
        """The results of one run."""
        best_first = sorted(rows, key=lambda row: -row.value)
        means = np.maximum.accumulate([self._means[row.hash] for row in best_first])
        highest = max(self._means.values())
        return {
            f"regret_{count}": highest - float(means[min(count, len(means)) - 1]) for count in (1, 3, 5, 10, budget)
        }

    def cells(self, lines: list[dict]) -> list[str]:
        """Table cells for all runs."""
        names = [name for name in lines[0] if name.startswith("regret_")]
        return [mean_with_interval([line[name] for line in lines]) for name in names]


class RelativeHypervolume:
    """Hypervolume as a share of that of the table's Pareto front; reference: median result, largest costs."""

    columns = ("hypervolume at 50", "at 100", "final")

    def __init__(self, table: ResultsTable, objectives: Objectives):
        self._objectives = objectives
        scores = self._scores(list(table.rows.values()))
        a_priori = np.array([not metric.depends_on_training for metric in objectives])
        self._reference = np.where(a_priori, scores.min(0), np.median(scores, 0))
        self._front_volume = hypervolume(np.unique(scores, axis=0), self._reference)

    def _scores(self, rows: Sequence[Row]) -> np.ndarray:
        return np.array([self._objectives.scores(self._objectives.values(metrics_of(row))) for row in rows])

    def evaluate(self, rows: Sequence[Row], budget: int, space: Any) -> dict[str, float]:
        """The results of one run."""
        scores = self._scores(rows)
        at = {"volume_50": min(50, budget), "volume_100": min(100, budget), "volume_end": budget}
        return {name: hypervolume(scores[:count], self._reference) / self._front_volume for name, count in at.items()}

    def cells(self, lines: list[dict]) -> list[str]:
        """Table cells for all runs."""
        return [
            mean_with_interval([line[name] for line in lines]) for name in ("volume_50", "volume_100", "volume_end")
        ]


def mean_with_interval(values: list[float]) -> str:
    """A mean with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(values, (4000, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{statistics.mean(values):.4f} ({low:.4f} to {high:.4f})"
