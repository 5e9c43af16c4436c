"""The papers' tables as text, Markdown and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas_agg.report import paper_tables, papers
from nas_agg.report.papers import Result, paper

DOCS = Path(__file__).parents[2] / "docs"


def test_the_docs_contain_the_current_tables():
    written = (DOCS / "tables.md").read_text(encoding="utf-8")
    assert written.endswith("\n".join(map(paper_tables.markdown, papers.papers().values())))


@pytest.mark.parametrize(("results", "text"), [
    ([("Table 1", "error", "25.00")], "25.00 (Table 1)"),
    ([("Table 1", "error", "1.0"), ("Table 2", "error", "1.0"), ("Table 4", "error", "2.0")],
     "1.0 (Tables 1, 2); 2.0 (Table 4)"),
    ([("Table 7", "error", "2.0"), ("Table 7", "top-5 error", "1.0"), ("Table 9", "error", "2.0"),
      ("Table 9", "memory", "3929"), ("Table 9", "time", "0.31")],
     "2.0, top-5 1.0 (Table 7); 2.0, memory 3929 MB, time 0.31 s (Table 9)"),
    ([("Cons", "error", "5.39*"), ("Table 1", "error", "5.39*")], "5.39* (Tables Cons, 1)"),
    ([("Cons", "error", "5.39*"), ("Pros", "error", "5.39*")], "5.39* (Cons, Pros)"),
])  # fmt: skip
def test_results_as_a_text(results, text):
    result = [Result(table, "imagenet", metric, value) for table, metric, value in results]
    assert paper_tables.printed_text(result) == text


def test_a_line_for_each_network_and_data_set():
    grid = paper_tables.results_grid(paper("dsnet"))
    assert grid.header == ("network", "data set", "printed")
    assert [row for row in grid.rows if row[0] == "DS2Net101 0.25x"] == [
        ["DS2Net101 0.25x", "CIFAR-100", "23.61 (Table 2); 23.40 (Table 3)"],
        ["DS2Net101 0.25x", "CIFAR-10", "5.68 (Table 2)"],
    ]
    lines = paper_tables.results_grid(paper("sparsenet")).rows
    assert ["pre-activation ResNet-164", "CIFAR-10", "11.26 (Why DenseNet Further Improves?)"] in lines
    assert ["pre-activation ResNet-164", "CIFAR-10+", "5.46 (Table of CIFAR)"] in lines


def test_the_command_in_all_formats(run):
    status, out, err = run("table", "microdense")
    assert (status, err) == (0, "")
    assert "24 of 32 counts agree; 5 networks are not reproduced" in out
    assert "widths of Table 1; ratio from 0.1892 to 0.2077" in out
    assert "accuracy 76.8, top-5 accuracy 93.2 (Table 5)" in out

    status, out, _ = run("table", "microdense", "--format", "markdown")
    assert out == paper_tables.markdown(paper("microdense"))

    rows = json.loads(run("table", "microdense", "--format", "json")[1])
    (row,) = [row for row in rows if row["network"] == "Micro-Dense Net 30a64"]
    assert (row["point"], row["printed_params"], row["params"], row["agrees"]) == (
        "microdense/30a64", "0.7M", 724_727, True,
    )  # fmt: skip
    assert row["results"] == [
        {"table": "Table 3", "data": "cifar10", "metric": "error", "value": "3.41"},
        {"table": "Table 3", "data": "cifar100", "metric": "error", "value": "20.85"},
    ]
    assert len(row["readings"]) == 8 and row["readings"][0]["params"] == [652_084, 749_983]
    assert row["runs"] == []
    (row,) = [row for row in rows if row["network"] == "GoogLeNet"]
    assert (row["point"], row["params"], row["agrees"]) == (None, None, None)


def test_every_paper_is_shown_if_none_is_named(run):
    status, out, _ = run("table")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines() if line.partition(":")[0] in papers.papers()] == [
        *papers.papers()
    ]
    assert run("table", "sparsenets")[0] == 2
