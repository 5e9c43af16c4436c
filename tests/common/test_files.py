"""Reading strict JSON and safe YAML, and writing whole files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import MAX_CHARACTERS, MAX_DEPTH, canonical_json, parse_document, read_document, write_atomic

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)

REFUSED = [
    ("json", '{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
    ("json", '{"a": NaN}', "NaN"),
    ("json", "[-Infinity]", "-Infinity"),
    ("json", "[1e999]", "'1e999' is too large"),
    ("json", "[" + "9" * 5000 + "]", "too large"),
    ("json", '{"a": 1,\n "b" 2}', "line 2, column 6"),
    ("json", "", "line 1, column 1"),
    ("json", '["\\ud800"]', "surrogate"),
    ("json", "[" * 100_000, "nested more than 48 levels deep"),
    ("json", '{"a":' * 100_000, "nested more than 48 levels deep"),
    ("yaml", "a: 1\nb:\n  c: 1\n  c: 2", "line 4, column 3: duplicate key 'c'"),
    ("yaml", "a: .nan", "line 1, column 4: .nan"),
    ("yaml", "a: -.INF", "-.INF"),
    ("yaml", "a: Infinity", "Infinity"),
    ("yaml", "a: 1e999", "too large"),
    ("yaml", "a: &x 1\nb: 2", "anchors"),
    ("yaml", "a: *x", "anchors"),
    ("yaml", "a: &x [1]\nb: *x", "anchors"),
    ("yaml", "a: !!str 1", "tags"),
    ("yaml", "a: !!python/object/apply:os.system ['true']", "tags"),
    ("yaml", "points:\n  121: {}", 'line 2, column 3: keys must be strings; quote it: "121"'),
    ("yaml", "true: 1", 'quote it: "true"'),
    ("yaml", "? [a]\n: 1", "keys must be strings"),
    ("yaml", "[" * 100_000, "nested more than 48 levels deep"),
    ("yaml", "- " * 100_000, "nested more than 48 levels deep"),
    ("yaml", "a: [1, 2", "line"),
    ("yaml", "a: b: c", "line 1"),
    ("yaml", "a: \x00", "not YAML"),
    ("yaml", "a: 1\n---\nb: 2", "one document"),
    ("yaml", "# only a remark\n", "file is empty"),
    ("yaml", '"\\uD800"', ""),
]


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(NasAggError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize(("kind", "text", "said"), REFUSED)
def test_what_is_not_allowed_is_refused_with_one_line_that_names_the_file(kind: Any, text: str, said: str) -> None:
    began = time.perf_counter()
    message = refusal(parse_document, text, "net.file", kind)
    assert message.startswith("net.file: ") and said in message
    assert time.perf_counter() - began < 2


def test_the_limits_themselves_are_allowed() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_document(deep, "x", "json") == parse_document(deep, "x", "yaml") == json.loads(deep)
    assert parse_document("[" + " " * (MAX_CHARACTERS - 2) + "]", "x", "json") == []
    assert "longer than 1,000,000" in refusal(parse_document, " " * (MAX_CHARACTERS + 1), "x")
    assert parse_document(json.dumps(["[" * 100, '"[', "\\"]), "x", "json") == ["[" * 100, '"[', "\\"]


def test_a_hostile_text_of_quotes_costs_no_more_than_its_length() -> None:
    began = time.perf_counter()
    refusal(parse_document, '{"' + '\\"' * 499_000, "x")
    assert time.perf_counter() - began < 2


def test_yaml_knows_the_scalars_of_json_alone() -> None:
    text = """
    nothing: null
    empty:
    yes: [yes, no, on, True, ~, 2024-01-01, 0x10, 1_000, 1:30, +5, .5, 007, l + 1, floor(16 + 64*l/n)]
    numbers: [0, -3, 2.5, 1e3, 1E-2, -0.0]
    quoted: ["1", 'true', "null"]
    block: |
      two
      lines
    """
    value = parse_document(text, "x", "yaml")
    assert value["nothing"] is None and value["empty"] is None
    assert all(isinstance(word, str) for word in value["yes"])
    assert value["numbers"] == [0, -3, 2.5, 1000.0, 0.01, 0.0] and isinstance(value["numbers"][0], int)
    assert value["quoted"] == ["1", "true", "null"]
    assert value["block"] == "two\nlines\n"


@given(VALUES)
def test_json_goes_round(value: Any) -> None:
    text = canonical_json(value)
    assert parse_document(text, "x", "json") == value
    assert canonical_json(parse_document(text, "x", "json")) == text
    as_ascii = json.dumps(value)
    assert parse_document(as_ascii, "x", "json") == value


@given(st.recursive(st.booleans() | st.integers() | st.text("ab{}[]:,#&*!|>'\"% \n-", max_size=8), st.lists))
def test_json_means_the_same_read_as_yaml(value: Any) -> None:
    assert parse_document(json.dumps(value), "x", "yaml") == value


@given(st.text("{}[]:,\"'\\ \n-&*!?|>ab1.e\t\x00\ud800", max_size=60), st.sampled_from(["json", "yaml", None]))
def test_any_text_is_a_value_or_one_line(text: str, kind: Any) -> None:
    try:
        parse_document(text, "x", kind)
    except InputError as error:
        assert "\n" not in str(error)


def test_reading_goes_by_the_name_and_else_by_the_first_character(tmp_path: Path) -> None:
    for name, text in {
        "a.json": '{"x": 1}',
        "a.yaml": "x: 1",
        "a.YML": "x: 1",
        "a.txt": "\ufeff x: 1",
        "genotype": ' {"x": 1}',
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_document(tmp_path / name) == {"x": 1}
    (tmp_path / "b.json").write_text("x: 1")
    assert "b.json: line 1" in refusal(read_document, tmp_path / "b.json")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_bytes(b'{"a": "\xff"}')
    assert "not valid UTF-8" in refusal(read_document, tmp_path / "genotype.json")
    assert "did you mean 'genotype.json'" in refusal(read_document, tmp_path / "genotyp.json")
    assert "no such file" in refusal(read_document, tmp_path / "no" / "such.json")
    assert "is a folder" in refusal(read_document, tmp_path)
    assert "cannot be read" in refusal(read_document, "a\0b")
    assert "cannot be read" in refusal(read_document, tmp_path / "genotype.json" / "x")
    (tmp_path / "long.json").write_text(" " * 5_000_000)
    assert "longer than" in refusal(read_document, tmp_path / "long.json")


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, "é")
    write_atomic(str(path), b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["x.json"]
    assert "cannot be written" in refusal(write_atomic, tmp_path / "no" / "x", "")
    (tmp_path / "folder").mkdir()
    assert "cannot be written" in refusal(write_atomic, tmp_path / "folder", "")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x.json"]


def test_canonical_text_is_compact_and_sorted() -> None:
    assert canonical_json({"b": [1, 0.2], "a": "é"}) == '{"a":"é","b":[1,0.2]}'
