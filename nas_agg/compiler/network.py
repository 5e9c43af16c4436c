"""Graph -> torch.nn.Module: modules at the graph's paths, and a forward of one plain line an operation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nas_agg.compiler.weights import load_weights
from nas_agg.expansion import expand
from nas_agg.genotype import Genotype
from nas_agg.graph import Graph
from nas_agg.primitives import Scale


def compile(genotype: Genotype, seed: int | None = None, weights: str | os.PathLike[str] | None = None) -> Network:
    """Compiles a genotype into a network.

    Args:
        genotype: A genotype without open names.
        seed: Of the initial weights; None takes torch's global random state.
        weights: A ``.safetensors`` file of this network's weights.

    Returns:
        A module from images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Raises:
        GenotypeError: If the genotype is not a network.
        InputError: If the weights are another network's.
    """
    network = build(expand(genotype), seed)
    if weights is not None:
        load_weights(network, weights)
    return network


def build(graph: Graph, seed: int | None = None) -> Network:
    """Compiles a graph into a network; see `compile`."""
    network = Network(graph)
    network.start(seed)
    return network


class Network(nn.Module):
    """A compiled network.

    Its parameters bear the paths of the graph (``stage2.3.unit.conv1.weight``); ``source`` is the text of its forward.

    Args:
        graph: What it computes.
    """

    def __init__(self, graph: Graph):
        super().__init__()
        for op, path in zip(graph.ops, graph.paths, strict=True):
            if op.stateful:
                *around, name = path.split(".")
                place: nn.Module = self
                for part in around:
                    if part not in place._modules:
                        place.add_module(part, nn.Module())
                    place = place._modules[part]  # type: ignore[assignment]
                made = op.module()
                if made is None:
                    assert isinstance(op, Scale)
                    place.register_parameter(name, nn.Parameter(torch.full((op.channels, 1, 1), op.start)))
                else:
                    kind, arguments, options = made
                    place.add_module(name, getattr(nn, kind)(*arguments, **options))
        self.source = forward_source(graph)
        self._run = _function(self.source)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, classes)`` of images ``(N, channels, height, width)``."""
        return self._run(self, x)

    def start(self, seed: int | None = None) -> None:
        """He initialisation of convolutions and the classifier; scales keep their first value."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
                gain: Any = "relu" if isinstance(module, nn.Conv2d) else "linear"
                nn.init.kaiming_normal_(module.weight, nonlinearity=gain, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_run"]  # a function made from text: made again
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._run = _function(self.source)


def forward_source(graph: Graph) -> str:
    """The text of a network's forward: one line an operation, each tensor dropped after its last reader."""
    last = list(range(len(graph)))
    for i, inputs in enumerate(graph.inputs):
        for source in inputs:
            last[source] = i
    last[graph.output] = len(graph)
    lines = ["def forward(self, x0):"]
    for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
        if not inputs:
            continue
        target = _attribute(graph.paths[i]) if op.stateful else ""
        line = f"    x{i} = {op.call(target, *[f'x{source}' for source in inputs])}"
        done = [f"x{source}" for source in dict.fromkeys(inputs) if last[source] == i]
        lines.append(line + (f"; del {', '.join(done)}" if done else ""))
    lines.append(f"    return x{graph.output}.flatten(1)")
    return "\n".join(lines) + "\n"


def _attribute(path: str) -> str:
    """A path as Python says it."""
    found = "self"
    for part in path.split("."):
        found = f"getattr({found}, {part!r})" if re.match(r"\d", part) else f"{found}.{part}"
    return found


@lru_cache(maxsize=256)
def _function(source: str) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    # The text is made of the graph's own words and numbers alone; names in it were checked to be identifiers.
    scope: dict[str, Any] = {"torch": torch, "F": functional}
    exec(source, scope)
    return scope["forward"]
