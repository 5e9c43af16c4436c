"""Hostile files: each is a network, or is refused with one line that names the field, in seconds and megabytes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from corpus.hostile import base_genotypes, random_file, read_outcome

GIB = 2**30
END = ["gap", {"linear": "classes"}]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("genotypes", 500),
        ("spaces", 150),
        pytest.param("genotypes", 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
        pytest.param("spaces", 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
)
def test_mutated_files(kind: str, count: int) -> None:
    """In a process of its own, whose memory is that of all of them together."""
    seed = "1" if count <= 1000 else "2"
    command = [sys.executable, "-m", "corpus.hostile", seed, str(count), kind]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=7000, cwd=Path(__file__).parent)
    assert ran.returncode == 0, ran.stderr[-2000:]
    report = json.loads(ran.stdout)
    assert not report["faults"], "\n".join(report["faults"][0])
    assert report["slowest"] < 5, report["slow"]
    assert report["bytes"] < GIB
    assert report["valid"] + report["refused"] == count
    assert report["valid"] > count / 25 and report["refused"] > count / 2


def test_the_files_go_by_their_seed() -> None:
    texts = [[random_file(rng, base_genotypes()) for _ in range(20)] for rng in (random.Random(3), random.Random(3))]
    assert texts[0] == texts[1] and len(set(texts[0])) == 20


def net(*steps: Any, **fields: Any) -> dict[str, Any]:
    return {"input": [3, 32, 32], "classes": 10, "net": [*steps, *END], **fields}


def dense(nodes: int, operator: str = "concat", **fields: Any) -> dict[str, Any]:
    return {
        "nodes": nodes,
        "growth": 1,
        "unit": [{"conv": 1}],
        "reads": {"pattern": "dense", "operator": operator},
        **fields,
    }


def within(levels: int, unit: list[Any], **fields: Any) -> list[Any]:
    for _ in range(levels):
        unit = [{"unit": unit, **fields}]
    return unit


BY_HAND: dict[str, tuple[Any, str]] = {
    "a billion channels": (
        net({"conv": 3, "out": 10**9}),
        "net[0].out: the number of channels must be from 1 to 1,000,000, not",
    ),
    "a million million weights": (net({"conv": 255, "out": 10**6}, {"conv": 1, "out": 10**6}), ""),
    "a billion classes": ({**net(), "classes": 10**9}, "classes: expected an integer from 1 to 1,000,000"),
    "an image of a billion": ({**net(), "input": [3, 10**9, 8]}, "input[1]: expected an integer from 1 to 16,384"),
    "large kernels on large maps": ({**net({"conv": 255, "out": 9, "padding": 0}), "input": [3, 16_384, 16_384]}, ""),
    "a map that grows": (
        net(*[{"conv": 1, "out": 4, "padding": 255}] * 40),
        "net[32]: 4x16862x16862 exceeds the limit",
    ),
    "dense concat of 4,096": (
        net(dense(4096)),
        "net[0].reads (node 1999): the network has more than 50,000 operations",
    ),
    "dense sum of 4,096": (
        net({"conv": 1, "out": 1}, dense(4096, "sum")),
        "net[1].reads (node 1999): the network has more",
    ),
    "dense concat within the limits": (net(dense(1500, output={})), ""),
    "concats of concats": (
        net({"nodes": 40, "unit": [], "reads": {"pattern": "dense", "operator": "concat"}}),
        "net[0].reads (node 20): 1572864x32x32 exceeds the limit",
    ),
    "4,096 nodes of 4,096 nodes": (
        net(*within(3, ["relu"], nodes=4096)),
        "net[0] (node 1, node 13): the network has more than 50,000 operations",
    ),
    "4,096 nodes of nothing": (net(*within(6, [], nodes=4096)), ""),
    "lists in lists": (net(json.loads("[" * 44 + "]" * 44)), ""),
    "too many lists in lists": (
        net(json.loads("[" * 47 + "]" * 47)),
        "net.json: line 1: nested more than 48 levels deep",
    ),
    "joins in joins": (net({"unit": within(20, ["join"]), "shortcut": {}}), ""),
    "deep brackets": (net({"conv": 3, "out": "(" * 99 + "4" + ")" * 99}), ""),
    "deeper brackets": (net({"conv": 3, "out": "(" * 101 + "4"}), "net[0].out: '(((((((((("),
    "long names": (net("a" * 100_000, let={"a" * 100_000: ["relu"]}), "let.aaaaaaaa"),
    "long names that are not": (net("b" * 100_000, let={"a" * 100: 1}), "net[0]: 'bbbbbbbb"),
    "many names": (
        net("bbbbbbbbbbbb", let={f"bbbbbbb{i:06d}": 1 for i in range(40_000)}),
        "net[0]: 'bbbbbbbbbbbb' is neither",
    ),
    "names of Python": (
        net("lambda", let={"lambda": ["relu"]}),
        "let.lambda: 'lambda' is a Python keyword and cannot be a name",
    ),
    "names of modules": (net("forward", "parameters", let={"forward": ["bn"], "parameters": ["bn"]}), ""),
    "names of dictionaries": (net("keys", "items", let={"keys": ["bn"], "items": ["bn"]}), ""),
    "unicode names": (net("名前", let={"名前": ["bn"]}), "let.名前: '名前' is not a valid name"),
    "names of underscores": (
        net("__class__", let={"__class__": ["bn"]}),
        "let.__class__: '__class__' is not a valid name",
    ),
    "a name of two lines": (net("a\nb", let={"a\nb": ["bn"]}), "let.a\\nb: 'a\\nb' is not a valid name"),
    "a null": (net(None), "net[0]: null is not a step"),
    "numbers of 300 digits": (net({"conv": 10**300}), "net[0].conv: a number exceeds 10^9"),
    "tiny numbers": (net({"dropout": 1e-300}), ""),
    "open names of anything": (
        net({"conv": 1, "out": "k"}, open={"k": {"a": [[1]]}}),
        "net[0].out: 'k' is a search variable",
    ),
    "an open name of the language": (
        net(open={"w": [1]}),
        "open.w: 'w' is a word of the language and cannot be a name",
    ),
    "open names filled with anything": (
        net({"conv": 1, "out": "k"}, open={"k": [[{"a": 1}]]}),
        "net[0].out: the number of channels must be a number, but let.k is",
    ),
    "edges without end": (
        net({"unit": [], "reads": {"pattern": {"edges": [list(range(60_000))]}}}),
        "net[0]: more than 50,000 values",
    ),
    "rows without end": (
        net({"nodes": 3, "unit": [], "reads": {"pattern": {"edges": [[]] * 40_000}}}),
        "net[0].reads.pattern.edges: 40000 rows; expected 3 or 4",
    ),
    "powers": (net({"conv": 1, "out": "9**9**9"}), "net[0].out: a power exceeds 1024 bits"),
    "a power of one": (net({"conv": 1, "out": "1**999999999 + (-1)**999999999 + 0**999999999 + 1"}), ""),
}


@pytest.mark.parametrize(("value", "said"), BY_HAND.values(), ids=list(BY_HAND))
def test_files_made_by_hand(value: Any, said: str) -> None:
    began = time.process_time()
    message = read_outcome(json.dumps(value))
    assert message.startswith(said) and bool(message) == bool(said)
    assert len(message) < 400 and time.process_time() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '"net"',
        '{"net": NaN}',
        '{"a": 1, "a": 2}',
        "{}",
        "\x00",
        "[" * 10**6,
        '{"net": []} {}',
    ],
)
def test_texts_that_are_no_genotype(text: str) -> None:
    assert read_outcome(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"input": [3, 8, 8], "classes": 3, "net": [{"conv": 3, "ot": 3}]}',
            "net[0].ot: unknown field; did you mean 'out'?",
        ),
        ('{"input": [3, 8, 8], "classes": 3, "net": [NaN]}', "NaN is not allowed"),
        ('{"input": [3, 8, 8], "classes": 3, "net": [', "not JSON"),
    ],
)
def test_the_command_refuses_with_one_line_and_status_2(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "nas_agg", "cost", str(tmp_path / "net.json")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2 and ran.stdout == ""
    assert said in ran.stderr and len(ran.stderr.splitlines()) == 1
