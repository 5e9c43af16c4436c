"""The panels of a drawing: each opens one aggregate of those that look alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas_agg.report.outline import JoinStep, Node, Opened, Step, takes_join
from nas_agg.report.svg import FAINT, GREY, INK, Picture, shape_text, short, text_width
from nas_agg.report.wires import KINDS, OPERATORS, SIGN, Wires, chain_text, sign

PAGE = 1160  # where the steps of a node are broken into rows
MOST_PANELS = 16
MOST_KINDS = 4  # of nodes that do different things
TINTS = ("#cfe2f3", "#fce5cd", "#d9ead3", "#ead1dc", "#fff2cc", "#d0e0e3", "#d9d2e9", "#f4cccc")
CHIPS = {"conv": "#dbe9f6", "pool": "#f9dedc", "linear": "#e3f1dc", "small": "#f4f4f4", "other": "#fff4cf"}


@dataclass
class Panel:
    """Aggregates that look alike, of which one is drawn."""

    letter: str
    drawn: Opened
    alike: list[Opened] = field(default_factory=list)


@dataclass
class Panels:
    """All panels by what their aggregates look like; ``shown`` are those drawn."""

    by_key: dict[tuple, Panel] = field(default_factory=dict)
    shown: list[Panel] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        return len(self.by_key) - len(self.shown)

    def letter(self, opened: Opened) -> str:
        """The letter of the panel that shows such an aggregate, or nothing."""
        panel = self.by_key.get(opened.key)
        return panel.letter if panel else ""

    def tint(self, letter: str) -> str:
        return TINTS[(ord(letter) - ord("A")) % len(TINTS)] if letter else FAINT


def panels_of(steps: list[Step]) -> Panels:
    """Outer aggregates first, then what is in the nodes that are shown of them."""
    panels, level = Panels(), steps
    while level:
        found: dict[tuple, list[Opened]] = {}
        for step in level:
            if isinstance(step, Opened):
                found.setdefault(step.key, []).append(step)
        level = []
        for key, alike in found.items():
            if key in panels.by_key:
                panels.by_key[key].alike.extend(alike)
                continue
            letter = chr(ord("A") + len(panels.shown)) if len(panels.shown) < MOST_PANELS else ""
            panel = panels.by_key[key] = Panel(letter, _clearest(alike), alike)
            if letter:
                panels.shown.append(panel)
            for opened in alike:
                level.extend(step for node in opened.nodes for step in node.steps)
    return panels


def _clearest(alike: list[Opened]) -> Opened:
    """The one to draw: of a size at which the pattern is seen whole, with sources that are made to fit."""

    def grade(opened: Opened) -> tuple[bool, bool, bool]:
        fitted = any(node.shortcut and node.shortcut.matches for node in opened.nodes)
        return 3 <= len(opened.nodes) <= 16, fitted, len(opened.nodes) >= 3

    return max(alike, key=grade)


def panel_picture(panel: Panel, panels: Panels) -> Picture:
    """An aggregate's nodes, and below them what each kind of node does."""
    opened, picture = panel.drawn, _heading(panel, panels)
    picture.put(30, 46, Wires(opened).picture())
    kinds = list(opened.kinds.values())
    names = [_numbers([node.number for node in alike]) for alike in kinds[:MOST_KINDS]]
    if len(kinds) == 1:
        names = ["each node"]
    indent = 64 + max([70, *(text_width(who) for who in names)])
    for i, (who, alike) in enumerate(zip(names, kinds, strict=False)):
        node = alike[1] if len(alike) > 1 and alike[0].number == 1 else alike[0]
        y = picture.height + 12
        picture.box(30, y + 6, 12, 12, KINDS[i % len(KINDS)], INK)
        picture.text(48, y + 16, who, 11)
        if len(alike) > 1:
            picture.text(48, y + 29, f"drawn: node {node.number}", 9, GREY)
        picture.put(indent, y, _chain(node, panels))
    if len(kinds) > MOST_KINDS:
        picture.text(48, picture.height + 16, f"and {len(kinds) - MOST_KINDS} more kinds of nodes", 11, GREY)
    picture.box(-8, -6, 0, picture.height + 10, FAINT, FAINT)
    return picture


def _heading(panel: Panel, panels: Panels) -> Picture:
    """An aggregate's letter, its names in the network with their numbers of nodes, and its gathers in words."""
    opened, picture = panel.drawn, Picture()
    picture.box(0, 0, 22, 20, panels.tint(panel.letter), panels.tint(panel.letter))
    picture.text(11, 15, panel.letter, 14, at="middle", bold=True)
    places = list(dict.fromkeys((one.label, len(one.nodes)) for one in panel.alike))
    texts = [f"{short(label, 40)} ({n})" for label, n in places[:6]]
    texts[0] = f"{texts[0][:-1]} node{'s' * (places[0][1] != 1)})"
    texts += [f"… {len(places) - 6} more"] * (len(places) > 6)
    name = ", ".join(texts)
    picture.text(30, 15, name, 12, bold=True)
    if len(panel.alike) > 1:
        drawn = f"drawn: {short(opened.label, 40)}, {shape_text(opened.features[0])} → {shape_text(opened.leaving)}"
        picture.text(46 + text_width(name, 13), 15, drawn, 11, GREY)
    picture.text(30, 31, short("; ".join(f"{role} {said}" for role, said in opened.about.items()), 160), 11, GREY)
    return picture


def _numbers(numbers: list[int]) -> str:
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


def _chain(node: Node, panels: Panels) -> Picture:
    """What a node does, from left to right; rows are broken at the page."""
    picture, height = Picture(), 24.0
    x, y = 0.0, 0.0
    first = shape_text(node.entering)
    picture.text(x, y + 16, first, 10, GREY)
    x += text_width(first, 10) + 6
    chips = _chips(node, panels)
    if len(chips) > 30:
        chips = [*chips[:18], ("more", f"· · · {len(chips) - 24} more", ""), *chips[-6:]]
    for kind, text, tint in chips:
        width = 2.0 * SIGN if kind == "join" else text_width(text, 11) + 14
        if x + 16 + width > PAGE:
            x, y = 24.0, y + height + (24 if node.shortcut else 12)
        picture.arrow(x, x + 14, y + 12)
        x += 16
        if kind == "join":
            _joined(picture, x + SIGN, y, node, text)
        else:
            strong = kind in ("aggregate", "dealt")
            picture.box(
                x, y, width, height, tint, INK if strong else GREY, 1.8 if strong else 1, data={"class": "step"}
            )
            picture.text(x + width / 2, y + 16, text, 11, at="middle", bold=strong)
            if kind == "dealt":
                colour = OPERATORS[node.shortcut.operator][0] if node.shortcut else GREY
                picture.path(f"M{x + 20:.1f},{y + 38:.1f}V{y + 24:.1f}", colour, dash="4,3")
                picture.text(x + 25, y + 36, "shortcut, dealt out to its nodes", 9, GREY)
        x += width + 2
    picture.arrow(x, x + 14, y + 12)
    picture.text(x + 18, y + 16, shape_text(node.shape), 10, GREY)
    picture.reach(x, y + height + 2)
    return picture


def _joined(picture: Picture, x: float, y: float, node: Node, operator: str) -> None:
    """The sign of a join with its shortcut from below."""
    picture.path(f"M{x:.1f},{y + 34:.1f}V{y + 19:.1f}", OPERATORS[operator][0], dash="4,3")
    sign(picture, x, y + 12, operator)
    text = "shortcut"
    if node.shortcut and node.shortcut.matches:
        text += ": " + chain_text(next(iter(node.shortcut.matches.values())), 40)
    elif not node.shortcut:
        text = "its part of the shortcut around"
    picture.text(x + 5, y + 36, text, 9, GREY)


def _chips(node: Node, panels: Panels) -> list[tuple[str, str, str]]:
    """Kind, text and colour of what is drawn of each step; norms and activations in a row are one."""
    found: list[tuple[str, str, str]] = []
    for step in node.steps:
        if isinstance(step, JoinStep):
            found.append(("join", step.operator, ""))
        elif isinstance(step, Opened):
            letter = panels.letter(step)
            n = len(step.nodes)
            text = f"{letter}  {short(step.label, 40)}, {n} node{'s' * (n != 1)}, {step.leaving[0]} ch".strip()
            kind = "dealt" if node.shortcut and not node.join and takes_join(step) else "aggregate"
            found.append((kind, text, panels.tint(letter)))
        elif step.kind == "small" and found and found[-1][0] == "small":
            found[-1] = ("small", f"{found[-1][1]} {step.text}", CHIPS["small"])
        else:
            found.append((step.kind, step.text, CHIPS[step.kind]))
    return found
