"""A network as a tree of text: what it is made of, with shapes and costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nas_agg.common.files import canonical_json
from nas_agg.expansion.expansion import expand
from nas_agg.graph.connectivity import Connectivity, aggregate_connectivity
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import Conv, Linear, Norm, Primitive, Shape, format_shape
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolved import Aggregate, Gather, Sequence, WordUse
from nas_agg.language.resolver import Resolver


@dataclass
class Branch:
    """A part of a network.

    Attributes:
        label: Its name in the part that holds it.
        about: What it is.
        shape: ``(channels, height, width)`` of what leaves it.
        params: Trainable numbers in it.
        macs: Multiply-adds in it, an image.
        parts: What it is made of.
        wiring: Of an aggregate: how its layers are connected.
    """

    label: str
    about: str = ""
    shape: Shape = (0, 0, 0)
    params: int = 0
    macs: int = 0
    parts: dict[str, Branch] = field(default_factory=dict)
    wiring: Connectivity | None = None

    def as_dict(self) -> dict:
        """Plain JSON values."""
        return {
            "label": self.label,
            "about": self.about,
            "shape": list(self.shape),
            "params": self.params,
            "macs": self.macs,
            **(self.wiring._asdict() if self.wiring else {}),
            "parts": [part.as_dict() for part in self.parts.values()],
        }


def network_tree(genotype: Genotype) -> Branch:
    """The tree of a genotype's network.

    Raises:
        GenotypeError: If the genotype is not a network.
    """
    graph, gathers = expand(genotype), _gathers(Resolver(genotype).network())
    root = Branch("net", f"{format_shape(genotype.input)} images, {genotype.classes} classes")
    for i in range(1, len(graph)):
        _put(root, graph, i, gathers)
    for path, wiring in aggregate_connectivity(graph).items():
        branch = root
        for part in path.split("."):
            branch = branch.parts[part]
        branch.wiring = wiring
    return root


def tree_lines(branch: Branch, depth: int) -> Iterator[str]:
    """The lines of a tree.

    Args:
        branch: The root.
        depth: How many levels below it are shown.
    """
    rows = list(_rows(branch, depth, "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for left, shape, params, macs, about in rows:
        line = f"{left:<{widths[0]}}  {shape:>{widths[1]}}  {params:>{widths[2]}}  {macs:>{widths[3]}}  {about}"
        yield line.rstrip()


def _put(root: Branch, graph: Graph, i: int, gathers: dict[str, str]) -> None:
    op, shape, branch, path = graph.ops[i], graph.shapes[i], root, ""
    for part in ["", *graph.paths[i].split(".")]:
        if part:
            path = f"{path}.{part}" if path else part
            if part not in branch.parts:
                about = gathers.get(re.sub(r"\.\d+\.unit\b", ".*.unit", path), "")
                branch.parts[part] = Branch(part, about)
            branch = branch.parts[part]
        branch.params += op.params if graph.shared.get(i, i) == i else 0
        branch.macs += op.macs(shape)
        branch.shape = shape
    if not branch.about:
        branch.about = _said(op, [graph.shapes[source] for source in graph.inputs[i]])


def _said(op: Primitive, inputs: list[Shape]) -> str:
    if isinstance(op, Conv):
        further = [f"stride {op.stride}"] * (op.stride > 1) + [f"{op.groups} groups"] * (op.groups > 1)
        return ", ".join([f"{op.kernel}x{op.kernel} conv {op.channels} -> {op.out}", *further])
    if isinstance(op, Linear):
        return f"linear {op.features} -> {op.out}"
    if isinstance(op, Norm):
        kind = "batch norm" if not op.groups else f"group norm, {op.groups} groups"
        return kind if op.affine else f"{kind}, no affine"
    if op.word == "cat":
        return "concat " + " + ".join(str(shape[0]) for shape in inputs)
    arguments = ", ".join(str(value) for value in op.arguments())
    return f"{op.word} {arguments}".strip() if len(inputs) < 2 else f"{op.word} of {len(inputs)}"


def _gathers(net: Sequence) -> dict[str, str]:
    """What each aggregate's gathers are, by its path; `*` stands for any node."""
    found: dict[str, str] = {}

    def walk(unit: Sequence, path: str) -> None:
        for label, step in unit.steps:
            here = f"{path}.{label}" if path else label
            if isinstance(step, Aggregate):
                roles = (("reads", step.reads), ("shortcut", step.shortcut), ("output", step.output))
                found[here] = "; ".join(f"{role} {_gather(gather)}" for role, gather in roles if gather)
                for inner in step.units:
                    walk(inner, f"{here}.*.unit")
            elif isinstance(step, Sequence):
                walk(step, here)

    walk(net, "")
    return found


def _gather(gather: Gather) -> str:
    words = [_word(gather.pattern)]
    if words != ["previous"] or gather.operator.word not in ("sum", "concat"):
        words.append(_word(gather.operator))
    return " ".join(words)


def _word(use: WordUse) -> str:
    fields = {name: number.expression.text for name, number in use.numbers} | dict(use.fixed)
    fields = {name: value for name, value in fields.items() if value is not None}
    return canonical_json(fields).replace('"', "").strip("{}") if fields else use.word


def _rows(branch: Branch, depth: int, first: str, rest: str) -> Iterator[tuple[str, str, str, str, str]]:
    label = f"{first}{branch.label}"
    about = branch.about
    if branch.wiring and branch.wiring.layers > 1:
        about += f"; {branch.wiring.connections} connections, gradient path {branch.wiring.gradient_path}"
    yield label, format_shape(branch.shape), f"{branch.params:,}", f"{branch.macs:,}", about
    if depth == 0:
        return
    parts = list(branch.parts.values())
    for part in parts:
        last = part is parts[-1]
        yield from _rows(part, depth - 1, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
