"""Verification of emitted code: it is run on the meta device, and its names and shapes are compared with the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas_agg.compiler.network import Network
from nas_agg.graph.graph import Graph


def matches_graph(text: str, graph: Graph) -> bool:
    """True if a file's network has the parameter names and shapes of a graph, and as many logits.

    Args:
        text: Of the file; it is executed, without its part that runs as a script.
        graph: The network.
    """
    scope: dict[str, Any] = {"__name__": "model"}
    try:
        with torch.device("meta"), torch.no_grad():
            exec(text, scope)  # made from checked words, names and numbers alone
            network = scope["build"]().eval()
            logits = network(torch.empty(2, *graph.shapes[0]))
            return shapes(network) == shapes(Network(graph)) and logits.shape == (2, graph.shapes[graph.output][0])
    except Exception:  # whatever is wrong with a text that was written, it is not given to anyone
        return False


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
