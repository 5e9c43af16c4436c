"""Operators, and the fields of a gather that act on sources: what two nodes become, as a formula."""

from __future__ import annotations

from typing import Any

import pytest
from corpus.formulas import CONV, formula, graph_of

from nas_agg.common.errors import GenotypeError
from nas_agg.graph.canonical import canonical_hash
from nas_agg.language.operators import OPERATORS


def two(gather: dict[str, Any], field: str, conv: dict[str, Any] = CONV) -> str:
    """Two nodes of width 4 on 4 channels, the gather over all features."""
    unit = [conv, "join"] if field == "shortcut" else [conv]
    return formula({"nodes": 2, "growth": 4, "unit": unit, field: {"pattern": "dense", **gather}})


READS = [
    ("sum", "(x + a(x) + b((x + a)))"),
    ("concat", "[x, a(x), b([x, a])]"),
    ("mean", "mean(x, a(x), b(mean(x, a)))"),
    (
        "weighted",
        "(scale(plain_gn4(x)) + scale(plain_gn4(a(x))) + b((scale(plain_gn4(x)) + a)))",
    ),
    (
        "gated",
        "((x * sigmoid(d(gap(x)))) + (a(x) * sigmoid(e(gap(a)))) + c(((x * sigmoid(b(gap(x)))) + a)))",
    ),
    ("product", "((x * a(x)) * b((x * a)))"),
    ({"mixed": 0}, "[x, a(x), b([x, a])]"),
    ({"mixed": 4}, "[(x + b((x + a(x)))), a]"),
    (
        {"mixed": 2},
        "[(x{0:2} + b([(x{0:2} + a(x){0:2}), x{2:4}, a{2:4}]){0:2}), x{2:4}, a, b{2:4}]",
    ),
    (
        {"mixed": 2, "onto": "back"},
        "[x, a(x){0:2}, (a{2:4} + b([x{0:2}, (x{2:4} + a{0:2}), a{2:4}]){0:2}), b{2:4}]",
    ),
]


@pytest.mark.parametrize(("operator", "said"), READS, ids=[str(operator) for operator, _ in READS])
def test_what_nodes_read_the_newest_feature_taken_as_it_is(operator: Any, said: str) -> None:
    assert two({"operator": operator}, "reads") == said


def test_what_joins_as_a_shortcut() -> None:
    sums = {"nodes": 2, "growth": 4, "unit": [CONV, "join"], "shortcut": {"pattern": "dense"}}
    assert formula(sums) == "(x + (x + a(x)) + b((x + a)))"
    for operator, said in [
        ("mean", "mean(x, mean(x, a(x)), b(mean(x, a)))"),
        ("concat", "[x, x, a(x), b([x, a])]"),
        (
            {"mixed": 2},
            "[(x{0:2} + b([(x{0:2} + a(x){0:2}), x{2:4}, a{2:4}]){0:2}), x{2:4}, "
            "(x{0:2} + a{0:2}), x{2:4}, a{2:4}, b{2:4}]",
        ),
        (
            "weighted",
            "(scale(plain_gn4(x)) + scale(plain_gn4((scale(plain_gn4(x)) + a(x)))) + b((scale(plain_gn4(x)) + a)))",
        ),
    ]:
        assert two({"operator": operator}, "shortcut") == said


def test_a_product_takes_gates_of_one_channel_or_one_pixel() -> None:
    for gate, said in [
        (["gap", "sigmoid"], "(x * sigmoid(gap(x)))"),
        (["channel-mean"], "(channel-mean(x) * x)"),
        ([{"slice": 1}], "(x{0:1} * x)"),
        ([CONV], "(a(x) * x)"),
    ]:
        branches = {"units": [gate, []], "growth": 4, "reads": {"pattern": "input"}}
        assert formula({**branches, "output": {"pattern": "nodes", "operator": "product"}}) == said
    with pytest.raises(GenotypeError, match="product needs sizes that are equal or 1, not 4x8x8 and 3x8x8"):
        three = {"units": [[], [{"slice": 3}], [{"slice": 1}]], "reads": {"pattern": "input"}}
        formula({**three, "output": {"pattern": "nodes", "operator": "product"}})


def test_each_stands_ahead_of_all_else_and_is_written_once() -> None:
    gather = {"pattern": "dense", "each": [CONV, "relu"], "operator": "weighted", "norm": "none"}
    net = {"nodes": 1, "growth": 4, "unit": [{"conv": 3}], "output": gather}
    assert formula(net) == "(scale(relu(b(x))) + relu(c(a(x))))"
    graph = graph_of(net)
    paths = [path for op, path in zip(graph.ops, graph.paths, strict=True) if op.word == "conv"]
    assert paths == ["aggregate.0.unit.conv", "aggregate.output.each.conv", "aggregate.output.each.conv"]
    assert formula({**net, "output": {**gather, "raw": True}}) == "(scale(b(x)) + relu(c(a(x))))"


def test_every_operator_is_tested() -> None:
    said = {operator if isinstance(operator, str) else "mixed" for operator, _ in READS}
    assert said == set(OPERATORS)


@pytest.mark.parametrize(
    ("gather", "said"),
    [
        ({"norm": "gn"}, "(plain_gn4(x) + plain_gn4(a(x)) + b((plain_gn4(x) + a)))"),
        ({"weight": True}, "(scale(x) + scale(a(x)) + b((scale(x) + a)))"),
        ({"norm": "bn", "weight": True}, "(scale(plain_bn(x)) + scale(plain_bn(a(x))) + b((scale(plain_bn(x)) + a)))"),
        ({"operator": "weighted", "norm": "none"}, "(scale(x) + scale(a(x)) + b((scale(x) + a)))"),
        ({"operator": "weighted", "weight": False}, "(plain_gn4(x) + plain_gn4(a(x)) + b((plain_gn4(x) + a)))"),
        ({"operator": "weighted", "norm": "none", "weight": False}, "(x + a(x) + b((x + a)))"),
        ({"operator": "mean", "norm": "ln"}, "mean(plain_gn1(x), plain_gn1(a(x)), b(mean(plain_gn1(x), a)))"),
        (
            {"operator": "concat", "norm": "in", "weight": True},
            "[scale(plain_gn4(x)), scale(plain_gn4(a(x))), b([scale(plain_gn4(x)), a])]",
        ),
        (
            {"operator": "gated", "weight": True},
            "((scale(x) * sigmoid(d(gap(scale(x))))) + (scale(a(x)) * sigmoid(e(gap(scale(a))))) + "
            "c(((scale(x) * sigmoid(b(gap(scale(x))))) + a)))",
        ),
    ],
)
def test_norm_weight_and_gate_act_on_sources_in_this_order(gather: dict[str, Any], said: str) -> None:
    assert two(gather, "reads") == said


def test_a_source_is_normed_once_for_all_its_readers_and_weighted_once_for_each() -> None:
    net = {"nodes": 5, "growth": 4, "unit": [CONV], "reads": {"pattern": "dense", "operator": "weighted"}}
    words = [op.word for op in graph_of(net).ops]
    assert words.count("norm") == 5  # T_0 to T_4; T_5 is the main path of what leaves
    assert words.count("scale") == 1 + 2 + 3 + 4 + 5
    assert {op.start for op in graph_of(net).ops if op.word == "scale"} == {1, 1 / 2, 1 / 3, 1 / 4, 1 / 5}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        ("1/k", {(1, 1.0), (2, 1 / 2), (3, 1 / 3)}),
        (1, {(1, 1.0), (2, 1.0), (3, 1.0)}),
        (0.25, {(1, 0.25), (2, 0.25), (3, 0.25)}),
        ("-2/(k + l)", {(1, -1.0), (2, -0.5), (3, -1 / 3)}),
        ("begin", {(1, 2.0), (2, 1.0), (3, 2 / 3)}),
    ],
)
def test_weights_start_at_an_expression_in_the_number_of_sources(start: Any, wanted: set[tuple[int, float]]) -> None:
    """Here node l has l sources; a `k` of the genotype's or the aggregate's own is another matter."""
    gather = {"pattern": "dense", "operator": "weighted", "start": start}
    net = {"nodes": 3, "growth": 4, "let": {"k": 7}, "unit": [CONV, "join"], "shortcut": gather}
    graph = graph_of(net, let={"k": 9, "begin": "2/k"})
    starts = {path: op.start for path, op in zip(graph.paths, graph.ops, strict=True) if op.word == "scale"}  # type: ignore[attr-defined]
    readers: dict[str, list[float]] = {}
    for path, value in starts.items():
        readers.setdefault(path.rpartition(".weights.")[0], []).append(value)
    assert {(len(values), *set(values)) for values in readers.values()} == wanted
    assert canonical_hash(graph) == canonical_hash(graph_of({**net, "shortcut": {**gather, "start": "1/k"}}))


def test_a_start_wants_a_weight() -> None:
    for gather in ({"start": 1}, {"operator": "weighted", "weight": False, "start": 1}):
        with pytest.raises(GenotypeError, match=r"reads\.start: 'start' needs weights; add 'weight: true'"):
            two(gather, "reads")
    with pytest.raises(GenotypeError, match=r"\.start.*the initial weight must be at least -1000 and below 1000"):
        two({"weight": True, "start": 1000}, "shortcut")
    with pytest.raises(GenotypeError, match=r"'k' is neither a word of the language nor a name in 'let'"):
        two({"weight": True, "match": [{"conv": 1, "out": "k"}]}, "reads", {"conv": 3, "out": "3 + l"})


# ---------------------------------------------------------------------- match

MATCH = {"match": [{"conv": 1, "stride": "s"}]}


@pytest.mark.parametrize(
    ("net", "said"),
    [
        # Widths 4, 8, 12: a source is matched once for each width that is wanted.
        (
            {"nodes": 3, "growth": "4*l", "unit": [CONV], "reads": {"pattern": "dense", **MATCH}},
            "(f(x) + g(a(x)) + h(b((x + a))) + e((c(x) + d(a) + b)))",
        ),
        # A projection where the width changes, the identity where it does not.
        ({"nodes": 2, "growth": 8, "unit": [CONV, "join"], "shortcut": MATCH}, "((b(x) + a(x)) + c((b + a)))"),
        ({"nodes": 2, "growth": 8, "unit": [CONV, "join"], "shortcut": {"match": "skip"}}, "(a(x) + b(a))"),
        # One match of x for all readers.
        (
            {"nodes": 3, "growth": 8, "unit": [CONV, "join"], "shortcut": {"pattern": "dense", **MATCH}},
            "(b(x) + (b + a(x)) + (b + (b + a) + c((b + a))) + d((b + (b + a) + c)))",
        ),
        # A concat's sources keep their width, and lose their map.
        (
            {
                "nodes": 2,
                "growth": 8,
                "stride": 2,
                "unit": [{"conv": 3, "stride": "s"}],
                "reads": {"pattern": "dense", "operator": "concat", **MATCH},
            },
            "[b(x), a(x), c([b, a])]",
        ),
    ],
)
def test_match_makes_sources_fit(net: Any, said: str) -> None:
    assert formula(net) == said


def test_match_knows_the_width_wanted_and_the_ratio_of_the_maps_rounded_up() -> None:
    unit = [{"conv": 3, "stride": "s", "out": 6}, "join"]
    for side, stride, ratio in [(8, 2, 2), (7, 2, 2), (9, 3, 3), (8, 3, 3), (5, 2, 2)]:
        match = [{"conv": 3, "out": "100*w + 10*s + n", "stride": "s"}, {"conv": 1}]
        graph = graph_of({"unit": unit, "stride": stride, "shortcut": {"match": match}}, image=(4, side, side))
        convs = [op for op in graph.ops if op.word == "conv"]
        assert [op.out for op in convs] == [6, 600 + 10 * ratio + 1, 6]  # type: ignore[attr-defined]


def test_match_of_a_concat_wants_its_own_width_and_of_a_mix_the_summed_channels() -> None:
    for operator, width in [("concat", 4), ({"mixed": 2}, 2), ("sum", 6)]:
        net = {
            "growth": 6,
            "unit": [CONV, {"avgpool": 2}, "join"],
            "shortcut": {"operator": operator, "match": [{"avgpool": "s"}, CONV]},
        }
        assert [op.out for op in graph_of(net).ops if op.word == "conv"] == [6, width]  # type: ignore[attr-defined]


def test_a_gather_that_is_named_twice_is_two_gathers() -> None:
    gather = {"pattern": "dense", **MATCH}
    net = {"nodes": 2, "growth": 8, "unit": [CONV, "join"]}
    said = "(e(x) + (b(x) + a(x)) + (b + (b + a) + d((c(x) + (b + a)))))"
    assert formula({**net, "reads": "all", "shortcut": "all", "output": "all"}, let={"all": gather}) == said
    assert formula({**net, "reads": gather, "shortcut": gather, "output": gather}) == said
    # What leaves as the nodes read is read by the same gather.
    assert formula({**net, "reads": "all", "shortcut": "all"}, let={"all": gather}) == said.replace(
        "e(x)", "c(x)"
    ).replace("((c(x)", "((c")


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (
            {"growth": 8, "unit": [CONV, "join"], "shortcut": {}},
            "net[0].shortcut (node 1): feature 0, 4x8x8, does not fit 8x8x8; add a 'match'",
        ),
        (
            {"growth": 8, "unit": [CONV, "join"], "shortcut": {"match": [{"conv": 1, "out": 6}]}},
            "net[0].shortcut (node 1): feature 0 after 'match', 6x8x8, does not fit 8x8x8",
        ),
        (
            {"growth": 8, "unit": [CONV, {"avgpool": 2}, "join"], "shortcut": {"operator": "concat"}},
            "net[0].shortcut (node 1): feature 0, 4x8x8, does not fit 8x4x4; add a 'match'",
        ),
        (
            {"growth": 8, "unit": [CONV, "join"], "shortcut": {"operator": {"mixed": 6}}},
            "net[0].shortcut (node 1): feature 0, 4x8x8, does not fit 8x8x8; add a 'match'",
        ),
        (
            {"growth": 3, "unit": [CONV, "join"], "shortcut": {"operator": {"mixed": 4}}},
            "net[0].shortcut.operator.mixed (node 1): 'mixed' of 4 channels needs at least as many in the sources "
            "and in the main path, not 4 and 3",
        ),
        (
            {
                "nodes": 2,
                "growth": 4,
                "unit": [CONV],
                "reads": {"pattern": "input", "operator": {"mixed": 2}},
                "output": {},
            },
            "net[0].reads.operator (node 2): 'mixed' needs a main path: "
            "a shortcut, or reads that include the newest feature",
        ),
        (
            {"growth": 8, "unit": [CONV, "join"], "shortcut": {"match": [{"conv": 1, "out": "w*l"}]}},
            "net[0].shortcut.match: a 'match' is shared by all readers and cannot depend on 'l'",
        ),
        (
            {"growth": 8, "unit": [CONV, "join"], "shortcut": {"match": [CONV, "join"]}},
            "net[0].shortcut.match[1]: 'match' cannot contain a 'join', as it has no shortcut",
        ),
        (
            {
                "nodes": 2,
                "growth": 8,
                "cardinality": "l",
                "unit": [CONV, "join"],
                "shortcut": {"match": [{"conv": 1, "groups": "g"}]},
            },
            "net[0].cardinality (node 1): 'l' (number of this node) is not defined here",
        ),
    ],
)
def test_what_does_not_fit_is_refused(net: Any, said: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        graph_of(net)
    assert str(caught.value) == said


# ---------------------------------------------------------------------- raw


@pytest.mark.parametrize(
    ("net", "said"),
    [
        # T_1 is relu(bn(a)): raw where it is a source, as it is where it is the newest.
        (
            [{"nodes": 2, "growth": 4, "unit": [CONV, "bn", "relu"], "reads": {"pattern": "dense", "raw": True}}],
            "(x + a(x) + relu(bn(b((x + relu(bn(a)))))))",
        ),
        # Behind bn and relu; a sum is its own raw form.
        (
            [
                {"conv": 1, "out": 4},
                "bn",
                "relu",
                {"nodes": 2, "growth": 4, "unit": [CONV, "bn", "join", "relu"], "shortcut": {"raw": True}},
            ],
            "relu(((a(x) + bn(b(relu(bn(a))))) + bn(c(relu((a + bn(b)))))))",
        ),
        # Through an activation, a slice and a concat.
        (
            [
                {
                    "nodes": 2,
                    "growth": 4,
                    "unit": [CONV, "bn"],
                    "reads": {"pattern": "input"},
                    "output": {"pattern": "nodes", "operator": "concat"},
                },
                "relu",
                {"slice": 6, "from": 1},
                {"unit": ["sigmoid", "join"], "shortcut": {"raw": True}},
            ],
            "([a(x){1:4}, b(x){0:3}] + sigmoid(relu([bn(a), bn(b)]){1:7}))",
        ),
        # What ends in no norm and no activation is its own raw form: one concat, not two.
        (
            [
                {"nodes": 2, "growth": 4, "unit": [CONV], "output": {"pattern": "nodes", "operator": "concat"}},
                {"growth": 8, "unit": ["relu", "join"], "shortcut": {"raw": True}},
            ],
            "([a(x), b(a)] + relu([a, b]))",
        ),
    ],
)
def test_raw_forms(net: list[Any], said: str) -> None:
    assert formula(*net) == said


def test_the_raw_form_of_very_deep_concats_is_found() -> None:
    deep = {
        "nodes": 1500,
        "reads": {"pattern": {"window": 2}, "operator": "concat"},
        "unit": [{"slice": 4, "from": "(c - 4)//2"}, "relu"],
        "output": {},
    }
    graph = graph_of(deep, {"unit": ["join"], "shortcut": {"raw": True}})
    assert graph.shapes[graph.inputs[-2][0]] == (4, 8, 8)
