"""Networks with the methods of timm's models; `nas_agg.integrations.timm.register` adds functions that make them.

timm finds the functions and their configurations in this module: see `default_cfgs`.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from nas_agg.common.errors import InputError
from nas_agg.compiler.backbone import Backbone, features
from nas_agg.compiler.network import Network, compiled_forward, forward_source
from nas_agg.graph.graph import Graph

#: Configurations of the registered networks by their names.
default_cfgs: dict[str, Any] = {}
__all__: list[str] = []


class TimmNetwork(Network):
    """A compiled network with the methods that timm expects of a model.

    Args:
        graph: The graph.
        config: timm's configuration of the pretrained model.
    """

    def __init__(self, graph: Graph, config: dict[str, Any]):
        super().__init__(graph)
        self.pretrained_cfg = self.default_cfg = config
        self._classifier = config.get("classifier")
        self.num_classes = graph.shapes[graph.output][0]
        linear = self.get_classifier()
        self.num_features = linear.in_features if isinstance(linear, nn.Linear) else self.num_classes
        self.head_hidden_size = self.num_features
        end = features(graph)[-1].tensor
        kept = Graph(
            graph.ops[: end + 1], graph.inputs[: end + 1], graph.shapes[: end + 1], graph.paths[: end + 1], end
        )
        self._features_source = forward_source(kept, {"features": end})
        lines = self.source.splitlines()
        self._head_source = "\n".join([f"def forward(self, x{end}):", *lines[end + 1 :]]) + "\n"

    def get_classifier(self) -> nn.Module | None:
        """The last linear layer; None if the network has none."""
        return None if self._classifier is None else self.get_submodule(self._classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer by a new one, or with 0 classes by none.

        Raises:
            InputError: The network has no linear layer.
        """
        linear = self.get_classifier()
        if linear is None or self._classifier is None:
            raise InputError("num_classes: the network does not end in a linear layer")
        weight = next(self.parameters())
        layer = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        parent, _, name = self._classifier.rpartition(".")
        setattr(self.get_submodule(parent), name, layer.to(weight.device, weight.dtype))
        self.num_classes = num_classes

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map (N, channels, height, width)."""
        return compiled_forward(self._features_source)(self, x)["features"]  # type: ignore[index]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the last feature map, or with `pre_logits` what the last linear layer would read."""
        if not pre_logits:
            return compiled_forward(self._head_source)(self, x)
        read: list[Tensor] = []
        linear = self.get_classifier()
        if linear is None:
            raise InputError("pre_logits: the network does not end in a linear layer")
        hook = linear.register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0]))
        try:
            compiled_forward(self._head_source)(self, x)
        finally:
            hook.remove()
        return read[0]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused: the memory modes of `nas_agg.compile` save more."""
        if enable:
            raise InputError("grad_checkpointing: use nas_agg.compile(..., memory='lean')")


class TimmBackbone(Backbone):
    """The feature maps of a network as a list, as timm's models with ``features_only`` return them.

    Args:
        graph: The graph of the whole network.
        out_indices: Positions of the maps to return, largest map first; by default all.

    Raises:
        InputError: There is no such map.
    """

    def __init__(self, graph: Graph, out_indices: tuple[int, ...] | None = None):
        found = features(graph)
        wanted = tuple(range(len(found))) if out_indices is None else tuple(i % len(found) for i in out_indices)
        if out_indices is not None and any(not -len(found) <= i < len(found) for i in out_indices):
            raise InputError(f"out_indices: the network has {len(found)} feature maps, not {list(out_indices)}")
        super().__init__(graph, [found[i] for i in wanted])
        info = [{"num_chs": one.channels, "reduction": one.stride, "module": graph.paths[one.tensor]} for one in found]
        self.feature_info = FeatureInfo(info, wanted)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """The maps (N, channels, height, width), largest first."""
        return list(super().forward(x).values())
