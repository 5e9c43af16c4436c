"""What benchmarks on tables of results share: what is searched for, and what the networks that were found are worth."""

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


def objectives_named(parser: argparse.ArgumentParser, names: Sequence[str]) -> Objectives:
    """The objectives that a table of results knows."""
    for name in names:
        if name not in ("accuracy", "params", "macs"):
            parser.error(f"no objective {name!r}; there are accuracy (the table's value), params and macs")
    if names[0] != "accuracy":
        parser.error("the first objective is accuracy")
    return Objectives([METRICS[name] for name in names])


def figures_of(row: Row) -> dict[str, float]:
    """What objectives may ask of a network."""
    return {"accuracy": row.value, "params": row.params, "macs": row.macs}


class Regret:
    """How far the best network seen is from the best there is."""

    columns = ("regret at 50", "median", "at the best", "regret at the end", "at the best")

    def of(self, rows: Sequence[Row], budget: int, space: Any) -> dict[str, float]:
        """Of one run."""
        best = np.maximum.accumulate([row.value for row in rows])
        at = {"regret_50": min(50, budget), "regret_end": budget}
        return {name: round(space.best - float(best[min(count, len(best)) - 1]), 6) for name, count in at.items()}

    def cells(self, lines: list[dict]) -> list[str]:
        """Of all runs."""
        early, end = ([line[name] for line in lines] for name in ("regret_50", "regret_end"))
        there = [f"{100 * sum(value <= 0 for value in values) / len(values):.0f} %" for values in (early, end)]
        return [mean_of(early), f"{statistics.median(early):.4f}", there[0], mean_of(end), there[1]]


class Volume:
    """The hypervolume above the table's median result and largest costs, as a share of that of its whole front."""

    columns = ("volume at 50", "at 100", "at the end")

    def __init__(self, table: ResultsTable, objectives: Objectives):
        self._objectives = objectives
        scores = self._scores(list(table.rows.values()))
        known = np.array([metric.known_a_priori for metric in objectives])
        self._reference = np.where(known, scores.min(0), np.median(scores, 0))
        self._whole = hypervolume(np.unique(scores, axis=0), self._reference)

    def _scores(self, rows: Sequence[Row]) -> np.ndarray:
        return np.array([self._objectives.scores(self._objectives.values(figures_of(row))) for row in rows])

    def of(self, rows: Sequence[Row], budget: int, space: Any) -> dict[str, float]:
        """Of one run."""
        scores = self._scores(rows)
        at = {"volume_50": min(50, budget), "volume_100": min(100, budget), "volume_end": budget}
        return {name: hypervolume(scores[:count], self._reference) / self._whole for name, count in at.items()}

    def cells(self, lines: list[dict]) -> list[str]:
        """Of all runs."""
        return [mean_of([line[name] for line in lines]) for name in ("volume_50", "volume_100", "volume_end")]


def mean_of(values: list[float]) -> str:
    """A mean with its 95 % interval."""
    drawn = np.random.default_rng(0).choice(values, (4000, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{statistics.mean(values):.4f} ({low:.4f} to {high:.4f})"
