"""Regularization that a recipe adds to a network in training: dropout before the classifier, and stochastic depth.

Weights, their names and the function in evaluation are those of the network itself.
"""

from __future__ import annotations

from nas_agg.common.errors import InputError
from nas_agg.compiler.residual_branches import residual_sums
from nas_agg.expansion.passes import GraphRewriter
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Dropout, DropPath, Linear


def regularize(graph: Graph, dropout: float = 0.0, drop_path: float = 0.0) -> Graph:
    """Add dropout and stochastic depth to a graph.

    Args:
        graph: The graph.
        dropout: Rate of dropout before the last linear layer.
        drop_path: Rate of stochastic depth of the last residual branch (Huang et al., 2016); that of the others grows
            linearly with their number. A branch is what is added to a shortcut.

    Raises:
        InputError: There is no linear layer, or no residual branch.
    """
    if not dropout and not drop_path:
        return graph
    linear = max((i for i, op in enumerate(graph.ops) if isinstance(op, Linear)), default=None)
    sums = [i for i, _ in residual_sums(graph)]
    if dropout and linear is None:
        raise InputError("dropout: the network has no linear layer")
    if drop_path and not sums:
        raise InputError("drop_path: the network has no residual branch")
    rates = {i: drop_path * (number + 1) / len(sums) for number, i in enumerate(sums)} if drop_path else {}
    rewriter = GraphRewriter(graph)
    for i, op, inputs in rewriter.operations():
        if dropout and i == linear:
            inputs = (rewriter.add(i, Dropout(dropout, False), inputs), *inputs[1:])
        elif i in rates:
            inputs = (*inputs[:-1], rewriter.add(i, DropPath(rates[i]), inputs[-1:]))
        rewriter.new_tensors.append(rewriter.add(i, op, inputs))
    return rewriter.graph()
