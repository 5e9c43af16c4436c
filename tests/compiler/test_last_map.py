"""The last feature map as the output of a module; everything else is unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler.last_map import LAST_MAP, last_map, with_last_map
from nas_agg.compiler.network import Network
from nas_agg.expansion.expansion import expand


def graph_of(*net: Any, image: tuple[int, int, int] = (3, 8, 8)) -> Any:
    return expand(nas_agg.load({"input": list(image), "classes": 2, "net": list(net)}))


@pytest.mark.parametrize(
    ("point", "shape", "ends"),
    [
        ("densenet/121", (1024, 7, 7), "act"),
        ("residual/resnet50", (2048, 7, 7), "act"),
        ("efficientnet/b0", (1280, 7, 7), "act"),  # behind the head's own convolution
        ("microdense/30a64", (80, 8, 8), "norm"),
    ],
)
def test_the_last_map_is_the_input_of_the_heads_pool(point: str, shape: tuple[int, int, int], ends: str) -> None:
    graph = expand(nas_agg.load(point))
    result = last_map(graph)
    (reader,) = graph.readers[result]
    assert graph.ops[reader].word == "gap"
    assert (graph.shapes[result], graph.ops[result].word) == (shape, ends)


def test_a_head_that_pools_to_several_pixels_begins_ahead_of_the_pool() -> None:
    graph = graph_of({"conv": 3, "out": 4}, {"gap": 2}, {"linear": "classes"})
    assert graph.shapes[last_map(graph)] == (4, 8, 8)


def test_maps_of_one_pixel_are_passed_over() -> None:
    graph = graph_of({"conv": 3, "out": 4}, {"conv": 8, "out": 5, "padding": 0}, "relu", "gap", {"linear": "classes"})
    assert graph.shapes[last_map(graph)] == (4, 8, 8)


def test_a_gate_inside_is_no_head() -> None:
    graph = graph_of({"conv": 3, "out": 4}, {"se": 2}, {"conv": 3, "out": 6}, "gap", {"linear": "classes"})
    assert graph.shapes[last_map(graph)] == (6, 8, 8)


def test_without_a_map_it_is_one_line() -> None:
    with pytest.raises(InputError, match="no feature map of more than one pixel ahead of its head"):
        last_map(graph_of({"conv": 1, "out": 4}, "gap", {"linear": "classes"}, image=(3, 1, 1)))
    with pytest.raises(InputError, match="no feature map"):
        last_map(graph_of({"linear": "classes"}))


def test_the_network_is_the_same_and_its_module_puts_out_the_map() -> None:
    graph = graph_of(
        {"conv": 3, "out": 4}, "relu", {"nodes": 2, "growth": 4, "unit": [{"conv": 3}, "bn", "join"], "shortcut": {}},
        "gap", {"linear": "classes"},
    )  # fmt: skip
    network = Network(graph).eval()
    watched = Network(with_last_map(graph)).eval()
    watched.load_state_dict(network.state_dict())
    observed = []
    watched.get_submodule(LAST_MAP).register_forward_hook(lambda _, args, out: observed.append(out))  # type: ignore[misc]
    images = torch.randn(3, 3, 8, 8)
    logits = network(images)
    assert torch.equal(watched(images), logits)
    (result,) = observed
    assert result.shape == (3, 4, 8, 8)
    linear = network.get_submodule("linear")
    assert torch.allclose(linear(result.mean((2, 3))), logits, atol=1e-6)
