"""The last feature map of a network as the output of a module, for what looks at it through hooks, as Grad-CAM does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_agg.common.errors import InputError
from nas_agg.compiler.backbone import passed_by_all
from nas_agg.expansion.passes import Copy
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Gap, Linear, Primitive

#: The module's name, which no layer of a genotype can have, as theirs begin with a letter.
LAST_MAP = "0"


@dataclass(frozen=True, slots=True)
class Identity(Primitive):
    """Its input, as a module."""

    word: ClassVar[str] = "identity"
    stateful: ClassVar[bool] = True
    channelwise: ClassVar[bool] = True  # type: ignore[misc]

    def module(self) -> tuple[str, tuple, dict[str, Any]]:
        return "Identity", (), {}


def last_map(graph: Graph) -> int:
    """The tensor that a network's head pools or flattens: the last map of more than one pixel ahead of it.

    Every way from image to logits goes through it.

    Raises:
        InputError: If the maps that all ways go through have one pixel each.
    """
    found = None
    for i in passed_by_all(graph):
        if isinstance(graph.ops[i], Gap | Linear):
            break
        if graph.shapes[i][1:] != (1, 1):
            found = i
    if found is None:
        raise InputError("the network has no feature map of more than one pixel ahead of its head")
    return found


def with_last_map(graph: Graph) -> Graph:
    """The graph with its last map put out by a module `LAST_MAP`; the function and the weights' names are the same.

    Raises:
        InputError: See `last_map`.
    """
    wanted = last_map(graph)
    copy = Copy(graph)
    for i, op, inputs in copy.operations():
        place = copy.add(i, op, inputs)
        if i == wanted:
            copy.tape.path = LAST_MAP
            place = copy.tape.add(Identity(), place)
        copy.place.append(place)
    return copy.graph()
