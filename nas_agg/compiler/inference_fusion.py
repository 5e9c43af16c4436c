"""Networks for inference alone: norms folded into convolutions, pools first, one buffer for many concats.

Each pass is a function on a `Fusion`, a graph with its weights, and stands in `FUSIONS` under its name, its switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import torch

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.compiler.inference_modules import IN_PLACE, ActHere, Buffer, Ceiling, Floor, Pointwise, Store
from nas_agg.compiler.network import Network
from nas_agg.expansion.passes import Copy, Count
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

_SMALL = 1e-12  # a factor of a channel that is none
_FAR = 1e4  # the largest bound that half precision still tells from its neighbours


class Fusion:
    """A graph and its weights, in double precision; passes change both.

    Attributes:
        graph: What is computed.
        state: Its parameters and statistics, by name; of norms ``eps`` too.

    Args:
        network: A network; it stays as it is.
        graph: The network's.
    """

    def __init__(self, network: Network, graph: Graph):
        self.graph = graph
        self.state = {name: value.double() for name, value in network.state_dict().items()}
        for path, op in zip(graph.paths, graph.ops, strict=True):
            if isinstance(op, Norm):
                self.state[f"{path}.eps"] = torch.tensor(network.get_submodule(path).eps, dtype=torch.float64)
        self._part_weights()

    def _part_weights(self) -> None:
        """Gives weights of their own to operations that have them in common, since what is folded into each differs."""
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
        """What an operation multiplies channels by, and what it adds; None if it does anything else."""
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
        """The one operation that reads a tensor, if it is one."""
        readers = self.graph.readers[i]
        return readers[0] if len(readers) == 1 and i != self.graph.output else None

    def weighers(self, i: int) -> list[int]:
        """The layers that weigh single values or averages of a tensor, if nothing else comes of it; otherwise none.

        Such a layer adds no border of zeros, so that factors and terms of channels ahead of it can become its weights.
        """
        found: list[int] = []
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
                    found.append(reader)
                else:
                    return []
        return found

    def bias(self, i: int) -> torch.Tensor:
        """The bias of a convolution or linear layer; zeros where it has none."""
        found = self.state.get(f"{self.graph.paths[i]}.bias")
        return (
            self.state[f"{self.graph.paths[i]}.weight"].new_zeros(self.graph.shapes[i][0]) if found is None else found
        )

    def with_bias(self, i: int) -> Primitive:
        """An operation; a convolution with a bias if it has come to have one."""
        op = self.graph.ops[i]
        if isinstance(op, Conv) and f"{self.graph.paths[i]}.bias" in self.state:
            return Conv(op.channels, op.out, op.kernel, op.stride, op.padding, op.groups, True)
        return op

    def fold_in(self, i: int, factor: torch.Tensor, term: torch.Tensor) -> None:
        """Lets the layers that weigh ``x`` do it as they weighed ``factor * x + term``."""
        for reader in dict.fromkeys(self.weighers(i)):
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
    """Whether every output is an average of inputs, so that it commutes with factors and terms of channels."""
    return isinstance(op, Gap) or (isinstance(op, AvgPool) and op.padding == 0)


def without_dropout(of: Fusion) -> None:
    """Dropout is nothing."""
    copy = Copy(of.graph)
    for i, op, inputs in copy.operations():
        copy.place.append(inputs[0] if isinstance(op, Dropout) else copy.add(i, op, inputs))
    of.graph = copy.graph()


def pools_first(of: Fusion) -> None:
    """An average pool behind a 1x1 convolution goes before it: they commute, and the convolution is smaller."""
    graph, copy = of.graph, Copy(of.graph)
    moved = {}
    for i, op in enumerate(graph.ops):
        if isinstance(op, Conv) and (op.kernel, op.stride, op.padding) == (1, 1, 0):
            pool = of.only_reader(i)
            if pool is not None and _is_average(graph.ops[pool]):
                moved[pool] = i
    convs = set(moved.values())
    for i, op, inputs in copy.operations():
        if i in convs:
            copy.place.append(inputs[0])
        elif i in moved:
            pooled = copy.add(i, op, inputs)
            copy.place.append(copy.add(moved[i], graph.ops[moved[i]], (pooled,)))
        else:
            copy.place.append(copy.add(i, op, inputs))
    of.graph = copy.graph()


def norms_back(of: Fusion) -> None:
    """Norms and scales behind a convolution or linear layer are folded into it."""
    graph, copy = of.graph, Copy(of.graph)
    folded: set[int] = set()
    for i, op in enumerate(graph.ops):
        at: int | None = i if isinstance(op, (Conv, Linear)) else None
        while at is not None and (at := of.only_reader(at)) is not None and (affine := of.affine(at)) is not None:
            (factor, term), path = affine, graph.paths[i]
            bias, weight = of.bias(i), of.state[f"{path}.weight"]
            of.state[f"{path}.weight"] = weight * factor.view(-1, *[1] * (weight.dim() - 1))
            of.state[f"{path}.bias"] = bias * factor + term
            folded.add(at)
    for i, _, inputs in copy.operations():
        copy.place.append(inputs[0] if i in folded else copy.add(i, of.with_bias(i), inputs))
    of.graph = copy.graph()


def norms_forward(of: Fusion) -> None:
    """Norms and scales ahead of layers that weigh single values or averages are folded into these."""
    graph, copy = of.graph, Copy(of.graph)
    folded: set[int] = set()
    for i in range(len(graph)):
        if (affine := of.affine(i)) is not None and of.weighers(i):
            folded.add(i)
            of.fold_in(i, *affine)
    for i, _, inputs in copy.operations():
        copy.place.append(inputs[0] if i in folded else copy.add(i, of.with_bias(i), inputs))
    of.graph = copy.graph()


def relus_first(of: Fusion) -> None:
    """``relu(s * x + t)`` ahead of 1x1 convolutions is ``s * max(x, -t / s) + t``, or min where s is negative.

    So a bound remains of norm and relu, and s and t are folded into the convolutions; where s is 0 the bound is 0.
    """
    graph, copy = of.graph, Copy(of.graph)
    bounds: dict[int, torch.Tensor] = {}  # a relu -> bounds of what its norm reads
    signs: dict[int, torch.Tensor] = {}
    for i, op in enumerate(graph.ops):
        relu, affine = of.only_reader(i), of.affine(i)
        if not isinstance(op, Norm) or relu is None or affine is None or graph.ops[relu] != Act("relu"):
            continue
        if of.weighers(relu):
            factor, term = affine
            none = factor.abs() < _SMALL
            bound = torch.where(none, 0.0, -term / torch.where(none, 1.0, factor))
            if bound.abs().max() < _FAR:
                bounds[relu], signs[relu] = bound, torch.where(none, 0.0, factor.sign())
                of.fold_in(relu, torch.where(none, 0.0, factor), torch.where(none, term.clamp(min=0), term))
    norms = {graph.inputs[relu][0] for relu in bounds}
    for i, _, inputs in copy.operations():
        if i in norms:
            copy.place.append(inputs[0])
        elif i in bounds:
            copy.place.append(_bounded(of, copy, graph.paths[graph.inputs[i][0]], inputs[0], bounds[i], signs[i]))
        else:
            copy.place.append(copy.add(i, of.with_bias(i), inputs))
    of.graph = copy.graph()


def _bounded(of: Fusion, copy: Copy, path: str, x: int, bound: torch.Tensor, sign: torch.Tensor) -> int:
    """Writes the bounds of a tensor: from below where the sign is positive, from above where negative, both at 0."""
    copy.tape.path = path
    for name, kind, of_sign in (("floor", Floor, 1), ("ceiling", Ceiling, -1)):
        if (held := sign * of_sign >= 0).any():
            x = copy.tape.add(kind(len(bound)), x, at=f".{name}")  # the norm's own place is free
            free = torch.full_like(bound, -of_sign * torch.inf)
            of.state[f"{path}.{name}"] = torch.where(held, bound, free).view(-1, 1, 1)
    return x


def buffers(of: Fusion) -> None:
    """Concats that begin or run within one another are views on one buffer, in which each feature is written once."""
    graph, copy = of.graph, Copy(of.graph)
    buffer_of: dict[int, _Buffer] = {}
    for longest, held in _holders(graph):
        buffer_of.update(dict.fromkeys(held, _Buffer(graph, copy, longest)))
    for i, op, inputs in copy.operations():
        copy.place.append(buffer_of[i].view(i) if i in buffer_of else copy.add(i, op, inputs))
    of.graph = copy.graph()


class _Buffer:
    """A buffer that is filled part by part, as far as concats want it."""

    def __init__(self, graph: Graph, copy: Copy, longest: int):
        self.graph, self.copy = graph, copy
        self.parts = graph.inputs[longest]
        self.begins = [0, *accumulate(graph.shapes[part][0] for part in self.parts)]
        self.tensor = self.filled = 0

    def view(self, concat: int) -> int:
        """Writes what a concat wants that is not yet there, and the view that stands for it."""
        tape, begins = self.copy.tape, self.begins
        tape.path = self.graph.paths[concat]
        first, count = _within(self.parts, self.graph.inputs[concat])
        for at in range(self.filled, first + count):
            part = self.copy.place[self.parts[at]]
            fill: Primitive = Store(begins[at]) if at else Buffer(begins[-1])
            self.tensor = tape.add(fill, *((self.tensor, part) if at else (part,)))
        self.filled = max(self.filled, first + count)
        if count == len(self.parts):
            return self.tensor
        return tape.add(Slice(begins[first], begins[first + count] - begins[first]), self.tensor)


def _within(parts: tuple[int, ...], run: tuple[int, ...]) -> tuple[int, int]:
    """Where a run stands among the parts, and its length; 0 if it is not there."""
    for at in range(len(parts) - len(run) + 1):
        if parts[at : at + len(run)] == run:
            return at, len(run)
    return -1, 0


def _holders(graph: Graph) -> list[tuple[int, list[int]]]:
    """Concats that hold others side by side, each with those that it holds and itself."""
    concats = [i for i, op in enumerate(graph.ops) if isinstance(op, Cat)]
    concats.sort(key=lambda i: -len(graph.inputs[i]))
    found: list[tuple[int, list[int]]] = []
    by_part: dict[int, list[int]] = {}
    for i in concats:
        for at in by_part.get(graph.inputs[i][0], ()):
            parts = graph.inputs[found[at][0]]
            first, count = _within(parts, graph.inputs[i])
            if count and max(parts[: first + count]) < i:  # all that stands ahead of it is there
                found[at][1].append(i)
                break
        else:
            for part in set(graph.inputs[i]):
                by_part.setdefault(part, []).append(len(found))
            found.append((i, [i]))
    return [(longest, held) for longest, held in found if len(held) > 1]


def pointwise(of: Fusion) -> None:
    """1x1 convolutions take the spelling that is fast for few images."""
    copy = Copy(of.graph)
    for i, op, inputs in copy.operations():
        if isinstance(op, Conv) and (op.kernel, op.stride, op.padding, op.groups) == (1, 1, 0, 1):
            op = Pointwise(*op.arguments())
        copy.place.append(copy.add(i, op, inputs))
    of.graph = copy.graph()


def in_place(of: Fusion) -> None:
    """Activations are written over what they read, where nobody else reads it."""
    graph, copy = of.graph, Copy(of.graph)
    own = (Conv, Norm, Add, Scale, MaxPool, Linear)  # whose output is memory of its own
    for i, op, inputs in copy.operations():
        if isinstance(op, Act) and op.function in IN_PLACE:
            source = graph.inputs[i][0]
            if of.only_reader(source) == i and isinstance(graph.ops[source], own):
                op = ActHere(op.function)
        copy.place.append(copy.add(i, op, inputs))
    of.graph = copy.graph()


FUSIONS: dict[str, Callable[[Fusion], None]] = {
    "without_dropout": without_dropout,
    "pools_first": pools_first,
    "norms_back": norms_back,
    "relus_first": relus_first,
    "norms_forward": norms_forward,
    "buffers": buffers,
    "in_place": in_place,
    "pointwise": pointwise,
}


def fuse(network: Network, graph: Graph, passes: Iterable[str] = tuple(FUSIONS)) -> Fused:
    """A network for inference that computes what ``network`` does in eval mode.

    Args:
        network: With its weights; it stays as it is.
        graph: The network's.
        passes: Names of `FUSIONS`, in the order in which they run.

    Raises:
        InputError: If there is no such pass.
    """
    of = Fusion(network, graph)
    for _ in _passing(of, passes):
        pass
    made = Fused(of.graph)
    if (first := next(network.parameters(), None)) is not None:
        made.to(first.device, first.dtype)
    made.load_state_dict({name: of.state.get(name, value) for name, value in made.state_dict().items()})
    return made.eval().requires_grad_(False)


def counts(network: Network, graph: Graph, passes: Iterable[str] = tuple(FUSIONS)) -> list[Count]:
    """What each pass leaves of a graph; see `fuse`."""
    return list(_passing(Fusion(network, graph), passes))


def _passing(of: Fusion, passes: Iterable[str]) -> Iterator[Count]:
    for name in passes:
        if name not in FUSIONS:
            raise InputError(f"no pass {name!r}{did_you_mean(str(name), FUSIONS)}; there are {', '.join(FUSIONS)}")
        before = len(of.graph)
        FUSIONS[name](of)
        yield Count(name, before, len(of.graph))


class Fused(Network):
    """A network for inference alone: no gradients, no training mode; convolutions are laid out as channels_last."""

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Fused:
        """It stays as it is: what is left of its norms holds their statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, classes)`` of images ``(N, channels, height, width)``."""
        return super().forward(x)
