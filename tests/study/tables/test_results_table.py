"""Tables of results: their columns, rows and errors."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.search_space.encoding import Encoding
from nas_agg.study.samplers.features import FeatureExtractor
from nas_agg.study.tables.results_table import Table

TEXT = """# genes: arch
# value: acc
# costs: params, macs
# equal: same
arch,acc,params,macs,same
00,1.5,10,100,a
01,2.5,20,200,b
02,3.5,30,300,c
10,2.5,20,200,b
12,4.5,40,400,d
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "small.csv").write_text(TEXT)
    return Table(tmp_path / "small.csv")


def test_a_table_has_variables_results_and_costs(table):
    assert table.names == ("arch0", "arch1")
    assert [table.domains[name].values for name in table.names] == [("0", "1"), ("0", "1", "2")]
    assert (table.name, table.best, len(table.rows)) == ("small", 4.5, 5)
    row = table.row({"arch0": "0", "arch1": "2"})
    assert (row.value, row.params, row.macs) == (3.5, 30, 300)
    assert table.row({"arch0": "0", "arch1": "1"}).hash == table.row({"arch0": "1", "arch1": "0"}).hash
    with pytest.raises(InputError, match="the table has no row for this network"):
        table.row({"arch0": "1", "arch1": "1"})
    extractor = FeatureExtractor(table)
    assert extractor.is_cheap
    rows = np.stack(
        [Encoding(table).encode({"arch0": "1", "arch1": "2"}), Encoding(table).encode({"arch0": "0", "arch1": "0"})]
    )
    np.testing.assert_allclose(np.expm1(extractor.features(rows)[0]), [[40, 400], [10, 100]])


def test_options_specify_columns(tmp_path):
    text = "op,width,score\nsum,4,0.5\ncat,16,0.7\nsum,16,0.6\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    table = Table(tmp_path / "t.csv.gz", genes=["op", "width"], value="score")
    assert table.names == ("op", "width")
    assert table.domains["width"].values == ("4", "16")
    assert table.row({"op": "cat", "width": "16"}).value == 0.7


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "the columns of genes and value are unknown"),
        ("a,acc\n1,2\n", {"genes": ["a"], "value": "ac"}, "no column 'ac'; did you mean 'acc'"),
        ("a,b\n1,x\n", {"genes": ["a"], "value": "b"}, "row 1: b: 'x' is not a finite number"),
        ("a,b\n", {"genes": ["a"], "value": "b"}, "no rows"),
        ("a,b\n01,1\n0,1\n", {"genes": ["a"], "value": "b"}, "a: rows without genes, or with different numbers"),
        ("a,b\n0,1\n0,2\n", {"genes": ["a"], "value": "b"}, "duplicate row 0"),
        ("a,b\n,1\n", {"genes": ["a"], "value": "b"}, "rows without genes"),
        ("a,b\n0,-1\n", {"genes": ["a"], "value": "b", "costs": ["b"]}, "row 1: b: a cost cannot be below 0"),
        ("a,b\n0,nan\n", {"genes": ["a"], "value": "b"}, "row 1: b: 'nan' is not a finite number"),
        ("a,b,c\n0,1\n", {"genes": ["a", "c"], "value": "b"}, "row 1: c: missing"),
        ("# curve: c\na,b,c\n0,1,1 x\n", {"genes": ["a"], "value": "b"}, "row 1: c: not finite numbers"),
    ],
)
def test_an_invalid_table_is_rejected(tmp_path, text, options, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Table(tmp_path / "t.csv", **options)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_rejected(tmp_path):
    (tmp_path / "t.csv.gz").write_text("no gzip")
    for name in ("gone.csv", "t.csv.gz"):
        with pytest.raises(InputError, match="cannot be read"):
            Table(tmp_path / name)
