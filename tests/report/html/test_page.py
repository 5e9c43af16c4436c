"""The page as a whole: complete in itself, small, and safe with any text."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from pages import HOSTILE, check

from nas_agg.common.errors import InputError
from nas_agg.report.html import page as pages
from nas_agg.report.html import predictions as sections
from nas_agg.report.html.page import run_page
from nas_agg.report.html.parts import label
from nas_agg.report.html.predictions import predictions_section
from nas_agg.report.html.reports import report_after_search, watch, write_report
from nas_agg.report.runs.predictions import Mistake, Predictions, class_metrics, png, predict_test_split
from nas_agg.report.runs.summary import state_of
from nas_agg.study import search
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.records.saved_run import read_saved_run
from nas_agg.study.standalone_training import train_genotype


@pytest.mark.parametrize("name", ["one_objective", "two_objectives", "halving"])
def test_a_page_is_complete_in_itself(name, request):
    run = request.getfixturevalue(name)
    page = check(run_page(run))
    canvases = [attributes["data-plot"] for _, attributes in page.elements if "data-plot" in attributes]
    assert sorted(canvases) == sorted(page.figures())
    anchors = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert {f"#{attributes.get('id')}" for tag, attributes in page.elements if tag == "section"} == set(anchors)
    assert "#reproduce" in anchors and "#history" in anchors


def test_hostile_texts_are_escaped(tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>&\"'"
    variables = {"how": list(HOSTILE), "deep": {"from": 1, "to": 9}}

    def score(values, trial):
        return HOSTILE.index(values["how"]) + values["deep"]

    search(variables, score, "random", budget=30, out=path)
    text = run_page(read_saved_run(path))
    page = check(text)
    assert "\u202e" not in text
    assert "\\u202eesrever" in json.dumps(page.figures()).replace("\\\\u", "\\u")
    assert not any(tag in ("img", "b") for tag, _ in page.elements)
    shown = json.dumps(page.figures())
    assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_hostile_class_names_are_escaped(one_objective, monkeypatch):
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    mistakes = [Mistake(0, 0, 1, 0.9, png(images[0])), Mistake(1, 2, 3, 0.8, png(images[1][:1]))]
    confusion = np.array([[5, 1, 0, 0], [0, 7, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    predictions = Predictions(HOSTILE, confusion, mistakes)
    monkeypatch.setattr(sections, "predict_test_split", lambda run: predictions)
    page = check(run_page(one_objective))
    assert sum(tag == "img" for tag, _ in page.elements) == 2
    trace = page.figures()["confusion"]["data"][0]
    assert [[cell[2] for cell in row] for row in trace["customdata"]] == confusion.tolist()
    assert trace["z"][0] == [5 / 6, 1 / 6, 0, 0]
    assert "<script>alert(1)</script>, not \\u202eesrever" in page.texts
    metrics = class_metrics(predictions)
    assert (metrics[0].precision, metrics[0].recall, metrics[0].f1) == (1, 5 / 6, 10 / 11)
    assert (metrics[3].precision, metrics[3].recall) == (0, None)


def test_labels_are_short_and_in_one_line():
    assert label("a\nb<c>") == "a\\nb&lt;c&gt;"
    assert label("x" * 100, 10) == "x" * 9 + "…"


def test_a_training_has_a_report_with_its_test(tmp_path):
    import nas_agg

    genotype = nas_agg.load(
        {"input": [1, 8, 8], "classes": 10, "net": [{"conv": 3, "out": 4}, "relu", "gap", {"linear": 10}]}
    )
    metrics = train_genotype(genotype, epochs=2, out=tmp_path / "run", device="cpu")
    run = read_saved_run(tmp_path / "run")
    predictions = predict_test_split(run)
    assert predictions is not None and predictions.accuracy == metrics["test_accuracy"]
    assert len(predictions.mistakes) == min(24, metrics["images"] - metrics["correct"])
    assert [m.confidence for m in predictions.mistakes] == sorted(
        (m.confidence for m in predictions.mistakes), reverse=True
    )
    page = check(run_page(run))
    assert "curves-final-loss" in page.figures() and "confusion" in page.figures()
    history = page.figures()["curves-final-accuracy"]["data"]
    lines = [json.loads(line) for line in (tmp_path / "run/best/metrics.jsonl").read_text().splitlines()]
    assert history[0]["y"] == [line["train_accuracy"] for line in lines]
    assert history[1]["y"] == [metrics["test_accuracy"]]


def test_without_the_data_set_the_section_is_left_out(tmp_path, one_objective):
    assert predict_test_split(one_objective) is None and predictions_section(one_objective) is None


def test_a_run_that_has_just_begun(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin({"space": "tiny", "dataset": None}, study="x", evaluate=True)
    run = read_saved_run(tmp_path / "run")
    assert state_of(run) == "running" and run.trials == []
    check(run_page(run))
    folder.close()
    assert state_of(run) == "stopped"


def test_the_file_is_written_in_the_run_or_elsewhere(one_objective, tmp_path, monkeypatch):
    assert write_report([one_objective.path]) == one_objective.path / "report.html"
    assert write_report([one_objective.path], tmp_path / "page.html").stat().st_size > 4_000_000
    monkeypatch.setenv("NAS_AGG_REPORT", "1")
    assert report_after_search(one_objective.path) == f"report: {one_objective.path / 'report.html'}"
    monkeypatch.setenv("NAS_AGG_REPORT", "0")
    assert report_after_search(one_objective.path) == ""
    written: list = []
    watch([one_objective.path], tmp_path / "watched.html", written.append)
    assert written == [tmp_path / "watched.html"]  # once, since the search has ended
    assert not re.search('http-equiv="refresh"', written[0].read_text())


def test_a_missing_package_is_one_line(one_objective, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(InputError, match=r"^plotly is not installed: pip install 'nas-agg\[report\]'$"):
        run_page(one_objective)
    assert pages.SECTIONS
