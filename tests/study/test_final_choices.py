"""Control of the final training: none, other epochs, or the best of several."""

from __future__ import annotations

import json

import pytest

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.study.api import resume, search
from nas_agg.study.saved_evaluation import evaluate_run
from nas_agg.study.workers.final_jobs import train_final
from nas_agg.study.workers.messages import FinalJob
from nas_agg.training import loop
from nas_agg.training.data import load_data

NETWORKS = [
    {"input": [1, 8, 8], "classes": 10, "net": [{"conv": 3, "out": width}, "bn", "relu", "gap", {"linear": "classes"}]}
    for width in (2, 12, 4)
]


def jobs(out, **more):
    return [
        FinalJob(genotype=network, seed=1, recipe="search", epochs=2, out=str(out / "best.tmp"), best=str(out / "best"),
                 trial=number, **more)
        for number, network in enumerate(NETWORKS)
    ]  # fmt: skip


def test_the_best_of_several_on_validation_images_is_tested(tmp_path, monkeypatch):
    data, steps, tested = load_data("digits"), [], []
    evaluate = loop.evaluate
    monkeypatch.setattr(
        loop, "evaluate", lambda model, split, *a, **k: tested.append(len(split)) or evaluate(model, split, *a, **k)
    )
    first, *rivals = jobs(tmp_path)
    metrics = train_final(first.model_copy(update={"rivals": tuple(rivals)}), data, lambda step, _: steps.append(step))
    candidates = {entry["trial"]: entry["validation_accuracy"] for entry in metrics["candidates"]}
    assert metrics["trial"] == max(candidates, key=candidates.get) == 1
    assert steps == [1, 2, 3, 4, 5, 6] and tested == [len(data.test)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]
    assert not list((tmp_path / "best").glob("trial-*"))
    assert len((tmp_path / "best/metrics.jsonl").read_text().splitlines()) == 2
    genotype = json.loads((tmp_path / "best/genotype.json").read_text())
    assert genotype["net"][0]["out"] == 12


def test_an_interrupted_choice_continues_where_it_was(tmp_path):
    data = load_data("digits")

    class Killed(BaseException):
        pass

    def kill(step, value):
        if step == 5:
            raise Killed

    first, *rivals = jobs(tmp_path)
    job, steps = first.model_copy(update={"rivals": tuple(rivals)}), []
    with pytest.raises(Killed):
        train_final(job, data, kill)
    resumed = train_final(job, data, lambda step, _: steps.append(step))
    assert steps == [5, 6]
    (tmp_path / "whole").mkdir()
    first, *rivals = jobs(tmp_path / "whole")
    whole = train_final(first.model_copy(update={"rivals": tuple(rivals)}), data, lambda *_: False)
    drop = ("seconds",)
    assert {k: v for k, v in resumed.items() if k not in drop} == {k: v for k, v in whole.items() if k not in drop}


def test_a_search_without_a_final_training(tiny_file, tmp_path):
    result = search(tiny_file, searcher="random", budget=1, epochs=1, workers=1, final=0, out=tmp_path / "run")
    assert (
        result.test is None and sorted(p.name for p in (tmp_path / "run/best").iterdir() if "weights" in p.name) == []
    )
    assert nas_agg.load(tmp_path / "run").to_dict() == result.best.to_dict()
    assert resume(tmp_path / "run").value == result.value
    with pytest.raises(
        InputError, match=r"searched without a final training; train a network with: nas_agg train .*:TRIAL"
    ):
        evaluate_run(tmp_path / "run")
    log = (tmp_path / "run/log.txt").read_text()
    assert f"trial 0: epoch 1 of 1: {100 * result.value:.2f} %" in log


def test_a_search_tests_the_best_of_two_after_other_epochs(tiny_file, tmp_path):
    settings = {"searcher": "random", "budget": 2, "epochs": 1, "workers": 1}
    result = search(tiny_file, final=2, final_epochs=3, metric="balanced-accuracy", out=tmp_path / "run", **settings)
    assert result.test["epochs"] == 3
    chosen = {c["trial"]: c["validation_balanced_accuracy"] for c in result.test["candidates"]}
    assert len(chosen) == 2 and result.test["trial"] == max(chosen, key=chosen.get)
    assert result.value == result.trials[result.test["trial"]].balanced_accuracy
    again = resume(tmp_path / "run")
    assert (again.test, again.best.to_dict()) == (result.test, result.best.to_dict())


def test_a_search_of_a_table_says_how_its_networks_are_trained(tmp_path):
    run = tmp_path / "table"
    search("agg-bench", budget=2, out=run)
    with pytest.raises(InputError, match=f"looked up in a table of results; train one with: nas_agg train {run}:TRIAL"):
        evaluate_run(run)
