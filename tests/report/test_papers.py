"""The papers' tables: every row is counted, and agrees to the printed digits or has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_agg.errors import InputError
from nas_agg.report import papers
from nas_agg.report.papers import Paper, Row, as_printed, count, paper

DOCS = Path(__file__).parents[2] / "docs"
ROWS = [(name, row) for name, of in papers.papers().items() for row in of.rows]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row.network}" for name, row in ROWS])
def test_a_row_agrees_or_has_a_reason(name, row):
    counted = count(row, paper(name))
    assert counted.agrees == (not row.differs), counted.verdict
    assert counted.printed or not row.differs


@pytest.mark.parametrize(("name", "rows", "differ"), [
    ("sparsenet", 36, 7), ("seqconv", 17, 1), ("microdense", 39, 12), ("dsnet", 36, 6), ("baselines", 38, 4),
])  # fmt: skip
def test_all_rows_are_there(name, rows, differ):
    of = paper(name)
    assert (len(of.rows), sum(bool(row.differs) for row in of.rows)) == (rows, differ)
    assert {row.differs for row in of.rows} - {""} == set(of.reasons)


def test_a_row_without_a_network_is_not_reproduced():
    (row,) = [row for _, row in ROWS if row.point is None]
    assert "FractalNet" in row.network
    counted = count(row, paper("baselines"))
    assert not counted.agrees and counted.cells()[2:6] == ["38.6M", "-", "-", "-"]


@pytest.mark.parametrize(("figure", "like", "cut", "said"), [
    (757_252, "0.76M", False, "0.76M"), (11_859_656, "11.8M", False, "11.9M"), (11_859_656, "11.8M", True, "11.8M"),
    (25_028_904, "25M", False, "25M"), (2_729_614_258, "2.73G", False, "2.73G"), (735_676, "735,677", False, "735,676"),
    (500, "0.0M", False, "0.0M"), (12, "13", False, "12"),
])  # fmt: skip
def test_figures_with_the_digits_of_others(figure, like, cut, said):
    assert as_printed(figure, like, cut) == said


@pytest.mark.parametrize("like", ["", "M", "1.2", "2.3K", "-1M", "1e3"])
def test_what_is_no_figure_is_refused(like):
    if like == "1.2":
        assert as_printed(1, like) == "1.0"
    else:
        with pytest.raises(InputError, match="not a figure"):
            as_printed(1, like)


def test_ways_of_counting():
    row = Row(network="x", point="residual/resnet50")
    macs, double, norms = (
        count(row, Paper(about="", flops=way, rows=())).flops for way in ("macs", "2 macs", "norms too")
    )
    assert macs == 4_089_184_256 and double == 2 * macs
    # 11,113,984 outputs of batch norms on 224x224, five operations each, in units of 2**30.
    assert norms == round((macs + 5 * 11_113_984) / 2**30 * 10**9)
    with_norms, without = (
        count(Row(network="x", point="residual/resnet50", without_norms=w), paper("dsnet")) for w in (0, 1)
    )
    assert with_norms.params - without.params == 53_120


def test_what_a_row_may_not_say():
    with pytest.raises(InputError, match="residual/resnet50 has no name 'wdth'; did you mean 'width'"):
        count(Row(network="x", point="residual/resnet50", with_={"wdth": 3}), paper("dsnet"))
    with pytest.raises(InputError, match="no paper 'dsnets'; did you mean 'dsnet'"):
        paper("dsnets")


def test_the_docs_hold_the_tables_of_today():
    written = (DOCS / "tables.md").read_text(encoding="utf-8")
    assert written.endswith("\n".join(map(papers.markdown, papers.papers().values())))
