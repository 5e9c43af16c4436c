"""A network as a tree of text, with shapes and costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nas_agg.common.console import format_classes
from nas_agg.common.files import canonical_json
from nas_agg.expansion.expansion import expand
from nas_agg.graph.connectivity import Connectivity, aggregate_connectivity
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Conv, Linear, Norm, Primitive, Shape, format_shape
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import Aggregate, Gather, ResolvedWord, Unit
from nas_agg.language.resolver import Resolver


@dataclass
class TreeNode:
    """A part of a network.

    Attributes:
        label: Its name within its parent.
        about: A description.
        shape: ``(channels, height, width)`` of its output.
        params: Number of parameters.
        macs: Multiply-adds per image.
        parts: Its children.
        wiring: The connections between layers, if it is an aggregate.
    """

    label: str
    about: str = ""
    shape: Shape = (0, 0, 0)
    params: int = 0
    macs: int = 0
    parts: dict[str, TreeNode] = field(default_factory=dict)
    wiring: Connectivity | None = None

    def as_dict(self) -> dict:
        """JSON values."""
        return {
            "label": self.label,
            "about": self.about,
            "shape": list(self.shape),
            "params": self.params,
            "macs": self.macs,
            **(self.wiring._asdict() if self.wiring else {}),
            "parts": [part.as_dict() for part in self.parts.values()],
        }


def network_tree(genotype: Genotype) -> TreeNode:
    """The tree of a genotype's network.

    Raises:
        GenotypeError: The genotype does not describe a network.
    """
    graph, gathers = expand(genotype), _gathers(Resolver(genotype).network())
    root = TreeNode("net", f"{format_shape(genotype.input)} images, {format_classes(genotype.classes)}")
    for i in range(1, len(graph)):
        _add_operation(root, graph, i, gathers)
    for path, wiring in aggregate_connectivity(graph).items():
        node = root
        for part in path.split("."):
            node = node.parts[part]
        node.wiring = wiring
    return root


def tree_lines(node: TreeNode, depth: int) -> Iterator[str]:
    """The lines of a tree.

    Args:
        branch: The root.
        depth: Number of levels shown below it.
    """
    rows = list(_rows(node, depth, "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for left, shape, params, macs, about in rows:
        line = f"{left:<{widths[0]}}  {shape:>{widths[1]}}  {params:>{widths[2]}}  {macs:>{widths[3]}}  {about}"
        yield line.rstrip()


def _add_operation(root: TreeNode, graph: Graph, i: int, gathers: dict[str, str]) -> None:
    op, shape, node, path = graph.ops[i], graph.shapes[i], root, ""
    for part in ["", *graph.paths[i].split(".")]:
        if part:
            path = f"{path}.{part}" if path else part
            if part not in node.parts:
                about = gathers.get(re.sub(r"\.\d+\.unit\b", ".*.unit", path), "")
                node.parts[part] = TreeNode(part, about)
            node = node.parts[part]
        node.params += op.params if graph.shared.get(i, i) == i else 0
        node.macs += op.macs(shape)
        node.shape = shape
    if not node.about:
        node.about = _describe(op, [graph.shapes[source] for source in graph.inputs[i]])


def _describe(op: Primitive, inputs: list[Shape]) -> str:
    if isinstance(op, Conv):
        details = [f"stride {op.stride}"] * (op.stride > 1) + [f"{op.groups} groups"] * (op.groups > 1)
        return ", ".join([f"{op.kernel}x{op.kernel} conv {op.channels} -> {op.out}", *details])
    if isinstance(op, Linear):
        return f"linear {op.features} -> {op.out}"
    if isinstance(op, Norm):
        kind = "batch norm" if not op.groups else f"group norm, {op.groups} groups"
        return kind if op.affine else f"{kind}, no affine"
    if op.word == "cat":
        return "concat " + " + ".join(str(shape[0]) for shape in inputs)
    arguments = ", ".join(str(value) for value in op.arguments())
    return f"{op.word} {arguments}".strip() if len(inputs) < 2 else f"{op.word} of {len(inputs)}"


def _gathers(net: Unit) -> dict[str, str]:
    """Descriptions of each aggregate's gathers by its path; `*` stands for any node."""
    descriptions: dict[str, str] = {}

    def walk(unit: Unit, path: str) -> None:
        for label, step in unit.steps:
            here = f"{path}.{label}" if path else label
            if isinstance(step, Aggregate):
                roles = (("reads", step.reads), ("shortcut", step.shortcut), ("output", step.output))
                descriptions[here] = "; ".join(f"{role} {_gather(gather)}" for role, gather in roles if gather)
                for inner in step.units:
                    walk(inner, f"{here}.*.unit")
            elif isinstance(step, Unit):
                walk(step, here)

    walk(net, "")
    return descriptions


def _gather(gather: Gather) -> str:
    words = [_word(gather.pattern)]
    if words != ["previous"] or gather.operator.word not in ("sum", "concat"):
        words.append(_word(gather.operator))
    return " ".join(words)


def _word(use: ResolvedWord) -> str:
    fields = {name: number.expression.text for name, number in use.numbers} | dict(use.fixed)
    fields = {name: value for name, value in fields.items() if value is not None}
    return canonical_json(fields).replace('"', "").strip("{}") if fields else use.word


def _rows(node: TreeNode, depth: int, first: str, rest: str) -> Iterator[tuple[str, str, str, str, str]]:
    label = f"{first}{node.label}"
    about = node.about
    if node.wiring and node.wiring.layers > 1:
        about += f"; {node.wiring.connections} connections, gradient path {node.wiring.gradient_path}"
    yield label, format_shape(node.shape), f"{node.params:,}", f"{node.macs:,}", about
    if depth == 0:
        return
    parts = list(node.parts.values())
    for part in parts:
        last = part is parts[-1]
        yield from _rows(part, depth - 1, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
