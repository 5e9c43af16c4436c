"""Inference-only rewrites: norms folded into convolutions, pools moved ahead, one buffer for several concats.

Each pass is a function on a `Fusion`, a graph with its weights; `FUSIONS` lists the passes by name in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import torch

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.compiler.inference_modules import IN_PLACE, Buffer, Ceiling, Floor, InPlaceAct, Pointwise, Store
from nas_agg.compiler.network import Network
from nas_agg.expansion.passes import GraphRewriter, PassCount
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import (
    Act,
    Add,
    AvgPool,
    Cat,
    Conv,
    Dropout,
    Gap,
    Linear,
    MaxPool,
    Norm,
    Primitive,
    Scale,
    Slice,
)

_ZERO_FACTOR = 1e-12  # channel factors below this count as zero
_LARGEST_BOUND = 1e4  # in half precision the spacing of larger numbers is too coarse


class Fusion:
    """A graph and its weights, in double precision; passes change both.

    Attributes:
        graph: The graph.
        state: Its parameters and statistics by name, and ``eps`` of norms.

    Args:
        network: A network; it is not changed.
        graph: Its graph.
    """

    def __init__(self, network: Network, graph: Graph):
        self.graph = graph
        self.state = {name: value.double() for name, value in network.state_dict().items()}
        for path, op in zip(graph.paths, graph.ops, strict=True):
            if isinstance(op, Norm):
                self.state[f"{path}.eps"] = torch.tensor(network.get_submodule(path).eps, dtype=torch.float64)
        self._unshare_weights()

    def _unshare_weights(self) -> None:
        """Copy the weights that several operations share, since different factors are folded into each."""
        graph, paths = self.graph, list(self.graph.paths)
        for i, first in graph.shared.items():
            if i == first:
                continue
            while paths[i] in paths[:i]:
                paths[i] += "_"
            for name, value in list(self.state.items()):
                if name == paths[first] or name.startswith(f"{paths[first]}."):
                    self.state[paths[i] + name.removeprefix(paths[first])] = value
        self.graph = Graph(graph.ops, graph.inputs, graph.shapes, paths, graph.output, graph.notes)

    def affine(self, i: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Factor and term of each channel, of an operation that computes ``factor * x + term``; else None."""
        op, path = self.graph.ops[i], self.graph.paths[i]
        if op.__class__ is Scale:
            factor = self.state[path].flatten()
            return factor, torch.zeros_like(factor)
        if not isinstance(op, Norm) or op.groups:
            return None
        factor = (self.state[f"{path}.running_var"] + self.state[f"{path}.eps"]).rsqrt()
        if op.affine:
            factor = factor * self.state[f"{path}.weight"]
        return factor, (self.state[f"{path}.bias"] if op.affine else 0) - factor * self.state[f"{path}.running_mean"]

    def only_reader(self, i: int) -> int | None:
        """The only operation that reads a tensor; None if there are several or none."""
        readers = self.graph.readers[i]
        return readers[0] if len(readers) == 1 and i != self.graph.output else None

    def linear_readers(self, i: int) -> list[int]:
        """The convolutions and linear layers that read a tensor or its averages; empty if anything else reads it.

        These layers pad nothing with zeros, so that channel factors and terms ahead of them can be folded into them.
        """
        readers: list[int] = []
        todo = [i]
        while todo:
            at = todo.pop()
            if at == self.graph.output or not self.graph.readers[at]:
                return []
            for reader in self.graph.readers[at]:
                op = self.graph.ops[reader]
                if _is_average(op):
                    todo.append(reader)
                elif (isinstance(op, Conv) and op.padding == 0) or (
                    isinstance(op, Linear) and op.features == self.graph.shapes[at][0]
                ):
                    readers.append(reader)
                else:
                    return []
        return readers

    def bias(self, i: int) -> torch.Tensor:
        """The bias of a convolution or linear layer; zeros where it has none."""
        path = self.graph.paths[i]
        if f"{path}.bias" in self.state:
            return self.state[f"{path}.bias"]
        return self.state[f"{path}.weight"].new_zeros(self.graph.shapes[i][0])

    def with_bias(self, i: int) -> Primitive:
        """The operation at i; of a convolution that a term was folded into, the same with a bias."""
        op = self.graph.ops[i]
        if isinstance(op, Conv) and f"{self.graph.paths[i]}.bias" in self.state:
            return Conv(op.channels, op.out, op.kernel, op.stride, op.padding, op.groups, True)
        return op

    def fold_in(self, i: int, factor: torch.Tensor, term: torch.Tensor) -> None:
        """Change the linear readers of ``x`` so that they compute of x what they computed of ``factor * x + term``."""
        for reader in dict.fromkeys(self.linear_readers(i)):
            op, path = self.graph.ops[reader], self.graph.paths[reader]
            weight, groups = self.state[f"{path}.weight"], op.groups if isinstance(op, Conv) else 1
            rows = weight.shape[0] // groups
            factors, terms = (
                vector.view(groups, -1).repeat_interleave(rows, 0).view(*weight.shape[:2], *[1] * (weight.dim() - 2))
                for vector in (factor, term)
            )
            self.state[f"{path}.bias"] = self.bias(reader) + (weight * terms).flatten(1).sum(1)
            self.state[f"{path}.weight"] = weight * factors


def _is_average(op: Primitive) -> bool:
    """Whether every output is a mean of inputs, and therefore commutes with channel factors and terms."""
    return isinstance(op, Gap) or (isinstance(op, AvgPool) and op.padding == 0)


def remove_dropout(fusion: Fusion) -> None:
    """Remove dropout, the identity in inference."""
    copy = GraphRewriter(fusion.graph)
    for i, op, inputs in copy.operations():
        copy.new_tensors.append(inputs[0] if isinstance(op, Dropout) else copy.add(i, op, inputs))
    fusion.graph = copy.graph()


def pools_before_convolutions(fusion: Fusion) -> None:
    """Move an average pool ahead of the 1x1 convolution that it follows: they commute, and it is cheaper."""
    graph, copy = fusion.graph, GraphRewriter(fusion.graph)
    moved = {}
    for i, op in enumerate(graph.ops):
        if isinstance(op, Conv) and (op.kernel, op.stride, op.padding) == (1, 1, 0):
            pool = fusion.only_reader(i)
            if pool is not None and _is_average(graph.ops[pool]):
                moved[pool] = i
    convs = set(moved.values())
    for i, op, inputs in copy.operations():
        if i in convs:
            copy.new_tensors.append(inputs[0])
        elif i in moved:
            pooled = copy.add(i, op, inputs)
            copy.new_tensors.append(copy.add(moved[i], graph.ops[moved[i]], (pooled,)))
        else:
            copy.new_tensors.append(copy.add(i, op, inputs))
    fusion.graph = copy.graph()


def fold_norms_into_preceding(fusion: Fusion) -> None:
    """Fold norms and scales into the convolution or linear layer that they follow."""
    graph, copy = fusion.graph, GraphRewriter(fusion.graph)
    folded: set[int] = set()
    for i, op in enumerate(graph.ops):
        at: int | None = i if isinstance(op, (Conv, Linear)) else None
        while (
            at is not None and (at := fusion.only_reader(at)) is not None and (affine := fusion.affine(at)) is not None
        ):
            (factor, term), path = affine, graph.paths[i]
            bias, weight = fusion.bias(i), fusion.state[f"{path}.weight"]
            fusion.state[f"{path}.weight"] = weight * factor.view(-1, *[1] * (weight.dim() - 1))
            fusion.state[f"{path}.bias"] = bias * factor + term
            folded.add(at)
    for i, _, inputs in copy.operations():
        copy.new_tensors.append(inputs[0] if i in folded else copy.add(i, fusion.with_bias(i), inputs))
    fusion.graph = copy.graph()


def fold_norms_into_following(fusion: Fusion) -> None:
    """Fold norms and scales into the unpadded convolutions and linear layers that read them, also through averages."""
    graph, copy = fusion.graph, GraphRewriter(fusion.graph)
    folded: set[int] = set()
    for i in range(len(graph)):
        if (affine := fusion.affine(i)) is not None and fusion.linear_readers(i):
            folded.add(i)
            fusion.fold_in(i, *affine)
    for i, _, inputs in copy.operations():
        copy.new_tensors.append(inputs[0] if i in folded else copy.add(i, fusion.with_bias(i), inputs))
    fusion.graph = copy.graph()


def relus_before_norms(fusion: Fusion) -> None:
    """Move relus ahead of their norms: ``relu(s * x + t) = s * max(x, -t / s) + t``, with min where s is negative.

    Norm and relu become a bound, and s and t are folded into the convolutions that follow; where s is 0 the bound is 0.
    """
    graph, copy = fusion.graph, GraphRewriter(fusion.graph)
    bounds: dict[int, torch.Tensor] = {}  # by relu: the bounds of its norm's input
    signs: dict[int, torch.Tensor] = {}
    for i, op in enumerate(graph.ops):
        relu, affine = fusion.only_reader(i), fusion.affine(i)
        if not isinstance(op, Norm) or relu is None or affine is None or graph.ops[relu] != Act("relu"):
            continue
        if fusion.linear_readers(relu):
            factor, term = affine
            none = factor.abs() < _ZERO_FACTOR
            bound = torch.where(none, 0.0, -term / torch.where(none, 1.0, factor))
            if bound.abs().max() < _LARGEST_BOUND:
                bounds[relu], signs[relu] = bound, torch.where(none, 0.0, factor.sign())
                fusion.fold_in(relu, torch.where(none, 0.0, factor), torch.where(none, term.clamp(min=0), term))
    norms = {graph.inputs[relu][0] for relu in bounds}
    for i, _, inputs in copy.operations():
        if i in norms:
            copy.new_tensors.append(inputs[0])
        elif i in bounds:
            copy.new_tensors.append(
                _add_bounds(fusion, copy, graph.paths[graph.inputs[i][0]], inputs[0], bounds[i], signs[i])
            )
        else:
            copy.new_tensors.append(copy.add(i, fusion.with_bias(i), inputs))
    fusion.graph = copy.graph()


def _add_bounds(fusion: Fusion, copy: GraphRewriter, path: str, x: int, bound: torch.Tensor, sign: torch.Tensor) -> int:
    """Add bounds of a tensor: from below where the sign is positive, from above where negative, both where it is 0."""
    copy.tape.path = path
    for name, kind, of_sign in (("floor", Floor, 1), ("ceiling", Ceiling, -1)):
        if (bounded := sign * of_sign >= 0).any():
            x = copy.tape.add(kind(len(bound)), x, at=f".{name}")  # the norm's own path is free
            unbounded = torch.full_like(bound, -of_sign * torch.inf)
            fusion.state[f"{path}.{name}"] = torch.where(bounded, bound, unbounded).view(-1, 1, 1)
    return x


def share_buffers(fusion: Fusion) -> None:
    """Make concats that are runs of other concats views of one buffer, in which each feature is written once."""
    graph, copy = fusion.graph, GraphRewriter(fusion.graph)
    buffer_of: dict[int, _Buffer] = {}
    for longest, concats in _concats_to_share(graph):
        buffer_of.update(dict.fromkeys(concats, _Buffer(graph, copy, longest)))
    for i, op, inputs in copy.operations():
        copy.new_tensors.append(buffer_of[i].view(i) if i in buffer_of else copy.add(i, op, inputs))
    fusion.graph = copy.graph()


class _Buffer:
    """A buffer that is filled part by part, as far as the concats so far need it."""

    def __init__(self, graph: Graph, copy: GraphRewriter, longest: int):
        self.graph, self.copy = graph, copy
        self.parts = graph.inputs[longest]
        self.begins = [0, *accumulate(graph.shapes[part][0] for part in self.parts)]
        self.tensor = self.filled = 0

    def view(self, concat: int) -> int:
        """Write the parts of a concat that the buffer lacks; returns the view that replaces the concat."""
        tape, begins = self.copy.tape, self.begins
        tape.path = self.graph.paths[concat]
        first, count = _find_run(self.parts, self.graph.inputs[concat])
        for at in range(self.filled, first + count):
            part = self.copy.new_tensors[self.parts[at]]
            fill: Primitive = Store(begins[at]) if at else Buffer(begins[-1])
            self.tensor = tape.add(fill, *((self.tensor, part) if at else (part,)))
        self.filled = max(self.filled, first + count)
        if count == len(self.parts):
            return self.tensor
        return tape.add(Slice(begins[first], begins[first + count] - begins[first]), self.tensor)


def _find_run(parts: tuple[int, ...], run: tuple[int, ...]) -> tuple[int, int]:
    """Position and length of a run among the parts; (-1, 0) if it is not there."""
    for at in range(len(parts) - len(run) + 1):
        if parts[at : at + len(run)] == run:
            return at, len(run)
    return -1, 0


def _concats_to_share(graph: Graph) -> list[tuple[int, list[int]]]:
    """Concats that contain the parts of others as runs, each with these others and itself."""
    concats = [i for i, op in enumerate(graph.ops) if isinstance(op, Cat)]
    concats.sort(key=lambda i: -len(graph.inputs[i]))
    groups: list[tuple[int, list[int]]] = []
    by_part: dict[int, list[int]] = {}
    for i in concats:
        for at in by_part.get(graph.inputs[i][0], ()):
            parts = graph.inputs[groups[at][0]]
            first, count = _find_run(parts, graph.inputs[i])
            if count and max(parts[: first + count]) < i:  # all parts ahead of it are computed by then
                groups[at][1].append(i)
                break
        else:
            for part in set(graph.inputs[i]):
                by_part.setdefault(part, []).append(len(groups))
            groups.append((i, [i]))
    return [(longest, concats) for longest, concats in groups if len(concats) > 1]


def fast_pointwise(fusion: Fusion) -> None:
    """Compute 1x1 convolutions by the kernel that is fast for few images."""
    copy = GraphRewriter(fusion.graph)
    for i, op, inputs in copy.operations():
        if isinstance(op, Conv) and (op.kernel, op.stride, op.padding, op.groups) == (1, 1, 0, 1):
            op = Pointwise(*op.arguments())
        copy.new_tensors.append(copy.add(i, op, inputs))
    fusion.graph = copy.graph()


def activations_in_place(fusion: Fusion) -> None:
    """Compute activations in place, where nothing else reads their input."""
    graph, copy = fusion.graph, GraphRewriter(fusion.graph)
    own = (Conv, Norm, Add, Scale, MaxPool, Linear)  # operations whose output is new memory
    for i, op, inputs in copy.operations():
        if isinstance(op, Act) and op.function in IN_PLACE:
            source = graph.inputs[i][0]
            if fusion.only_reader(source) == i and isinstance(graph.ops[source], own):
                op = InPlaceAct(op.function)
        copy.new_tensors.append(copy.add(i, op, inputs))
    fusion.graph = copy.graph()


FUSIONS: dict[str, Callable[[Fusion], None]] = {
    "remove_dropout": remove_dropout,
    "pools_before_convolutions": pools_before_convolutions,
    "fold_norms_into_preceding": fold_norms_into_preceding,
    "relus_before_norms": relus_before_norms,
    "fold_norms_into_following": fold_norms_into_following,
    "share_buffers": share_buffers,
    "activations_in_place": activations_in_place,
    "fast_pointwise": fast_pointwise,
}


def fuse(network: Network, graph: Graph, passes: Iterable[str] = tuple(FUSIONS)) -> Fused:
    """An inference-only network that computes what ``network`` computes in eval mode.

    Args:
        network: With its weights; it is not changed.
        graph: Its graph.
        passes: Names of `FUSIONS`, in the order in which they run.

    Raises:
        InputError: There is no such pass.
    """
    fusion = Fusion(network, graph)
    for _ in _apply_passes(fusion, passes):
        pass
    fused = Fused(fusion.graph)
    if (first := next(network.parameters(), None)) is not None:
        fused.to(first.device, first.dtype)
    fused.load_state_dict({name: fusion.state.get(name, value) for name, value in fused.state_dict().items()})
    return fused.eval().requires_grad_(False)


def pass_counts(network: Network, graph: Graph, passes: Iterable[str] = tuple(FUSIONS)) -> list[PassCount]:
    """The number of operations before and after each pass; see `fuse`."""
    return list(_apply_passes(Fusion(network, graph), passes))


def _apply_passes(fusion: Fusion, passes: Iterable[str]) -> Iterator[PassCount]:
    for name in passes:
        if name not in FUSIONS:
            raise InputError(
                f"unknown pass {name!r}{did_you_mean(str(name), FUSIONS)}; choose from {', '.join(FUSIONS)}"
            )
        before = len(fusion.graph)
        FUSIONS[name](fusion)
        yield PassCount(name, before, len(fusion.graph))


class Fused(Network):
    """An inference-only network: no gradients, no training mode, channels_last convolutions."""

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Fused:
        """Do nothing: a fused network has no training mode, since its norms are folded."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, classes)`` of images ``(N, channels, height, width)``."""
        return super().forward(x)
