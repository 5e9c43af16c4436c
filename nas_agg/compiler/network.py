"""Graph -> torch.nn.Module: modules at the graph's paths, and a forward of one plain line an operation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from nas_agg.compiler.branches import branch_ends
from nas_agg.compiler.foreign import load_from
from nas_agg.expansion import expand
from nas_agg.genotype import Genotype
from nas_agg.graph import Graph
from nas_agg.primitives import Scale


def compile(
    genotype: Genotype,
    seed: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    zero_branches: bool = False,
    classifier_init: Literal["he", "glorot"] = "he",
) -> Network:
    """Compiles a genotype into a network.

    Args:
        genotype: A genotype without open names.
        seed: Of the initial weights; None takes torch's global random state.
        weights: A file of weights or the name of torchvision's; see `nas_agg.compiler.foreign.load_from`.
        download: Whether named weights that are not here are fetched.
        zero_branches: Whether the layers that `nas_agg.compiler.branches.branch_ends` finds start at zero.
        classifier_init: How linear layers start; see `Network.start`.

    Returns:
        A module from images ``(N, channels, height, width)`` to logits ``(N, classes)``.

    Raises:
        GenotypeError: If the genotype is not a network.
        InputError: If the weights are another network's.
    """
    graph = expand(genotype)
    network = build(graph, seed, zero_branches=zero_branches, classifier_init=classifier_init)
    if weights is not None:
        load_from(network, graph, weights, download)
    return network


def build(
    graph: Graph,
    seed: int | None = None,
    *,
    zero_branches: bool = False,
    classifier_init: Literal["he", "glorot"] = "he",
) -> Network:
    """Compiles a graph into a network; see `compile`."""
    network = Network(graph)
    network.start(seed, branch_ends(graph) if zero_branches else (), classifier_init)
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

    def start(
        self,
        seed: int | None = None,
        zeros: Iterable[str] = (),
        classifier_init: Literal["he", "glorot"] = "he",
    ) -> None:
        """Gives the weights their first values: He's of convolutions and linear layers; scales keep theirs.

        Args:
            seed: Of the values; None takes torch's global random state.
            zeros: Paths of layers that start at zero.
            classifier_init: How linear layers start: He's normal or Glorot's uniform distribution.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
                gain: Any = "relu" if isinstance(module, nn.Conv2d) else "linear"
                if gain == "linear" and classifier_init == "glorot":
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity=gain, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        parameters = dict(self.named_parameters())
        for path in zeros:
            nn.init.zeros_(parameters[path] if path in parameters else parameters[f"{path}.weight"])

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
