"""Weights of one network in another that is equal but written differently."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nas_agg.common.errors import InputError
from nas_agg.graph.canonical import Canonical, canonical_form, gate_chain
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Primitive, Scale

_NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def carry(state: Mapping[str, Tensor], source: Graph, target: Graph) -> dict[str, Tensor]:
    """The weights of one network as another of the same canonical hash names and orders them.

    Args:
        state: The state of `source`: each tensor under its operation's path.
        source: The graph that the weights are of.
        target: The graph that wants them.

    Returns:
        The state of `target`: with it, it computes what `source` does with `state`. Tensors that nothing reorders are
        those of `state`, not copies.

    Raises:
        InputError: If the networks are not equal, or the state is not that of `source`.
    """
    old, new = canonical_form(source), canonical_form(target)
    if old.hash != new.hash:
        raise InputError(f"weights go only into an equal network, and the hashes are {old.hash} and {new.hash}")
    held = {old.places[i]: i for i, op in enumerate(source.ops) if op.stateful}
    old_channels, new_channels = _channels(source, old), _channels(target, new)
    carried: dict[str, Tensor] = {}
    left = set(state)
    for i, op in enumerate(target.ops):
        if not op.stateful:
            continue
        j = held[new.places[i]]
        entering = _order(old_channels[source.inputs[j][0]], new_channels[target.inputs[i][0]])
        leaving = _order(old_channels[j], new_channels[i])
        names = _keys(op, source.paths[j], state)
        if not names and op.params:
            raise InputError(f"the weights lack {source.paths[j]}, a {op.word} of the network")
        for name in names:
            key = source.paths[j] + name
            left.discard(key)
            carried[target.paths[i] + name] = _reordered(op, name, state[key], entering, leaving)
    if left:
        raise InputError(f"the weights hold {min(left)}, which the network has not")
    return carried


def _keys(op: Primitive, path: str, state: Mapping[str, Tensor]) -> list[str]:
    """What follows an operation's path in the names of its tensors."""
    return [
        name for name in ([""] if isinstance(op, Scale) else [f".{name}" for name in _NAMES]) if path + name in state
    ]


def _reordered(op: Primitive, name: str, value: Tensor, entering: Tensor | None, leaving: Tensor | None) -> Tensor:
    if leaving is not None and value.ndim:
        value = value[leaving]
    if entering is not None and op.mixing and name == ".weight":
        value = value.unflatten(1, (len(entering), -1))[:, entering].flatten(1, 2)  # a linear has a block per channel
    return value


# ---------------------------------------------------------------------- channels


def _channels(graph: Graph, form: Canonical) -> list[Tensor | None]:
    """For each tensor the canonical number of each channel, or None where they have not moved.

    The parts of a concat are numbered in their canonical order, so that equal networks number alike.
    """
    found: list[Tensor | None] = []
    for i, (op, inputs) in enumerate(zip(graph.ops, graph.inputs, strict=True)):
        if op.word == "cat":
            found.append(_joined(graph, form, i, found))
        else:
            found.append(found[inputs[0]] if inputs and op.channelwise else None)
    for i, op in enumerate(graph.ops):
        if op.word == "mul":
            for tensor in gate_chain(graph, i):  # a gate's channels move with what it multiplies
                found[tensor] = found[graph.inputs[i][0]]
    return found


def _joined(graph: Graph, form: Canonical, cat: int, found: list[Tensor | None]) -> Tensor | None:
    parts = graph.inputs[cat]
    widths = [graph.shapes[part][0] for part in parts]
    starts, start = [0] * len(parts), 0
    for k in sorted(range(len(parts)), key=lambda k: form.places[parts[k]]):
        starts[k] = start
        start += widths[k]
    pieces = []
    for part, width, begin in zip(parts, widths, starts, strict=True):
        inner = found[part]
        pieces.append(begin + (torch.arange(width) if inner is None else inner))
    joined = torch.cat(pieces)
    return None if torch.equal(joined, torch.arange(start)) else joined


def _order(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    """Which of the old channels each of the new ones is, or None if each is its own."""
    if old is None:
        return new
    back = torch.argsort(old)
    found = back if new is None else back[new]
    return None if torch.equal(found, torch.arange(len(found))) else found
