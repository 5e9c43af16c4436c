"""Comparisons of several runs."""

from __future__ import annotations

import math
import statistics

import pytest
from pages import check
from scipy import stats

from nas_agg.common.errors import InputError
from nas_agg.report.html.comparison import comparison_page, groups_section, history_section, runs_section
from nas_agg.report.html.page import plots_of
from nas_agg.report.html.reports import write_report
from nas_agg.report.runs.comparison import best_by_networks, comparison_rows, groups_of, run_names
from nas_agg.study import search
from nas_agg.study.records.saved_run import read_saved_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one searcher and one of another, on the same table."""
    folder = tmp_path_factory.mktemp("runs")
    made = [("random", 0), ("random", 1), ("random", 2), ("evolution", 0)]
    for searcher, seed in made:
        search("agg-bench", searcher=searcher, seed=seed, budget=12, out=folder / f"{searcher}-{seed}")
    return [read_saved_run(folder / f"{searcher}-{seed}") for searcher, seed in made]


def best_values(run):
    """The best accuracy after each evaluated network."""
    accuracies = [trial.accuracy for trial in run.trials if trial.consumes_budget]
    return [max(accuracies[: n + 1]) for n in range(len(accuracies))]


def test_curves_means_and_intervals_are_those_of_the_records(runs):
    traces = plots_of([history_section(runs)])[0].data
    single = {trace["name"]: trace["y"] for trace in traces if trace.get("opacity") == 0.4}
    assert single == {run.name: best_values(run) for run in runs}
    mean = next(trace for trace in traces if trace.get("name") == "random")
    low, high = (trace["y"] for trace in traces if trace.get("hoverinfo") == "skip")
    for n in range(12):
        values = [best_values(run)[n] for run in runs[:3]]
        half = stats.t.ppf(0.975, 2) * statistics.stdev(values) / math.sqrt(3)
        assert mean["y"][n] == pytest.approx(statistics.mean(values))
        assert (low[n], high[n]) == pytest.approx((mean["y"][n] - half, mean["y"][n] + half))


def test_runs_are_grouped_by_all_but_their_seeds(runs):
    groups = groups_of(runs)
    assert [(group.name, len(group.runs)) for group in groups] == [("random", 3), ("evolution", 1)]
    tables = groups_section(runs).parts[1].tables
    assert [row[:2] for row in tables[0].rows] == [["random", "3"], ["evolution", "1"]]
    assert groups_section(runs[2:]) is None  # no group has two runs


def test_the_table_shows_what_differs(runs):
    rows = comparison_rows(runs)
    assert list(rows[0])[:4] == ["run", "searcher", "seed", "networks"]
    assert [row["best accuracy"] for row in rows] == [f"{100 * best_values(run)[-1]:.2f} %" for run in runs]
    (table,) = runs_section(runs).parts
    assert [row[0] for row in table.rows] == ["random-0", "random-1", "random-2", "evolution-0"]
    assert best_by_networks(runs[0]) == best_values(runs[0])


def test_the_page(runs, tmp_path, monkeypatch):
    page = check(comparison_page(runs))
    assert {"history-0", "fronts"} <= set(page.figures())
    monkeypatch.chdir(tmp_path)
    assert str(write_report([run.path for run in runs[:2]])) == "report.html"


def test_runs_that_cannot_be_compared(runs, two_objectives):
    with pytest.raises(InputError, match="specified twice"):
        comparison_page([runs[0], runs[0]])
    with pytest.raises(InputError, match="objectives are quality, macs, but accuracy in"):
        comparison_page([runs[0], two_objectives])


def test_equal_folder_names_are_told_apart(runs, tmp_path):
    (tmp_path / "a").symlink_to(runs[0].path.parent)
    assert run_names(runs[:2]) == ["random-0", "random-1"]
