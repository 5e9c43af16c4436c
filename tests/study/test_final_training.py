"""Small real trainings on digits."""

from __future__ import annotations

import json

import pytest

from nas_agg.common.errors import InputError
from nas_agg.common.files import read_document
from nas_agg.study.api import search
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.saved_evaluation import evaluate_run
from nas_agg.study.workers.final_jobs import train_final
from nas_agg.study.workers.messages import FinalJob, TrialJob
from nas_agg.study.workers.process import prepare
from nas_agg.training.data import load_data


def test_the_final_network_is_tested_once_and_can_be_tested_again(tiny_file, tmp_path):
    settings = {"searcher": "random", "budget": 3, "epochs": 2, "recipe": "search", "final_epochs": 4, "seed": 1}
    result = search(tiny_file, out=tmp_path / "run", **settings)
    assert [trial.state for trial in result.trials if trial.consumes_budget] == ["complete"] * 3
    assert 0.1 < result.value <= 1
    best = tmp_path / "run/best"
    assert {path.name for path in best.iterdir()} == {
        "genotype.json",
        "manifest.json",
        "metrics.json",
        "metrics.jsonl",
        "model.py",
        "weights.safetensors",
    }
    assert not (tmp_path / "run/best.tmp").exists()
    assert read_document(best / "genotype.json") == result.best.to_dict()
    again = evaluate_run(tmp_path / "run", device="cpu")
    assert again["correct"] == result.test["correct"] > 36
    assert again["images"] == result.test["images"] == len(load_data("digits").test)
    assert again["accuracy"] == result.test["test_accuracy"]
    for trial in filter(lambda trial: trial.consumes_budget, result.trials):
        lines = (tmp_path / f"run/trials/{trial.number}/metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["validation_accuracy"] == trial.value
    trial = result.top[0]
    work = prepare(WorkerConfig(data={"spec": "digits", "seed": 1}))
    text = read_document(tmp_path / f"run/trials/{trial.number}/genotype.json")
    job = TrialJob(genotype=text, seed=trial.seed, recipe="search", epochs=2, out=str(tmp_path / "alone"))
    alone = work(job, lambda step, value: False)
    assert alone.metrics["value"] == trial.value, "the seed makes the training, wherever it runs"


def test_an_unfinished_run_has_no_network_to_test(tiny, score, tmp_path):
    search(tiny, score, searcher="random", budget=1, out=tmp_path / "run")
    with pytest.raises(InputError, match="no final network; its networks were evaluated by a function"):
        evaluate_run(tmp_path / "run")
    with pytest.raises(InputError, match="not a run folder"):
        evaluate_run(tmp_path / "none")


def test_a_resumed_final_training_equals_an_uninterrupted_one(tiny, tmp_path):
    class Killed(BaseException):
        pass

    def kill(step, value):
        if step == 3:
            raise Killed
        return False

    data = load_data("digits")
    genotype = tiny.genotype(tiny.values({"width": 8, "deep": "1", "kernel": "3", "end": '["bn","relu"]'}))

    def job(name):
        out = {"out": str(tmp_path / f"{name}.tmp"), "best": str(tmp_path / name)}
        rest = {"genotype": genotype.to_dict(), "seed": 5, "recipe": "search", "trial": 7, "validation_accuracy": 0.5}
        return FinalJob(**out, **rest, cost={"params": 1}, title="tiny, trial 7")

    whole = train_final(job("whole"), data, lambda step, value: False)
    with pytest.raises(Killed):
        train_final(job("broken"), data, kill)
    assert not (tmp_path / "broken").exists()
    broken = train_final(job("broken"), data, lambda step, value: False)
    assert {**broken, "seconds": 0} == {**whole, "seconds": 0}
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_a_resumed_trial_reports_its_earlier_epochs(tiny, tmp_path, monkeypatch):
    import nas_agg.training.loop as loop

    class Killed(BaseException):
        pass

    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *args, **kwargs: train(*args, **kwargs, checkpoint_seconds=0))
    genotype = tiny.genotype(tiny.values({"width": 6, "deep": "0", "kernel": "3", "end": '"relu"'}))
    work = prepare(WorkerConfig(data={"spec": "digits"}))

    def job(name):
        return TrialJob(genotype=genotype.to_dict(), seed=5, recipe="search", epochs=5, out=str(tmp_path / name))

    reports = []

    def hear(step, value):
        reports.append((step, value))
        if len(reports) == 3:
            raise Killed
        return False

    with pytest.raises(Killed):
        work(job("broken"), hear)
    assert (tmp_path / "broken/checkpoint.pt").exists()
    broken = work(job("broken"), hear)
    whole_reports = []
    whole = work(job("whole"), lambda step, value: whole_reports.append((step, value)))
    assert reports[3:] == whole_reports and reports[:3] == whole_reports[:3]
    assert [step for step, _ in whole_reports] == [1, 2, 3, 4, 5]
    assert broken.metrics["value"] == whole.metrics["value"] == whole_reports[-1][1]
    assert not (tmp_path / "broken/checkpoint.pt").exists()
    stopped = work(job("stopped"), lambda step, value: step == 2)
    assert stopped.metrics["value"] == whole_reports[1][1]
