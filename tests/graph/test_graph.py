"""The tape and the graph: what is written in one way only, what is dropped, what is refused."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import networkx
import pytest
from corpus.formulas import CONV, graph_of
from corpus.random_genotypes import random_genotype
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph, Tape
from nas_agg.graph.primitives import Act, Add, Cat, Conv, Norm, Slice
from nas_agg.language.genotype import Genotype

SHAPE = (8, 4, 4)


def channels(tape: Tape, tensor: int) -> list[tuple[int, int]]:
    """A tensor's channels, each as (tensor, channel) of what is neither a concat nor a slice."""
    op, inputs = tape.ops[tensor], tape.inputs[tensor]
    if isinstance(op, Cat):
        return [channel for source in inputs for channel in channels(tape, source)]
    if isinstance(op, Slice):
        return channels(tape, inputs[0])[op.first : op.first + op.channels]
    return [(tensor, i) for i in range(tape.shapes[tensor][0])]


def test_concats_are_flat() -> None:
    tape = Tape(SHAPE)
    a, b = tape.add(Act("relu"), 0), tape.add(Act("sigmoid"), 0)
    both = tape.cat([a, tape.cat([0, b])])
    assert tape.inputs[both] == (a, 0, b) and tape.shapes[both] == (24, 4, 4)
    assert tape.cat([a]) == a


def test_neighbouring_slices_merge_and_a_slice_of_a_concat_is_a_concat_of_slices() -> None:
    tape = Tape(SHAPE)
    a = tape.add(Act("relu"), 0)
    assert tape.cat([tape.slice(a, 0, 3), tape.slice(a, 3, 5)]) == a
    middle = tape.slice(tape.cat([0, a]), 6, 5)
    assert channels(tape, middle) == [(0, 6), (0, 7), (a, 0), (a, 1), (a, 2)]
    assert all(isinstance(tape.ops[part], Slice) for part in tape.inputs[middle])
    inner = tape.slice(tape.slice(a, 1, 6), 2, 2)
    assert tape.ops[inner] == Slice(3, 2) and tape.inputs[inner] == (a,)
    assert tape.slice(a, 0, 8) == a


@settings(max_examples=100)
@given(st.data())
def test_concats_of_anything_are_flat_and_keep_their_channels(data: st.DataObject) -> None:
    tape = Tape(SHAPE)
    tensors = [0, tape.add(Act("relu"), 0), tape.add(Conv(8, 3, 1, 1, 0, 1, False), 0)]
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            chosen = data.draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=4))
            expected = [channel for tensor in chosen for channel in channels(tape, tensor)]
            found = tape.cat(chosen)
        else:
            source = data.draw(st.sampled_from(tensors))
            first = data.draw(st.integers(0, tape.shapes[source][0] - 1))
            count = data.draw(st.integers(1, tape.shapes[source][0] - first))
            expected = channels(tape, source)[first : first + count]
            found = tape.slice(source, first, count)
        assert channels(tape, found) == expected and tape.shapes[found] == (len(expected), 4, 4)
        tensors.append(found)
    for op, inputs in zip(tape.ops, tape.inputs, strict=True):
        if isinstance(op, (Cat, Slice)):
            assert not any(isinstance(tape.ops[source], Cat) for source in inputs)
        if isinstance(op, Slice):
            assert not isinstance(tape.ops[inputs[0]], Slice)
        if isinstance(op, Cat):
            assert len(inputs) > 1
            for a, b in pairwise(inputs):
                one, two = tape.ops[a], tape.ops[b]
                if isinstance(one, Slice) and isinstance(two, Slice) and tape.inputs[a] == tape.inputs[b]:
                    assert one.first + one.channels != two.first


def test_a_norm_without_affine_is_one_operation_per_source_and_kind() -> None:
    tape = Tape(SHAPE)
    assert tape.normalize(0, 4) == tape.normalize(0, 4) != tape.normalize(0, 2)
    assert tape.ops[tape.normalize(0, 4)] == Norm(8, 4, False)


def test_what_does_not_lead_to_the_output_is_dropped() -> None:
    net = {
        "nodes": 3,
        "growth": 4,
        "unit": [CONV],
        "reads": {"pattern": "input"},
        "output": {"pattern": {"edges": [[0, 2]]}},
    }
    graph = graph_of(net)
    assert sum(op.word == "conv" for op in graph.ops) == 1
    assert all(graph.readers[i] for i in range(len(graph) - 1)) and not graph.readers[graph.output]


def test_an_order_in_which_it_can_be_computed() -> None:
    rng = random.Random(3)
    for _ in range(30):
        graph = expand(Genotype.from_dict(random_genotype(rng)))
        assert all(source < i for i, row in enumerate(graph.inputs) for source in row)
        assert graph.output == len(graph) - 1 and graph.shapes[graph.output] == (5, 1, 1)
        for i, (op, row) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
            assert op.shape(*[graph.shapes[source] for source in row]) == graph.shapes[i]
        held: dict[str, set[Any]] = {}
        for i, (op, path) in enumerate(zip(graph.ops, graph.paths, strict=True)):
            if op.stateful:
                held.setdefault(path, set()).add((op, graph.shared.get(i, i)))
        assert all(len(ops) == 1 for ops in held.values())  # one path, one kind of weights, of one gather's `each`
        assert all(".each." in graph.paths[i] for i in graph.shared)


def test_as_a_networkx_graph() -> None:
    net = {"nodes": 2, "growth": 4, "unit": [CONV], "reads": {"pattern": "dense", "operator": "concat"}}
    graph = graph_of(net, {"unit": ["join"], "shortcut": {}})
    drawn = graph.digraph()
    assert networkx.is_directed_acyclic_graph(drawn) and len(drawn) == len(graph)
    assert drawn.number_of_edges() == sum(len(set(row)) for row in graph.inputs)
    twice = next(i for i, op in enumerate(graph.ops) if op.word == "add")
    assert drawn.edges[graph.inputs[twice][0], twice]["positions"] == [0, 1]
    assert drawn.nodes[1] == {"op": Conv(4, 4, 1, 1, 0, 1, False), "shape": (4, 8, 8), "path": "aggregate1.0.unit.conv"}
    assert drawn.graph["output"] == graph.output


@pytest.mark.parametrize(
    ("op", "inputs", "said"),
    [
        (Add(), ((8, 4, 4), (8, 4, 5)), "sum needs equal shapes, not 8x4x4 and 8x4x5"),
        (Cat(), ((8, 4, 4), (7, 5, 4)), "concat needs equal map sizes, not 8x4x4 and 7x5x4"),
        (Slice(7, 2), ((8, 4, 4),), "channels 7 to 8 exceed the input's 8 channels"),
        (Conv(8, 8, 6, 1, 0, 1, False), ((8, 4, 9),), "kernel size 6 with padding 0 does not fit a 4x9 map"),
    ],
)
def test_operations_whose_inputs_do_not_fit(op: Any, inputs: tuple, said: str) -> None:
    with pytest.raises(GenotypeError, match=said):
        op.shape(*inputs)


def test_graphs_of_nothing_but_an_image() -> None:
    graph = Tape((10, 1, 1)).graph(0)
    assert isinstance(graph, Graph) and len(graph) == 1 and graph.readers == [[]]
