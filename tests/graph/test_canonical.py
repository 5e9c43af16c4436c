"""The canonical hash: equal for one network however it is written, unequal for another."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from corpus.random_genotypes import random_genotype
from corpus.rewrites import equivalent_genotype, equivalent_graph, near_duplicate, relabeled

from nas_agg.expansion.expansion import expand
from nas_agg.graph import canonical
from nas_agg.graph.canonical import canonical_form, canonical_hash, permutable_tensors
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Act, Add, Cat, Conv, Dropout, Gap, Input, Linear, Mul, Norm, Primitive, Shuffle
from nas_agg.language.genotype import Genotype
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS
from nas_agg.language.patterns import PATTERNS

CONV = ["bn", "relu", {"conv": 3}]
DENSE = {"pattern": "dense", "operator": "concat"}


def graph_of(*net: Any, **fields: Any) -> Graph:
    """The graph of stem, net and classifier."""
    genotype = {"input": [3, 8, 8], "classes": 5, "net": [{"conv": 3, "out": 8}, *net, "gap", {"linear": "classes"}]}
    return expand(Genotype.from_dict({**genotype, **fields}))


def hash_of(*net: Any, **fields: Any) -> str:
    return canonical_hash(graph_of(*net, **fields))


def stack(unit: list, **fields: Any) -> dict[str, Any]:
    return {"nodes": 3, "growth": 8, "unit": unit, **fields}


def by_hand(*rows: tuple[Primitive, tuple[int, ...]]) -> Graph:
    """A graph of an 8x4x4 image and the operations, the last of which is the output."""
    ops: list[Primitive] = [Input((8, 4, 4)), *[op for op, _ in rows]]
    inputs = [(), *[row for _, row in rows]]
    shapes: list[tuple[int, int, int]] = []
    for op, row in zip(ops, inputs, strict=True):
        shapes.append(op.shape(*[shapes[i] for i in row]))
    return Graph(ops, inputs, shapes, [f"p{i}" for i in range(len(ops))], len(ops) - 1)


def conv(groups: int = 1) -> Conv:
    return Conv(8, 8, 3, 1, 1, groups, False)


# ---------------------------------------------------------------------- one network, several writings

DENSENET = [
    stack(CONV, reads=DENSE),
    stack([*CONV, "join"], shortcut={"operator": "concat"}),
    stack(CONV, reads={"pattern": {"window": 4}, "operator": "concat"}),
    stack(CONV, reads={"pattern": {"micro-dense": 4}, "operator": "concat"}),
    stack(CONV, reads={"pattern": {"edges": [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]}, "operator": "concat"}),
    stack(CONV, reads=DENSE, output={"pattern": {"edges": [[0, 1, 2, 3]]}, "operator": "concat"}),
    stack(CONV, reads={"pattern": "dense", "operator": {"mixed": 0}}),
    stack([*CONV, "join"], shortcut={"operator": {"mixed": 0, "onto": "back"}}),
    stack([CONV], reads=DENSE),
    {"units": [CONV, [CONV], CONV], "growth": [8, "w0", "2**3"], "let": {"w0": 8}, "reads": DENSE},
]
RESNET = [
    stack([*CONV, *CONV, "join"], shortcut={"operator": "sum"}),
    stack([*CONV, *CONV], reads={"pattern": "dense", "operator": "sum"}),
    stack([*CONV, *CONV], reads={"pattern": {"window": 9}}),
    stack([[*CONV, *CONV, "join"]], shortcut={"pattern": {"edges": [[0], [1], [2]]}, "norm": "none"}),
]
WEIGHTED = [
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "weighted"}),
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "sum", "norm": "gn", "weight": True}),
]


@pytest.mark.parametrize("writings", [DENSENET, RESNET, WEIGHTED], ids=["densenet", "resnet", "weighted"])
def test_one_network_has_one_hash(writings):
    assert len({hash_of(writing) for writing in writings}) == 1


def test_names_are_put_in_or_written_out():
    named = hash_of(
        {"like": "block", "reads": "all_"},
        let={"body": ["bn", "act", {"conv": "k"}], "act": "relu", "k": 3, "width": "4*2", "all_": DENSE}
        | {"block": {"nodes": 3, "growth": "width", "unit": "body"}},
    )
    assert named == hash_of(DENSENET[0])


def test_where_a_sum_is_done_does_not_matter():
    rows = [(conv(), (0,)), (conv(), (1,)), (conv(), (2,))]
    tail = [(Gap(1), (-1,)), (Linear(8, 5), (-1,))]

    def ending(*adds: tuple[int, ...]) -> str:
        graph = [*rows, *[(Add(), add) for add in adds]]
        for op, _ in tail:
            graph.append((op, (len(graph),)))
        return canonical_hash(by_hand(*graph))

    assert ending((1, 2, 3)) == ending((3, 1), (4, 2)) == ending((2, 3), (1, 4))
    assert ending((1, 2, 3, 3)) == ending((3, 1), (2, 3), (4, 5)) != ending((1, 2, 3))


def test_equal_sums_are_one_sum():
    units = [[{"conv": 3, "out": 8}, "relu"], [{"conv": 3}], [{"conv": 1}]]
    edges = {"units": units, "growth": 8, "reads": {"pattern": {"edges": [[0], [0, 1], [0, 1], [2, 3]]}}}
    branches = {"units": units[1:], "growth": 8, "reads": {"pattern": "input"}, "output": {"pattern": "nodes"}}
    assert hash_of(edges) == hash_of({"unit": [*units[0], "join"], "shortcut": {}, "growth": 8}, branches)


def test_the_hash_is_the_same_everywhere():
    assert hash_of(*RESNET[:1]) == "a5558a5b0db5ee0cbf6d8863bdcff9ef"


# ---------------------------------------------------------------------- other networks

OTHERS = [
    *(writings[0] for writings in (DENSENET, RESNET, WEIGHTED)),
    stack([*CONV, "join"], shortcut={"operator": "weighted"}),
    stack(CONV, reads={"pattern": "dense", "operator": "weighted"}),  # DSNet's other variant
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "gated"}),
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "mean"}),
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "sum"}),
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "sum", "norm": "gn"}),
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "sum", "weight": True}),
    stack([*CONV, "join"], shortcut={"pattern": "dense", "operator": "weighted", "norm": "ln"}),
    stack([*CONV, "join", "relu"], shortcut={}),
    stack([*CONV, "join", "relu"], shortcut={"raw": True}),
    stack(CONV, reads={"pattern": {"window": 2}, "operator": "concat"}),
    stack(CONV, reads={"pattern": {"exponential": 2}, "operator": "concat"}),
    stack(CONV, reads=DENSE, output={"pattern": "nodes", "operator": "concat"}),
    stack(CONV, reads=DENSE) | {"growth": 6},
    stack(CONV, reads=DENSE) | {"nodes": 2},
    stack(["bn", "relu", {"conv": 1}], reads=DENSE),
    stack(["bn", "relu", {"conv": 3, "bias": True}], reads=DENSE),
    stack(["bn", "relu", {"conv": 3, "groups": 8}], reads=DENSE),
    stack(["bn", "relu6", {"conv": 3}], reads=DENSE),
    stack(["gn", "relu", {"conv": 3}], reads=DENSE),
    stack(["relu", "bn", {"conv": 3}], reads=DENSE),
    stack(["bn", "relu", {"conv": 3}, {"dropout": 0.1}], reads=DENSE),
    stack(["bn", "relu", {"conv": 3}, {"dropout": 0.1, "channels": True}], reads=DENSE),
    stack(["bn", "relu", {"conv": 3, "padding": 2}, {"maxpool": 3, "stride": 1, "padding": 0}], reads=DENSE),
    stack(["bn", "relu", {"conv": 3, "padding": 2}, {"avgpool": 3, "stride": 1, "padding": 0}], reads=DENSE),
    stack(CONV, reads={"pattern": "dense", "operator": {"mixed": 4}}),
    stack(CONV, reads={"pattern": "dense", "operator": {"mixed": 4, "onto": "back"}}),
    stack(CONV, stride=2),
]


def test_other_networks_have_other_hashes():
    hashes = [hash_of(other) for other in OTHERS]
    assert [count for count in Counter(hashes).values() if count > 1] == []
    assert hash_of(OTHERS[0], input=[3, 9, 9]) not in hashes


def test_one_shared_convolution_is_not_two_alike():
    shared = by_hand((conv(), (0,)), (conv(), (1,)), (Add(), (1, 2)), (Add(), (2, 3)), (Linear(128, 5), (4,)))
    two = by_hand((conv(), (0,)), (conv(), (1,)), (conv(), (1,)), (Add(), (1, 2, 3)), (Linear(128, 5), (4,)))
    assert canonical_hash(shared) != canonical_hash(two)
    assert canonical_hash(read_twice(1)) != canonical_hash(read_twice(2))


def read_twice(convs: int) -> Graph:
    """An elu and a relu of one conv, or of two alike."""
    heads = [(conv(), (0,)) for _ in range(convs)]
    sides = [(Act("relu"), (1,)), (Act("elu"), (convs,)), (Add(), (convs + 1, convs + 2))]
    return by_hand(*heads, *sides, (Linear(128, 5), (convs + 3,)))


def ring(*rings: int) -> Graph:
    """Alike convs in rings: each pair of neighbours is summed, convolved and summed up."""
    n, pairs, start = sum(rings), [], 1
    for length in rings:
        pairs += [(start + k, start + (k + 1) % length) for k in range(length)]
        start += length
    rows = [(conv(), (0,)) for _ in range(n)]
    rows += [(Add(), pair) for pair in pairs]
    rows += [(conv(), (n + 1 + k,)) for k in range(n)]
    return by_hand(*rows, (Add(), tuple(range(2 * n + 1, 3 * n + 1))), (Linear(128, 5), (3 * n + 1,)))


def test_wires_that_look_alike_from_everywhere_are_told_apart():
    rng = random.Random(0)
    one, two = canonical_hash(ring(6)), canonical_hash(ring(3, 3))
    assert one != two
    assert {canonical_hash(equivalent_graph(rng, ring(6))) for _ in range(20)} == {one}
    assert {canonical_hash(equivalent_graph(rng, ring(3, 3))) for _ in range(20)} == {two}


# ---------------------------------------------------------------------- the order of a concat


def reversed_concats(graph: Graph) -> Graph:
    inputs = [row[::-1] if op.word == "cat" else row for op, row in zip(graph.ops, graph.inputs, strict=True)]
    return Graph(graph.ops, inputs, graph.shapes, graph.paths, graph.output)


def concat(*behind: Any) -> Graph:
    """Two convs of unlike widths side by side, and what follows."""
    branches = {"units": [[{"conv": 3, "out": 4}], [{"conv": 3, "out": 8}]], "reads": {"pattern": "input"}}
    return graph_of(branches | {"output": {"pattern": "nodes", "operator": "concat"}}, *behind)


WITHOUT_ORDER = [
    *("bn", "ln", "in", "relu", {"maxpool": 2}, {"avgpool": 2}, {"gap": 2}, "scale", {"dropout": 0.1}),
    *({"se": 0}, {"se": 4}, {"conv": 3, "out": "c", "groups": "c"}, {"conv": 3, "out": 6}, {"linear": 6}),
    {"unit": [{"conv": 1, "out": 4}, "join"], "shortcut": {"operator": "concat"}},
]
WITH_ORDER = [
    *({"gn": 2}, {"shuffle": 2}, {"slice": 6}, {"pad": 14}, {"conv": 3, "out": 6, "groups": 2}),
    *({"conv": 3, "out": 24, "groups": "c"}, {"unit": ["join"], "shortcut": {"operator": "sum"}}),
    {"unit": [{"conv": 1, "out": "in"}, "join"], "shortcut": {"operator": "mean"}},
    {"unit": [{"conv": 1, "out": "in"}, "join"], "shortcut": {"operator": "gated"}},
]


@pytest.mark.parametrize("layer", WITHOUT_ORDER, ids=str)
def test_a_concat_has_no_order_before_what_weights_can_reorder(layer):
    for between in ([], ["bn", "relu"]):
        graph = concat(*between, layer)
        assert canonical_hash(graph) == canonical_hash(reversed_concats(graph))


@pytest.mark.parametrize("layer", WITH_ORDER, ids=str)
def test_a_concat_has_an_order_before_anything_else(layer):
    for between in (["relu"], ["bn", "relu"]):  # a slice of the concat itself would be a concat of slices
        graph = concat(*between, layer)
        assert canonical_hash(graph) != canonical_hash(reversed_concats(graph))


def test_a_gate_without_weights_of_its_own_keeps_the_order():
    """The gate's channels follow those of what it multiplies only through the weights of a layer that makes it."""

    def blind(*gate: tuple[Primitive, tuple[int, ...]]) -> bool:
        rows = [(conv(), (0,)), (conv(), (0,)), (Cat(), (1, 2)), *gate]
        graph = by_hand(*rows, (Mul(), (3, len(rows))), (Linear(256, 5), (len(rows) + 1,)))
        return permutable_tensors(graph)[3]

    own = Conv(16, 16, 1, 1, 0, 1, True)
    assert not blind((Gap(1), (3,)))
    assert blind((Gap(1), (3,)), (own, (4,)))
    assert blind((Gap(1), (3,)), (own, (4,)), (Act("sigmoid"), (5,)))
    assert not blind((Gap(1), (3,)), (Conv(16, 16, 1, 1, 0, 2, True), (4,)))


def test_a_gate_that_others_read_keeps_the_order():
    own = Conv(16, 16, 1, 1, 0, 1, True)
    rows = [(conv(), (0,)), (conv(), (0,)), (Cat(), (1, 2)), (Gap(1), (3,)), (own, (4,)), (Mul(), (3, 5))]
    assert permutable_tensors(by_hand(*rows, (Linear(256, 5), (6,))))[3]
    other = [(Shuffle(2), (5,)), (Linear(16, 5), (8,)), (Add(), (7, 9))]
    assert not permutable_tensors(by_hand(*rows, (Linear(256, 5), (6,)), *other))[3]


def test_the_order_of_the_classes_counts():
    heads = [(Linear(128, 2), (0,)), (Linear(128, 3), (0,))]
    assert canonical_hash(by_hand(*heads, (Cat(), (1, 2)))) != canonical_hash(by_hand(*heads, (Cat(), (2, 1))))


def test_a_network_may_end_in_a_sum():
    heads = [(Linear(128, 5), (0,)), (Gap(1), (0,)), (Linear(8, 5), (2,))]
    one = canonical_hash(by_hand(*heads, (Add(), (1, 3))))
    assert one == canonical_hash(by_hand(*heads, (Add(), (3, 1)))) != canonical_hash(by_hand(*heads, (Add(), (3, 3))))


def test_operations_without_weights_on_one_tensor_are_one():
    def ending(*middle: tuple[Primitive, tuple[int, ...]]) -> str:
        end = len(middle)
        return canonical_hash(by_hand(*middle, (Cat(), (end - 1, end)), (Linear(256, 5), (end + 1,))))

    relu, norm, drop = Act("relu"), Norm(8, 0, True), Dropout(0.5, False)
    for op, alike in ((relu, True), (norm, False), (drop, False)):
        one = ending((op, (0,)), (conv(), (1,)), (conv(), (1,)))
        two = ending((op, (0,)), (op, (0,)), (conv(), (1,)), (conv(), (2,)))
        assert (one == two) == alike


# ---------------------------------------------------------------------- at random


def test_other_writings_of_random_networks_have_their_hash():
    rng = random.Random(1)
    for _ in range(400):
        genotype = random_genotype(rng)
        graph = expand(Genotype.from_dict(genotype))
        wanted = canonical_hash(graph)
        assert canonical_hash(expand(Genotype.from_dict(equivalent_genotype(rng, genotype)))) == wanted, genotype
        assert canonical_hash(relabeled(rng, graph)) == wanted, genotype
        assert canonical_hash(equivalent_graph(rng, graph)) == wanted, genotype


def test_places_pair_the_operations_of_equal_networks():
    rng = random.Random(2)
    for _ in range(100):
        graph = expand(Genotype.from_dict(random_genotype(rng)))
        other = equivalent_graph(rng, graph)
        paired = []
        for one in (graph, other):
            form = canonical_form(one)
            paired.append({form.positions[i]: op for i, op in enumerate(one.ops) if op.stateful})
        assert paired[0] == paired[1]


def test_nearly_equal_networks_are_told_apart_by_what_they_count():
    rng = random.Random(3)
    seen = Counter()
    for _ in range(400):
        graph = expand(Genotype.from_dict(random_genotype(rng)))
        other = near_duplicate(rng, graph)
        equal = canonical_hash(graph) == canonical_hash(other)
        assert not equal or sum(op.params for op in graph.ops) == sum(op.params for op in other.ops)
        seen[equal] += 1
    assert min(seen.values()) > 50


def test_a_long_network_is_no_matter():
    blocks = {"nodes": 4000, "growth": 8, "unit": ["bn", "relu", {"conv": 3}, "join"], "shortcut": {}}
    assert len(hash_of(blocks)) == 32


def test_sums_too_long_to_take_apart_stay_as_they_are(monkeypatch):
    graph = graph_of(stack([*CONV, "join"], shortcut={}))
    apart = canonical_hash(graph)
    monkeypatch.setattr(canonical, "MAX_READS", 8)
    nested = canonical_hash(graph)
    assert nested == canonical_hash(relabeled(random.Random(0), graph)) != apart


def test_many_alike_branches_are_no_matter():
    branch = [{"conv": 1, "out": 4}, "bn", "relu", {"conv": 3, "out": 8}, "bn"]
    wide = {"nodes": 300, "unit": branch, "reads": {"pattern": "input"}, "output": {"pattern": "nodes"}}
    graph = graph_of(wide, wide)
    assert canonical_hash(graph) == canonical_hash(equivalent_graph(random.Random(0), graph))


def test_random_genotypes_use_the_whole_language():
    rng = random.Random(4)
    said: set[str] = set()

    def note(value: Any) -> None:
        if isinstance(value, dict):
            said.update(value)
            for item in value.values():
                note(item)
        elif isinstance(value, list):
            for item in value:
                note(item)
        elif isinstance(value, str):
            said.add(value)

    for _ in range(400):
        note(random_genotype(rng))
    words = {*LAYERS, *PATTERNS, *OPERATORS}
    fields = {
        "units",
        "like",
        "let",
        "cardinality",
        "stride",
        "output",
        "match",
        "raw",
        "norm",
        "weight",
        "join",
        "skip",
    }
    assert (words | fields) - said == set()
