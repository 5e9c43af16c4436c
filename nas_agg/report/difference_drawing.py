"""The drawing of what changed between two networks.

Above, both networks from left to right. Below, each kind of aggregate that differs, before and after: nodes, arcs and
operations that only one of them has, or that changed, have a colour, a sign and a line style of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from nas_agg.common.errors import one_line
from nas_agg.expansion.costs import Cost
from nas_agg.language.genotype import Genotype
from nas_agg.report.differences import SIGNS, State, align, cost_changes
from nas_agg.report.drawing import pipeline
from nas_agg.report.outline import AggregateOutline, JoinStep, Layer, Node, Step, outline
from nas_agg.report.panels import group_panels
from nas_agg.report.svg import GREY, INK, Picture, format_number, shape_text, shorten, text_width
from nas_agg.report.wires import BOX_HEIGHT, BOX_WIDTH, Wires

#: Colour and dashes of lines of each state; all colours have a contrast of 4.5 on white.
STYLES: dict[State, tuple[str, str | None]] = {
    "added": ("#1a7f37", None),
    "removed": ("#b3261e", "2,3"),
    "changed": ("#8a5a00", "7,2"),
    "same": (GREY, None),
}
STRONG = 2.6  # width of the lines of what differs
PAGE_WIDTH = 1160
MAX_SHOWN = 12  # aggregates

Pair = tuple[AggregateOutline | None, AggregateOutline | None]


def draw_difference(before: Genotype, after: Genotype, names: tuple[str, str], adapts: bool = True) -> str:
    """Draw what changed between two networks; returns the text of an SVG file.

    Args:
        before: A genotype without search variables.
        after: Another.
        names: The names of both.
        adapts: Whether the file has a dark form, for viewers that prefer one.

    Raises:
        GenotypeError: A genotype does not describe a network.
    """
    names = one_line(names[0]), one_line(names[1])
    (graph, steps), (other_graph, other_steps) = outline(before), outline(after)
    costs = Cost(graph), Cost(other_graph)
    picture, title = Picture(), f"{shorten(names[0], 60)} → {shorten(names[1], 60)}"
    picture.text(0, 16, title, 18, bold=True)
    changes = [f"{name} {old} → {new} {relative}".rstrip() for name, old, new, relative in cost_changes(*costs)]
    for place in range(0, len(changes), 3):
        picture.text(0, picture.height + 17, "; ".join(changes[place : place + 3]), 12, GREY)
    picture.insert(0, picture.height + 12, _legend())
    for name, genotype, own in ((names[0], before, steps), (names[1], after, other_steps)):
        picture.text(0, picture.height + 28, shorten(name, 80), 13, bold=True)
        picture.insert(0, picture.height + 4, pipeline(genotype.input, own, group_panels(own)))
    if costs[0].hash == costs[1].hash:
        picture.text(0, picture.height + 30, "Both are the same network.", 13)
        return picture.document(title, adapts=adapts)
    picture.insert(0, picture.height + 24, _steps_row("the whole network", steps, other_steps))
    pairs = [*_changed_pairs(steps, other_steps)]
    for one, other in pairs[:MAX_SHOWN]:
        picture.insert(0, picture.height + 26, _panel(one, other), {"class": "difference"})
    if len(pairs) > MAX_SHOWN:
        picture.text(0, picture.height + 24, f"and {len(pairs) - MAX_SHOWN} more kinds of aggregates", 12, GREY)
    return picture.document(title, adapts=adapts)


def _legend() -> Picture:
    picture, x = Picture(), 0.0
    for state in ("removed", "added", "changed"):
        colour, dash = STYLES[state]
        picture.path(f"M{format_number(x)},10h28", colour, STRONG, dash)
        text = f"{SIGNS[state]} {state}"
        picture.text(x + 34, 14, text, 12, colour, bold=True)
        x += 54 + text_width(text, 12)
    picture.extend_to(x, 20)
    return picture


# ---------------------------------------------------------------------- pairs of aggregates


def _key(step: Step) -> tuple:
    """Equal for equal steps, with their widths and shapes."""
    if isinstance(step, JoinStep):
        return ("join", step.operator)
    if isinstance(step, Layer):
        return (step.text, step.shape)
    return (tuple(step.features), *step.about.items(), *[_node_key(node) for node in step.nodes], step.output_shape)


def _node_key(node: Node) -> tuple:
    shortcut = tuple(node.shortcut.sources) if node.shortcut else None
    return (tuple(node.reads.sources), node.reads.operator, shortcut, tuple([_key(step) for step in node.steps]))


def _kind(step: Step) -> tuple:
    """Steps of a kind are compared with each other: layers of a kind, aggregates with maps of a size."""
    if isinstance(step, AggregateOutline):
        return "aggregate", step.output_shape[1:]
    return step.kind if isinstance(step, Layer) else "join", ()


def _changed_pairs(before: list[Step], after: list[Step]) -> Iterator[Pair]:
    """The pairs of aggregates that differ, outer ones first, each kind of pair once."""
    seen, level = set(), [(before, after)]
    while level:
        inner: list[tuple[list[Step], list[Step]]] = []
        for steps, others in level:
            for one, other in align(steps, others, _key, _kind):
                if not isinstance(one or other, AggregateOutline) or (one and other and _key(one) == _key(other)):
                    continue
                assert not isinstance(one, Layer | JoinStep) and not isinstance(other, Layer | JoinStep)
                kinds = tuple(part and (part.key, len(part.nodes)) for part in (one, other))
                if kinds not in seen:
                    seen.add(kinds)
                    yield one, other
                if one and other:
                    inner += [(a.steps, b.steps) for a, b in zip(one.nodes, other.nodes, strict=False)]
        level = inner


# ---------------------------------------------------------------------- panels


def _panel(before: AggregateOutline | None, after: AggregateOutline | None) -> Picture:
    """An aggregate before and after, and the operations of the nodes that differ."""
    picture, state = Picture(), _state(before, after)
    one = after or before
    assert one is not None
    colour, _ = STYLES[state]
    heading = f"{SIGNS[state]} {shorten(one.label, 40)}: {state}"
    picture.text(0, 14, heading, 14, colour, bold=True)
    for role, aggregate, other in (("before", before, after), ("after", after, before)):
        if aggregate is None:
            continue
        y = picture.height + 12
        picture.text(0, y + 12, role, 12, bold=True)
        about = "; ".join(f"{place} {text}" for place, text in aggregate.about.items())
        shapes = f"{_count(aggregate)}, {shape_text(aggregate.features[0])} → "
        picture.text(60, y + 12, f"{shapes}{shape_text(aggregate.output_shape)}; {shorten(about, 120)}", 11, GREY)
        picture.insert(30, y + 34, _marked(aggregate, other, "removed" if role == "before" else "added"))
    if before is not None and after is not None:
        shown = set()
        for node, new in zip(before.nodes, after.nodes, strict=False):
            kinds = tuple(tuple([_text(step) for step in part.steps]) for part in (node, new))
            pair = tuple([tuple(["".join(c for c in text if not c.isdigit()) for text in kind]) for kind in kinds])
            if kinds[0] != kinds[1] and pair not in shown:
                shown.add(pair)
                name = f"operations of node {node.number}"
                picture.insert(30, picture.height + 12, _steps_row(name, node.steps, new.steps))
    return picture


def _state(before: object, after: object) -> State:
    return "changed" if before is not None and after is not None else "removed" if after is None else "added"


def _marked(aggregate: AggregateOutline, other: AggregateOutline | None, own: State) -> Picture:
    """The wires and nodes of an aggregate; those that the other lacks have the style of a state, changed ones too."""
    picture = Wires(aggregate).picture()
    if other is None:
        return picture
    wires, others = _wires(aggregate), _wires(other)
    nodes = {node.number: _node_key(node)[3] for node in other.nodes}
    for element in [*picture.elements]:
        kind = element.get("class", "")
        if kind in ("read", "shortcut", "out"):
            last = "end" if kind == "out" else element.get("data-to", "")
            wire = kind, element.get("data-from", ""), last
            if wire in wires and wires[wire] != others.get(wire):
                _restyle(element, "changed" if wire in others else own)
        elif kind == "node":
            number = int(element.get("data-number", ""))
            state: State = own if number not in nodes else "changed"
            if nodes.get(number) != _node_key(aggregate.nodes[number - 1])[3]:
                _restyle(element, state)
                x, y = float(element.get("x", 0)), float(element.get("y", 0))
                picture.text(x + BOX_WIDTH - 9, y + 11, SIGNS[state], 13, STYLES[state][0], "middle", bold=True)
    picture.extend_to(picture.width, picture.height + BOX_HEIGHT / 4)
    return picture


def _wires(aggregate: AggregateOutline) -> dict[tuple[str, str, str], str]:
    """The operator of each wire by its kind, its source and its reader; empty where nothing else is gathered."""
    gathers = [("read", str(node.number), node.reads) for node in aggregate.nodes]
    gathers += [("shortcut", str(node.number), node.shortcut) for node in aggregate.nodes if node.shortcut]
    return {
        (kind, str(source), reader): gathered.operator if kind == "shortcut" or len(gathered.sources) > 1 else ""
        for kind, reader, gathered in [*gathers, ("out", "end", aggregate.output)]
        for source in gathered.sources
    }


def _restyle(element: Element, state: State) -> None:
    colour, dash = STYLES[state]
    element.set("stroke", colour)
    element.set("stroke-width", format_number(STRONG))
    element.set("data-state", state)
    if dash:
        element.set("stroke-dasharray", dash)


# ---------------------------------------------------------------------- rows of operations


def _text(step: Step) -> str:
    if isinstance(step, JoinStep):
        return f"shortcut, {step.operator}"
    if isinstance(step, Layer):
        return step.text
    return f"{shorten(step.label, 30)}, {_count(step)}, {step.output_shape[0]} ch"


def _count(aggregate: AggregateOutline) -> str:
    count = len(aggregate.nodes)
    return f"{count} node{'s' * (count != 1)}"


def _steps_row(name: str, before: list[Step], after: list[Step]) -> Picture:
    """Operations from left to right: those of both networks, and those that were removed, added or changed."""
    picture = Picture()
    picture.text(0, 12, name, 12, bold=True)
    chips: list[tuple[State, str]] = []
    for one, other in align(before, after, _text, _kind):
        states: State = _state(one, other)
        if one is None or other is None:
            chips.append((states, _text(one or other)))  # type: ignore[arg-type]
        elif _text(one) == _text(other):
            inside = isinstance(one, AggregateOutline) and _key(one) != _key(other)
            chips.append(("changed", f"{_text(one)}, inside") if inside else ("same", _text(one)))
        else:
            chips.append(("changed", f"{_text(one)} → {_text(other)}"))
    x, y = 0.0, 22.0
    for state, text in _shortened(chips):
        shown = text if state == "same" else f"{SIGNS[state]} {text}"
        width = text_width(shown, 11) + 14
        if x and x + width > PAGE_WIDTH:
            x, y = 0.0, y + 32
        colour, dash = STYLES[state]
        different = state != "same"
        attributes = {"class": "operation", "data-state": state}
        picture.box(x, y, width, 24, "#ffffff", colour, STRONG if different else 1, 3, dash, attributes)
        picture.text(x + width / 2, y + 16, shown, 11, colour if different else INK, "middle", bold=different)
        x += width + 8
    return picture


def _shortened(chips: list[tuple[State, str]]) -> Iterator[tuple[State, str]]:
    """Runs of more than four operations that are the same become one."""
    run: list[str] = []
    for state, text in [*chips, ("added", "")]:
        if state == "same":
            run.append(text)
            continue
        if len(run) > 4:
            run = [run[0], f"· · · {len(run) - 2} more", run[-1]]
        yield from (("same", kept) for kept in run)
        run = []
        if text:
            yield state, text
