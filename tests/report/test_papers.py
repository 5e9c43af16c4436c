"""The papers' files: printed values, and one-line errors for invalid files."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from nas_agg.common.errors import InputError
from nas_agg.report import papers
from nas_agg.report.papers import Result, paper, read_paper


def results(name: str, network: str) -> list[Result]:
    of = paper(name)
    (row,) = [row for row in of.rows if row.network == network]
    return of.results(row)


def value(name: str, network: str, table: str, metric: str = "error") -> Decimal:
    """A value of the table's first data set."""
    result = [one.value for one in results(name, network) if (one.table, one.metric) == (table, metric)]
    return Decimal(result[0].rstrip("*"))


@pytest.mark.parametrize(("name", "tables"), [
    ("sparsenet", {"Table of CIFAR": 37, "Why DenseNet Further Improves?": 5, "Cons of Summation": 5,
                   "Table of ImageNet": 12}),
    ("seqconv", {"Table 3": 35, "Table 4": 16, "Table 4 *": 9, "Table 5": 4}),
    ("microdense", {"Table 3": 24, "Table 4": 22, "Table 5": 12, "Table 6": 6}),
    ("dsnet", {"Table 1": 10, "Table 2": 18, "Table 3": 15, "Table 4": 12, "Table 5": 9, "Table 6": 18, "Table 7": 29,
               "Table 8": 9, "Table 9": 15}),
    ("baselines", {}),
])  # fmt: skip
def test_every_value_of_every_table_is_there(name, tables):
    of = paper(name)
    assert Counter(result.table for row in of.rows for result in of.results(row)) == tables


def test_proxies_equal_the_papers_definitions():
    """Differences that the papers' texts state, of values that their tables print."""
    assert value("dsnet", "ResNet50 0.25x", "Table 2") - value("dsnet", "DSNet50 0.25x", "Table 2") == Decimal("2.01")
    assert value("dsnet", "ResNeXt50 1x", "Table 5") - value("dsnet", "DS2NeXt50 0.5x", "Table 5") == Decimal("0.66")
    assert value("dsnet", "Res2Net", "Table 7") - value("dsnet", "DS2Res2Net50", "Table 7") == Decimal("0.40")
    best = [Decimal(result.value) for result in results("microdense", "Micro-Dense Net 60a115+")]
    assert [100 - error for error in best] == [Decimal("97.84"), Decimal("84.64")]
    micro, efficient = (
        value("microdense", network, "Table 5", "accuracy")
        for network in ("Micro-Dense-EfficientNet", "EfficientNet-B0")
    )
    assert micro - efficient == Decimal("0.5")
    assert value("seqconv", "SeqResNet r=4, k=8", "Table 5") == value("seqconv", "SeqResNet r=4, k=8", "Table 3")


def test_values_keep_the_digits_and_marks_they_are_printed_with():
    assert results("dsnet", "ResNet101 0.25x") == [
        Result("Table 2", "cifar100", "error", "25.00"),
        Result("Table 2", "cifar10", "error", "6.00"),
        Result("Table 3", "cifar100", "error", "25.01"),
    ]
    assert [one[1:] for one in results("dsnet", "DSNet50")] == [
        ("imagenet", "error", "22.49"), ("imagenet", "top-5 error", "6.29"),
        ("coco", "AP.5", "54.2"), ("coco", "AP.75", "36.0"), ("coco", "AP", "33.7"),
        ("imagenet", "error", "22.49"), ("imagenet", "memory", "4777"), ("imagenet", "time", "0.37"),
    ]  # fmt: skip
    assert [one[1:] for one in results("seqconv", "DenseNet-BC 100, k={16,32,64}")] == [
        ("cifar10+", "error", "4.02*"), ("cifar100+", "error", "19.55*"),
    ]  # fmt: skip
    assert [one.value for one in results("sparsenet", "SparseNet-BC 100, k={32,64,128}")] == ["17.71"]


def test_reasons_are_those_of_rows_that_differ():
    for of in papers.papers().values():
        assert {row.differs for row in of.rows} - {""} == set(of.reasons)


def test_papers_without_tables_of_their_own_come_last():
    assert list(papers.papers()) == ["dsnet", "microdense", "seqconv", "sparsenet", "baselines"]
    with pytest.raises(InputError, match="unknown paper 'dsnets'; did you mean 'dsnet'"):
        paper("dsnets")


HEAD = "about: x\ntables: {Table 1: {about: y, columns: {cifar10: [error], imagenet: [error, top-5 error]}}}\n"


@pytest.mark.parametrize(("rows", "why"), [
    ('{network: a, printed: {Table 1: "1.0 2.0"}}', "'a': Table 1 has 3 columns, not 2"),
    ('{network: a, printed: {Table 1: "1.0 2.0 x"}}', "'a': Table 1: invalid value 'x'; expected for example"),
    ('{network: a, printed: {Table 1: "- - -"}}', "'a': Table 1 has no values"),
    ('{network: a, printed: {Tabel 1: "1.0 2.0 3.0"}}', "'a': unknown table 'Tabel 1'; did you mean 'Table 1'"),
    ("{network: a, printed: {Table 1: 1.0}}", "rows.0.printed.Table 1: Input should be a valid string"),
    ("{network: a}, {network: a}", "duplicate row 'a'"),
    ("{network: a, point: b/c, differs: d}", "'a': unknown reason 'd'"),
    ("{network: a, with: {stem: 1}}", "'with', 'differs' and 'readings' require a point"),
    ("{network: a, pont: b/c}", "rows.0.pont: Extra inputs are not permitted"),
    ("{network: a, point: b/c, readings: [{about: z, by: them}]}", "'z': params and by must be specified together"),
])  # fmt: skip
def test_a_file_that_is_wrong_is_one_line(rows, why):
    assert read_paper(HEAD + "rows: []", "x.yaml").rows == ()
    with pytest.raises(InputError) as error:
        read_paper(f"{HEAD}rows: [{rows}]", "x.yaml")
    assert str(error.value).startswith("x.yaml: ") and why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("columns", ["{mnist: [error]}", "{cifar10: [eror]}", "{}"])
def test_columns_are_of_known_data_sets_and_metrics(columns):
    with pytest.raises(InputError, match=r"tables\.T\.columns"):
        read_paper(f"about: x\ntables: {{T: {{about: y, columns: {columns}}}}}\nrows: []", "x.yaml")
