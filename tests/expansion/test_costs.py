"""Costs: by hand, by another way of counting, and without torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from math import prod
from typing import Any

import pytest
from corpus import NETWORKS
from corpus.formulas import CONV, graph_of
from corpus.random_genotypes import random_genotype

from nas_agg.expansion.costs import COST_METRICS, Cost, cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype


def costs(*net: Any, **fields: Any) -> Cost:
    return Cost(graph_of(*net, **fields))


def test_a_network_by_hand() -> None:
    # 4x8x8 -> conv 3x3 -> 6x8x8 -> bn -> relu -> gap -> linear
    counted = costs({"conv": 3, "out": 6}, "bn", "relu")
    assert counted.params == 9 * 4 * 6 + 12 + 6 * 3 + 3
    assert counted.macs == 9 * 4 * 6 * 64 + 18
    assert counted.flops == 2 * counted.macs
    assert counted.depth == 2
    # For backward: the image, the conv's output, relu's output, the pooled map; the statistics of a batch of 32.
    assert counted.activation_bytes == 4 * (4 * 64 + 6 * 64 + 6 * 64 + 6) + 2 * 4 * 6 // 32 + 1
    # In inference: the conv's output and the norm's, or the norm's and relu's.
    assert counted.peak_bytes_inference == 4 * 2 * 6 * 64


def test_depth_is_that_of_the_longest_path() -> None:
    assert costs().depth == 1
    assert (
        costs({"nodes": 3, "growth": 4, "unit": [CONV], "reads": {"pattern": "dense", "operator": "concat"}}).depth == 4
    )
    branches = {"nodes": 3, "growth": 4, "unit": [CONV], "reads": {"pattern": "input"}, "output": {"pattern": "nodes"}}
    assert costs(branches).depth == 2
    assert costs({"unit": [CONV, {"se": 2}, "join"], "growth": 8, "shortcut": {"match": [CONV]}}).depth == 4
    by_name = {network["name"]: cost(Genotype.from_dict(network["genotype"])).depth for network in NETWORKS}
    assert by_name["ResNet-50"] == 50 and by_name["DenseNet-121"] == 121 and by_name["PyramidNet-110 a48"] == 110


def test_what_is_kept_for_backward_by_hand() -> None:
    last = 4 * 4  # the pooled map, which the classifier keeps
    image = 4 * 4 * 64
    one = 4 * 4 * 64
    assert costs().activation_bytes == last
    assert costs(CONV | {"out": 4}).activation_bytes == image + last
    # The image needs no gradient, so nothing before the first weights is kept.
    assert costs("relu", {"maxpool": 3, "stride": 1}, CONV | {"out": 4}).activation_bytes == one + last
    conv = costs(CONV | {"out": 4})
    for layer, further in [
        ("relu", one), ("sigmoid", one), ("swish", one), ("leaky", one),  # output or input
        ("gn", one + 2 * 4 * 4), ("ln", one + 2 * 4), ("scale", one),
        ({"dropout": 0.5}, one), ({"dropout": 0.5, "channels": True}, 4 * 4),
        ({"maxpool": 2}, one + 8 * 4 * 16), ({"avgpool": 2}, one), ({"shuffle": 2}, 0), ({"pad": 6}, 8), ("gap", 0),
        ({"times": 2}, 0), ({"drop-path": 0.5}, 4), ("gmp", one + 8 * 4), ("channel-mean", 4 * (1 - 4)),
        ("channel-max", one + 4 * 64 + 4 * (1 - 4)),
    ]:  # fmt: skip
        assert costs(CONV | {"out": 4}, layer).activation_bytes - conv.activation_bytes == further, layer
    # Each tensor once: relu's output serves relu and the conv behind it.
    assert costs(CONV | {"out": 4}, "relu", CONV | {"out": 4}).activation_bytes == image + one + last


def by_simulation(graph: Graph) -> int:
    """Bytes an image of the most that is alive at once, by running through the graph with a set of buffers."""
    owner: dict[int, int] = {}
    waiting = [len(readers) for readers in graph.readers]
    users: dict[int, set[int]] = {}
    most = 0
    for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
        owner[i] = owner[inputs[0]] if op.word == "slice" else i
        users.setdefault(owner[i], set()).add(i)
        most = max(most, sum(prod(graph.shapes[buffer]) for buffer, tensors in users.items() if tensors))
        for source in inputs:
            waiting[source] -= 1
        for tensor in {*inputs, i}:
            if not waiting[tensor] and tensor != graph.output:
                users[owner[tensor]].discard(tensor)
    return 4 * most


def test_peak_bytes_are_those_of_a_simulation() -> None:
    rng = random.Random(5)
    graphs = [expand(Genotype.from_dict(random_genotype(rng))) for _ in range(150)]
    graphs += [expand(Genotype.from_dict(network["genotype"])) for network in NETWORKS]
    for graph in graphs:
        assert Cost(graph).peak_bytes_inference == by_simulation(graph)


def test_all_figures_are_given() -> None:
    figures = costs({"unit": [CONV | {"out": 4}]}).as_dict()
    assert list(figures) == list(COST_METRICS)
    assert all(type(figure) is int and figure > 0 for name, figure in figures.items() if name != "hash")
    assert json.dumps(figures) and int(figures["hash"], 16)


def test_scaling_the_image_scales_the_multiply_adds() -> None:
    genotype = Genotype.from_dict(next(n["genotype"] for n in NETWORKS if n["name"] == "Micro-Dense Net 30a64"))
    small, large = cost(genotype), cost(genotype.with_task(input=(3, 64, 64)))
    classifier = 80 * 10
    assert large.params == small.params and large.macs - classifier == 4 * (small.macs - classifier)


@pytest.mark.parametrize("module", ["torch", "optuna", "torchvision", "sklearn", "numpy"])
def test_counting_imports_no(module: str) -> None:
    written = next(n["genotype"] for n in NETWORKS if n["name"] == "Micro-Dense Net 30a64")
    code = (
        "import json, sys\n"
        "from nas_agg.expansion.costs import cost\n"
        "from nas_agg.language.genotype import Genotype\n"
        "figures = cost(Genotype.from_dict(json.load(sys.stdin))).as_dict()\n"
        f"assert {module!r} not in sys.modules\n"
        "print(figures['params'], figures['macs'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(written), capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.split() == ["724727", "139549472"], ran.stderr
