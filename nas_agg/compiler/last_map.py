"""The last feature map of a network as the output of a module, for methods that hook modules, such as Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_agg.common.errors import InputError
from nas_agg.compiler.backbone import tensors_on_every_path
from nas_agg.expansion.passes import GraphRewriter
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Gap, Linear, Primitive

#: Name of the module; no layer of a genotype can have it, as their names begin with a letter.
LAST_MAP = "0"


@dataclass(frozen=True, slots=True)
class Identity(Primitive):
    """The identity, as a module."""

    word: ClassVar[str] = "identity"
    stateful: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True  # type: ignore[misc]

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        return "Identity", (), {}


def last_map(graph: Graph) -> int:
    """The input of a network's head: the last map of more than one pixel ahead of pooling or flattening.

    Every path from image to logits passes through it.

    Raises:
        InputError: The maps on every path have one pixel each.
    """
    last = None
    for i in tensors_on_every_path(graph):
        if isinstance(graph.ops[i], Gap | Linear):
            break
        if graph.shapes[i][1:] != (1, 1):
            last = i
    if last is None:
        raise InputError("the network has no feature map of more than one pixel ahead of its head")
    return last


def with_last_map(graph: Graph) -> Graph:
    """The graph with a module `LAST_MAP` whose output is the last map; the function and parameter names are unchanged.

    Raises:
        InputError: See `last_map`.
    """
    wanted = last_map(graph)
    copy = GraphRewriter(graph)
    for i, op, inputs in copy.operations():
        place = copy.add(i, op, inputs)
        if i == wanted:
            copy.tape.path = LAST_MAP
            place = copy.tape.add(Identity(), place)
        copy.new_tensors.append(place)
    return copy.graph()
