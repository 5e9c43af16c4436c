"""Expansion: nodes, names and their scopes, strides, joins, edges, what leaves, and the limits."""

from __future__ import annotations

import time
from typing import Any

import pytest
from corpus.formulas import CONV, formula, graph_of

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.expansion import expand
from nas_agg.expansion.trace import AggregateRun, trace
from nas_agg.language.genotype import Genotype

STRIDED = {"conv": 3, "stride": "s"}
LEAVES = {"pattern": "nodes", "operator": "concat"}


def convs(*net: Any, **fields: Any) -> list[tuple[int, int]]:
    """Channels out and side of the map behind each convolution."""
    graph = graph_of(*net, **fields)
    return [shape[:2] for op, shape in zip(graph.ops, graph.shapes, strict=True) if op.word == "conv"]


def widths(*net: Any, **fields: Any) -> list[int]:
    return [out for out, _ in convs(*net, **fields)]


def refusal(*net: Any, **fields: Any) -> str:
    with pytest.raises(GenotypeError) as caught:
        graph_of(*net, **fields)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and not message.startswith(" ")
    return message


# ---------------------------------------------------------------------- patterns

PATTERNS = [
    ("previous", "c(b(a(x)))"),
    ("dense", "(x + a(x) + b((x + a)) + c((x + a + b)))"),
    ({"window": 2}, "(b((x + a(x))) + c((a + b)))"),
    ({"exponential": 2}, "(x + b((x + a(x))) + c((a + b)))"),
    ({"micro-dense": 2}, "(b((x + a(x))) + c(b))"),
    ({"edges": [[0], [0, 1], [1]]}, "(b((x + a(x))) + c(a))"),
    ({"edges": [[0], [0, 1], [1], [2, 3]]}, "(b((x + a(x))) + c(a))"),
    ({"edges": [[0], [0], [0]]}, "(a(x) + b(x) + c(x))"),
]


@pytest.mark.parametrize(("pattern", "said"), PATTERNS, ids=[str(pattern) for pattern, _ in PATTERNS])
def test_what_leaves_is_what_one_more_node_would_have_read(pattern: Any, said: str) -> None:
    assert formula({"nodes": 3, "growth": 4, "unit": [CONV], "reads": {"pattern": pattern}}) == said


def test_nodes_that_read_the_input_are_parallel_branches() -> None:
    net = {"nodes": 3, "growth": 4, "unit": [CONV], "reads": {"pattern": "input"}}
    assert formula({**net, "output": {"pattern": "nodes"}}) == "(a(x) + b(x) + c(x))"
    assert formula({**net, "output": {"pattern": {"edges": [[0, 2]]}}}) == "(x + a(x))"
    assert refusal(net) == "net[0].output: nodes that read only the input need an 'output'"


def test_by_default_what_nobody_reads_leaves() -> None:
    net = {"nodes": 3, "growth": 4, "unit": [CONV]}
    rows = {"pattern": {"edges": [[0], [0], [1]]}, "operator": "concat"}
    assert formula({**net, "reads": rows}) == "[b(x), c(a(x))]"
    assert formula({**net, "reads": rows, "output": {"pattern": {"edges": [[1, 3]]}}}) == "(a(x) + b(a))"
    assert formula({**net, "nodes": 0, "reads": {"pattern": {"edges": []}}}) == "x"


@pytest.mark.parametrize(
    ("gathers", "said"),
    [
        ({"reads": [[0], [1]]}, "net[0].reads.pattern.edges: 2 rows; expected 3 or 4"),
        ({"shortcut": [[0], [1], [2], [3]]}, "net[0].shortcut.pattern.edges: 4 rows; expected 3"),
        ({"output": [[0], [1]]}, "net[0].output.pattern.edges: 2 rows; expected 1"),
        ({"reads": [[0], [2], [1]]}, "net[0].reads.pattern.edges (node 2): row 2 reads feature 2; allowed are 0 to 1"),
        ({"reads": [[0], [1, 1], [1]]}, "net[0].reads.pattern.edges (node 2): row 2 contains a feature twice"),
        ({"reads": [[0], [], [1]]}, "net[0].reads (node 2): reads nothing"),
        ({"output": [[4]]}, "net[0].output.pattern.edges[0]: reads feature 4; allowed are 0 to 3"),
        ({"output": [[]]}, "net[0].output: the output has no sources"),
    ],
)
def test_edges_that_cannot_be(gathers: dict[str, list], said: str) -> None:
    given = {field: {"pattern": {"edges": rows}} for field, rows in gathers.items()}
    assert refusal({"nodes": 3, "growth": 4, "unit": [CONV, "join"], "shortcut": {}, **given}) == said


def test_no_nodes_at_all() -> None:
    assert formula({"nodes": 0, "growth": 9, "unit": [CONV, "join"], "shortcut": {}}) == "x"
    assert formula({"nodes": 0, "unit": [CONV], "reads": {"pattern": "dense", "operator": "concat"}}) == "x"
    assert formula({"nodes": "in - 4", "growth": 4, "unit": [CONV]}) == "x"
    assert (
        refusal({"nodes": 0, "unit": [], "output": {"pattern": "nodes"}}) == "net[0].output: the output has no sources"
    )


# ---------------------------------------------------------------------- names and scopes


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        # in, c, h: entering the unit, entering the layer.
        ([{"conv": 1, "out": "in + 1"}, {"conv": 1, "out": "in + 1"}, {"conv": 1, "out": "c + 1"}], [5, 5, 6]),
        ([{"conv": 1, "out": 6}, [{"conv": 1, "out": "in + 1"}, {"conv": 1, "out": "in + c"}]], [6, 7, 13]),
        ([{"conv": 1, "out": "h", "stride": 2}, {"conv": 1, "out": "h"}], [8, 4]),
        # in an aggregate's own fields: entering the aggregate.
        ([{"nodes": 3, "growth": "in + l", "unit": [CONV]}], [5, 6, 7]),
        ([{"nodes": 2, "let": {"k": "in*l + h"}, "unit": [{"conv": 1, "out": "k", "stride": 2}]}], [12, 16]),
        ([{"nodes": "in - 2", "growth": "h", "unit": [CONV]}], [8, 8]),
        (
            [
                {
                    "nodes": 2,
                    "growth": 6,
                    "unit": [CONV],
                    "reads": {"pattern": {"window": "in - 2"}, "operator": "concat"},
                },
                {"conv": 1, "out": "c"},
            ],
            [6, 6, 12],
        ),
        (
            [
                {"nodes": 2, "growth": 6, "unit": [CONV, "join"], "shortcut": {"operator": {"mixed": "in - 4"}}},
                {"conv": 1, "out": "c"},
            ],
            [6, 6, 16],
        ),
        # schedules: linear, geometric, a list, by name.
        ([{"nodes": 3, "growth": "floor(16 + 64*l/n)", "unit": [CONV]}], [37, 58, 80]),
        ([{"nodes": 3, "growth": "floor(16*1.2**l)", "unit": [CONV]}], [19, 23, 27]),
        ([{"nodes": 2, "growth": [5, "2*in"], "unit": [CONV]}], [5, 8]),
        # w, g and s in schedules are the outer ones, but growth and cardinality see each other.
        ([{"nodes": 2, "growth": "4*g", "cardinality": "l + 1", "unit": [CONV]}], [8, 12]),
        ([{"growth": 8, "cardinality": "w//4", "unit": [{"conv": 1, "out": "w + g"}]}], [10]),
        ([{"growth": 8, "cardinality": 3, "unit": [{"growth": "w + g", "unit": [CONV]}]}], [11]),
        ([{"growth": 8, "unit": [{"growth": "2*w", "cardinality": 5, "stride": "w//8", "unit": [CONV]}]}], [16]),
        ([{"growth": 8, "stride": 2, "unit": [{"growth": "w*s", "stride": 1, "unit": [CONV]}]}], [16]),
        # `nodes` sees the outer names, also through a number of the aggregate's let.
        (
            [{"nodes": 3, "growth": "l", "unit": [{"nodes": "l", "growth": "10*n + l", "unit": [CONV]}]}],
            [11, 21, 22, 31, 32, 33],
        ),
        ([{"nodes": 2, "unit": [{"nodes": "q", "let": {"q": "l"}, "growth": "10*q", "unit": [CONV]}]}], [10, 10, 20]),
        ([{"nodes": 2, "growth": 2, "unit": [{"nodes": "w", "growth": 7, "unit": [CONV]}]}], [7, 7, 7, 7]),
        # scope is lexical, innermost first; classes and an unbound g and s are known everywhere.
        (
            [
                {
                    "nodes": 2,
                    "let": {"k": "l*in"},
                    "unit": [
                        {"conv": 1, "out": "k"},
                        {"unit": [{"conv": 1, "out": "k + 1"}]},
                        {"let": {"k": 7}, "unit": [{"conv": 1, "out": "k"}]},
                    ],
                }
            ],
            [4, 5, 7, 8, 9, 7],
        ),
        ([{"conv": 1, "out": "classes + g + s"}], [5]),
        # at position n + 1 the names are those of node n.
        (
            [
                {"nodes": 3, "growth": 4, "unit": [CONV], "reads": {"pattern": {"window": "l"}, "operator": "concat"}},
                {"conv": 1, "out": "c"},
            ],
            [4, 4, 4, 12],
        ),
    ],
)
def test_names_have_the_values_of_their_place(net: list[Any], expected: list[int]) -> None:
    assert widths(*net) == expected


def test_a_name_of_let_is_text_and_means_what_its_place_means() -> None:
    let = {"u": [{"conv": 1, "out": "w"}, {"conv": 1, "out": "in + k"}], "k": "l", "rows": [5, 6]}
    assert widths({"nodes": 2, "growth": "rows", "unit": ["u"]}, let=let) == [5, 5, 6, 7]
    assert widths({"nodes": 2, "growth": "rows", "unit": "u", "let": {"k": 9}}, let=let) == [5, 13, 6, 22]


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ({"unit": [CONV]}, "net[0].unit[0].out (node 1): 'w' (width of this node) is not defined here"),
        ({"unit": [CONV], "growth": "w"}, "net[0].growth (node 1): 'w' (width of this node) is not defined here"),
        (
            {"unit": [CONV], "growth": "c"},
            "net[0].growth (node 1): 'c' (channels entering this layer) is not defined here",
        ),
        ({"unit": [], "nodes": "l"}, "net[0].nodes: 'l' (number of this node) is not defined here"),
        (
            {"unit": [CONV], "nodes": 2, "growth": [4]},
            "net[0].growth: a list of length 1, but the number of nodes is 2",
        ),
        ({"unit": [CONV], "growth": [4, 5]}, "net[0].growth: a list of length 2, but the number of nodes is 1"),
        (
            {"units": [[], [CONV], []], "growth": [4, 5]},
            "net[0].growth: a list of length 2, but the number of nodes is 3",
        ),
        ({"units": [[], []], "let": {"k": [1]}}, "net[0].let.k: a list of length 1, but the number of nodes is 2"),
        ({"units": [[], []], "nodes": 3}, "net[0].nodes: 3 nodes, but 2 units"),
        (
            {"unit": [CONV], "nodes": 3, "growth": "2 - l"},
            "net[0].growth (node 2): the width must be from 1 to 1,000,000, but '2 - l' is 0",
        ),
        (
            {"unit": [CONV], "growth": "in/3"},
            "net[0].growth (node 1): the width must be an integer, but 'in/3' is 1.33333; use floor(...)",
        ),
        ({"unit": [], "nodes": 4097}, "net[0].nodes: the number of nodes must be from 0 to 4,096, not 4,097"),
        ({"unit": [], "nodes": -1}, "net[0].nodes: the number of nodes must be from 0 to 4,096, not -1"),
    ],
)
def test_numbers_that_cannot_be(net: Any, said: str) -> None:
    assert refusal(net) == said


# ---------------------------------------------------------------------- stride

STRIDES = [
    (2, {}, {}, [4, 4, 4]),
    ("k", {}, {"k": 2}, [4, 4, 4]),
    ("k", {"k": 2}, {}, [4, 4, 4]),
    ("2 if in == 4 else 1", {}, {}, [4, 4, 4]),
    ([1, 2, 1], {}, {}, [8, 4, 4]),
    ("k", {}, {"k": [1, 2, 1]}, [8, 4, 4]),
    ("k", {"k": [1, 2, 1]}, {}, [8, 4, 4]),
    ("2 if l == 2 else 1", {}, {}, [8, 4, 4]),
    ("1 + l//3", {}, {}, [8, 8, 4]),
    ("k", {}, {"k": "1 + l//3"}, [8, 8, 4]),
    ("k", {"k": "j"}, {"j": "1 + l//3"}, [8, 8, 4]),
    ("k", {"k": "j + 0", "j": "1 + l//3"}, {}, [8, 8, 4]),
]


@pytest.mark.parametrize(("stride", "own", "let", "sides"), STRIDES)
def test_a_stride_is_node_1_s_unless_it_is_a_list_or_uses_l(
    stride: Any, own: dict, let: dict, sides: list[int]
) -> None:
    net = {"nodes": 3, "growth": 8, "stride": stride, "unit": [STRIDED], "let": own}
    assert [side for _, side in convs(net, let=let)] == sides


def test_an_unset_stride_is_the_outer_one_for_every_node() -> None:
    branches = {"units": [[STRIDED], [STRIDED]], "reads": {"pattern": "input"}, "output": LEAVES}
    assert [side for _, side in convs({"nodes": 2, "growth": 8, "stride": 2, "unit": [branches]})] == [4, 4, 4, 4]
    chain = {"nodes": 2, "unit": [STRIDED]}
    assert [side for _, side in convs({"nodes": 2, "growth": 8, "stride": 2, "unit": [chain]})] == [4, 2, 2, 2]
    assert [side for _, side in convs({"growth": 8, "stride": 2, "unit": [{**chain, "stride": "s"}]})] == [4, 4]


# ---------------------------------------------------------------------- joins

INNER = {"nodes": 2, "growth": 2, "unit": [CONV, "join"], "output": LEAVES}


def test_the_shortcut_joins_where_join_stands() -> None:
    net = {"growth": 4, "shortcut": {}}
    assert formula({**net, "unit": [CONV, "bn", "join", "relu"]}) == "relu((x + bn(a(x))))"
    assert formula({**net, "unit": ["join", CONV]}) == "a((x + x))"
    assert formula({**net, "unit": [CONV, ["relu", ["join"]]]}) == "(x + relu(a(x)))"
    assert formula({**net, "nodes": 2, "units": [[CONV, "join"], [CONV]]}) == "b((x + a(x)))"


def test_a_shortcut_is_dealt_out_to_the_nodes_of_an_inner_aggregate() -> None:
    assert formula({"growth": 4, "unit": [INNER], "shortcut": {}}) == "[(x{0:2} + a(x)), (x{2:4} + b((x{0:2} + a)))]"
    thrice = {"nodes": 2, "growth": 1, "unit": [CONV, "join"], "output": LEAVES}
    nested = {"nodes": 2, "growth": 2, "unit": [thrice], "output": LEAVES}
    assert formula({"unit": [nested], "shortcut": {}}) == (
        "[(x{0:1} + a(x)), (x{1:2} + b((x{0:1} + a))), "
        "(x{2:3} + c([(x{0:1} + a), (x{1:2} + b)])), (x{3:4} + d((x{2:3} + c)))]"
    )
    one = {"growth": 4, "units": [[CONV, "join"], [CONV]], "output": LEAVES}
    assert formula({"unit": [one], "shortcut": {}}) == "[(x + a(x)), b((x + a))]"


def test_a_sum_of_sources_is_dealt_out() -> None:
    net = {"nodes": 2, "growth": 4, "unit": [INNER], "shortcut": {"pattern": "dense"}}
    first = "[(x{0:2} + a(x)), (x{2:4} + b((x{0:2} + a)))]"
    again = "[(x{0:2} + a), (x{2:4} + b)]"
    assert (
        formula(net) == f"[((x + {first}){{0:2}} + c({again})), ((x + {again}){{2:4}} + d(((x + {again}){{0:2}} + c)))]"
    )


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("join", "net[0]: a 'join' without a shortcut"),
        ({"unit": [{"unit": ["bn", "join"]}]}, "net[0].unit[0].unit[1]: a 'join' without a shortcut"),
        ({"unit": [CONV], "shortcut": {}}, "net[0].shortcut: a shortcut without a 'join' in the unit"),
        ({"unit": ["join", "join"], "shortcut": {}}, "net[0].unit[1]: a unit may have only one 'join'"),
        (
            {"unit": [{"unit": ["join"]}, "join"], "shortcut": {}},
            "net[0].unit[1]: a unit may have only one 'join'",
        ),
        (
            {"units": [["join"], []], "shortcut": {"pattern": {"edges": [[0], [1]]}}},
            "net[0].shortcut.pattern.edges[1] (node 2): a row for node 2, whose unit has no 'join'",
        ),
        (
            {"unit": [{**INNER, "growth": 1}], "shortcut": {}},
            "net[0].unit[0] (node 1): 2 of the shortcut's 4 channels are unused",
        ),
        (
            {"unit": [{**INNER, "growth": 3}], "shortcut": {}},
            "net[0].unit[0].unit[1] (node 1, node 2): all 4 channels of the shortcut are used, "
            "but 3 more are needed here",
        ),
        (
            {"unit": [INNER], "shortcut": {"operator": "concat"}},
            "net[0].shortcut.operator (node 1): only a sum can be split among inner nodes",
        ),
        (
            {"unit": [{"avgpool": 2}, INNER], "shortcut": {}},
            "net[0].unit[1].unit[1] (node 1, node 1): sum needs equal shapes, not 2x8x8 and 2x4x4; add a 'match'",
        ),
    ],
)
def test_joins_that_cannot_be(net: Any, said: str) -> None:
    assert refusal(net, let={"a": 1}) == said


def test_a_node_with_nothing_to_join_is_a_note() -> None:
    graph = graph_of({"nodes": 2, "growth": 4, "unit": [CONV, "join"], "shortcut": {"pattern": "nodes"}})
    assert graph.notes == ("net[0].shortcut: node 1 has no source to join",)
    skipped = graph_of({"growth": 8, "unit": [CONV, "join"], "shortcut": {"match": "skip"}})
    assert skipped.notes == ("net[0].shortcut: node 1 has no source to join",)
    assert graph_of({"growth": 4, "unit": [CONV, "join"], "shortcut": {}}).notes == ()


# ---------------------------------------------------------------------- the end, and the limits


def test_the_net_must_end_in_the_classes() -> None:
    for net, said in [
        (["bn"], "3x8x8"),
        (["gap"], "3x1x1"),
        ([{"linear": 11}], "11x1x1"),
        ([{"conv": 1, "out": 10}], "10x8x8"),
    ]:
        with pytest.raises(
            GenotypeError, match=rf"^net: the net must end in 10x1x1 \(the classes\), but ends in {said}$"
        ):
            expand(Genotype.from_dict({"input": [3, 8, 8], "classes": 10, "net": net}))
    expand(
        Genotype.from_dict({"input": [3, 8, 8], "classes": 10, "net": [{"conv": 8, "out": "classes", "padding": 0}]})
    )


def test_equal_work_is_done_once_and_gives_an_equal_graph() -> None:
    unit = [
        "bn",
        "relu",
        {"conv": 3},
        {"nodes": 2, "unit": [CONV], "reads": {"pattern": "dense", "operator": "weighted"}},
    ]
    net = [{"nodes": 3, "growth": 4, "unit": unit, "reads": {"pattern": "dense", "raw": True}}]
    graphs = [graph_of(*net, image=(4, side, 8)) for side in (8, 9, 8)]
    assert (
        graphs[0].ops == graphs[2].ops and graphs[0].inputs == graphs[2].inputs and graphs[0].paths == graphs[2].paths
    )
    assert len(set(graphs[0].paths)) == len(graphs[0].paths)


def deep(levels: int, nodes: int, unit: list[Any]) -> Any:
    for level in range(levels):
        unit = [{"nodes": nodes, "let": {f"p{level}": "l"}, "unit": unit}]
    return unit[0]


SLICED = [
    {"nodes": 4000, "growth": 1, "unit": [CONV], "reads": {"pattern": "input"}, "output": LEAVES},
    {
        "nodes": 4000,
        "unit": [{"slice": 3999, "from": "l%2"}, {"slice": 1, "from": "l - 1"}],
        "reads": {"pattern": "input"},
        "output": LEAVES,
    },
]
HUGE = {
    "steps": [{"nodes": 4096, "unit": ["relu"] * 13}],
    "reads": [
        {"conv": 1, "out": 1},
        {"nodes": 4096, "growth": 1, "unit": [CONV], "reads": {"pattern": "dense"}, "output": {}},
    ],
    "parts": [{"nodes": 40, "unit": [], "reads": {"pattern": "dense", "operator": "concat"}, "output": {}}],
    "nodes of nodes": [deep(3, 4096, [{"avgpool": "1 + 0*p0*p1*p2"}])],
    "deep nodes of nodes": [deep(20, 4096, [{"avgpool": "1 + 0*" + "*".join(f"p{i}" for i in range(20))}])],
    "skipped sources": [
        {
            "nodes": 4096,
            "unit": [{"conv": 1, "out": "1 + l%2"}],
            "reads": {"pattern": "dense", "match": "skip"},
            "output": {},
        }
    ],
    "slices of concats": SLICED,
    "long arithmetic": [
        {"nodes": 4096, "unit": [{"avgpool": "+".join(["(1.01**(l%99)/7**(l%99))*0"] * 7) + "+1"}] * 40}
    ],
}


@pytest.mark.parametrize("net", HUGE.values(), ids=list(HUGE))
def test_a_network_beyond_the_limits_is_refused_in_seconds(net: list[Any]) -> None:
    began = time.process_time()
    message = refusal(*net)
    assert (
        "more than 50,000 operations" in message or "too long to expand" in message or "limit of 1,000,000" in message
    )
    assert message.startswith("net[") and time.process_time() - began < 10


def test_nodes_of_nodes_that_do_nothing_cost_nothing() -> None:
    began = time.process_time()
    assert formula({"nodes": 4096, "unit": [{"nodes": 4096, "unit": [{"nodes": 4096, "unit": []}]}]}) == "x"
    assert time.process_time() - began < 2


def test_a_network_within_the_limits_is_expanded() -> None:
    graph = graph_of({"nodes": 4096, "growth": 4, "unit": ["bn", "relu", CONV, "join"], "shortcut": {}})
    assert len(graph) == 4 * 4096 + 3


def test_a_trace_has_what_positions_gather():
    genotype = Genotype.from_dict(
        {
            "input": [3, 8, 8],
            "classes": 4,
            "net": [
                {"nodes": 2, "growth": 3, "reads": {"pattern": "dense", "operator": "concat"},
                 "unit": [{"conv": 3}, "join"], "shortcut": {"pattern": {"window": 2}}},
                "gap", {"linear": "classes"},
            ],
        }
    )  # fmt: skip
    traced = trace(genotype)
    run = traced.root.steps[0].run
    assert isinstance(run, AggregateRun)
    assert run.output
    gathers = [gather for node in run.nodes for gather in (node.reads, node.shortcut) if gather] + [run.output]
    found = [
        (gather.position, gather.join, gather.selected, [source for source, _ in gather.sources],
         None if gather.result is None else traced.shape(gather.result))
        for gather in gathers
    ]  # fmt: skip
    assert found == [
        (1, False, [0], [], (3, 8, 8)),
        (1, True, [0], [0], (3, 8, 8)),
        (2, False, [0, 1], [0], (6, 8, 8)),
        (2, True, [0, 1], [0, 1], (3, 8, 8)),
        (3, False, [0, 1, 2], [0, 1], (9, 8, 8)),
    ]
