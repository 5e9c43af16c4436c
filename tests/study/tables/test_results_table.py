"""Tables of results: their columns, rows and errors."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.space import open_space
from nas_agg.study.samplers.features import FeatureExtractor
from nas_agg.study.tables import table_file
from nas_agg.study.tables.results_table import Table, TabularSpace

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
SPACE = {"input": [1, 4, 4], "classes": 2, "open": {"k": [1, 2]}, "net": ["gap", {"linear": "classes"}]}


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
        (
            "a,b\n01,1\n0,1\n",
            {"genes": ["a"], "value": "b"},
            "row 2: a: no genes, or not as many as in the rows before",
        ),
        ("a,b\n0,1\n0,2\n", {"genes": ["a"], "value": "b"}, "duplicate row 0"),
        ("a,b\n,1\n", {"genes": ["a"], "value": "b"}, "row 1: a: no genes"),
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
    for name, message in (("gone.csv", "cannot be read: No such file"), ("t.csv.gz", "not a readable gzip file")):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            Table(tmp_path / name)


def huge(lines: int, line: bytes) -> bytes:
    return gzip.compress(TEXT.encode().partition(b"00,")[0] + lines * line, 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0,1,1,1,1"] * 6, "row 6: a table may have at most 5 rows, 10 search variables and 100 values"),
        (["01234567890,1,1,1,1"], "row 1: a table may have at most 5 rows, 10 search variables and 100 values"),
        (["0,1,1,1," + "1 " * 95], "row 1: a table may have at most 5 rows, 10 search variables and 100 values"),
        (["0,1,1,1," + 1000 * "a"], "line 6 is longer than 1,000 characters"),
        (["0,1,1,1,a," * 2], "row 1: more cells than columns"),
        (['0,1,1,1,"a'], "unexpected end of data"),
        (["0,1,1,1,\udcff"], "not valid UTF-8"),
        (["0,1,1,1,a\0"], "row 1: same: not finite numbers"),
    ],
)
def test_tables_are_read_within_limits(tmp_path, monkeypatch, lines, message):
    for name, limit in {"MAX_LINE": 1000, "MAX_ROWS": 5, "MAX_VALUES": 100, "MAX_VARIABLES": 10}.items():
        monkeypatch.setattr(table_file, name, limit)
    head = "# genes: arch\n# value: acc\n# costs: params, macs\n# curve: same\narch,acc,params,macs,same\n"
    (tmp_path / "t.csv").write_text(head + "\n".join(lines) + "\n", errors="surrogateescape")
    with pytest.raises(InputError, match=message) as error:
        Table(tmp_path / "t.csv")
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    bomb = gzip.compress(bytes(2**28), 1)
    (tmp_path / "t.csv.gz").write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="decompresses to more than the limit of 134,217,728 bytes"):
            Table(tmp_path / "t.csv.gz")
        assert tracemalloc.get_traced_memory()[1] < 2**29
    finally:
        tracemalloc.stop()
    for damaged in (bomb[:-9], b"\x1f\x8b" + bytes(30), gzip.compress(TEXT.encode())[:-4]):
        (tmp_path / "t.csv.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"t\.csv\.gz: (not a readable gzip file|decompresses to more)"):
            Table(tmp_path / "t.csv.gz")


def test_a_pipe_beside_a_space_is_rejected(tmp_path):
    space = {**SPACE, "table": {"file": "t.csv.gz", "sha256": "0" * 64}}
    (tmp_path / "s.json").write_text(json.dumps(space))
    os.mkfifo(tmp_path / "t.csv.gz")
    with pytest.raises(InputError, match=r"t\.csv\.gz: is a pipe or a device, not a file"):
        TabularSpace(open_space(tmp_path / "s.json"))
