"""The commands that show runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_agg.study import search


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of a table of results."""
    path = tmp_path_factory.mktemp("runs") / "table"
    search("agg-bench", searcher="random", budget=12, out=path)
    return path


def test_report(run, folder):
    assert run("report", str(folder)) == (0, f"wrote {folder / 'report.html'}\n", "")
    assert run("report", str(folder), "--out", "page.html") == (0, "wrote page.html\n", "")
    assert "agg-bench in its table of results" in Path("page.html").read_text()


def test_report_refuses_what_is_no_run(refused):
    assert refused("report", "nothing") == "nas_agg: nothing: not a run folder (it has no run.json)\n"
