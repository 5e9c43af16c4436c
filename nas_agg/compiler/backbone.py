"""Backbones: the outputs of a network's stages, for detection and segmentation heads.

The outputs are found on the graph. Among the tensors on every path from image to logits, a stage's output is the last
one of its stride that is the output of a node (or the last one at all, if no node has that stride, as in a stem),
followed by the norms and activations that are its only readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.compiler.network import CompiledModule, Network, build, compiled_forward, forward_source
from nas_agg.compiler.torchvision_weights import Weights, load_weights_from
from nas_agg.expansion.expansion import expand
from nas_agg.expansion.passes import apply_passes
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Act, AdaptivePool, Conv, Linear, MaxPool, Norm
from nas_agg.graph.rematerialization import MemoryMode
from nas_agg.language.genotype import Genotype

_NODE = re.compile(r"\.(?:\d+(?=\.(?:unit|reads|shortcut)(?:\.|$))|output(?=\.|$))")
_NO_NODE_OUTPUT = 1_000  # larger than any nesting depth


class Feature(NamedTuple):
    """A stage's output.

    Attributes:
        name: ``stride8`` if the map has one eighth of the image's side.
        tensor: Its index in the graph.
        channels: Its channels.
        stride: Image pixels per pixel of the map, along a side.
    """

    name: str
    tensor: int
    channels: int
    stride: int


def features(graph: Graph) -> list[Feature]:
    """The outputs of a network's stages, largest map first: one per stride ahead of the head.

    The head begins where the map is pooled to a fixed size or flattened.

    Raises:
        InputError: There are none.
    """
    strides = _strides(graph)
    last_of_stride: dict[int, int] = {}
    depths: dict[int, int] = {}
    for i in tensors_on_every_path(graph):
        if isinstance(graph.ops[i], (AdaptivePool, Linear)) or strides[i] == 0:
            break
        depth, stride = _node_depth(graph, i), strides[i]
        if depth <= depths.get(stride, _NO_NODE_OUTPUT):
            last_of_stride[stride], depths[stride] = i, depth
    if not last_of_stride:
        raise InputError("the network has no feature maps ahead of its head")
    tensors = {
        stride: _after_norm_and_activation(graph, i) if depths[stride] < _NO_NODE_OUTPUT else i
        for stride, i in last_of_stride.items()
    }
    return [Feature(f"stride{stride}", i, graph.shapes[i][0], stride) for stride, i in sorted(tensors.items())]


def tensors_on_every_path(graph: Graph) -> list[int]:
    """The tensors, except the image, through which every path from image to logits passes."""
    tensors, furthest = [], 0
    for i in range(len(graph)):
        if furthest <= i and i:
            tensors.append(i)
        furthest = max([furthest, *graph.readers[i]])
    return tensors


def _strides(graph: Graph) -> list[int]:
    """For each tensor, image pixels per pixel along a side; 0 where it was pooled to a fixed size."""
    strides = [1]
    for op, inputs in zip(graph.ops[1:], graph.inputs[1:], strict=True):
        if isinstance(op, (AdaptivePool, Linear)):
            strides.append(0)
        elif op.word == "mul":
            strides.append(strides[inputs[0]])  # the other input is a gate
        else:
            strides.append(max(strides[i] for i in inputs) * (op.stride if isinstance(op, (Conv, MaxPool)) else 1))
    return strides


def _node_depth(graph: Graph, tensor: int) -> int:
    """Nesting depth of the outermost node whose output a tensor is; `_NO_NODE_OUTPUT` if it is the output of none."""
    path = graph.paths[tensor]
    for depth, node in enumerate(_NODE.finditer(path)):
        place = path[: node.end()]
        readers = [graph.paths[reader] for reader in graph.readers[tensor]]
        if not any(reader == place or reader.startswith(f"{place}.") for reader in readers):
            return depth
    return _NO_NODE_OUTPUT


def _after_norm_and_activation(graph: Graph, tensor: int) -> int:
    """The tensor after the norms and activations that are its only readers."""
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
    """Compile a genotype into a backbone, initialised as the whole network is.

    Args:
        genotype: A genotype without search variables.
        seed: Seed of the initial weights; None uses torch's global random state.
        weights: Weights of the whole network; see `nas_agg.compiler.torchvision_weights.load_from`.
        download: Whether named weights that are not cached are downloaded.
        memory: Must be ``plain``.
        passes: See `nas_agg.compiler.compilation.compile`.

    Raises:
        InputError: It is not a network or has no feature maps, or the weights are those of another network.
    """
    if memory != "plain":
        raise InputError(f"a backbone supports memory mode 'plain' only, not {memory!r}")
    graph = apply_passes(expand(genotype), passes)
    outputs = features(graph)
    network = build(graph, seed)
    if weights is not None:
        load_weights_from(network, graph, weights, download)
    result = Backbone(graph, outputs)
    result.load_state_dict(network.state_dict())
    return result


class Backbone(CompiledModule):
    """The part of a network ahead of its head; it returns the stages' outputs.

    Its parameters have the names of the whole network, whose state dict it loads without the head.

    Attributes:
        channels: Channels of each output, by name.
        strides: Stride of each output, by name.

    Args:
        graph: The whole network's.
        outputs: The outputs; by default all of `features`.
    """

    def __init__(self, graph: Graph, outputs: list[Feature] | None = None):
        super().__init__()
        outputs = features(graph) if outputs is None else outputs
        self.channels = {feature.name: feature.channels for feature in outputs}
        self.strides = {feature.name: feature.stride for feature in outputs}
        end = max(feature.tensor for feature in outputs)
        kept = Graph(
            graph.ops[: end + 1], graph.inputs[: end + 1], graph.shapes[: end + 1], graph.paths[: end + 1], end
        )
        body = Network(kept)
        self._hidden = [name for name in (*body._modules, *body._parameters) if hasattr(self, name)]
        self._modules.update(body._modules)
        self._parameters.update(body._parameters)
        ops = zip(graph.ops[end + 1 :], graph.paths[end + 1 :], strict=True)
        self._head = tuple(path for op, path in ops if op.stateful)
        self.source = forward_source(kept, {feature.name: feature.tensor for feature in outputs})
        self._run: Any = compiled_forward(self.source)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The stages' outputs ``(N, channels, height, width)`` by name, largest map first."""
        return self._run(_Submodules(self) if self._hidden else self, x)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load its own state, or that of the whole network without the head."""
        head = tuple(f"{path}." for path in self._head)
        kept = {k: v for k, v in state_dict.items() if k not in self._head and not k.startswith(head)}
        return super().load_state_dict(kept, strict, assign)


class _Submodules:
    """Access to submodules whose names are attributes of the module as well: a unit may be called `strides`."""

    def __init__(self, module: nn.Module):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        module = self._module
        for parts in (module._modules, module._parameters):
            if name in parts:
                return parts[name]
        return getattr(module, name)
