"""The types of the language: what is one, what is not and how that is said, and the way to JSON and back."""

from __future__ import annotations

import copy
import json
import pickle
import random
import time
from typing import Any

import pytest
from corpus import NETWORKS
from corpus.random_genotypes import random_genotype
from pydantic import ValidationError

from nas_agg.common.errors import GenotypeError
from nas_agg.common.files import parse_document
from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import RESERVED, Genotype, check_name, format_value

SMALL: dict[str, Any] = {"input": [3, 8, 8], "classes": 10, "net": ["gap", {"linear": "classes"}]}


def refusal(value: Any) -> str:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_dict(value)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 300
    return message


# ---------------------------------------------------------------------- the networks of the specification


@pytest.mark.parametrize("network", NETWORKS, ids=[network["name"] for network in NETWORKS])
def test_the_networks_of_the_specification_have_their_printed_counts(network: dict[str, Any]) -> None:
    counted = cost(Genotype.from_dict(network["genotype"]))
    assert (counted.params, counted.macs) == (network["params"], network["macs"])


def test_a_network_written_in_two_ways_has_one_hash() -> None:
    hashes = {network["name"]: cost(Genotype.from_dict(network["genotype"])).hash for network in NETWORKS}
    same = {network["name"]: network["same"] for network in NETWORKS if "same" in network}
    assert same and all(hashes[name] == hashes[other] for name, other in same.items())
    assert len(set(hashes.values())) == len(hashes) - len(same)


# ---------------------------------------------------------------------- there and back


def every_genotype() -> list[dict[str, Any]]:
    rng = random.Random(11)
    return [network["genotype"] for network in NETWORKS] + [random_genotype(rng) for _ in range(40)]


@pytest.mark.parametrize("written", every_genotype())
def test_json_goes_round_exactly(written: dict[str, Any]) -> None:
    genotype = Genotype.from_dict(written)
    assert genotype.to_dict() == written
    text = genotype.to_json()
    assert json.loads(text) == written and " :" not in text and "\n" not in text
    again = Genotype.from_dict(json.loads(text))
    assert again == genotype and again.to_json() == text and hash(again) == hash(genotype)


def test_yaml_with_comments_reads_equal() -> None:
    text = """
    # a small network
    input: [3, 32, 32]
    classes: 10
    let:
      block:   # of DenseNet
        growth: 12
        reads: {pattern: dense, operator: concat}
        unit: [bn, relu, {conv: 3}]
      ratio: 0.5
    net:
      - {conv: 3, out: 16}
      - {like: block, nodes: 4}
      - {conv: 1, out: "floor(ratio*c)"}   # compress
      - gap
      - {linear: classes}
    """
    written = {
        "input": [3, 32, 32],
        "classes": 10,
        "let": {
            "block": {
                "growth": 12,
                "reads": {"pattern": "dense", "operator": "concat"},
                "unit": ["bn", "relu", {"conv": 3}],
            },
            "ratio": 0.5,
        },
        "net": [
            {"conv": 3, "out": 16},
            {"like": "block", "nodes": 4},
            {"conv": 1, "out": "floor(ratio*c)"},
            "gap",
            {"linear": "classes"},
        ],
    }
    assert Genotype.from_dict(parse_document(text, "net.yaml", "yaml")) == Genotype.from_dict(written)


def test_fields_that_were_not_written_are_not_said() -> None:
    assert Genotype.from_dict(SMALL).to_dict() == SMALL
    assert Genotype.from_dict({"version": 1, **SMALL}).to_dict() == {"version": 1, **SMALL}
    assert Genotype.from_dict(SMALL).let == {} and Genotype.from_dict(SMALL).version == 1


def test_order_of_fields_does_not_matter_in_canonical_json() -> None:
    turned = dict(reversed(SMALL.items()))
    assert Genotype.from_dict(turned).to_json() == Genotype.from_dict(SMALL).to_json()


def test_a_genotype_does_not_change() -> None:
    genotype = Genotype.from_dict({**SMALL, "let": {"a": {"unit": ["bn"]}, "b": [1]}})
    with pytest.raises(ValidationError):
        genotype.classes = 3  # type: ignore[misc]
    for change in (
        lambda: genotype.let.update(a=1),  # type: ignore[attr-defined]
        lambda: genotype.let["a"].__setitem__("unit", 1),  # type: ignore[index, union-attr]
        lambda: genotype.let.pop("a"),  # type: ignore[attr-defined]
    ):
        with pytest.raises(TypeError):
            change()
    assert isinstance(genotype.net, tuple) and isinstance(genotype.let["b"], tuple)


def test_a_genotype_keeps_nothing_of_the_value_it_was_read_from() -> None:
    value = copy.deepcopy({**SMALL, "let": {"a": [1, {"b": [2]}]}})
    genotype = Genotype.from_dict(value)
    value["let"]["a"][1]["b"].append(3)
    value["net"].append("bn")
    assert genotype.to_dict()["let"] == {"a": [1, {"b": [2]}]} and len(genotype.net) == 2


def test_copies_are_equal() -> None:
    for network in NETWORKS[:4]:
        genotype = Genotype.from_dict(network["genotype"])
        for other in (copy.deepcopy(genotype), pickle.loads(pickle.dumps(genotype)), genotype.model_copy()):
            assert other == genotype and other.to_json() == genotype.to_json()


def test_another_task() -> None:
    genotype = Genotype.from_dict(NETWORKS[0]["genotype"])
    small = genotype.with_task(input=(1, 28, 28), classes=7)
    assert (small.input, small.classes) == ((1, 28, 28), 7) and small.net == genotype.net
    assert genotype.with_task() == genotype
    counted = cost(small)
    assert counted.params == NETWORKS[0]["params"] - 2 * 49 * 64 - 993 * 2049
    with pytest.raises(GenotypeError, match=r"^classes: "):
        genotype.with_task(classes=-1)


def test_open_names_move_into_let() -> None:
    space = Genotype.from_dict({**SMALL, "let": {"a": 1}, "open": {"b": [1, 2]}})
    filled = space.fill({"b": 2})
    assert filled.to_dict() == {**SMALL, "let": {"a": 1, "b": 2}} and filled.open is None
    assert Genotype.from_dict(filled.to_dict()) == filled


def test_the_json_schema_can_be_exported() -> None:
    schema = Genotype.model_json_schema()
    assert set(schema["properties"]) == {"version", "input", "classes", "let", "net", "open"}
    assert "ConvLayer" in schema["$defs"] and json.dumps(schema)


# ---------------------------------------------------------------------- what is refused, and how


WRONG = [
    ({"net": 5}, "net: expected a list, not 5"),
    ({"net": [5]}, "net[0]: 5 is not a step"),
    ({"net": [None]}, "net[0]: null is not a step"),
    ({"net": [{}]}, "net[0]: an object must not be empty"),
    ({"net": [{"convv": 3}]}, "net[0]: unknown step 'convv'; did you mean 'conv'?"),
    ({"net": [{"dense": 3}]}, "net[0]: unknown step 'dense'"),
    ({"net": [{"conv": 3, "ot": 3}]}, "net[0].ot: unknown field; did you mean 'out'?"),
    ({"net": [{"conv": 3, "linear": 3}]}, "net[0].linear: unknown field"),
    ({"net": [{"conv": True}]}, "net[0].conv: expected a number or an expression, not true"),
    ({"net": [{"conv": 3, "stride": [1]}]}, "net[0].stride: expected a number or an expression, not [1]"),
    ({"net": [{"conv": 3, "bias": 1}]}, "net[0].bias: expected true, false or a name for one of them, not 1"),
    ({"net": [{"conv": float("nan")}]}, "net[0].conv: NaN is not a finite number"),
    ({"net": [{"se": 1, "act": 3}]}, "net[0].act: expected a string, not 3"),
    ({"net": [["bn", ["bn", {"gap": []}]]]}, "net[0][1][1].gap: expected a number or an expression, not []"),
    ({"net": [{"unit": 3}]}, "net[0].unit: expected a list or the name of one, not 3"),
    (
        {"net": [{"unit": ["bn", {"conv": 3, "bia": 1}]}]},
        "net[0].unit[1].bia: unknown field; did you mean 'bias'?",
    ),
    ({"net": [{"units": [["bn"], [3]]}]}, "net[0].units[1][0]: 3 is not a step"),
    (
        {"net": [{"unit": [], "growth": [1, "w", None]}]},
        "net[0].growth[2]: expected a number or an expression, not null",
    ),
    (
        {"net": [{"unit": [], "growth": {}}]},
        "net[0].growth: expected a number, an expression or a list with one entry per node, not {}",
    ),
    (
        {"net": [{"unit": [], "let": {"stride": True}}]},
        "net[0].let.stride: expected a number, an expression or a list with one entry per node, not true",
    ),
    ({"net": [{"unit": [], "reads": 3}]}, "net[0].reads: expected an object or the name of one, not 3"),
    (
        {"net": [{"unit": [], "reads": {"operatr": 1}}]},
        "net[0].reads.operatr: unknown field; did you mean 'operator'?",
    ),
    ({"net": [{"unit": [], "reads": {"pattern": 3}}]}, "net[0].reads.pattern: 3 is not a pattern"),
    (
        {"net": [{"unit": [], "output": {"pattern": {"windo": 3}}}]},
        "net[0].output.pattern: unknown pattern 'windo'; did you mean 'window'?",
    ),
    (
        {"net": [{"unit": [], "reads": {"operator": {"zork": 3}}}]},
        "net[0].reads.operator: unknown operator 'zork'",
    ),
    (
        {"net": [{"unit": [], "reads": {"pattern": {"edges": [[0, "a"]]}}}]},
        'net[0].reads.pattern.edges[0][1]: expected an integer, not "a"',
    ),
    (
        {"net": [{"unit": [], "shortcut": {"match": [{"conv": 1, "x": 1}]}}]},
        "net[0].shortcut.match[0].x: unknown field",
    ),
    ({"net": [{"like": ["a"]}]}, 'net[0].like: expected a string, not ["a"]'),
    ({"": 3}, "'': unknown field"),
    ({"nett": []}, "nett: unknown field; did you mean 'net'?"),
    ({"input": [3, 8]}, "input[2]: is missing; expected [channels, height, width]"),
    ({"input": [3, 8, 8, 8]}, "input: expected [channels, height, width], not [3, 8, 8, 8]"),
    ({"input": "abc"}, 'input: expected [channels, height, width], not "abc"'),
    ({"input": [3, 0, 8]}, "input[1]: expected an integer from 1 to 16,384, not 0"),
    ({"input": [3, 8, 16385]}, "input[2]: expected an integer from 1 to 16,384, not 16385"),
    ({"input": [1.5, 8, 8]}, "input[0]: expected an integer, not 1.5"),
    ({"classes": True}, "classes: expected an integer, not true"),
    ({"classes": "10"}, 'classes: expected an integer, not "10"'),
    ({"classes": 10**9}, "classes: expected an integer from 1 to 1,000,000, not 1000000000"),
    ({"version": 2}, "version: unsupported version 2; expected 1"),
    ({"version": True}, "version: expected an integer, not true"),
    ({"version": 1.0}, "version: expected an integer, not 1.0"),
    ({"version": None}, "version: expected an integer, not null"),
    ({"let": 3}, "let: expected an object, not 3"),
    ({"let": {"in": 3}}, "let.in: 'in' is a word of the language and cannot be a name"),
    ({"let": {"from": 3}}, "let.from: 'from' is a Python keyword and cannot be a name"),
    (
        {"let": {"a-b": 3}},
        "let.a-b: 'a-b' is not a valid name; use a letter followed by letters, digits and underscores",
    ),
    (
        {"let": {"a\nb": 3}},
        "let.a\\nb: 'a\\nb' is not a valid name; use a letter followed by letters, digits and underscores",
    ),
    ({"open": {"dense": [1]}}, "open.dense: 'dense' is a word of the language and cannot be a name"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_fault_is_one_line_with_its_place(fields: dict[str, Any], said: str) -> None:
    assert refusal({**SMALL, **fields}) == said


#: Keys that look like the names of types in pydantic's issues.
TYPE_NAMES = ("<ConvLayer>", "<name>", "<", "<>", "str", "int", "[key]", "tuple[x", "union[", "json-or-", "Gather")


@pytest.mark.parametrize("key", TYPE_NAMES)
def test_keys_that_look_like_types_are_named_in_full(key: str) -> None:
    for where in ("", "net[0].", "net[1].", "net[1].reads.", "net[1].reads.pattern.", "net[1].shortcut."):
        conv, window, shortcut = {"conv": 3}, {"window": 2}, {}
        reads = {"pattern": window}
        aggregate = {"nodes": 2, "unit": ["join"], "reads": reads, "shortcut": shortcut}
        value: dict[str, Any] = {**SMALL, "net": [conv, aggregate]}
        parents = {"": value, "net[0]": conv, "net[1]": aggregate, "reads": reads, "pattern": window}
        parents.get(where[:-1].rpartition(".")[2], shortcut)[key] = 1
        assert refusal(value).startswith(f"{where}{key}: unknown field")


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_names_that_look_like_types_are_named_in_full(name: str) -> None:
    net = [{"unit": [], "let": {name: [None]}}]
    assert refusal({**SMALL, "net": net}).startswith(f"net[0].let.{name}[0]: expected a number or an expression")
    assert refusal({**SMALL, "let": {"a": {name: [{name: len}]}}}).startswith(f"let.a.{name}[0].{name}: ")


@pytest.mark.parametrize("field", ["input", "classes", "net"])
def test_what_is_missing_is_named(field: str) -> None:
    assert refusal({key: value for key, value in SMALL.items() if key != field}) == f"{field}: is missing"


@pytest.mark.parametrize("value", [None, 3, "net", [], [SMALL], True])
def test_a_genotype_is_an_object(value: Any) -> None:
    assert refusal(value) == "a genotype must be an object with 'input', 'classes' and 'net'"


def test_long_values_are_cut() -> None:
    assert format_value(["a" * 100])[-3:] == "..." and len(format_value(["a" * 100])) == 60
    assert format_value(10**5000) == "this int"
    assert len(refusal({**SMALL, "k" * 10_000: 3})) < 150
    assert len(refusal({**SMALL, "net": [{"conv": ["x" * 10_000]}]})) < 150
    assert len(refusal({**SMALL, "classes": 10**300})) < 150


def test_nesting_is_limited() -> None:
    steps: Any = ["bn"]
    for _ in range(45):
        steps = [steps]
    Genotype.from_dict({**SMALL, "net": [*steps, *SMALL["net"]]})
    assert "nested more than 48 levels deep" in refusal({**SMALL, "net": [[[steps]]]})
    for _ in range(3000):
        steps = [steps]
    assert "nested more than 48 levels deep" in refusal({**SMALL, "net": steps})
    assert "nested more than 48 levels deep" in refusal({**SMALL, "let": {"a": steps}})


def test_a_text_full_of_faults_is_refused_in_a_moment() -> None:
    began = time.process_time()
    assert refusal({**SMALL, "net": [{"conv": []}] * 30_000}).startswith("net[0].conv: ")
    assert time.process_time() - began < 5


def test_reserved_words_are_those_of_the_language() -> None:
    for word in ("in", "c", "w", "floor", "bn", "gn", "relu", "gap", "join", "dense", "nodes", "input", "sum", "skip"):
        assert word in RESERVED
        with pytest.raises(GenotypeError, match="is a word of the language"):
            check_name(word)
    for free in ("conv", "unit", "growth", "stride", "window", "edges", "out", "micro", "source", "forward"):
        check_name(free)
