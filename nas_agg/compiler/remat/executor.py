"""Runs a lowered network: what `nas_agg.graph.rematerialization` keeps is kept, the rest is built again in backward.

A piece of the network is one autograd Function. Its backward goes through the piece's operations from the last to the
first, as autograd would, with three differences: values that were not kept are built when they are first wanted and
dropped behind their last use; gradients of tensors that lie side by side do so too; and what the norms of a tensor
subtract from its gradient, ``a * x + b`` for vectors a and b, is added up over them and applied once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_agg.compiler.remat import batch_norm as spellings
from nas_agg.compiler.remat.backward import Gradients
from nas_agg.compiler.remat.forward import NormState, Values
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Norm
from nas_agg.graph.rematerialization import Backward, MemoryMode, Piece, RematerializationPlan

PLANS = 16  # a piece keeps: what is trained, and which norms use the batch, seldom changes

_KINDS = {"conv": (nn.Conv2d,), "linear": (nn.Linear,), "norm": (nn.BatchNorm2d, nn.GroupNorm)}


class Lean:
    """The forward of a network that keeps less for backward.

    Args:
        graph: The network.
        memory: ``lean`` or ``leanest``.
    """

    def __init__(self, graph: Graph, memory: MemoryMode):
        lowering = RematerializationPlan(graph, memory)
        self.parts = [_Part(lowering, piece) for piece in lowering.pieces]

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor | None:
        """Logits ``(N, classes)`` of images; None where only the plain forward will do.

        That is under a tracer or a compiler, which look into functions, and where a module was replaced, has hooks or
        has parametrised weights: what these see shall be what they see in the plain network.
        """
        if spellings.is_traced():
            return None
        found = [part.modules(network) for part in self.parts]
        if any(modules is None for modules in found):
            return None
        for part, modules in zip(self.parts, found, strict=True):
            assert modules is not None
            params = [getattr(modules[i], name) for i, name in part.params]
            x = _Run.apply(_Call(part, modules, network.training), x, *params)
        return x.flatten(1)


class Plan(NamedTuple):
    """What a piece does when certain of its parameters are trained and certain norms use the batch.

    Attributes:
        flows: Which tensors have a gradient.
        trained: For each operation with parameters, which of them are trained.
        measured: Tensors whose statistics over the batch are taken.
        backward: What the backward pass keeps and does.
    """

    flows: dict[int, bool]
    trained: dict[int, tuple[bool, ...]]
    measured: frozenset[int]
    backward: Backward


class _Part:
    """A piece with what is known of it before it is run."""

    def __init__(self, lowering: RematerializationPlan, piece: Piece):
        self.lowering, self.piece = lowering, piece
        self.plans: dict[tuple, Plan] = {}
        ops = range(piece.entry + 1, piece.last + 1)
        self.paths = [(i, lowering.paths[i].split(".")) for i in ops if lowering.ops[i].stateful]
        self.batch_norms = [i for i in ops if isinstance(op := lowering.ops[i], Norm) and not op.groups]
        self.params: list[tuple[int, str]] = []
        for i, path in self.paths:
            layer: Any = lowering.ops[i]
            if layer.word == "scale":
                self.params.append((i, path[-1]))
            elif layer.word != "norm" or layer.affine:
                self.params.append((i, "weight"))
                if layer.word != "conv" or layer.bias:
                    self.params.append((i, "bias"))
        read = {source for i in ops if i not in lowering.fused for source in lowering.sources[i]}
        unread_cats = {i for i in ops if lowering.ops[i].word == "cat" and i not in read}
        self.order = [i for i in ops if (i not in lowering.fused and i not in unread_cats) or i == piece.last]
        last: dict[int, int] = {}
        for i in self.order:
            for source in lowering.sources[i]:
                last[source] = i
        self.done: dict[int, list[int]] = {}
        for tensor, i in last.items():
            self.done.setdefault(i, []).append(tensor)

    def modules(self, network: nn.Module) -> dict[int, nn.Module] | None:
        """The modules of the piece's operations; None if one is not as it was built."""
        found: dict[int, nn.Module] = {}
        for i, path in self.paths:
            at: Any = network
            for name in path[:-1]:
                at = at._modules[name]
            kinds = _KINDS.get(self.lowering.ops[i].word)
            if kinds is not None:
                at = at._modules[path[-1]]
                hooks = at._forward_hooks or at._forward_pre_hooks or at._backward_hooks or at._backward_pre_hooks
                if type(at) not in kinds or hooks:
                    return None
            found[i] = at
        return found

    def plan(self, needs: tuple[bool, ...], batch: tuple[bool, ...]) -> Plan:
        """What is done when certain inputs need a gradient: the entry, then each parameter."""
        key = (needs, batch)
        if key not in self.plans:
            trained: dict[int, tuple[bool, ...]] = {i: () for i, _ in self.paths}
            for (i, _), need in zip(self.params, needs[1:], strict=True):
                trained[i] += (need,)
            lowering, piece = self.lowering, self.piece
            flows = lowering.flows(piece.entry, piece.last, needs[0], trained)
            frozen = [i for i, uses in zip(self.batch_norms, batch, strict=True) if not uses]
            measured = {
                part
                for i, uses in zip(self.batch_norms, batch, strict=True)
                if uses
                for part in lowering.parts(lowering.inputs[i][0])
            }
            if len(self.plans) >= PLANS:
                self.plans.clear()
            self.plans[key] = Plan(
                flows, trained, frozenset(measured), lowering.backward(piece, flows, trained, frozen)
            )
        return self.plans[key]

    def grouped(self, params: Sequence[Tensor]) -> dict[int, tuple[Tensor, ...]]:
        """The parameters by operation."""
        found: dict[int, tuple[Tensor, ...]] = {i: () for i, _ in self.paths}
        for (i, _), param in zip(self.params, params, strict=True):
            found[i] += (param,)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "plans": {}}


class _Call(NamedTuple):
    part: _Part
    modules: dict[int, Any]
    training: bool


def _uses_batch(norm: Any) -> bool:
    return norm.training or norm.running_mean is None


def _update(norms: Mapping[int, Any], values: Values) -> None:
    """Moves the running statistics of norms in training towards the batch's; a norm that is used again moves again."""
    left = [i for i, norm in norms.items() if norm.training and norm.running_mean is not None]
    while left:
        first = {id(norms[i]): i for i in reversed(left)}
        _move(norms, sorted(first.values()), values)
        left = [i for i in left if first[id(norms[i])] != i]


def _move(norms: Mapping[int, Any], moved: list[int], values: Values) -> None:
    rows: dict[float, list[tuple[Tensor, Tensor, Tensor, Tensor, float]]] = {}
    torch._foreach_add_([norms[i].num_batches_tracked for i in moved], 1)
    for i in moved:
        norm, vectors = norms[i], values.vectors(i)
        momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        n, _, h, w = values.shapes[values.lowering.parts(values.lowering.inputs[i][0])[0]]
        unbiased = n * h * w / (n * h * w - 1)
        row = (norm.running_mean, norm.running_var, vectors.mean, vectors.var, unbiased)
        rows.setdefault(momentum, []).append(row)
    for momentum, moves in rows.items():
        means, variances, mean, var, factors = zip(*moves, strict=True)
        new = (*mean, *torch._foreach_mul(var, factors))
        running = (*means, *variances)
        if running[0].dtype != new[0].dtype:
            new = tuple([tensor.to(running[0].dtype) for tensor in new])
        torch._foreach_lerp_(running, new, momentum)


class _Run(torch.autograd.Function):
    """A piece of the network: its entry and parameters to its last tensor."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *params: Tensor) -> Tensor:
        part, modules, training = call
        lowering, piece = part.lowering, part.piece
        norms = {i: modules[i] for i in part.batch_norms}
        plan = part.plan(ctx.needs_input_grad[1:], tuple([_uses_batch(norm) for norm in norms.values()]))
        device = x.device.type
        ctx.auto = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.plain = spellings.is_plain(x) and not ctx.auto[2]
        ctx.part, ctx.plan, ctx.training = part, plan, training
        own = part.grouped(params)
        states = {
            i: NormState(own[i], norm.running_mean, norm.running_var, norm.eps, _uses_batch(norm))
            for i, norm in norms.items()
        }
        values = Values(lowering, piece, own, states, ctx.plain, training)
        kept = {*plan.backward.kept, piece.last}
        for i in (piece.entry, *part.order):
            value = values.compute(i) if i > piece.entry else x
            values.shapes[i] = value.shape
            if i in plan.measured:
                values.measure(i, value)
            if ctx.auto[2]:
                values.types[i] = value.dtype
            values.put(i, value)
            for tensor in part.done.get(i, ()):
                if tensor not in kept:
                    del values.known[tensor]
        _update(norms, values)
        y = values.known[piece.last]
        if y is x or y._base is not None:
            y = y.clone()  # to be the user's own
        _save(ctx, values, params)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype, enabled = ctx.auto
        if enabled or torch.is_autocast_enabled(device):
            with torch.autocast(device, dtype, enabled, cache_enabled=False):
                return _backward(ctx, g)
        return _backward(ctx, g)


def _save(ctx: Any, values: Values, params: tuple[Tensor, ...]) -> None:
    """Keeps what the plan says, in an order that `_restored` knows."""
    plan = ctx.plan
    normed = sorted(plan.backward.normed)
    tensors = [*params, *values.all_of(plan.backward.kept), *[values.buffers[i] for i in plan.backward.buffers]]
    if normed:
        tensors.append(torch.cat([vector for i in normed for vector in values.stats[i]]))
    ctx.norms = []
    for i, norm in values.norms.items():
        if not norm.batch:
            assert norm.mean is not None and norm.var is not None
            tensors += [norm.mean, norm.var]
        ctx.norms.append((i, norm.eps, norm.batch))
    ctx.extra = [(i, len(values.extra[i])) for i in values.extra if plan.flows[i]]
    for i, _ in ctx.extra:
        tensors += values.extra[i]
    ctx.shapes, ctx.types = values.shapes, values.types
    ctx.save_for_backward(*tensors)


def _restored(ctx: Any) -> Values:
    """The values as they are at the end of forward, without those that were not kept."""
    part, plan = ctx.part, ctx.plan
    lowering, piece = part.lowering, part.piece
    saved = iter(ctx.saved_tensors)
    params = part.grouped([next(saved) for _ in part.params])
    values = Values(lowering, piece, params, {}, ctx.plain, ctx.training)
    values.shapes, values.types = ctx.shapes, ctx.types
    values.known = {i: next(saved) for i in plan.backward.kept}
    for place in plan.backward.buffers:
        values.buffers[place] = next(saved)
        for i in piece.buffers[place]:
            _, first, end = piece.laid[i]
            values.known[i] = values.buffers[place][:, first:end]
            values.placed.add(i)
    normed = sorted(plan.backward.normed)
    if normed:
        vectors = iter(next(saved).split([lowering.shapes[i][0] for i in normed for _ in range(2)]))
        values.stats = {i: (next(vectors), next(vectors)) for i in normed}
    for i, eps, batch in ctx.norms:
        mean, var = (None, None) if batch else (next(saved), next(saved))
        values.norms[i] = NormState(params[i], mean, var, eps, batch)
    for i, count in ctx.extra:
        values.extra[i] = tuple([next(saved) for _ in range(count)])
    return values


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    part, plan = ctx.part, ctx.plan
    values = _restored(ctx)
    grads = Gradients(values, plan.flows, plan.trained, plan.backward.normed)
    grads.start(part.piece.last, g)
    below = None
    for step in plan.backward.steps:
        for i in step.built:
            values.put(i, values.compute(i))
        if step.op > part.piece.entry:
            grads.back(step.op)
        elif (taken := grads.take(step.op)) is not None:
            below = taken[0].contiguous() if taken[0]._base is not None else taken[0]
        for i in step.done:
            values.known.pop(i, None)
    found: list[Tensor | None] = [None, below]
    place: dict[int, int] = {}
    for (i, _), need in zip(part.params, ctx.needs_input_grad[2:], strict=True):
        at = place[i] = place.get(i, -1) + 1
        found.append(grads.params.get(i, {}).get(at) if need else None)
    return tuple(found)
