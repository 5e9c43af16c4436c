"""The straight-line form, one line per operation of the graph, for networks that no other form can express."""

from __future__ import annotations

from typing import Any

from nas_agg.compiler.codegen.classes.formatting import wrapped
from nas_agg.graph.graph import Graph

_PUT = '''def put(network, path, part):
    """Set the module or parameter at a path."""
    *parents, name = path.split(".")
    for inner in parents:
        if inner not in network._modules:
            network.add_module(inner, nn.Module())
        network = network._modules[inner]
    setattr(network, name, part)


def get(network, path):
    """Get the module or parameter at a path."""
    for name in path.split("."):
        network = getattr(network, name)
    return network
'''


def write_operations(graph: Graph) -> list[str]:
    """Write the parts of a file that computes a graph, one line per operation."""
    code, lines = [], []
    for i, (op, inputs, path) in enumerate(zip(graph.ops, graph.inputs, graph.paths, strict=True)):
        if not inputs:
            continue
        if op.stateful and graph.shared.get(i, i) == i:
            module = op.module()
            if module is None:
                text = f"nn.Parameter(torch.full(({op.channels}, 1, 1), {op.start!r}))"  # type: ignore[attr-defined]
            else:
                text = call(f"nn.{module[0]}", *module[1], **module[2])
            code += wrapped(f'put(self, "{path}", {text})', 8)
        lines += wrapped(f"x{i} = " + op.call(f'get(self, "{path}")', *[f"x{source}" for source in inputs]), 8)
    body = [
        "class Network(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *code,
        "",
        "    def forward(self, x0):",
        *lines,
        f"        return x{graph.output}.flatten(1)",
    ]
    return [_PUT, "\n".join(body)]


def call(function: str, *values: Any, **options: Any) -> str:
    """Format a call."""
    return f"{function}({', '.join([*map(str, values), *[f'{name}={value}' for name, value in options.items()]])})"
