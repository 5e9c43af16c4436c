"""Graphs as short formulas, to compare with formulas written by hand."""

from __future__ import annotations

from typing import Any

from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.language.genotype import Genotype

CONV = {"conv": 1}


def graph_of(*net: Any, image: tuple[int, int, int] = (4, 8, 8), **fields: Any) -> Graph:
    """Return the graph of some steps on an image, followed by a classifier."""
    return expand(
        Genotype.from_dict({"input": list(image), "classes": 3, "net": [*net, "gap", {"linear": 3}], **fields})
    )


def formula(*net: Any, image: tuple[int, int, int] = (4, 8, 8), **fields: Any) -> str:
    """Return the formula that some steps compute from an image x.

    Convolutions are a, b, ... in the order in which they are written, with what they read where they come first:
    ``a(x) + b(a)``. A concat is ``[a, b]``, some channels are ``a{2:4}``.
    """
    graph = graph_of(*net, image=image, **fields)
    return _Formula(graph).of(graph.inputs[-2][0])


class _Formula:
    def __init__(self, graph: Graph):
        self.graph = graph
        convs = [i for i, op in enumerate(graph.ops) if op.word == "conv"]
        self.letters = {i: chr(ord("a") + k) for k, i in enumerate(convs)}
        self.said: set[int] = set()

    def of(self, i: int) -> str:
        op: Any = self.graph.ops[i]
        if op.word == "input":
            return "x"
        if i in self.letters:
            if i in self.said:
                return self.letters[i]
            self.said.add(i)
        inputs = [self.of(source) for source in self.graph.inputs[i]]
        match op.word:
            case "conv":
                return f"{self.letters[i]}({inputs[0]})"
            case "add":
                return f"({' + '.join(inputs)})"
            case "mul" | "product":
                return f"({' * '.join(inputs)})"
            case "cat":
                return f"[{', '.join(inputs)}]"
            case "slice":
                return f"{inputs[0]}{{{op.first}:{op.first + op.channels}}}"
            case "norm":
                return f"{'' if op.affine else 'plain_'}{f'gn{op.groups}' if op.groups else 'bn'}({inputs[0]})"
            case "act":
                return f"{op.function}({inputs[0]})"
        return f"{op.word}({', '.join(inputs)})"
