"""The panels of a drawing: each shows one representative of a kind of aggregate."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas_agg.report.outline import AggregateOutline, JoinStep, Node, Step, takes_join
from nas_agg.report.svg import FAINT, GREY, INK, Picture, shape_text, shorten, text_width
from nas_agg.report.wires import KIND_COLOURS, OPERATORS, SIGN_RADIUS, Wires, chain_text, operator_sign

PAGE_WIDTH = 1160  # of the steps of a node
MAX_PANELS = 16
MAX_KINDS = 4  # of nodes with different operations
PANEL_COLOURS = ("#cfe2f3", "#fce5cd", "#d9ead3", "#ead1dc", "#fff2cc", "#d0e0e3", "#d9d2e9", "#f4cccc")
STEP_COLOURS = {"conv": "#dbe9f6", "pool": "#f9dedc", "linear": "#e3f1dc", "small": "#f4f4f4", "other": "#fff4cf"}


@dataclass
class Panel:
    """A kind of aggregate, of which one is drawn."""

    letter: str
    drawn: AggregateOutline
    members: list[AggregateOutline] = field(default_factory=list)


@dataclass
class Panels:
    """All panels by the kind of their aggregates; ``shown`` are those in the drawing."""

    by_key: dict[tuple, Panel] = field(default_factory=dict)
    shown: list[Panel] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        return len(self.by_key) - len(self.shown)

    def letter(self, aggregate: AggregateOutline) -> str:
        """The letter of an aggregate's panel; empty if it is not shown."""
        panel = self.by_key.get(aggregate.key)
        return panel.letter if panel else ""

    def tint(self, letter: str) -> str:
        return PANEL_COLOURS[(ord(letter) - ord("A")) % len(PANEL_COLOURS)] if letter else FAINT


def group_panels(steps: list[Step]) -> Panels:
    """Group aggregates into panels: outer aggregates first, then those inside their nodes."""
    panels, level = Panels(), steps
    while level:
        by_key: dict[tuple, list[AggregateOutline]] = {}
        for step in level:
            if isinstance(step, AggregateOutline):
                by_key.setdefault(step.key, []).append(step)
        level = []
        for key, members in by_key.items():
            if key in panels.by_key:
                panels.by_key[key].members.extend(members)
                continue
            letter = chr(ord("A") + len(panels.shown)) if len(panels.shown) < MAX_PANELS else ""
            panel = panels.by_key[key] = Panel(letter, _representative(members), members)
            if letter:
                panels.shown.append(panel)
            for aggregate in members:
                level.extend(step for node in aggregate.nodes for step in node.steps)
    return panels


def _representative(members: list[AggregateOutline]) -> AggregateOutline:
    """The aggregate to draw: preferably of a size at which the whole pattern is visible, with matched sources."""

    def preference(aggregate: AggregateOutline) -> tuple[bool, bool, bool]:
        has_matches = any(node.shortcut and node.shortcut.matches for node in aggregate.nodes)
        return 3 <= len(aggregate.nodes) <= 16, has_matches, len(aggregate.nodes) >= 3

    return max(members, key=preference)


def panel_picture(panel: Panel, panels: Panels) -> Picture:
    """An aggregate's nodes, and below them the operations of each kind of node."""
    aggregate, picture = panel.drawn, _heading(panel, panels)
    picture.insert(30, 46, Wires(aggregate).picture())
    kinds = list(aggregate.kinds.values())
    names = [_node_ranges([node.number for node in members]) for members in kinds[:MAX_KINDS]]
    if len(kinds) == 1:
        names = ["each node"]
    indent = 64 + max([70, *(text_width(name) for name in names)])
    for i, (name, members) in enumerate(zip(names, kinds, strict=False)):
        node = members[1] if len(members) > 1 and members[0].number == 1 else members[0]
        y = picture.height + 12
        picture.box(30, y + 6, 12, 12, KIND_COLOURS[i % len(KIND_COLOURS)], INK)
        picture.text(48, y + 16, name, 11)
        if len(members) > 1:
            picture.text(48, y + 29, f"drawn: node {node.number}", 9, GREY)
        picture.insert(indent, y, _steps_picture(node, panels))
    if len(kinds) > MAX_KINDS:
        picture.text(48, picture.height + 16, f"and {len(kinds) - MAX_KINDS} more kinds of nodes", 11, GREY)
    picture.box(-8, -6, 0, picture.height + 10, FAINT, FAINT)
    return picture


def _heading(panel: Panel, panels: Panels) -> Picture:
    """An aggregate's letter, names and numbers of nodes in the network, and its gathers as text."""
    aggregate, picture = panel.drawn, Picture()
    picture.box(0, 0, 22, 20, panels.tint(panel.letter), panels.tint(panel.letter))
    picture.text(11, 15, panel.letter, 14, anchor="middle", bold=True)
    places = list(dict.fromkeys((one.label, len(one.nodes)) for one in panel.members))
    texts = [f"{shorten(label, 40)} ({n})" for label, n in places[:6]]
    texts[0] = f"{texts[0][:-1]} node{'s' * (places[0][1] != 1)})"
    texts += [f"… {len(places) - 6} more"] * (len(places) > 6)
    name = ", ".join(texts)
    picture.text(30, 15, name, 12, bold=True)
    if len(panel.members) > 1:
        shapes = f"{shape_text(aggregate.features[0])} → {shape_text(aggregate.output_shape)}"
        drawn = f"drawn: {shorten(aggregate.label, 40)}, {shapes}"
        picture.text(46 + text_width(name, 13), 15, drawn, 11, GREY)
    picture.text(30, 31, shorten("; ".join(f"{role} {text}" for role, text in aggregate.about.items()), 160), 11, GREY)
    return picture


def _node_ranges(numbers: list[int]) -> str:
    """Node numbers as ranges: ``nodes 2–6, 8``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [str(a) if a == b else f"{a}–{b}" for a, b in ranges]
    more = ", …" if len(texts) > 3 else ""
    return f"{'node' if len(numbers) == 1 else 'nodes'} {', '.join(texts[:3])}{more}"


def _steps_picture(node: Node, panels: Panels) -> Picture:
    """The steps of a node from left to right, in rows of the page's width."""
    picture, height = Picture(), 24.0
    x, y = 0.0, 0.0
    first = shape_text(node.entering)
    picture.text(x, y + 16, first, 10, GREY)
    x += text_width(first, 10) + 6
    chips = _step_chips(node, panels)
    if len(chips) > 30:
        chips = [*chips[:18], ("more", f"· · · {len(chips) - 24} more", ""), *chips[-6:]]
    for kind, text, tint in chips:
        width = 2.0 * SIGN_RADIUS if kind == "join" else text_width(text, 11) + 14
        if x + 16 + width > PAGE_WIDTH:
            x, y = 24.0, y + height + (24 if node.shortcut else 12)
        picture.arrow(x, x + 14, y + 12)
        x += 16
        if kind == "join":
            _draw_join(picture, x + SIGN_RADIUS, y, node, text)
        else:
            emphasized = kind in ("aggregate", "split")
            picture.box(
                x,
                y,
                width,
                height,
                tint,
                INK if emphasized else GREY,
                1.8 if emphasized else 1,
                attributes={"class": "step"},
            )
            picture.text(x + width / 2, y + 16, text, 11, anchor="middle", bold=emphasized)
            if kind == "split":
                colour = OPERATORS[node.shortcut.operator][0] if node.shortcut else GREY
                picture.path(f"M{x + 20:.1f},{y + 38:.1f}V{y + 24:.1f}", colour, dash="4,3")
                picture.text(x + 25, y + 36, "shortcut, split among its nodes", 9, GREY)
        x += width + 2
    picture.arrow(x, x + 14, y + 12)
    picture.text(x + 18, y + 16, shape_text(node.shape), 10, GREY)
    picture.extend_to(x, y + height + 2)
    return picture


def _draw_join(picture: Picture, x: float, y: float, node: Node, operator: str) -> None:
    """Draw a join with its shortcut from below."""
    picture.path(f"M{x:.1f},{y + 34:.1f}V{y + 19:.1f}", OPERATORS[operator][0], dash="4,3")
    operator_sign(picture, x, y + 12, operator)
    text = "shortcut"
    if node.shortcut and node.shortcut.matches:
        text += ": " + chain_text(next(iter(node.shortcut.matches.values())), 40)
    elif not node.shortcut:
        text = "its part of the outer shortcut"
    picture.text(x + 5, y + 36, text, 9, GREY)


def _step_chips(node: Node, panels: Panels) -> list[tuple[str, str, str]]:
    """Kind, text and colour of each step; consecutive norms and activations are combined."""
    chips: list[tuple[str, str, str]] = []
    for step in node.steps:
        if isinstance(step, JoinStep):
            chips.append(("join", step.operator, ""))
        elif isinstance(step, AggregateOutline):
            letter = panels.letter(step)
            n = len(step.nodes)
            text = f"{letter}  {shorten(step.label, 40)}, {n} node{'s' * (n != 1)}, {step.output_shape[0]} ch".strip()
            kind = "split" if node.shortcut and not node.join and takes_join(step) else "aggregate"
            chips.append((kind, text, panels.tint(letter)))
        elif step.kind == "small" and chips and chips[-1][0] == "small":
            chips[-1] = ("small", f"{chips[-1][1]} {step.text}", STEP_COLOURS["small"])
        else:
            chips.append((step.kind, step.text, STEP_COLOURS[step.kind]))
    return chips
