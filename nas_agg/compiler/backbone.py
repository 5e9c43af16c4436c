"""A network as a backbone: its stages' outputs, for what stands on top of them in detection and segmentation.

They are found on the graph. Of the tensors that every way from image to logits goes through it is the last at each
stride that leaves a node, or the last of all where none does (in a stem), with the norms and activations that alone
read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.compiler.network import Compiled, Network, build, compiled_forward, forward_source
from nas_agg.compiler.torchvision_weights import Weights, load_from
from nas_agg.expansion.expansion import expand
from nas_agg.expansion.passes import tidy
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Act, AdaptivePool, Conv, Linear, MaxPool, Norm
from nas_agg.graph.rematerialization import MemoryMode
from nas_agg.language.genotype import Genotype

_NODE = re.compile(r"\.(?:\d+(?=\.(?:unit|reads|shortcut)(?:\.|$))|output(?=\.|$))")
_INSIDE = 1_000  # deeper than nodes nest


class Feature(NamedTuple):
    """A stage's output.

    Attributes:
        name: ``stride8`` where the map has an eighth of the image's side.
        tensor: Its place in the graph.
        channels: Its channels.
        stride: Pixels of the image to one of the map, along a side.
    """

    name: str
    tensor: int
    channels: int
    stride: int


def features(graph: Graph) -> list[Feature]:
    """The outputs of a network's stages, the largest map first: one for each stride there is ahead of the head.

    The head begins where the map is pooled to a fixed size or flattened.

    Raises:
        InputError: If there are none.
    """
    strides = _strides(graph)
    found: dict[int, int] = {}
    depths: dict[int, int] = {}
    for i in passed_by_all(graph):
        if isinstance(graph.ops[i], (AdaptivePool, Linear)) or strides[i] == 0:
            break
        depth, stride = _ends(graph, i), strides[i]
        if depth <= depths.get(stride, _INSIDE):
            found[stride], depths[stride] = i, depth
    if not found:
        raise InputError("the network has no feature maps ahead of its head")
    tensors = {stride: _finished(graph, i) if depths[stride] < _INSIDE else i for stride, i in found.items()}
    return [Feature(f"stride{stride}", i, graph.shapes[i][0], stride) for stride, i in sorted(tensors.items())]


def passed_by_all(graph: Graph) -> list[int]:
    """The tensors behind the image that every way from image to logits goes through: no reader reaches across them."""
    found, furthest = [], 0
    for i in range(len(graph)):
        if furthest <= i and i:
            found.append(i)
        furthest = max([furthest, *graph.readers[i]])
    return found


def _strides(graph: Graph) -> list[int]:
    """Of each tensor the pixels of the image to one of its own, along a side; 0 where it is pooled to a fixed size."""
    found = [1]
    for op, inputs in zip(graph.ops[1:], graph.inputs[1:], strict=True):
        if isinstance(op, (AdaptivePool, Linear)):
            found.append(0)
        elif op.word == "mul":
            found.append(found[inputs[0]])  # the other is a gate
        else:
            found.append(max(found[i] for i in inputs) * (op.stride if isinstance(op, (Conv, MaxPool)) else 1))
    return found


def _ends(graph: Graph, tensor: int) -> int:
    """How deep the nodes are nested of which a tensor is what leaves them; `_INSIDE` where it leaves none."""
    path = graph.paths[tensor]
    for depth, node in enumerate(_NODE.finditer(path)):
        place = path[: node.end()]
        readers = [graph.paths[reader] for reader in graph.readers[tensor]]
        if not any(reader == place or reader.startswith(f"{place}.") for reader in readers):
            return depth
    return _INSIDE


def _finished(graph: Graph, tensor: int) -> int:
    """A tensor behind the norms and activations that alone read it."""
    while len(readers := graph.readers[tensor]) == 1 and isinstance(graph.ops[readers[0]], (Norm, Act)):
        tensor = readers[0]
    return tensor


def backbone(
    genotype: Genotype,
    seed: int | None = None,
    weights: Weights | None = None,
    *,
    download: bool = False,
    memory: MemoryMode = "plain",
    passes: Iterable[str] | None = None,
) -> Backbone:
    """Compiles a genotype into a backbone, which starts as the whole network does.

    Args:
        genotype: A genotype without open names.
        seed: Of the initial weights; None takes torch's global random state.
        weights: Of the whole network; see `nas_agg.compiler.torchvision_weights.load_from`.
        download: Whether named weights that are not here are fetched.
        memory: What training keeps for backward: ``plain``, what eager PyTorch keeps.
        passes: See `nas_agg.compiler.compilation.compile`.

    Raises:
        InputError: If it is not a network, has no feature maps, or the weights are another network's.
    """
    if memory != "plain":
        raise InputError(f"a backbone keeps what eager PyTorch keeps: memory 'plain', not {memory!r}")
    graph = tidy(expand(genotype), passes)
    found = features(graph)
    network = build(graph, seed)
    if weights is not None:
        load_from(network, graph, weights, download)
    made = Backbone(graph, found)
    made.load_state_dict(network.state_dict())
    return made


class Backbone(Compiled):
    """The part of a network ahead of its head, which gives the stages' outputs.

    Its parameters bear the names they have in the whole network, whose state it loads, leaving out the head's.

    Attributes:
        channels: Of each output, by name.
        strides: Of each output, by name.

    Args:
        graph: Of the whole network.
        found: What it gives; by default all of `features`.
    """

    def __init__(self, graph: Graph, found: list[Feature] | None = None):
        super().__init__()
        found = features(graph) if found is None else found
        self.channels = {feature.name: feature.channels for feature in found}
        self.strides = {feature.name: feature.stride for feature in found}
        end = max(feature.tensor for feature in found)
        kept = Graph(
            graph.ops[: end + 1], graph.inputs[: end + 1], graph.shapes[: end + 1], graph.paths[: end + 1], end
        )
        body = Network(kept)
        self._hidden = [name for name in (*body._modules, *body._parameters) if hasattr(self, name)]
        self._modules.update(body._modules)
        self._parameters.update(body._parameters)
        ops = zip(graph.ops[end + 1 :], graph.paths[end + 1 :], strict=True)
        self._head = tuple(path for op, path in ops if op.stateful)
        self.source = forward_source(kept, {feature.name: feature.tensor for feature in found})
        self._run: Any = compiled_forward(self.source)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The stages' outputs ``(N, channels, height, width)`` of images, by name, the largest map first."""
        return self._run(_Parts(self) if self._hidden else self, x)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads its own state, or that of the whole network without the head's."""
        around = tuple(f"{path}." for path in self._head)
        kept = {k: v for k, v in state_dict.items() if k not in self._head and not k.startswith(around)}
        return super().load_state_dict(kept, strict, assign)


class _Parts:
    """A module's parts, where they bear names of the module's own attributes: a unit may be called `strides`."""

    def __init__(self, module: nn.Module):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        module = self._module
        for parts in (module._modules, module._parameters):
            if name in parts:
                return parts[name]
        return getattr(module, name)
