"""What a network costs, by arithmetic: it equals the built network, and no torch is needed.

It counts the genotype's own network, before any pass of the compiler rewrites it. Convolutions and linear layers have
multiply-adds; norms, activations, pools and sums are not counted, as in the papers.
"""

from __future__ import annotations

from functools import cached_property
from math import ceil, prod
from typing import Any

from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.graph.connectivity import Wiring, stages
from nas_agg.graph.graph import Graph
from nas_agg.graph.rematerialization import FLOAT, MemoryMode, RematerializationPlan
from nas_agg.language.genotype import Genotype

BATCH = 32  # that a batch's own bytes are shared by

#: Every figure of a cost, with its unit.
FIGURES = {
    "params": "trainable numbers",
    "macs": "multiply-adds an image, of convolutions and linear layers",
    "flops": "2 * macs",
    "activation_bytes": "bytes an image that eager PyTorch keeps for backward (float32, at batch 32)",
    "activation_bytes_lean": "the same, when compiled with memory lean",
    "activation_bytes_leanest": "the same, when compiled with memory leanest",
    "peak_bytes_inference": "bytes an image of the largest live set in the graph's order (float32)",
    "depth": "convolutions and linear layers on the longest path",
    "connections": "pairs of a layer and a feature it reads directly, over the stages",
    "gradient_path": "most steps back from a layer to an earlier feature of its stage, on the shortest way",
    "hash": "equal for equal networks, however they are written",
}


class Cost:
    """The cost of one network; a figure is worked out when it is asked for.

    Args:
        graph: The network.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.kept: dict[str, tuple[int, int]] = {}

    @cached_property
    def params(self) -> int:
        """Trainable numbers."""
        graph = self.graph
        found = sum(op.params for op in graph.ops if op.stateful)
        return found - sum(graph.ops[i].params for i, first in graph.shared.items() if i != first)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds an image."""
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
            below = max([depths[i] for i in inputs], default=0)
            depths.append(below + (op.word in ("conv", "linear")))
        return depths[self.graph.output]

    @cached_property
    def roots(self) -> list[int]:
        """For each tensor the one whose memory it lies in: itself, unless it is a view."""
        found: list[int] = []
        for i, (op, inputs) in enumerate(zip(self.graph.ops, self.graph.inputs, strict=True)):
            found.append(found[inputs[0]] if op.view else i)
        return found

    @property
    def activation_bytes(self) -> int:
        """Bytes an image kept for backward: each tensor once, the image and batch statistics included."""
        return self.kept_bytes("plain")

    @property
    def activation_bytes_lean(self) -> int:
        """The same of a network compiled with memory ``lean``."""
        return self.kept_bytes("lean")

    @property
    def activation_bytes_leanest(self) -> int:
        """The same of a network compiled with memory ``leanest``."""
        return self.kept_bytes("leanest")

    def kept_bytes(self, memory: MemoryMode, batch: int = BATCH) -> int:
        """Bytes an image kept for backward in float32, the image included.

        Args:
            memory: What the network was compiled with: ``plain``, ``lean`` or ``leanest``.
            batch: Images that share a batch's statistics.
        """
        if memory not in self.kept:
            self.kept[memory] = (
                self.plainly_kept() if memory == "plain" else RematerializationPlan(self.graph, memory).kept_bytes()
            )
        image, shared = self.kept[memory]
        return image + ceil(shared / batch)

    def plainly_kept(self) -> tuple[int, int]:
        """What eager PyTorch keeps: bytes an image, and bytes a batch."""
        graph, roots = self.graph, self.roots
        grads: list[bool] = []
        kept: set[int] = set()
        image = batch = 0
        for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
            flows = tuple([grads[source] for source in inputs])
            grads.append(any(flows) or (op.stateful and op.params > 0))
            keeps = op.kept(flows, *[graph.shapes[source] for source in inputs], graph.shapes[i])
            image, batch = image + keeps.image, batch + keeps.batch
            kept.update(roots[inputs[place]] for place in keeps.inputs)
            if keeps.output:
                kept.add(i)
        return sum(FLOAT * prod(graph.shapes[i]) for i in kept) + image, batch

    @cached_property
    def peak_bytes_inference(self) -> int:
        """Bytes an image of the largest set of tensors alive at once, each freed after its last reader."""
        graph, roots = self.graph, self.roots
        last = list(range(len(graph)))
        for i, inputs in enumerate(graph.inputs):
            for source in inputs:
                last[roots[source]] = i
        last[roots[graph.output]] = len(graph)
        ends: dict[int, list[int]] = {}
        alive = peak = 0
        for i, shape in enumerate(graph.shapes):
            if roots[i] == i:
                alive += prod(shape)
                ends.setdefault(last[i], []).append(i)
            peak = max(peak, alive)
            alive -= sum(prod(graph.shapes[tensor]) for tensor in ends.pop(i, ()))
        return FLOAT * peak

    @cached_property
    def stages(self) -> list[Wiring]:
        """The wiring of each stage, in their order: a stage is a run of layers of one map size."""
        return stages(self.graph)

    @property
    def connections(self) -> int:
        """Pairs of a layer and a feature that it reads directly, over all stages."""
        return sum(stage.connections for stage in self.stages)

    @property
    def gradient_path(self) -> int | None:
        """The most steps from a layer back to an earlier feature of its stage, each time on the shortest way.

        None where a stage has too many connections to tell.
        """
        paths = [stage.gradient_path for stage in self.stages]
        return None if None in paths else max((path for path in paths if path is not None), default=0)

    @cached_property
    def hash(self) -> str:
        """The canonical hash."""
        return canonical_hash(self.graph)

    def __repr__(self) -> str:
        return f"Cost(params={self.params:,}, macs={self.macs:,})"

    def as_dict(self) -> dict[str, Any]:
        """All figures."""
        return {name: getattr(self, name) for name in FIGURES}


def cost(genotype: Genotype) -> Cost:
    """What a genotype's network costs.

    Args:
        genotype: A genotype without open names.

    Raises:
        GenotypeError: If it is not a network.
    """
    return Cost(expand(genotype))
