"""Names of let, `like`, and the faults that are found without expanding."""

from __future__ import annotations

import time
from typing import Any

import pytest
from corpus.formulas import CONV, formula, graph_of
from torch import nn

from nas_agg.common.errors import GenotypeError
from nas_agg.compiler.network import Network
from nas_agg.language.genotype import Genotype
from nas_agg.language.module_attributes import MODULE_ATTRIBUTES
from nas_agg.language.resolver import Resolver


def widths(*net: Any, **fields: Any) -> list[int]:
    return [op.out for op in graph_of(*net, **fields).ops if op.word == "conv"]  # type: ignore[attr-defined]


def refusal(*net: Any, **fields: Any) -> str:
    """What is found without expanding."""
    value = {"input": [4, 8, 8], "classes": 3, "net": [*net, "gap", {"linear": 3}], **fields}
    with pytest.raises(GenotypeError) as caught:
        Resolver(Genotype.from_dict(value)).network()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 300
    return message


# ---------------------------------------------------------------------- names stand for their text

WAYS = [
    ([{"conv": 3, "out": "k"}], {"k": 6}),
    ([{"conv": "k", "out": "2*k"}], {"k": "j", "j": 3}),
    (["step"], {"step": {"conv": 3, "out": 6}}),
    (["steps"], {"steps": ["step"], "step": {"conv": 3, "out": "k"}, "k": 6}),
    (["a"], {"a": "b", "b": "c_", "c_": {"conv": 3, "out": 6}}),
    (["whole"], {"whole": {"growth": 6, "unit": "u"}, "u": [{"conv": 3}]}),
    ([{"units": "us", "growth": "g_"}], {"us": ["u"], "u": [{"conv": 3}], "g_": [6]}),
    ([{"unit": ["pool", {"conv": 3, "out": 6, "bias": "off"}]}], {"pool": {"maxpool": 1}, "off": False}),
    (
        [{"unit": [{"conv": 3, "out": 6}], "reads": "r", "output": "r"}],
        {"r": {"pattern": "p"}, "p": "q", "q": {"window": "m"}, "m": 1},
    ),
    (
        [{"unit": [{"conv": 3, "out": 6}, "join"], "shortcut": {"operator": "op", "match": "no"}}],
        {"op": "sum", "no": "skip"},
    ),
]


@pytest.mark.parametrize(("net", "let"), WAYS)
def test_a_name_stands_for_its_text_wherever_text_may_stand(net: list[Any], let: dict[str, Any]) -> None:
    graph = graph_of(*net, let=let)
    plain = graph_of({"conv": 3, "out": 6})
    assert (graph.ops, graph.inputs) == (plain.ops, plain.inputs)


def test_words_of_a_gather_can_be_named() -> None:
    let = {"n_": "ln", "on": True, "end": "back", "m": 2, "act": "swish"}
    named = {"nodes": 2, "growth": 4, "unit": [{"se": 2, "act": "act"}, CONV]}
    reads = {"pattern": "dense", "operator": {"mixed": "m", "onto": "end"}, "norm": "n_", "weight": "on", "raw": "on"}
    said = {"pattern": "dense", "operator": {"mixed": 2, "onto": "back"}, "norm": "ln", "weight": True, "raw": True}
    plain = {"nodes": 2, "growth": 4, "unit": [{"se": 2, "act": "swish"}, CONV]}
    assert formula({**named, "reads": reads}, let=let) == formula({**plain, "reads": said})


def test_what_nothing_uses_is_not_looked_at() -> None:
    assert formula(CONV | {"out": 4}, let={"a": {"zork": 3}, "b": "4*+", "d": "d", "e": None}) == "a(x)"


# ---------------------------------------------------------------------- like


def test_like_takes_the_fields_that_are_not_said() -> None:
    base = {"growth": 7, "let": {"k": 2, "j": 3}, "unit": [CONV, {"conv": 1, "out": "k*j"}]}
    assert widths({"like": "b"}, {"like": "b", "growth": 9}, {"like": "b", "nodes": 2}, let={"b": base}) == [
        7,
        6,
        9,
        6,
        7,
        6,
        7,
        6,
    ]


def test_let_merges_by_name_through_all_that_is_alike() -> None:
    base = {"let": {"k": 2, "j": 3}, "unit": [{"conv": 1, "out": "10*k + j"}]}
    let = {"b": base, "d": {"like": "b", "let": {"k": 5}}, "e": {"like": "d", "let": {"j": "k"}}}
    assert widths({"like": "b"}, {"like": "d"}, {"like": "e"}, {"like": "e", "let": {"k": 1}}, let=let) == [
        23,
        53,
        55,
        11,
    ]
    assert widths({"like": "b"}, let=let) == [23]


def test_unit_replaces_units_and_the_reverse() -> None:
    let = {"one": {"growth": 5, "unit": [CONV]}, "two": {"growth": 6, "units": [[CONV], [CONV]]}}
    assert widths({"like": "one", "units": [[CONV], [], [CONV]]}, {"like": "two", "unit": [CONV]}, let=let) == [5, 5, 6]
    assert refusal({"unit": [], "units": []}) == "net[0].units: an aggregate takes 'unit' or 'units', not both"


def test_an_aggregate_may_hold_another_that_is_like_the_same_one() -> None:
    let = {"b": {"growth": 5, "unit": [CONV]}}
    assert widths({"like": "b", "unit": [CONV, {"like": "b", "growth": 6}]}, let=let) == [5, 6]


# ---------------------------------------------------------------------- faults, where they were written and used

BLOCK = {"unit": ["bn", "relu", {"conv": 3, "out": 4}]}
FAULTS = [
    (["bnn"], {}, "net[0]: 'bnn' is neither a word of the language nor a name in 'let'; did you mean 'bn'?"),
    (
        ["blok"],
        {"block": BLOCK},
        "net[0]: 'blok' is neither a word of the language nor a name in 'let'; did you mean 'block'?",
    ),
    (["dense"], {}, "net[0]: the word 'dense' is not allowed here"),
    ([{"unit": [], "reads": {"pattern": "sum"}}], {}, "net[0].reads.pattern: the word 'sum' is not allowed here"),
    (
        ["block"],
        {"block": {"unit": ["bn", "relu", {"conv": 3, "ot": 3}]}},
        "let.block.unit[2].ot (net[0]): unknown field; did you mean 'out'?",
    ),
    (
        ["gap", {"like": "block"}],
        {"block": {"unit": ["bn", "relo"]}},
        "let.block.unit[1] (net[1]): 'relo' is neither a word of the language nor a name in 'let'; "
        "did you mean 'relu'?",
    ),
    ([{"unit": [], "growth": "4*+"}], {}, "net[0].growth: '4*+' is not a valid expression"),
    ([{"unit": [CONV], "growth": "k"}], {"k": "4*+"}, "let.k (net[0]): '4*+' is not a valid expression"),
    ([{"conv": 3, "out": "2*k"}], {"k": ["bn"]}, "net[0].out: 'k' in an expression must be a number, not [\"bn\"]"),
    (
        [{"conv": 3, "out": "k"}],
        {"k": ["bn"]},
        'net[0].out: the number of channels must be a number, but let.k is ["bn"]',
    ),
    ([{"conv": 3, "out": "k"}], {"k": True}, "net[0].out: the number of channels must be a number, but let.k is true"),
    (
        [{"conv": 3, "out": "kk"}],
        {"k": 1},
        "net[0].out: 'kk' is neither a word of the language nor a name in 'let'; did you mean 'k'?",
    ),
    ([{"conv": 300, "out": 3}], {}, "net[0].conv: the kernel size must be from 1 to 255, not 300"),
    ([{"conv": "k", "out": 3}], {"k": 300}, "let.k (net[0]): the kernel size must be from 1 to 255, not 300"),
    ([{"like": "b"}], {}, "net[0].like: 'b' is neither a word of the language nor a name in 'let'; did you mean 'bn'?"),
    ([{"like": "b"}], {"b": ["bn"]}, "let.b (net[0]): 'like' takes the name of an aggregate, not [\"bn\"]"),
    ([{"like": "b"}], {"b": {"growth": 3}}, "net[0]: an aggregate needs a 'unit' or 'units'"),
    ([{"units": []}], {}, "net[0].units: expected at least one unit"),
    ([{"conv": 3, "bias": "k"}], {"k": 1}, "let.k (net[0]): expected true or false, not 1"),
    (
        [{"se": 1, "act": "k"}],
        {"k": 1},
        "let.k (net[0]): expected one of relu, relu6, leaky, elu, swish, gelu, hardswish, sigmoid, hardsigmoid, not 1",
    ),
    ([{"unit": [], "let": {"in": 3}}], {}, "net[0].let.in: 'in' is a word of the language and cannot be a name"),
    (["a"], {"a": ["b"], "b": ["a"]}, "let.a (net[0]): circular names: a -> b -> a"),
    (["e"], {"e": ["a"], "a": ["b"], "b": ["a"]}, "let.a (net[0]): circular names: a -> b -> a"),
    ([{"like": "a"}], {"a": {"like": "a"}}, "let.a (net[0]): circular names: a -> a"),
    ([{"like": "a"}], {"a": {"unit": [{"like": "a"}]}}, "let.a (net[0]): circular names: a -> a"),
    (
        [{"like": "a"}],
        {"a": {"unit": ["bn", "join"], "shortcut": {"match": [{"like": "a"}]}}},
        "let.a (net[0]): circular names: a -> a",
    ),
    ([{"conv": 1, "out": "a"}], {"a": "b + 1", "b": "2*a"}, "let.a (net[0]): circular names: a -> b -> a"),
    (
        [{"unit": [], "growth": "g", "cardinality": "w"}],
        {},
        "net[0]: circular definition: growth -> cardinality -> growth",
    ),
    (
        [{"unit": [], "growth": "k", "let": {"k": "j", "j": "w"}}],
        {},
        "net[0]: circular definition: growth -> k -> j -> growth",
    ),
    ([{"unit": [], "let": {"k": "k + 1"}}], {}, "net[0]: circular definition: k -> k"),
    ([{"unit": [], "stride": "k", "let": {"k": "s"}}], {}, "net[0]: circular definition: stride -> k -> stride"),
]


@pytest.mark.parametrize(("net", "let", "said"), FAULTS, ids=[said[:50] for *_, said in FAULTS])
def test_faults_found_without_expanding(net: list[Any], let: dict[str, Any], said: str) -> None:
    assert refusal(*net, let=let) == said


def test_a_fault_of_the_expansion_names_its_node() -> None:
    with pytest.raises(GenotypeError) as caught:
        graph_of("gap", "block", let={"block": {"unit": ["bn", "relu", {"conv": 3, "out": 64, "groups": 3}]}})
    assert (
        str(caught.value)
        == "let.block.unit[2].groups (net[1], node 1): 3 groups do not divide 4 input and 64 output channels"
    )


def test_an_open_name_wants_a_value() -> None:
    said = "net[0].out: 'k' is a search variable; choose a point of the space, or give it a value"
    assert refusal({"conv": 1, "out": "k"}, open={"k": [1, 2]}) == said
    assert refusal({"se": 1, "act": "k"}, open={"k": ["relu"]}).startswith("net[0].act: 'k' is a search variable")
    genotype = {
        "input": [4, 8, 8],
        "classes": 3,
        "net": [{"conv": 1, "out": "k"}, "gap", {"linear": 3}],
        "open": {"k": [5]},
    }
    Resolver(Genotype.from_dict(genotype).fill({"k": 5})).network()


# ---------------------------------------------------------------------- limits


def chain(count: int, text: Any, last: Any) -> dict[str, Any]:
    return {**{f"a{i}": text(f"a{i + 1}") for i in range(count)}, f"a{count}": last}


LAUGHS = {
    "units": (["a0"], chain(40, lambda name: [name] * 10, "relu")),
    "aggregates": (["a0"], chain(25, lambda name: {"unit": [name, name]}, "relu")),
    "like": ([{"like": "a0"}], chain(25, lambda name: {"unit": [{"like": name}, {"like": name}]}, {"unit": ["relu"]})),
    "match": (
        [{"like": "a0"}],
        chain(
            25,
            lambda name: {"unit": ["join"], "shortcut": {"match": [{"like": name}, {"like": name}]}},
            {"unit": ["relu"]},
        ),
    ),
    "expressions": ([{"conv": 1, "out": "a0"}], chain(40, lambda name: f"{name} + {name}", "l")),
    "names": (["a0"], chain(200, lambda name: [name], "relu")),
    "bases": ([{"like": "a0"}], chain(200, lambda name: {"like": name}, {"unit": []})),
    "numbers": ([{"conv": 1, "out": "a0"}], chain(2000, lambda name: name, 3)),
    "one base often": ([{"like": "b", "unit": []}] * 20_000, {"b": {"units": [["relu"]] * 20_000}}),
    "one let often": ([{"like": "b"}] * 20_000, {"b": {"unit": [], "let": {f"n{i}": i for i in range(20_000)}}}),
    "edges": ([{"unit": [], "reads": {"pattern": "e"}}] * 10_000, {"e": {"edges": [[0] * 50_000]}}),
    "long expressions": (
        [{"avgpool": f"{i} + q"} for i in range(20_000)],
        {"q": "+".join(["r"] * 40), "r": "+".join(["l"] * 20)},
    ),
    "different expressions": ([{"avgpool": f"{i}" + "+l" * 90} for i in range(4000)], {}),
    "minus": ([{"conv": 1, "out": "x"}], {"x": "-" * 140 + "y", "y": "-" * 140 + "4"}),
}


@pytest.mark.parametrize(("net", "let"), LAUGHS.values(), ids=list(LAUGHS))
def test_names_that_grow_without_end_are_refused_in_seconds(net: list[Any], let: dict[str, Any]) -> None:
    began = time.process_time()
    message = refusal(*net, let=let)
    assert any(said in message for said in ("50,000 values", "nested more than", "too large", "too many")), message
    assert time.process_time() - began < 5


def test_much_that_is_allowed_takes_a_moment() -> None:
    began = time.process_time()
    rows = {f"n{i}": "l" for i in range(40_000)}
    assert formula({"unit": [{"avgpool": "n1"}], "let": rows}) == "x"
    assert len(graph_of(["relu"] * 40_000)) == 40_003
    fibonacci = {f"n{i}": f"1 + 0*(n{i + 1} + n{i + 2})" for i in range(60)} | {"n60": 1, "n61": 1}
    assert formula({"unit": [], "stride": "n0", "let": fibonacci}) == "x"
    assert formula({"like": "a0"}, let=chain(40, lambda name: {"like": name}, {"unit": []})) == "x"
    assert time.process_time() - began < 5


# ---------------------------------------------------------------------- labels


def test_names_of_the_parts_of_a_network() -> None:
    let = {"down": [{"conv": 1, "out": 6}, "bn"], "block": {"growth": 6, "unit": [{"conv": 3}, "in", "relu"]}}
    graph = graph_of("down", "down", {"like": "block", "nodes": 2}, {"unit": ["in"]}, let=let)
    paths = [path for op, path in zip(graph.ops, graph.paths, strict=True) if op.stateful]
    assert paths == [
        "down1.conv",
        "down1.bn",
        "down2.conv",
        "down2.bn",
        "block.0.unit.conv",
        "block.0.unit.in_",
        "block.1.unit.conv",
        "block.1.unit.in_",
        "aggregate.0.unit.in_",
        "linear",
    ]


def test_no_label_is_one_that_a_module_has_for_itself() -> None:
    inside = {name for name in (*dir(nn.Module()), *vars(nn.Module()), *dir(Network)) if not name.startswith("_")}
    assert inside <= MODULE_ATTRIBUTES
