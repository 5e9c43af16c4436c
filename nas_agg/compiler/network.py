"""Compiles a graph into a torch.nn.Module: modules at the graph's paths, and a forward of one line per operation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from nas_agg.common.errors import InputError, did_you_mean, truncate
from nas_agg.common.values import is_integer
from nas_agg.compiler.remat import kernels
from nas_agg.compiler.remat.executor import RematerializedForward
from nas_agg.compiler.residual_branches import aggregation_weights
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Scale
from nas_agg.graph.rematerialization import MEMORY_MODES, MemoryMode


def build(
    graph: Graph,
    seed: int | None = None,
    *,
    zeros: Iterable[str] = (),
    classifier_init: Literal["he", "glorot"] = "he",
    conv_init: Literal["fan_in", "fan_out", "fan_out_uniform"] = "fan_in",
    memory: MemoryMode = "plain",
) -> Network:
    """Build a graph's network with initial weights; see `Network` and `init_weights`."""
    network = Network(graph, memory)
    init_weights(network, seed, zeros, classifier_init, conv_init)
    return network


class CompiledModule(nn.Module):
    """A module whose forward is compiled from its ``source``."""

    source: str

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_run"]  # a function that __setstate__ compiles again
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._run = compiled_forward(self.source)


class Network(CompiledModule):
    """A compiled network.

    Its parameters are named by the paths of the graph (``stage2.3.unit.conv1.weight``); ``source`` is the text of its
    forward.

    In training, mode ``plain`` keeps for backward what eager PyTorch keeps. ``lean`` keeps the outputs of convolutions
    and recomputes concats, norms and activations; ``leanest`` recomputes the 1x1 convolutions of bottlenecks as well.
    All modes compute the same function. The last two do not run hooks of modules; where modules have hooks, the
    network runs as in ``plain``.

    Args:
        graph: The graph.
        memory: The memory mode.

    Raises:
        InputError: There is no such memory mode.
    """

    def __init__(self, graph: Graph, memory: MemoryMode = "plain"):
        super().__init__()
        if memory not in MEMORY_MODES:
            hint = did_you_mean(str(memory), MEMORY_MODES) or f"; choose from {', '.join(MEMORY_MODES)}"
            raise InputError(f"unknown memory mode {memory!r}{hint}")
        for i, (op, path) in enumerate(zip(graph.ops, graph.paths, strict=True)):
            if op.stateful and graph.shared.get(i, i) == i:
                *around, name = path.split(".")
                parent: nn.Module = self
                for part in around:
                    if part not in parent._modules:
                        parent.add_module(part, nn.Module())
                    parent = parent._modules[part]  # type: ignore[assignment]
                module = op.module()
                if module is None:
                    assert isinstance(op, Scale)
                    parent.register_parameter(name, nn.Parameter(torch.full((op.channels, 1, 1), op.start)))
                else:
                    kind, arguments, options = module
                    parent.add_module(name, getattr(nn, kind)(*arguments, **options))
        self.source = forward_source(graph)
        self._run = compiled_forward(self.source)
        self._memory = memory  # private, as a part of a network may be called `memory`
        self._aggregation_weights = aggregation_weights(graph)
        self._rematerialized = None if memory == "plain" else RematerializedForward(graph, memory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, classes)`` of images ``(N, channels, height, width)``."""
        if self._rematerialized is not None and torch.is_grad_enabled():
            logits = self._rematerialized(self, x)
            if logits is not None:
                return logits
        return self._run(self, x)


def init_weights(
    network: Network,
    seed: int | None = None,
    zeros: Iterable[str] = (),
    classifier_init: Literal["he", "glorot"] = "he",
    conv_init: Literal["fan_in", "fan_out", "fan_out_uniform"] = "fan_in",
) -> None:
    """Initialise a network's weights; ``scale`` layers and gather weights keep the values of the genotype.

    Args:
        network: The network.
        seed: Seed of the values; None uses torch's global random state.
        zeros: Paths of layers that are initialised at zero.
        classifier_init: Linear layers: He's normal or Glorot's uniform distribution.
        conv_init: Convolutions: He's normal distribution of variance 2 / fan_in or 2 / fan_out, or the uniform
            distribution of the latter variance. fan_out is output channels times kernel area, regardless of groups.
    """
    if seed is not None and not (is_integer(seed) and 0 <= seed < 2**63):
        raise InputError(f"seed: must be an integer from 0 to 2**63 - 1, not {truncate(repr(seed))}")
    generator = None if seed is None else torch.Generator().manual_seed(int(seed))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
            if isinstance(module, nn.Conv2d):
                he = nn.init.kaiming_uniform_ if conv_init == "fan_out_uniform" else nn.init.kaiming_normal_
                mode: Any = conv_init.removesuffix("_uniform")
                he(module.weight, mode=mode, nonlinearity="relu", generator=generator)
            elif classifier_init == "glorot":
                nn.init.xavier_uniform_(module.weight, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    parameters = dict(network.named_parameters())
    for path in zeros:
        nn.init.zeros_(parameters[path] if path in parameters else parameters[f"{path}.weight"])


def memory_of(model: nn.Module) -> MemoryMode:
    """A model's memory mode: that of a `Network`, ``plain`` of any other module."""
    return model._memory if isinstance(model, Network) else "plain"


def aggregation_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters by which a `Network`'s gathers multiply their sources; empty for any other module."""
    return [model.get_parameter(name) for name in model._aggregation_weights] if isinstance(model, Network) else []


def forward_source(graph: Graph, outputs: Mapping[str, int] | None = None) -> str:
    """The text of a network's forward: one line per operation, each tensor deleted after its last reader.

    Args:
        graph: The graph.
        outputs: Tensors to return by name, instead of logits.
    """
    last = list(range(len(graph)))
    for i, inputs in enumerate(graph.inputs):
        for source in inputs:
            last[source] = i
    for tensor in (graph.output, *(outputs or {}).values()):
        last[tensor] = len(graph)
    lines = ["def forward(self, x0):"]
    for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
        if not inputs:
            continue
        target = _attribute(graph.paths[i]) if op.stateful else ""
        line = f"    x{i} = {op.call(target, *[f'x{source}' for source in inputs])}"
        done = [f"x{source}" for source in dict.fromkeys(inputs) if last[source] == i]
        lines.append(line + (f"; del {', '.join(done)}" if done else ""))
    named = ", ".join(f"{name!r}: x{tensor}" for name, tensor in (outputs or {}).items())
    lines.append(f"    return {{{named}}}" if named else f"    return x{graph.output}.flatten(1)")
    return "\n".join(lines) + "\n"


def _attribute(path: str) -> str:
    """A path as a Python expression."""
    text = "self"
    for part in path.split("."):
        text = f"getattr({text}, {part!r})" if re.match(r"\d", part) else f"{text}.{part}"
    return text


@lru_cache(maxsize=256)
def compiled_forward(source: str) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """The function of a forward's text, which contains only the graph's own words, numbers and validated names."""
    scope: dict[str, Any] = {"torch": torch, "F": functional, "kernels": kernels}
    exec(source, scope)
    return scope["forward"]
