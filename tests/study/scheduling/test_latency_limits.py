"""Latency limits and targets of a search; a resumed search measures nothing again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import nas_agg.study.plan as plan
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import read_document
from nas_agg.study import proposer
from nas_agg.study.api import resume, search
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.scheduling.constraints import latency_rejection, latency_reward
from nas_agg.study.workers import jobs as training
from nas_agg.study.workers.messages import TrialJob, TrialOutcome
from nas_agg.training.data import load_data
from nas_agg.training.latency import Latency

SLOW = Path(__file__).parents[1] / "slow_worker.py"


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """Replaces workers by one whose latency in milliseconds is half the width of the network."""
    task = Task("a fake", {"notes": str(tmp_path)}, (1, 8, 8), 10, ("cpu",), "no device")
    setup = plan.TrainingSetup(lambda settings, space: task, (sys.executable, str(SLOW)))
    monkeypatch.setattr(plan, "DEFAULT_SETUP", setup)


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("5ms", 5), ("800us", 0.8), ("0.2s", 200), ("1.5 ms", 1.5), (3, 3), (2.5, 2.5)]
)
def test_latencies_are_parsed(text, milliseconds):
    assert Settings.parse(space="tiny", max_latency=text).max_latency == pytest.approx(milliseconds)


@pytest.mark.parametrize("text", ["5", "fast", "5m", 0, -1, "0ms", float("nan"), 10**400, True, "9" * 1000])
def test_invalid_latencies_are_rejected(text):
    with pytest.raises(InputError) as error:
        Settings.parse(space="tiny", latency_target=text)
    assert str(error.value).startswith("latency_target: ") and len(str(error.value)) < 250


def test_the_reward():
    assert latency_reward(0.9, 5.0, None) == latency_reward(0.9, None, None) == 0.9
    assert latency_reward(0.9, 5.0, 5.0) == 0.9
    assert latency_reward(0.9, 10.0, 5.0) == pytest.approx(0.9 * 2**-0.07)
    assert latency_reward(0.9, 2.5, 5.0) / latency_reward(0.9, 5.0, 5.0) == pytest.approx(1.0497, abs=1e-4)
    assert latency_rejection(5.0, 5.0) == latency_rejection(None, 5.0) == latency_rejection(7.0, None) == ""
    assert latency_rejection(7.25, 5.0) == "latency 7.25 ms, more than 5 ms"


def test_a_network_above_the_limit_is_recorded_and_not_trained(tiny, slow, tmp_path, capsys):
    result = search(tiny, searcher="random", budget=5, seed=1, max_latency="2ms", out=tmp_path / "run", show=True)
    infeasible = [trial for trial in result.trials if trial.state == "infeasible"]
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert infeasible and len(counted) == 5
    assert all(trial.latency_ms > 2 and trial.value is None for trial in infeasible)
    assert all(trial.latency_ms <= 2 for trial in counted)
    trained = {int(line.split()[0]) for line in (tmp_path / "trained.txt").read_text().splitlines()}
    assert trained == {trial.number for trial in counted}
    output = capsys.readouterr().out
    one = infeasible[0]
    assert (
        f"trial {one.number}: infeasible: latency {one.latency_ms:.4g} ms, more than 2 ms ({one.params:,} params"
        in output
    )
    assert "networks of up to 2 ms" in output and "  latency  " in output
    rows = (tmp_path / "run/trials.csv").read_text().splitlines()
    assert f"{one.number},infeasible,,,,{one.latency_ms}," in rows[1 + one.number]
    assert read_document(tmp_path / "run/best/metrics.json")["latency_ms"] == result.top[0].latency_ms


def test_a_target_combines_accuracy_and_latency(tiny, slow, tmp_path, capsys):
    result = search(tiny, searcher="random", budget=25, seed=3, latency_target=2, out=tmp_path / "run", show=True)
    for trial in (trial for trial in result.trials if trial.consumes_budget):
        assert trial.value == pytest.approx(trial.accuracy * (trial.latency_ms / 2) ** -0.07)
    assert result.value == max(trial.value for trial in result.trials if trial.state == "complete")
    duplicates = [trial for trial in result.trials if trial.state == "duplicate"]
    assert duplicates and all(trial.accuracy == result.trials[trial.duplicate_of].accuracy for trial in duplicates)
    assert all(trial.latency_ms == result.trials[trial.duplicate_of].latency_ms for trial in duplicates)
    metrics, best = read_document(tmp_path / "run/best/metrics.json"), result.top[0]
    assert metrics["validation_accuracy"] == best.accuracy and metrics["score"] == best.value
    output = capsys.readouterr().out
    assert f"score {best.value:.4f} (accuracy {100 * best.accuracy:.2f} %" in output
    assert "trial   score  accuracy  latency" in output


def test_a_search_ends_if_no_network_is_fast_enough(tiny, slow, tmp_path, monkeypatch):
    monkeypatch.setattr(proposer, "MAX_INFEASIBLE", 7)
    with pytest.raises(NasAggError, match="no network has a result: 7 networks in a row exceeded the latency limit"):
        search(tiny, searcher="random", budget=5, max_latency="0.01ms", out=tmp_path / "run")
    assert not (tmp_path / "trained.txt").exists()


def test_a_resumed_search_equals_an_uninterrupted_one(tiny_file, slow, kept, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    settings = {"searcher": "tpe", "budget": 6, "seed": 4, "max_latency": "1.5ms", "latency_target": "1ms"}
    search(tiny_file, out=tmp_path / "whole", **settings)
    mark_infeasible = StudyRecord.mark_infeasible

    def killed(*args, **more):
        mark_infeasible(*args, **more)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StudyRecord, "mark_infeasible", killed)
        with pytest.raises(Killed):
            search(tiny_file, out=tmp_path / "broken", **settings)
    resume(tmp_path / "broken")
    assert kept(tmp_path / "broken") == kept(tmp_path / "whole")
    with pytest.raises(InputError, match=r"max_latency is 1\.5 there and 4\.0 here"):
        search(tiny_file, out=tmp_path / "broken", **settings | {"max_latency": 4})


@pytest.fixture
def job(tiny, tmp_path):
    genotype = tiny.genotype(tiny.values({"width": 8, "deep": "0", "kernel": "3", "end": '"relu"'}))
    return TrialJob(genotype=genotype.to_dict(), seed=5, recipe="search", epochs=2, out=str(tmp_path / "trial"))


def latency(median):
    return Latency(median, median, median, median, 10, 1, "cpu", 1)


def test_a_worker_measures_the_latency_once(job, monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(training, "measure", lambda *args, **more: measured.append(more) or latency(4.0))
    data, reports = load_data("digits"), []
    target = job.model_copy(update={"measure_latency": True, "max_latency": 5.0, "latency_target": 8.0})
    first = training.train_trial(target, data, lambda step, value: reports.append(value))
    assert [more["device"] for more in measured] == ["cpu"]
    assert json.loads((tmp_path / "trial/latency.json").read_text())["median_ms"] == 4.0
    metrics = first.metrics
    assert metrics["latency_ms"] == 4.0
    assert metrics["value"] == latency_reward(metrics["accuracy"], 4.0, 8.0) == reports[-1]
    again = training.train_trial(target, data, lambda step, value: False)
    assert len(measured) == 1 and again.model_copy(update={"seconds": first.seconds}) == first
    (tmp_path / "trial/latency.json").write_text("{spoilt")
    training.train_trial(target, data, lambda step, value: False)
    assert len(measured) == 2
    alone = training.train_trial(job, data, lambda step, value: False)
    assert alone.metrics["value"] == metrics["accuracy"], "measuring changes no training"
    assert "latency_ms" not in alone.metrics
    assert len(measured) == 2


def test_a_worker_does_not_train_a_network_that_is_too_slow(job, monkeypatch):
    monkeypatch.setattr(training, "measure", lambda *args, **more: latency(6.0))
    monkeypatch.setattr(training.loop, "train", None)
    limited = job.model_copy(update={"measure_latency": True, "max_latency": 5.0})
    outcome = training.train_trial(limited, load_data("digits"), lambda step, value: False)
    assert outcome == TrialOutcome(metrics={"latency_ms": 6.0}, infeasible="latency 6 ms, more than 5 ms")


@pytest.mark.parametrize("setting", ["max_latency", "latency_target", "memory", "compile"])
def test_training_settings_are_rejected_with_a_function(tiny, score, setting):
    with pytest.raises(InputError, match=f"{setting}: applies to trained networks only"):
        search(tiny, score, **{setting: "lean" if setting == "memory" else 5})
