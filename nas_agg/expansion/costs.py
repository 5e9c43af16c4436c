"""The cost of a network by arithmetic on its graph, without torch; it equals that of the built network.

The genotype's own network is counted, before any pass of the compiler rewrites it. Only convolutions and linear layers
have multiply-adds; norms, activations, pools and sums are not counted, as in the papers.
"""

from __future__ import annotations

from functools import cached_property
from math import ceil, prod
from typing import Any

from nas_agg.common.console import format_bytes, format_count
from nas_agg.common.display import Displayed
from nas_agg.expansion.expansion import expand
from nas_agg.graph.backward_plan import FLOAT_BYTES
from nas_agg.graph.canonical import canonical_hash
from nas_agg.graph.connectivity import Connectivity, stage_connectivity
from nas_agg.graph.graph import Graph
from nas_agg.graph.rematerialization import MemoryMode, RematerializationPlan
from nas_agg.language.genotype import Genotype

BATCH = 32  # images over which the bytes saved per batch are distributed

#: Metrics of a cost, with their units.
COST_METRICS = {
    "params": "trainable parameters",
    "macs": "multiply-adds per image, of convolutions and linear layers",
    "flops": "2 * macs",
    "activation_bytes": "bytes per image that eager PyTorch saves for backward (float32, at batch 32)",
    "activation_bytes_lean": "the same in memory mode lean",
    "activation_bytes_leanest": "the same in memory mode leanest",
    "peak_bytes_inference": "bytes per image of the largest set of live tensors in the graph's order (float32)",
    "depth": "convolutions and linear layers on the longest path",
    "connections": "pairs of a layer and a feature that it reads directly, over all stages",
    "gradient_path": "longest of the shortest paths from a layer back to an earlier feature of its stage",
    "hash": "equal for equal networks, however they are written",
}


class Cost(Displayed):
    """The cost of a network; each metric is computed on first access.

    Args:
        graph: The network.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._saved_bytes: dict[str, tuple[int, int]] = {}

    @cached_property
    def params(self) -> int:
        """Trainable parameters; shared ones count once."""
        graph = self.graph
        total = sum(op.params for op in graph.ops if op.stateful)
        return total - sum(graph.ops[i].params for i, first in graph.shared.items() if i != first)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds per image."""
        graph = self.graph
        return sum(op.macs(shape) for op, shape in zip(graph.ops, graph.shapes, strict=True) if op.stateful)

    @property
    def flops(self) -> int:
        """Twice the multiply-adds."""
        return 2 * self.macs

    @cached_property
    def depth(self) -> int:
        """Convolutions and linear layers on the longest path from image to logits."""
        depths: list[int] = []
        for op, inputs in zip(self.graph.ops, self.graph.inputs, strict=True):
            depth = max([depths[i] for i in inputs], default=0)
            depths.append(depth + (op.word in ("conv", "linear")))
        return depths[self.graph.output]

    @cached_property
    def storages(self) -> list[int]:
        """For each tensor the tensor that owns its memory: itself, unless it is a view."""
        storages: list[int] = []
        for i, (op, inputs) in enumerate(zip(self.graph.ops, self.graph.inputs, strict=True)):
            storages.append(storages[inputs[0]] if op.view else i)
        return storages

    @property
    def activation_bytes(self) -> int:
        """Bytes per image saved for backward: each tensor once, the image and batch statistics included."""
        return self.bytes_for_backward("plain")

    @property
    def activation_bytes_lean(self) -> int:
        """The same for a network compiled in memory mode ``lean``."""
        return self.bytes_for_backward("lean")

    @property
    def activation_bytes_leanest(self) -> int:
        """The same for a network compiled in memory mode ``leanest``."""
        return self.bytes_for_backward("leanest")

    def bytes_for_backward(self, memory: MemoryMode, batch: int = BATCH) -> int:
        """Return the bytes per image saved for backward in float32, the image included.

        Args:
            memory: Memory mode of the network: ``plain``, ``lean`` or ``leanest``.
            batch: Number of images over which the bytes saved per batch are distributed.
        """
        if memory not in self._saved_bytes:
            self._saved_bytes[memory] = (
                self._eagerly_saved_bytes()
                if memory == "plain"
                else RematerializationPlan(self.graph, memory).saved_bytes()
            )
        per_image, per_batch = self._saved_bytes[memory]
        return per_image + ceil(per_batch / batch)

    def _eagerly_saved_bytes(self) -> tuple[int, int]:
        """Return what eager PyTorch saves for backward: bytes per image, and bytes per batch."""
        graph, storages = self.graph, self.storages
        needs_grad: list[bool] = []
        saved: set[int] = set()
        per_image = per_batch = 0
        for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
            grads = tuple([needs_grad[source] for source in inputs])
            needs_grad.append(any(grads) or (op.stateful and op.params > 0))
            tensors = op.saved_for_backward(grads, *[graph.shapes[source] for source in inputs], graph.shapes[i])
            per_image, per_batch = per_image + tensors.image, per_batch + tensors.batch
            saved.update(storages[inputs[position]] for position in tensors.inputs)
            if tensors.output:
                saved.add(i)
        return sum(FLOAT_BYTES * prod(graph.shapes[i]) for i in saved) + per_image, per_batch

    @cached_property
    def peak_bytes_inference(self) -> int:
        """Bytes per image of the largest set of tensors live at once, each freed after its last reader."""
        graph, storages = self.graph, self.storages
        last_use = list(range(len(graph)))
        for i, inputs in enumerate(graph.inputs):
            for source in inputs:
                last_use[storages[source]] = i
        last_use[storages[graph.output]] = len(graph)
        freed: dict[int, list[int]] = {}
        live = peak = 0
        for i, shape in enumerate(graph.shapes):
            if storages[i] == i:
                live += prod(shape)
                freed.setdefault(last_use[i], []).append(i)
            peak = max(peak, live)
            live -= sum(prod(graph.shapes[tensor]) for tensor in freed.pop(i, ()))
        return FLOAT_BYTES * peak

    @cached_property
    def stages(self) -> list[Connectivity]:
        """Connectivity of each stage, in order; a stage is a run of layers of one map size."""
        return stage_connectivity(self.graph)

    @property
    def connections(self) -> int:
        """Pairs of a layer and a feature that it reads directly, over all stages."""
        return sum(stage.connections for stage in self.stages)

    @property
    def gradient_path(self) -> int | None:
        """Longest of the shortest paths from a layer back to an earlier feature of its stage, in layers.

        None if a stage has more than ``MAX_CONNECTIONS`` connections.
        """
        paths = [stage.gradient_path for stage in self.stages]
        return None if None in paths else max((path for path in paths if path is not None), default=0)

    @cached_property
    def hash(self) -> str:
        """Canonical hash."""
        return canonical_hash(self.graph)

    def __repr__(self) -> str:
        return f"Cost(params={self.params:,}, macs={self.macs:,})"

    def as_dict(self) -> dict[str, Any]:
        """Return all metrics by name."""
        return {name: getattr(self, name) for name in COST_METRICS}


def cost_rows(cost: Cost) -> list[list[str]]:
    """The rows of a table of all metrics: name, value and meaning."""
    return [[name, _value_text(name, value), COST_METRICS[name]] for name, value in cost.as_dict().items()]


def _value_text(name: str, value: Any) -> str:
    if name == "hash" or value is None:
        return str(value or "-")
    return format_bytes(value) if "bytes" in name else format_count(value)


def cost(genotype: Genotype) -> Cost:
    """Return the cost of a genotype's network.

    Args:
        genotype: A genotype without search variables.

    Raises:
        GenotypeError: The genotype is not a valid network.
    """
    return Cost(expand(genotype))
