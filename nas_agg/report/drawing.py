"""Drawings of networks in the style of the papers.

The upper part shows the whole network from left to right: a bar is a node, its height stands for the size of its map
and its thickness for its channels. Below, a panel shows each kind of aggregate: its nodes with arcs for the features
they read, and the operations of a node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from nas_agg.common.console import format_classes
from nas_agg.expansion.costs import Cost
from nas_agg.graph.primitives import Shape
from nas_agg.language.genotype import Genotype
from nas_agg.report.outline import AggregateOutline, Layer, Node, Step, outline
from nas_agg.report.panels import Panels, group_panels, panel_picture
from nas_agg.report.svg import GREY, INK, Picture, shape_text, shorten, text_width
from nas_agg.report.wires import OPERATORS, SIGN_RADIUS, operator_sign

PAGE_WIDTH = 1360
MAX_BARS = 10
MAX_ITEMS = 36  # in the upper part


def draw(genotype: Genotype, title: str = "", panels: bool = True, adapts: bool = True) -> str:
    """Draw a genotype's network; returns the text of an SVG file.

    Args:
        genotype: A genotype without search variables.
        title: A title.
        panels: Whether the kinds of aggregates are shown below the whole network.
        adapts: Whether the file has a dark form, for viewers that prefer one.

    Raises:
        GenotypeError: The genotype does not describe a network.
    """
    graph, steps = outline(genotype)
    cost = Cost(graph)
    c, h, w = genotype.input
    about = f"{c}×{h}×{w} images, {format_classes(genotype.classes)}; {cost.params:,} parameters, {cost.macs:,} MACs"
    kinds = group_panels(steps)
    picture = Picture()
    if title:
        picture.text(0, 16, shorten(title, 120), 18, bold=True)
    picture.text(0, picture.height + 17, about, 12, GREY)
    picture.insert(0, picture.height + 21, pipeline(genotype.input, steps, kinds))
    if panels:
        _insert_panels(picture, kinds)
    return picture.document(title or about, adapts=adapts)


def _insert_panels(picture: Picture, panels: Panels) -> None:
    """Insert a panel for each kind of aggregate in rows below a picture, and the legend."""
    x, y = 0.0, picture.height + 24
    for panel in panels.shown:
        part = panel_picture(panel, panels)
        if x and x + part.width > PAGE_WIDTH:
            x, y = 0.0, picture.height + 24
        picture.insert(x, y, part, {"class": "aggregate", "data-path": panel.drawn.path})
        x += part.width + 50
    if panels.left_out:
        picture.text(0, picture.height + 24, f"and {panels.left_out} more kinds of aggregates", 12, GREY)
    picture.insert(0, picture.height + 24, _legend(panels))


# ---------------------------------------------------------------------- the upper part


@dataclass
class Run:
    """Consecutive nodes of an aggregate with maps of equal size; ``last`` if the aggregate ends with them."""

    aggregate: AggregateOutline
    nodes: list[Node]
    last: bool

    @property
    def shape(self) -> Shape:
        return self.aggregate.output_shape if self.last else self.nodes[-1].shape


def _runs_of_nodes(steps: list[Step]) -> list[list[Layer] | Run]:
    items: list[list[Layer] | Run] = []
    for outer, part in groupby(steps, key=lambda step: isinstance(step, AggregateOutline)):
        if not outer:
            items.append([step for step in part if isinstance(step, Layer)])
            continue
        for aggregate in part:
            assert isinstance(aggregate, AggregateOutline)
            runs = [list(nodes) for _, nodes in groupby(aggregate.nodes, key=lambda node: node.shape[1:])]
            items.extend(Run(aggregate, nodes, nodes is runs[-1]) for nodes in runs)
    return items


def pipeline(image: Shape, steps: list[Step], panels: Panels) -> Picture:
    """The whole network, from image to logits."""
    items = _runs_of_nodes(steps)
    left_out = len(items) - MAX_ITEMS
    runs = [item for item in items if isinstance(item, Run)]
    widest = max((node.shape[0] for run in runs for node in run.nodes), default=1)
    sides = [max(node.shape[1:]) for run in runs for node in run.nodes] or [1]
    pictures = []
    for i, item in enumerate(items):
        if left_out > 0 and MAX_ITEMS - 9 <= i <= len(items) - 9:
            if i == len(items) - 9:
                pictures.append(_ellipsis("· · ·", f"{left_out + 1} more"))
            continue
        if isinstance(item, Run):
            pictures.append(_bars(item, panels, widest, (min(sides), max(sides))))
        else:
            pictures.append(_layers(item, "stem" if i == 0 else "head" if i == len(items) - 1 else ""))
    whole, x, y = Picture(), 46.0, 0.0
    rows: list[list[Picture]] = [[]]
    for part in pictures:
        if rows[-1] and sum(p.width + 28 for p in rows[-1]) + part.width + 28 > PAGE_WIDTH - 46:
            rows.append([])
        rows[-1].append(part)
    for k, row in enumerate(rows):
        middle = y + max(part.height for part in row) / 2 if row else y
        if k == 0:
            whole.text(0, middle - 6, "image", 11, GREY)
            whole.text(0, middle + 8, shape_text(image), 10, GREY)
            x = max(46.0, text_width(shape_text(image), 10) + 6)
        else:
            x = 20
        for part in row:
            whole.arrow(x, x + 22, middle)
            whole.insert(x + 26, middle - part.height / 2, part)
            x += part.width + 30
        y = whole.height + 26
    return whole


def _ellipsis(first: str, second: str) -> Picture:
    picture = Picture()
    picture.text(24, 14, first, 16, GREY, "middle")
    picture.text(24, 28, second, 9, GREY, "middle")
    picture.extend_to(50, 30)
    return picture


def _layers(layers: list[Layer], role: str) -> Picture:
    """A box that lists layers."""
    lines: list[tuple[str, str]] = []
    for small, part in groupby(layers, key=lambda layer: layer.kind == "small"):
        texts = [layer.text for layer in part]
        if small:
            lines.append(("small", ", ".join(texts[:4])))
        else:
            lines.extend(("layer", text) for text in texts)
    if len(lines) > 9:
        lines = [*lines[:5], ("small", f"· · · {len(lines) - 8} more"), *lines[-3:]]
    size, step = 10, 13
    width = max(text_width(text, size) for _, text in lines) + 12
    picture = Picture()
    below = shape_text(layers[-1].shape)
    width = max(width, text_width(below, size))
    picture.text(width / 2, 9, role, size, GREY, "middle")
    picture.box(0, 14, width, len(lines) * step + 7, "#fafafa")
    for i, (kind, text) in enumerate(lines):
        picture.text(width / 2, 14 + step * (i + 1), text, size, GREY if kind == "small" else INK, "middle")
    bottom = 14 + len(lines) * step + 7
    picture.text(width / 2, bottom + 12, below, size, GREY, "middle")
    picture.extend_to(width, bottom + 14)
    return picture


def _bars(run: Run, panels: Panels, widest: int, sides: tuple[int, int]) -> Picture:
    """Nodes as bars; height is the logarithm of the map's size, thickness the number of channels."""
    letter = panels.letter(run.aggregate)
    nodes: list[Node | None] = list(run.nodes)
    if len(nodes) > MAX_BARS:
        nodes = [*nodes[: MAX_BARS - 3], None, *nodes[-2:]]
    lowest, highest = (math.log2(side + 1) for side in sides)
    height = 34 + 92 * (
        (math.log2(max(run.nodes[-1].shape[1:]) + 1) - lowest) / (highest - lowest) if highest > lowest else 0.5
    )
    thick = [12.0 if node is None else 3 + 8 * node.shape[0] / widest for node in nodes]
    bars = sum(thick) + 3 * (len(thick) - 1)
    widths = sorted({node.shape[0] for node in run.nodes})
    width_text = f"w {widths[0]}" + (f"–{widths[-1]}" if len(widths) > 1 else "")
    times = f"{len(run.nodes)} × " * (len(run.nodes) > 1)
    texts = [f"{times}{letter}" if letter else f"{len(run.nodes)} nodes", width_text, shape_text(run.shape)]
    width = max(bars, *(text_width(text, 10) for text in texts))
    picture = Picture()
    picture.text(width / 2, 10, texts[0], 12, anchor="middle", bold=True)
    x = (width - bars) / 2
    for node, wide in zip(nodes, thick, strict=True):
        if node is None:
            picture.text(x + wide / 2, 18 + height / 2, "…", 13, GREY, "middle")
        else:
            picture.box(x, 16, wide, height, panels.tint(letter), radius=1, attributes={"class": "bar"})
        x += wide + 3
    picture.text(width / 2, height + 29, texts[1], 10, INK, "middle")
    picture.text(width / 2, height + 42, texts[2], 10, GREY, "middle")
    picture.extend_to(width, height + 44)
    return picture


def _legend(panels: Panels) -> Picture:
    """The legend of the operators and lines in use."""
    picture, x = Picture(), 0.0
    aggregates = [panel.drawn for panel in panels.shown]
    nodes = [node for one in aggregates for node in one.nodes]
    used = {one.output.operator for one in aggregates if len(one.output.sources) > 1}
    used |= {node.reads.operator for node in nodes if len(node.reads.sources) > 1}
    used |= {node.shortcut.operator for node in nodes if node.shortcut} | {n.join.operator for n in nodes if n.join}
    for operator in OPERATORS:
        if operator in used:
            operator_sign(picture, x + SIGN_RADIUS, 10, operator)
            picture.text(x + 18, 14, operator, 11)
            x += 34 + text_width(operator, 11)
    if nodes:
        for dash, text in ((None, "reads"), ("4,3", "shortcut")):
            if dash is None or any(node.shortcut for node in nodes):
                picture.path(f"M{x:.1f},10h26", INK, dash=dash)
                picture.text(x + 32, 14, text, 11)
                x += 52 + text_width(text, 11)
        picture.text(x, 14, "a node: its number, channels (w), groups (gr), stride (/)", 11, GREY)
    picture.extend_to(0, 20)
    return picture
