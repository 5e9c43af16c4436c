"""Runs a rematerialised network: keeps the tensors that the plan keeps and recomputes the others in backward.

Each piece of the network is one autograd Function. Its backward pass visits the piece's operations from last to first,
as autograd would, with three differences: tensors that were not kept are recomputed at their first use and released
after their last; gradients of tensors that share a buffer share one as well; and the terms ``a * x + b``, which the
batch norms that read a tensor x subtract from its gradient, are summed and applied once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules import module as torch_modules

from nas_agg.compiler.remat import kernels
from nas_agg.compiler.remat.backward import Gradients
from nas_agg.compiler.remat.forward import GROUP_NORM_EPS, NormState, Values
from nas_agg.compiler.remat.synchronization import SynchronizedBatchNorm2d, unbiased_factor
from nas_agg.graph.backward_plan import BackwardPlan, Piece
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Norm, Primitive
from nas_agg.graph.rematerialization import MemoryMode, RematerializationPlan

_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")  # kinds of hooks of PyTorch's modules
MAX_PLANS_PER_PIECE = 16  # cached: the trained parameters and the norms that use batch statistics seldom change


class RematerializedForward:
    """The forward pass of a network in mode ``lean`` or ``leanest``.

    Args:
        graph: The network.
        memory: The memory mode.
    """

    def __init__(self, graph: Graph, memory: MemoryMode):
        remat = RematerializationPlan(graph, memory)
        self._memory, self._warned = memory, False
        self.pieces = [_PieceRunner(remat, piece) for piece in remat.pieces]

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor | None:
        """Logits ``(N, classes)`` of images; None if the standard forward must be used.

        That is the case under a tracer or compiler, which look inside functions, and, with one warning, where a module
        was replaced, has hooks or has parametrised weights: these must observe what they would observe in the standard
        network.
        """
        if kernels.is_traced():
            return None
        if any(getattr(torch_modules, f"_global_{kind}_hooks") for kind in _HOOKS):
            self._warn("hooks of all modules are registered")
            return None
        calls = []
        for piece in self.pieces:
            modules = piece.find_modules(network)
            if isinstance(modules, str):
                self._warn(f"module '{modules}' was replaced or has hooks")
                return None
            calls.append(_PieceCall(piece, modules, network.training))
        for call in calls:
            params = [getattr(call.modules[i], name) for i, name in call.piece.params]
            x = _PieceFunction.apply(call, x, *params)
        return x.flatten(1)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"memory mode '{self._memory}' is not in effect: {reason}", stacklevel=4)


class PiecePlan(NamedTuple):
    """The forward and backward pass of a piece, for one choice of trained parameters and of norms in training.

    Attributes:
        flows: For each tensor, whether it has a gradient.
        trained: For each operation with parameters, which of them are trained.
        measured: Tensors whose statistics over the batch are computed.
        backward: What the backward pass keeps and does.
    """

    flows: dict[int, bool]
    trained: dict[int, tuple[bool, ...]]
    measured: frozenset[int]
    backward: BackwardPlan


class _PieceRunner:
    """A piece with everything that is known before it is run.

    Attributes:
        paths: Operations with modules, each with the path of its module.
        batch_norms: The piece's batch norms.
        params: Its parameters: operation and attribute name.
        order: The operations that are computed in forward, in order.
        last_readers: For each operation, the tensors of which it is the last reader.
    """

    def __init__(self, remat: RematerializationPlan, piece: Piece):
        self.remat, self.piece = remat, piece
        self.plans: dict[tuple, PiecePlan] = {}
        ops = range(piece.entry + 1, piece.last + 1)
        self.paths = [(i, remat.paths[i].split(".")) for i in ops if remat.ops[i].stateful]
        self.batch_norms = [i for i in ops if isinstance(op := remat.ops[i], Norm) and not op.groups]
        self.params = [(i, name) for i, path in self.paths for name in _parameter_names(remat.ops[i], path[-1])]
        self.order = self._computed(ops)
        self.last_readers: dict[int, list[int]] = {}
        last_reader = {source: i for i in self.order for source in remat.sources[i]}
        for tensor, i in last_reader.items():
            self.last_readers.setdefault(i, []).append(tensor)

    def _computed(self, ops: Sequence[int]) -> list[int]:
        """The operations that are computed on their own: no norm that its activation computes, no unread concat."""
        remat = self.remat
        read = {source for i in ops if i not in remat.fused_norms for source in remat.sources[i]}
        skipped = {i for i in ops if i in remat.fused_norms or (remat.ops[i].word == "cat" and i not in read)}
        return [i for i in ops if i not in skipped or i == self.piece.last]

    def find_modules(self, network: nn.Module) -> dict[int, Any] | str:
        """The modules of the piece's operations, or the path of one that is not as it was built."""
        modules: dict[int, Any] = {}
        for i, path in self.paths:
            module: Any = network
            for name in path[:-1]:
                module = module._modules[name]
            is_as_built = _IS_AS_BUILT.get(self.remat.ops[i].word)
            if is_as_built is not None:
                module = module._modules[path[-1]]
                if not is_as_built(self.remat.ops[i], module) or _is_observed(module):
                    return ".".join(path)
            modules[i] = module
        return modules

    def plan(self, needs_grad: tuple[bool, ...], uses_batch: tuple[bool, ...]) -> PiecePlan:
        """The plan for a choice of inputs that need a gradient and of batch norms that use batch statistics.

        Args:
            needs_grad: For the entry, then for each parameter.
            uses_batch: For each batch norm.
        """
        key = (needs_grad, uses_batch)
        if key not in self.plans:
            if len(self.plans) >= MAX_PLANS_PER_PIECE:
                self.plans.clear()
            self.plans[key] = self._make_plan(needs_grad, uses_batch)
        return self.plans[key]

    def _make_plan(self, needs_grad: tuple[bool, ...], uses_batch: tuple[bool, ...]) -> PiecePlan:
        remat, piece = self.remat, self.piece
        trained: dict[int, tuple[bool, ...]] = {i: () for i, _ in self.paths}
        for (i, _), needed in zip(self.params, needs_grad[1:], strict=True):
            trained[i] += (needed,)
        flows = remat.find_gradient_flow(piece.entry, piece.last, needs_grad[0], trained)
        norms = list(zip(self.batch_norms, uses_batch, strict=True))
        frozen = [i for i, uses in norms if not uses]
        measured = {part for i, uses in norms if uses for part in remat.concat_parts(remat.inputs[i][0])}
        return PiecePlan(flows, trained, frozenset(measured), remat.plan_backward(piece, flows, trained, frozen))

    def group_by_operation(self, params: Sequence[Tensor]) -> dict[int, tuple[Tensor, ...]]:
        """The parameters of each operation."""
        groups: dict[int, tuple[Tensor, ...]] = {i: () for i, _ in self.paths}
        for (i, _), param in zip(self.params, params, strict=True):
            groups[i] += (param,)
        return groups

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "plans": {}}


def _parameter_names(op: Primitive, last: str) -> tuple[str, ...]:
    """Attribute names of an operation's parameters; ``last`` is the last part of its path."""
    layer: Any = op
    if layer.word == "scale":
        return (last,)
    if layer.word == "norm" and not layer.affine:
        return ()
    return ("weight", "bias") if layer.word != "conv" or layer.bias else ("weight",)


def _is_conv(op: Any, module: Any) -> bool:
    built = (op.channels, op.out, (op.kernel,) * 2, (op.stride,) * 2, (op.padding,) * 2, (1, 1), op.groups, op.bias)
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and built == (
        module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,
        module.groups, module.bias is not None,
    )  # fmt: skip


def _is_linear(op: Any, module: Any) -> bool:
    return type(module) is nn.Linear and module.bias is not None


def _is_norm(op: Any, module: Any) -> bool:
    if op.groups:
        built = (op.groups, op.channels, op.affine, not op.affine, GROUP_NORM_EPS)
        return type(module) is nn.GroupNorm and built == (
            module.num_groups, module.num_channels, module.affine, module.weight is None, module.eps
        )  # fmt: skip
    batch_norm = (op.channels, op.affine, not op.affine)
    is_known = type(module) in (nn.BatchNorm2d, SynchronizedBatchNorm2d)
    return is_known and batch_norm == (module.num_features, module.affine, module.weight is None)


#: Whether a module is what the graph's operation was built as, by the operation's word.
_IS_AS_BUILT = {"conv": _is_conv, "linear": _is_linear, "norm": _is_norm}


def _is_observed(module: nn.Module) -> bool:
    """Whether a module has hooks, or a forward of its own that replaces its type's."""
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(hooks) or "forward" in own


class _PieceCall(NamedTuple):
    piece: _PieceRunner
    modules: dict[int, Any]
    training: bool


def _uses_batch_statistics(norm: Any) -> bool:
    return norm.training or norm.running_mean is None


def _update_running_statistics(norms: Mapping[int, Any], values: Values) -> None:
    """Update the running statistics of norms in training; a module that is used several times is updated as often."""
    remaining = [i for i, norm in norms.items() if norm.training and norm.running_mean is not None]
    while remaining:
        first_use = {id(norms[i]): i for i in reversed(remaining)}
        _update_each_once(norms, sorted(first_use.values()), values)
        remaining = [i for i in remaining if first_use[id(norms[i])] != i]


def _update_each_once(norms: Mapping[int, Any], updated: list[int], values: Values) -> None:
    by_momentum: dict[float, list[tuple[Tensor, Tensor, Tensor, Tensor, float | Tensor]]] = {}
    torch._foreach_add_([norms[i].num_batches_tracked for i in updated], 1)
    for i in updated:
        norm, vectors = norms[i], values.norm_vectors(i)
        momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        n, _, h, w = values.shapes[values.remat.concat_parts(values.remat.inputs[i][0])[0]]
        count = n * h * w
        factor = count / (count - 1) if values.share is None else unbiased_factor(count, values.share)
        row = (norm.running_mean, norm.running_var, vectors.mean, vectors.var, factor)
        by_momentum.setdefault(momentum, []).append(row)
    for momentum, rows in by_momentum.items():
        running_means, running_variances, mean, var, factors = zip(*rows, strict=True)
        new = (*mean, *torch._foreach_mul(var, factors))
        running = (*running_means, *running_variances)
        if running[0].dtype != new[0].dtype:
            new = tuple([tensor.to(running[0].dtype) for tensor in new])
        torch._foreach_lerp_(running, new, momentum)


class _PieceFunction(torch.autograd.Function):
    """A piece of the network, from its entry and parameters to its last tensor."""

    @staticmethod
    def forward(ctx: Any, call: _PieceCall, x: Tensor, *params: Tensor) -> Tensor:
        runner, modules, training = call
        remat, piece = runner.remat, runner.piece
        norms = {i: modules[i] for i in runner.batch_norms}
        plan = runner.plan(ctx.needs_input_grad[1:], tuple([_uses_batch_statistics(norm) for norm in norms.values()]))
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        autocast_enabled = ctx.autocast[2]
        ctx.elementwise = kernels.prefers_elementwise(x) and not autocast_enabled
        ctx.runner, ctx.plan, ctx.training = runner, plan, training
        params_of = runner.group_by_operation(params)
        norm_states = {
            i: NormState(params_of[i], norm.running_mean, norm.running_var, norm.eps, _uses_batch_statistics(norm))
            for i, norm in norms.items()
        }
        ctx.synchronized = any(isinstance(norm, SynchronizedBatchNorm2d) for norm in norms.values())
        values = Values(remat, piece, params_of, norm_states, ctx.elementwise, training, ctx.synchronized)
        kept = {*plan.backward.saved, piece.last}
        for i in (piece.entry, *runner.order):
            value = values.compute(i) if i > piece.entry else x
            values.shapes[i] = value.shape
            if i in plan.measured:
                values.record_statistics(i, value)
            if autocast_enabled:
                values.dtypes[i] = value.dtype
            values.put(i, value)
            for tensor in runner.last_readers.get(i, ()):
                if tensor not in kept:
                    del values.live[tensor]
        _update_running_statistics(norms, values)
        y = values.live[piece.last]
        if y is x or y._base is not None:
            y = y.clone()  # the caller may change it in place
        _save(ctx, values, params)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype, enabled = ctx.autocast
        if enabled or torch.is_autocast_enabled(device):
            with torch.autocast(device, dtype, enabled, cache_enabled=False):
                return _backward(ctx, g)
        return _backward(ctx, g)


def _save(ctx: Any, values: Values, params: tuple[Tensor, ...]) -> None:
    """Save the tensors that the plan keeps, in the order in which `_restore` reads them."""
    plan = ctx.plan
    normed = sorted(plan.backward.statistics)
    tensors = [
        *params,
        *values.values_of(plan.backward.saved),
        *[values.buffers[i] for i in plan.backward.saved_buffers],
    ]
    if normed:
        tensors.append(torch.cat([vector for i in normed for vector in values.statistics[i]]))
    ctx.has_share = values.share is not None
    if values.share is not None:
        tensors.append(values.share)
    ctx.norms = []
    for i, norm in values.norms.items():
        if not norm.uses_batch:
            assert norm.mean is not None and norm.var is not None
            tensors += [norm.mean, norm.var]
        ctx.norms.append((i, norm.eps, norm.uses_batch))
    rebuilt = {i for step in plan.backward.steps for i in step.rebuilt}
    ctx.extra = [(i, len(values.extra[i])) for i in values.extra if plan.flows[i] or i in rebuilt]
    for i, _ in ctx.extra:
        tensors += values.extra[i]
    ctx.shapes, ctx.dtypes = values.shapes, values.dtypes
    ctx.save_for_backward(*tensors)


def _restore(ctx: Any) -> Values:
    """The values at the end of forward, without those that were not kept."""
    runner, plan = ctx.runner, ctx.plan
    remat, piece = runner.remat, runner.piece
    saved = iter(ctx.saved_tensors)
    params = runner.group_by_operation([next(saved) for _ in runner.params])
    values = Values(remat, piece, params, {}, ctx.elementwise, ctx.training, ctx.synchronized)
    values.shapes, values.dtypes = ctx.shapes, ctx.dtypes
    values.live = {i: next(saved) for i in plan.backward.saved}
    for buffer in plan.backward.saved_buffers:
        values.buffers[buffer] = next(saved)
        for i in piece.buffers[buffer]:
            _, first, end = piece.buffer_slices[i]
            values.live[i] = values.buffers[buffer][:, first:end]
            values.in_buffer.add(i)
    normed = sorted(plan.backward.statistics)
    if normed:
        vectors = iter(next(saved).split([remat.shapes[i][0] for i in normed for _ in range(2)]))
        values.statistics = {i: (next(vectors), next(vectors)) for i in normed}
    values.share = next(saved) if ctx.has_share else None
    for i, eps, uses_batch in ctx.norms:
        mean, var = (None, None) if uses_batch else (next(saved), next(saved))
        values.norms[i] = NormState(params[i], mean, var, eps, uses_batch)
    for i, count in ctx.extra:
        values.extra[i] = tuple([next(saved) for _ in range(count)])
    return values


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    runner, plan = ctx.runner, ctx.plan
    values = _restore(ctx)
    grads = Gradients(values, plan.flows, plan.trained, plan.backward.statistics)
    grads.seed(runner.piece.last, g)
    input_grad = None
    for step in plan.backward.steps:
        for i in step.rebuilt:
            values.put(i, values.compute(i))
        if step.op > runner.piece.entry:
            grads.backpropagate(step.op)
        elif (result := grads.take(step.op)) is not None:
            input_grad = result[0].contiguous() if result[0]._base is not None else result[0]
        for i in step.freed:
            values.live.pop(i, None)
    param_grads: list[Tensor | None] = []
    position: dict[int, int] = {}
    for (i, _), needed in zip(runner.params, ctx.needs_input_grad[2:], strict=True):
        position[i] = position.get(i, -1) + 1
        param_grads.append(grads.params.get(i, {}).get(position[i]) if needed else None)
    return (None, input_grad, *param_grads)
