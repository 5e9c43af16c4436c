"""Every figure of a report shows the numbers of the run's record."""

from __future__ import annotations

import math

import optuna
import pytest

from nas_agg.report.html.curves import curves_section
from nas_agg.report.html.overview import four_lines, hover_drawings
from nas_agg.report.html.page import plots_of
from nas_agg.report.html.parts import Table
from nas_agg.report.html.proxies import proxies_section
from nas_agg.report.html.results import best_section, history_section, pareto_section
from nas_agg.report.html.timeline import time_section
from nas_agg.report.html.variables import importance_section, parallel_section
from nas_agg.report.runs.importance import importances
from nas_agg.report.runs.summary import best_so_far, spans
from nas_agg.study.records.storages import JOURNAL

DUPLICATE = "nas_agg:duplicate_of"


def stored(run):
    """The trials in the run's storage, read by Optuna alone."""
    backend = optuna.storages.journal.JournalFileBackend(str(run.path / JOURNAL))
    study = optuna.load_study(study_name=run.run["study"], storage=optuna.storages.JournalStorage(backend))
    return {trial.number: trial for trial in study.trials}


def plots(section):
    assert section is not None
    return {plot.name: plot for plot in plots_of([section])}


def test_history_has_the_values_of_all_trials_and_the_best_so_far(one_objective):
    *groups, line = plots(history_section(one_objective))["history-0"].data
    shown = {x: y for trace in groups for x, y in zip(trace["x"], trace["y"], strict=True)}
    trials = stored(one_objective)
    assert {trace["name"] for trace in groups} >= {"complete", "pruned", "duplicate"}
    for number, value in shown.items():
        assert value == trials[number].value  # of a pruned trial, its last report
    own = {n: t.value for n, t in trials.items() if t.state.name == "COMPLETE" and DUPLICATE not in t.user_attrs}
    assert line["x"] == sorted(own)
    assert line["y"] == [max(own[m] for m in own if m <= number) for number in sorted(own)]


def test_the_best_so_far_of_a_minimized_objective_falls(two_objectives):
    values = [value for _, value in best_so_far(two_objectives, 1)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == min(trial.macs for trial in two_objectives.trials if trial.consumes_budget)


@pytest.mark.parametrize("name", ["two_objectives", "halving"])
def test_fronts_of_any_two_metrics_are_those_of_a_direct_comparison(name, request):
    run = request.getfixturevalue(name)
    plot = plots(pareto_section(run))["pareto"]
    choices = plot.choices
    numbers = plot.data[0]["customdata"]
    complete = {t.number for t in run.trials if t.state == "complete"}
    better = {"quality": 1, "accuracy": 1, "macs": -1, "params": -1, "latency": -1, "loss": -1, "activations": -1}
    assert len(choices.fronts) == len(choices.values) * (len(choices.values) - 1)
    for pair, front in choices.fronts.items():
        names = pair.split()
        places = [place for place, number in enumerate(numbers) if number in complete]
        points = {i: [better[n] * choices.values[n][i] for n in names] for i in places}
        expected = {
            i
            for i, p in points.items()
            if not any(all(b >= a for a, b in zip(p, q, strict=True)) and q != p for q in points.values())
        }
        assert set(front) == expected
    assert plot.data[1]["x"] == [choices.values[choices.x][i] for i in choices.fronts[f"{choices.x} {choices.y}"]]
    assert set(plot.data[1]["customdata"]) <= set(hover_drawings(run))


def test_curves_are_the_reported_values(one_objective):
    traces = plots(curves_section(one_objective))["curves-trials"].data
    shown: dict = {}
    for trace in traces:
        if trace["name"] != "where it stopped":
            for x, y, number in zip(trace["x"], trace["y"], trace["customdata"], strict=True):
                if number is not None:
                    shown.setdefault(number, {})[x] = y
    expected = {
        n: t.intermediate_values
        for n, t in stored(one_objective).items()
        if t.intermediate_values and DUPLICATE not in t.user_attrs
    }
    assert shown == expected


def test_curves_of_a_table_show_rungs_and_results(halving):
    plot = plots(curves_section(halving))["curves-trials"]
    rungs = {epoch for trial in halving.trials for epoch in trial.rungs}
    assert rungs and {shape["x0"] for shape in plot.layout["shapes"]} == rungs
    best = next(trace for trace in plot.data if trace["name"].startswith("best"))
    trial = halving.trials[best["customdata"][0]]
    assert best["x"][-1] == halving.settings.epochs and best["y"][-1] == trial.accuracy


def test_importances_sum_to_one_and_find_the_variable_that_matters(one_objective):
    measured = importances(one_objective)
    assert math.isclose(sum(importance.value for importance in measured), 1, abs_tol=1e-9)
    assert measured[0].name == "width"
    assert all(0 <= i.low <= i.value <= i.high <= 1 for i in measured)
    bars = plots(importance_section(one_objective))["importance-0"].data[0]
    assert dict(zip(bars["y"], bars["x"], strict=True)) == {i.name: i.value for i in measured}
    assert importances(one_objective) == measured


def test_effects_have_the_mean_of_each_value(one_objective):
    _, means = plots(importance_section(one_objective))["effect-0-0"].data
    by_width: dict = {}
    for trial in one_objective.trials:
        if trial.state == "complete":
            by_width.setdefault(str(trial.labels["width"]), []).append(trial.value)
    assert dict(zip(means["x"], means["y"], strict=True)) == pytest.approx(
        {width: sum(values) / len(values) for width, values in by_width.items()}
    )


def test_parallel_coordinates_have_every_trial_once(one_objective):
    traces = plots(parallel_section(one_objective))["parallel"].data
    texts = [text for trace in traces for text in trace["text"] if text and "<br>width " in text]
    shown = {int(t.split("<br>")[0].removeprefix("trial ")): int(t.rpartition(" ")[2]) for t in texts}
    assert shown == {t.number: t.labels["width"] for t in one_objective.trials if t.consumes_budget}
    assert traces[-1]["name"] == "best fifth"


def test_timeline_and_failures(one_objective):
    section = time_section(one_objective)
    bars = plots(section)["timeline"].data
    shown = {n: x / 1000 for trace in bars for (n, _), x in zip(trace["customdata"], trace["x"], strict=True)}
    trials = stored(one_objective)
    for number, seconds in shown.items():
        own = trials[number].datetime_complete - trials[number].datetime_start
        assert math.isclose(seconds, own.total_seconds(), abs_tol=1e-3)
    failed = [number for number, trial in trials.items() if trial.state.name == "FAIL"]
    table = next(part for part in section.parts if isinstance(part, Table) and "reason" in part.header)
    assert sum(int(row[1]) for row in table.rows) == len(failed) > 0
    assert "13 <b>channels</b>" in table.rows[0][2]


def test_trials_at_the_same_time_have_different_lanes(one_objective):
    measured = spans(one_objective)
    for a in measured:
        for b in measured:
            assert a is b or a.lane != b.lane or a.end <= b.start or b.end <= a.start


def test_proxies_are_params_and_macs_of_the_record(halving):
    shown = plots(proxies_section(halving))["proxy-macs"].data[0]
    complete = [trial for trial in halving.trials if trial.state == "complete"]
    assert shown["x"] == [trial.macs for trial in complete]
    assert shown["y"] == [trial.accuracy for trial in complete]


def test_four_lines_and_the_table_of_the_best(one_objective, two_objectives):
    lines = dict(four_lines(one_objective))
    best = max((t for t in one_objective.trials if t.state == "complete"), key=lambda t: (t.value, -t.params))
    assert f"trial {best.number}: value {best.value:.6g} ({best.params:,} parameters" in lines["Found"]
    assert "40 of 40 networks" in lines["Took"] and "finished" in lines["Took"]
    (table,) = best_section(one_objective).parts
    assert table.rows[0][0] == str(best.number)
    (front,) = best_section(two_objectives).parts
    assert f"front of {len(front.rows)} networks" in dict(four_lines(two_objectives))["Found"]
