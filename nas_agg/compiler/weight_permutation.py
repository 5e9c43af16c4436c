"""Transfers weights between equal networks that are written differently."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nas_agg.common.errors import InputError
from nas_agg.graph.canonical import CanonicalForm, canonical_form, gate_chain
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Primitive, Scale

_NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def transfer_weights(state: Mapping[str, Tensor], source: Graph, target: Graph) -> dict[str, Tensor]:
    """Rename and permute the weights of one network for another of the same canonical hash.

    Args:
        state: The state dict of `source`: each tensor under its operation's path.
        source: The graph that the weights belong to.
        target: The graph that receives them.

    Returns:
        The state dict of `target`, with which it computes what `source` computes with `state`. Tensors that need no
        permutation are those of `state`, not copies.

    Raises:
        InputError: The networks are not equal, or the state dict is not that of `source`.
    """
    old, new = canonical_form(source), canonical_form(target)
    if old.hash != new.hash:
        raise InputError(
            f"weights can be transferred between equal networks only; the hashes are {old.hash} and {new.hash}"
        )
    source_ops = {old.positions[i]: i for i, op in enumerate(source.ops) if op.stateful}
    old_orders, new_orders = _channel_orders(source, old), _channel_orders(target, new)
    transferred: dict[str, Tensor] = {}
    unused = set(state)
    for i, op in enumerate(target.ops):
        if not op.stateful:
            continue
        j = source_ops[new.positions[i]]
        input_order = _permutation(old_orders[source.inputs[j][0]], new_orders[target.inputs[i][0]])
        output_order = _permutation(old_orders[j], new_orders[i])
        names = _suffixes(op, source.paths[j], state)
        if not names and op.params:
            raise InputError(f"the weights lack those of '{source.paths[j]}', a {op.word} of the network")
        for name in names:
            key = source.paths[j] + name
            unused.discard(key)
            transferred[target.paths[i] + name] = _permute(op, name, state[key], input_order, output_order)
    if unused:
        raise InputError(f"the weights contain '{min(unused)}', which is not in the network")
    return transferred


def _suffixes(op: Primitive, path: str, state: Mapping[str, Tensor]) -> list[str]:
    """The suffixes of an operation's path in the names of its tensors."""
    return [
        name for name in ([""] if isinstance(op, Scale) else [f".{name}" for name in _NAMES]) if path + name in state
    ]


def _permute(
    op: Primitive, name: str, value: Tensor, input_order: Tensor | None, output_order: Tensor | None
) -> Tensor:
    if output_order is not None and value.ndim:
        value = value[output_order]
    if input_order is not None and op.mixes_channels and name == ".weight":
        # A linear layer has a block of columns per channel.
        value = value.unflatten(1, (len(input_order), -1))[:, input_order].flatten(1, 2)
    return value


# ---------------------------------------------------------------------- channels


def _channel_orders(graph: Graph, form: CanonicalForm) -> list[Tensor | None]:
    """For each tensor the canonical position of each channel, or None where the order is canonical.

    The parts of a concat are numbered in their canonical order, so that equal networks are numbered alike.
    """
    order: list[Tensor | None] = []
    for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
        if op.word == "cat":
            order.append(_concat_order(graph, form, i, order))
        else:
            order.append(order[inputs[0]] if inputs and op.channelwise else None)
    for i, op in enumerate(graph.ops):
        if op.word == "mul":
            for tensor in gate_chain(graph, i):  # a gate's channels follow those of the gated tensor
                order[tensor] = order[graph.inputs[i][0]]
    return order


def _concat_order(graph: Graph, form: CanonicalForm, cat: int, order: list[Tensor | None]) -> Tensor | None:
    parts = graph.inputs[cat]
    widths = [graph.shapes[part][0] for part in parts]
    starts, start = [0] * len(parts), 0
    for k in sorted(range(len(parts)), key=lambda k: form.positions[parts[k]]):
        starts[k] = start
        start += widths[k]
    pieces = []
    for part, width, begin in zip(parts, widths, starts, strict=True):
        inner = order[part]
        pieces.append(begin + (torch.arange(width) if inner is None else inner))
    joined = torch.cat(pieces)
    return None if torch.equal(joined, torch.arange(start)) else joined


def _permutation(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    """For each new channel the index of the old one, or None for the identity."""
    if old is None:
        return new
    inverse = torch.argsort(old)
    permutation = inverse if new is None else inverse[new]
    return None if torch.equal(permutation, torch.arange(len(permutation))) else permutation
