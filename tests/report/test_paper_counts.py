"""The papers' sizes: every row is counted, and agrees to the printed digits or has a reason."""

from __future__ import annotations

import pytest

from nas_agg.common.errors import InputError
from nas_agg.report import papers
from nas_agg.report.paper_counts import as_printed, count, count_readings, summary
from nas_agg.report.papers import Paper, Reading, Row, paper

ROWS = [(name, row) for name, of in papers.papers().items() for row in of.rows]
WITH_READINGS = [(name, row) for name, row in ROWS if row.readings]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row.network}" for name, row in ROWS])
def test_a_row_agrees_or_has_a_reason(name, row):
    counted = count(row, paper(name))
    assert counted.agrees == (row.point is not None and not row.differs), counted.verdict
    assert counted.printed or not row.differs


@pytest.mark.parametrize(("name", "rows", "missing", "differ"), [
    ("dsnet", 73, 4, 7), ("microdense", 37, 5, 8), ("seqconv", 30, 0, 1), ("sparsenet", 33, 0, 8),
    ("baselines", 10, 0, 2),
])  # fmt: skip
def test_all_rows_are_there(name, rows, missing, differ):
    of = paper(name)
    assert len(of.rows) == rows
    assert sum(row.point is None for row in of.rows) == missing
    assert sum(bool(row.differs) for row in of.rows) == differ


@pytest.mark.parametrize(("name", "row"), WITH_READINGS, ids=[f"{name}-{row.network}" for name, row in WITH_READINGS])
def test_readings_agree_with_printed_numbers_or_are_known_to_differ(name, row):
    for one in count_readings(row, paper(name)):
        assert one.agrees == (one.reading.about not in ("global pooling", "100 classes") or row.network in AGREE)


#: Networks that print the same with 100 classes.
AGREE = ("pre-activation ResNet-164", "WRN-16-8", "WRN-28-10")


def test_a_range_is_counted_at_both_ends():
    row = Row(network="x", point="microdense/30a64", params="0.7M", readings=[
        Reading(about="a", range={"ratio": (0.1892, 0.2077)}), Reading(about="b", range={"ratio": (0.1892, 0.2177)}),
        Reading(about="c", range={"ratio": (0.1862, 0.2077)}),
    ])  # fmt: skip
    of = Paper(about="", rows=(row,))
    within, above, below = count_readings(row, of)
    assert within.params == (652_084, 749_983) and within.about == "a; ratio from 0.1892 to 0.2077"
    assert (within.agrees, above.agrees, below.agrees) == (True, False, False)
    assert above.verdict == "differs"


def test_a_row_without_a_network_is_not_reproduced():
    row = Row(network="x", params="38.6M", note="y")
    counted = count(row, Paper(about="", rows=(row,)))
    assert not counted.agrees and counted.verdict == "not reproduced; y"
    agrees, silent = Row(network="a", point="residual/resnet50", params="25.6M"), Row(network="b", point="densenet/121")
    differs = Row(network="c", point="densenet/121", params="8.1M")
    of = Paper(about="", rows=(row, agrees, silent, differs))
    assert summary([count(one, of) for one in of.rows]) == "1 of 2 counts agree; 1 network is not reproduced"
    assert count(differs, of).verdict == "differs for an unknown reason"


@pytest.mark.parametrize(("figure", "like", "cut", "message"), [
    (757_252, "0.76M", False, "0.76M"), (11_859_656, "11.8M", False, "11.9M"), (11_859_656, "11.8M", True, "11.8M"),
    (25_028_904, "25M", False, "25M"), (2_729_614_258, "2.73G", False, "2.73G"), (735_676, "735,677", False, "735,676"),
    (500, "0.0M", False, "0.0M"), (12, "13", False, "12"),
])  # fmt: skip
def test_figures_with_the_digits_of_others(figure, like, cut, message):
    assert as_printed(figure, like, cut) == message


@pytest.mark.parametrize("like", ["", "M", "1.2", "2.3K", "-1M", "1e3"])
def test_invalid_numbers_are_refused(like):
    if like == "1.2":
        assert as_printed(1, like) == "1.0"
    else:
        with pytest.raises(InputError, match="invalid number"):
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


def test_invalid_rows():
    row = Row(network="x", point="residual/resnet50", with_={"wdth": 3})
    with pytest.raises(InputError, match="residual/resnet50 has no name 'wdth'; did you mean 'width'"):
        count(row, paper("dsnet"))
    reading = Reading(about="y", range={"ratoi": (0.1, 0.2)})
    row = Row(network="x", point="microdense/30a64", readings=[reading])
    with pytest.raises(InputError, match="microdense/30a64 has no name 'ratoi'; did you mean 'ratio'"):
        count_readings(row, paper("microdense"))
