"""Verification of emitted code: runs it on the meta device, and compares names and shapes with those of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas_agg.compiler.network import Network
from nas_agg.graph.graph import Graph


def matches_graph(text: str, graph: Graph) -> bool:
    """Whether a file's network has the parameter names and shapes of a graph, and as many logits.

    Args:
        text: Text of the file; it is executed as a module, not as a script.
        graph: The graph of the network.
    """
    scope: dict[str, Any] = {"__name__": "model"}
    try:
        with torch.device("meta"), torch.no_grad():
            exec(text, scope)  # consists of validated words, names and numbers only
            network = scope["build"]().eval()
            logits = network(torch.empty(2, *graph.shapes[0]))
            return shapes(network) == shapes(Network(graph)) and logits.shape == (2, graph.shapes[graph.output][0])
    except Exception:  # any error means that the text must not be used
        return False


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
