"""Equivalent writings of genotypes and graphs, and networks that are nearly equal."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

from corpus.random_genotypes import aggregates_of
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Add
from nas_agg.language.patterns import PATTERNS

# ---------------------------------------------------------------------- other writings of a genotype


def equivalent_genotype(rng: random.Random, genotype: dict[str, Any]) -> dict[str, Any]:
    """Return the same network with patterns as edges, units in lists, and named steps and gathers."""
    rewritten = deepcopy(genotype)
    let = rewritten.setdefault("let", {})
    for step in list(aggregates_of(rewritten)):
        n = step.get("nodes", len(step.get("units", ())) or 1)
        if rng.random() < 0.6:
            _write_edges(step, n)
        for field in ("reads", "shortcut", "output"):
            if field in step and rng.random() < 0.3:
                let[name := f"gather{len(let)}"] = step[field]
                step[field] = name
        if "unit" in step and "like" not in step and rng.random() < 0.3:
            step["unit"] = [step["unit"]]
        if "unit" in step and rng.random() < 0.3:
            let[name := f"unit{len(let)}"] = step["unit"]
            step["unit"] = name
    return rewritten


def _write_edges(step: dict[str, Any], n: int) -> None:
    rows = {"reads": range(1, n + (1 if "output" in step else 2)), "shortcut": range(1, n + 1), "output": (n + 1,)}
    for field, positions in rows.items():
        pattern = step.get(field, {}).get("pattern", "previous")
        word, values = (pattern, {}) if isinstance(pattern, str) else (next(iter(pattern)), pattern)
        if field not in step or word == "edges":
            continue
        step[field]["pattern"] = {"edges": [PATTERNS[word].sources(p, **values) for p in positions]}


# ---------------------------------------------------------------------- other writings of a graph


def equivalent_graph(rng: random.Random, graph: Graph) -> Graph:
    """Return the same network as another graph: operations and terms reordered, sums nested or flattened."""
    inputs = [list(row) for row in graph.inputs]
    ops, shapes = list(graph.ops), list(graph.shapes)
    for i, op in enumerate(graph.ops):
        if op.commutative:
            rng.shuffle(inputs[i])
        if op.word == "add" and len(inputs[i]) > 2 and rng.random() < 0.5:
            inner = [inputs[i].pop() for _ in range(rng.randint(2, len(inputs[i]) - 1))]
            ops.append(Add())
            shapes.append(shapes[i])
            inputs.append(inner)
            inputs[i].append(len(ops) - 1)
    for i, row in enumerate(inputs):
        for k, source in enumerate(row):
            if ops[i].word == "add" and ops[source].word == "add" and rng.random() < 0.3:
                inputs[i] = [*row[:k], *row[k + 1 :], *inputs[source]]
                break
    return relabeled(
        rng,
        Graph(
            ops, [tuple(row) for row in inputs], shapes, [*graph.paths, *[""] * (len(ops) - len(graph))], graph.output
        ),
    )


def relabeled(rng: random.Random, graph: Graph) -> Graph:
    """Return a graph with other paths and in another topological order, without dead operations."""
    stack, alive = [graph.output], {0}
    while stack:
        i = stack.pop()
        alive.add(i)
        stack.extend(source for source in graph.inputs[i] if source not in alive)
    left = {i: len(set(graph.inputs[i])) for i in alive}
    order, ready = [], [0]
    while ready:
        order.append(i := ready.pop(rng.randrange(len(ready))))
        for reader in set(graph.readers[i]) & alive:
            left[reader] -= 1
            if not left[reader]:
                ready.append(reader)
    place = {i: k for k, i in enumerate(order)}
    named = {i: f"part{rng.randrange(3)}.op{place[i]}" for i in order}
    first: dict[int, int] = {}  # operations with weights in common keep them
    for i in order:
        if i in graph.shared:
            named[i] = named[first.setdefault(graph.shared[i], i)]
    return Graph(
        [graph.ops[i] for i in order],
        [tuple(place[source] for source in graph.inputs[i]) for i in order],
        [graph.shapes[i] for i in order],
        [named[i] for i in order],
        place[graph.output],
    )


def with_permuted_concats(rng: random.Random, graph: Graph) -> Graph:
    """Return the network with permuted concats; it is equal if the order is only a matter of weights."""
    shuffle = [op.word == "cat" and rng.random() < 0.7 for op in graph.ops]
    inputs = [tuple(rng.sample(row, len(row))) if on else row for on, row in zip(shuffle, graph.inputs, strict=True)]
    return relabeled(rng, Graph(graph.ops, inputs, graph.shapes, graph.paths, graph.output))


def near_duplicate(rng: random.Random, graph: Graph) -> Graph:
    """Return a network that is equal or differs slightly: in a source, or in an operation moved, split or merged."""
    ops, shapes, paths = list(graph.ops), list(graph.shapes), list(graph.paths)
    inputs = [list(row) for row in graph.inputs]
    kinds = ["reroute", "swap", "split", "merge"]
    rng.shuffle(kinds)
    for kind in kinds[: rng.randint(1, 2)]:
        if kind == "reroute":
            _reroute(rng, shapes, inputs)
        elif kind == "swap":
            _swap(rng, ops, shapes, inputs, paths)
        elif kind == "split":
            _split(rng, ops, shapes, inputs)
            paths += [""] * (len(ops) - len(paths))
        else:
            _merge(rng, ops, inputs)
    shape_of = [
        op.shape(*[shapes[s] for s in row]) if row else shapes[i]
        for i, (op, row) in enumerate(zip(ops, inputs, strict=True))
    ]
    assert shape_of == shapes
    return relabeled(rng, Graph(ops, [tuple(row) for row in inputs], shapes, paths, graph.output))


def _reroute(rng: random.Random, shapes: list, inputs: list[list[int]]) -> None:
    """Let one reader read an earlier tensor of the same shape."""
    choices = [
        (i, k, s)
        for i, row in enumerate(inputs)
        for k, t in enumerate(row)
        for s in range(min(i, t))
        if shapes[s] == shapes[t]
    ]
    if choices:
        i, k, source = rng.choice(choices)
        inputs[i][k] = source


def _swap(rng: random.Random, ops: list, shapes: list, inputs: list[list[int]], paths: list[str]) -> None:
    """Swap two neighbouring operations."""
    pairs = [
        (row[0], i)
        for i, row in enumerate(inputs)
        if len(row) == 1 and len(inputs[row[0]]) == 1 and shapes[i] == shapes[row[0]] == shapes[inputs[row[0]][0]]
    ]
    if pairs:
        a, b = rng.choice(pairs)
        ops[a], ops[b], paths[a], paths[b] = ops[b], ops[a], paths[b], paths[a]


def _split(rng: random.Random, ops: list, shapes: list, inputs: list[list[int]]) -> None:
    """Duplicate an operation that is read twice; the network is equal only if the operation has no weights."""
    read: dict[int, list[tuple[int, int]]] = {}
    for i, row in enumerate(inputs):
        for k, source in enumerate(row):
            read.setdefault(source, []).append((i, k))
    choices = [i for i, readers in read.items() if i and len(readers) > 1]
    if choices:
        i = rng.choice(choices)
        ops.append(ops[i])
        shapes.append(shapes[i])
        inputs.append(list(inputs[i]))
        reader, k = rng.choice(read[i])
        inputs[reader][k] = len(ops) - 1


def _merge(rng: random.Random, ops: list, inputs: list[list[int]]) -> None:
    """Merge two equal operations on one tensor; the network is equal only if they have no weights."""
    first: dict[tuple, int] = {}
    for i, row in enumerate(inputs):
        same = first.setdefault((ops[i], tuple(row)), i)
        if same != i and rng.random() < 0.7:
            for other in inputs:
                other[:] = [same if source == i else source for source in other]
