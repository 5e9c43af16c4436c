"""The nodes of an aggregate as boxes, and who reads whom as arcs."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas_agg.report.outline import Layer, Opened, Step
from nas_agg.report.svg import GREY, INK, Picture, number, short

#: Operator -> its colour and its sign. The colours can be told apart by those who see red and green alike.
OPERATORS = {
    "sum": ("#0072b2", "+"),
    "concat": ("#d55e00", "c"),
    "weighted": ("#009e73", "w"),
    "mean": ("#aa4499", "m"),
    "gated": ("#b8860b", "g"),
    "product": ("#56b4e9", "×"),
    "mixed": ("#882255", "x"),
}
KINDS = ("#ffffff", "#dbe9f6", "#fdebd3", "#e3f1dc")  # of nodes that do different things

MOST_IN_ROW = 16  # nodes of a chain that are all shown; of more some are left out
SOME = 14
MOST_BESIDE = 9  # nodes that are all shown where some stand beside each other
BOX, HEIGHT, SIGN, GAP = 46, 36, 7, 26  # of a box, of an operator's sign (its radius), between boxes


@dataclass
class Item:
    """A node, or some that are left out; item 0 is what enters.

    Attributes:
        numbers: The features it stands for.
        reads: The items that are read.
        shortcut: The items that join.
    """

    numbers: list[int]
    hidden: bool = False
    reads: list[int] = field(default_factory=list)
    shortcut: list[int] = field(default_factory=list)
    column: int = 0
    row: int = 0
    x: float = 0  # of its box
    y: float = 0  # of its middle
    entry: float = 0  # where wires come in
    join: float = 0  # where the shortcut joins
    tap: float = 0  # where its feature can be read


class Wires:
    """The layout of an aggregate's nodes.

    Args:
        opened: The aggregate.
    """

    def __init__(self, opened: Opened):
        self.opened = opened
        self.items = self.placed(MOST_IN_ROW)
        self.row = self.columns()
        if not self.row and len(opened.nodes) > MOST_BESIDE:
            self.items = self.placed(MOST_BESIDE)
            self.columns()
        self.multiple = any(len(node.reads.sources) > 1 for node in opened.nodes)
        self.fits = any(node.shortcut and node.shortcut.matches for node in opened.nodes)
        self.joined = any(node.shortcut or node.join for node in opened.nodes)
        self.kinds = {
            node.number: KINDS[k % len(KINDS)] for k, (_, nodes) in enumerate(opened.kinds.items()) for node in nodes
        }

    # ------------------------------------------------------------------ which nodes, and where

    def placed(self, most: int) -> list[Item]:
        """The items: all nodes, or the first, those where the map changes, and the last."""
        nodes, features = self.opened.nodes, self.opened.features
        kept = range(1, len(nodes) + 1)
        if len(nodes) > most:
            changes = [l for l in range(1, len(nodes)) if features[l + 1][1:] != features[l][1:]][:3]
            near = [m for l in changes for m in (l, l + 1)]
            first = min(SOME, most) - 3 - 3 * len(near) // 2
            kept = sorted({*range(1, first), *near, len(nodes) - 1, len(nodes)})  # type: ignore[assignment]
        items = [Item([0])]
        for l in range(1, len(nodes) + 1):
            if l in kept:
                items.append(Item([l]))
            elif items[-1].hidden:
                items[-1].numbers.append(l)
            else:
                items.append(Item([l], hidden=True))
        self.place = place = {l: k for k, item in enumerate(items) for l in item.numbers}
        for k, item in enumerate(items[1:], 1):
            for l in item.numbers:
                node = nodes[l - 1]
                for found, gathered in ((item.reads, node.reads), (item.shortcut, node.shortcut)):
                    sources = {place[source] for source in (gathered.sources if gathered else ())} - {k}
                    found.extend(sorted(sources - set(found)))
        return items

    def columns(self) -> bool:
        """Gives each item a column behind all that it reads, and a row; whether all stand in one row."""
        items = self.items
        last = [0] * len(items)  # the column up to which an item's row is taken
        for item in items[1:]:
            item.column = 1 + max((items[k].column for k in item.reads), default=0)
        self.last_column = 1 + max(item.column for item in items)
        for item in items[1:]:
            for k in item.reads:
                last[k] = max(last[k], item.column - 1)
        for source in self.opened.output.sources:
            last[self.place[source]] = self.last_column - 1
        if len({item.column for item in items}) == len(items):
            return True
        taken: list[tuple[int, int, int]] = []
        for k, item in enumerate(items):
            wanted = [items[source].row for source in item.reads] or [0]
            first, end = item.column, max(item.column, last[k])
            rows = [r for r in range(len(items)) if not any(r == t and a <= end and first <= b for t, a, b in taken)]
            item.row = min(rows, key=lambda r: (abs(r - min(wanted)), r))
            taken.append((item.row, first, end))
        return False

    # ------------------------------------------------------------------ drawing

    def picture(self) -> Picture:
        """The boxes and the arcs."""
        picture = Picture()
        self.coordinates()
        for item in self.items:
            self.box(picture, item)
        for k, item in enumerate(self.items[1:], 1):
            self.wires_to(picture, k, item)
        self.output(picture)
        return picture

    def coordinates(self) -> None:
        pitch = BOX + GAP + (2 * SIGN + 4) * (self.multiple + self.joined) + (0 if self.row else 14)
        middle = HEIGHT / 2
        if self.row:
            spans = [k - i for k, item in enumerate(self.items) for i in item.reads]
            spans += [len(self.items) - self.place[source] for source in self.opened.output.sources]
            middle = max(middle, 4 + rise(max(spans) - 1))
            below = max([k - i for k, item in enumerate(self.items) for i in item.shortcut], default=0)
            self.bottom = middle + max(HEIGHT / 2, rise(below) + (14 if self.fits else 0))
        at_column = 0 if not self.row else None
        for k, item in enumerate(self.items):
            column = k if at_column is None else item.column
            item.x = column * pitch + (2 * SIGN + 4 if self.multiple and k else 0)
            item.y = middle + (0 if self.row else item.row * (HEIGHT + 14))
            item.entry = item.x - (2 * SIGN + 4 if self.multiple and len(item.reads) > 1 else 0)
            item.join = item.x + BOX + 4 + SIGN
            item.tap = item.x + BOX + (2 * SIGN + 4 if self.joined and k else 0) + 6
        self.end = (len(self.items) if self.row else self.last_column) * pitch
        rows = [self.items[self.place[source]].y for source in self.opened.output.sources]
        self.end_y = sum(rows) / len(rows) if rows else middle
        if not self.row:
            self.bottom = max(item.y for item in self.items) + HEIGHT / 2 + 4

    def arc(self, picture: Picture, kind: str, ends: tuple[int, int], x: float, y: float, colour: str) -> None:
        """A curve from an item's feature to a place: above the row, for a shortcut beneath it, or between rows.

        Args:
            picture: Where it is drawn.
            kind: ``read``, ``shortcut`` or ``out``.
            ends: The item that is read, and the one that reads it; one more than there are is the output.
            x: Of the place.
            y: Of the place.
            colour: Of the operator.
        """
        source = self.items[ends[0]]
        faded = source.hidden or (ends[1] < len(self.items) and self.items[ends[1]].hidden)
        x1, y1 = source.tap, source.y
        start = f"M{number(x1)},{number(y1)}"
        if self.row:
            h = 4 / 3 * (-rise(ends[1] - ends[0]) if kind == "shortcut" else rise(ends[1] - ends[0] - 1))
            d = f"{start}C{number(x1)},{number(y1 - h)} {number(x)},{number(y - h)} {number(x)},{number(y)}"
        else:
            bend = max(x1, x - 44)
            half = (bend + x) / 2
            d = f"{start}H{number(bend)}C{number(half)},{number(y1)} {number(half)},{number(y)} {number(x)},{number(y)}"
        picture.path(d, colour, dash="4,3" if kind == "shortcut" else None, faded=faded, data=self.data(kind, ends))
        picture.shape("circle", cx=x1, cy=y1, r=1.8, fill=INK)

    def data(self, kind: str, ends: tuple[int, int]) -> dict[str, str]:
        """What a wire is: its kind, and the features it goes from and to (of some that are left out the last)."""
        first, last = ends
        to = self.items[last].numbers[0] if last < len(self.items) else len(self.opened.nodes) + 1
        return {"class": kind, "data-from": str(self.items[first].numbers[-1]), "data-to": str(to)}

    def wires_to(self, picture: Picture, k: int, item: Item) -> None:
        node = self.opened.nodes[item.numbers[0] - 1]
        several = len(item.reads) > 1
        colour, _ = OPERATORS[node.reads.operator] if several else (GREY, "")
        for i in item.reads:
            self.wire(picture, "read", (i, k), item.entry, item.y, colour)
        if several and not item.hidden:
            sign(picture, item.entry + SIGN, item.y, node.reads.operator)
            picture.path(f"M{number(item.entry + 2 * SIGN)},{number(item.y)}H{number(item.x)}", GREY)
        operator = node.shortcut.operator if node.shortcut else node.join.operator if node.join else ""
        if not operator or item.hidden:
            return
        for i in item.shortcut:
            self.arc(picture, "shortcut", (i, k), item.join, item.y, OPERATORS[operator][0])
        if not node.shortcut:  # dealt out from around
            d = f"M{number(item.join)},{number(item.y + HEIGHT / 2 + 10)}V{number(item.y)}"
            picture.path(d, OPERATORS[operator][0], dash="4,3")
        sign(picture, item.join, item.y, operator)
        if node.shortcut and node.shortcut.matches and self.row:  # what made a source fit, beneath its arc
            words = chain_text(next(iter(node.shortcut.matches.values())), 28)
            picture.text((self.items[k - 1].tap + item.join) / 2, self.bottom - 4, words, 9, GREY, "middle")

    def wire(self, picture: Picture, kind: str, ends: tuple[int, int], x: float, y: float, colour: str) -> None:
        """A wire to what is read by a node or the output: an arrow from the item before, else a curve."""
        source = self.items[ends[0]]
        straight = ends[0] == ends[1] - 1 if self.row else source.y == y
        if straight:
            picture.arrow(source.tap, x, y, colour, data=self.data(kind, ends))
        else:
            self.arc(picture, kind, ends, x - (3 if self.row else 6), y, colour)
            if not self.row:
                picture.head(x, y, colour)

    def output(self, picture: Picture) -> None:
        gathered, end, y = self.opened.output, self.end, self.end_y
        sources = sorted({self.place[source] for source in gathered.sources})
        several = len(sources) > 1
        colour = OPERATORS[gathered.operator][0] if several else GREY
        for i in sources:
            self.wire(picture, "out", (i, len(self.items)), end, y, colour)
        if several:
            sign(picture, end + SIGN, y, gathered.operator)
            end += 2 * SIGN
            picture.arrow(end, end + 18, y)
            end += 18
        elif self.row and sources and sources[0] < len(self.items) - 1:
            picture.arrow(end - 3, end + 16, y)
            end += 16
        picture.text(end + 5, y + 4, f"{self.opened.leaving[0]} ch", 11)
        picture.reach(end, self.bottom)

    def box(self, picture: Picture, item: Item) -> None:
        x, y, middle = item.x, item.y - HEIGHT / 2, item.x + BOX / 2
        if item.tap:
            picture.path(f"M{number(x + BOX)},{number(item.y)}H{number(item.tap)}", GREY)
        if item.hidden:
            picture.box(x, y + 6, BOX, HEIGHT - 12, "#ffffff", "#ffffff")
            picture.text(middle, item.y + 2, "· · ·", 16, GREY, "middle")
            picture.text(middle, item.y + 14, f"{len(item.numbers)} more", 8, GREY, "middle")
            return
        l = item.numbers[0]
        if not l:
            picture.box(x, y + 6, BOX, HEIGHT - 12, "#f4f4f4", dash="2,2", data={"class": "input"})
            picture.text(middle, item.y + 4, str(self.opened.features[0][0]), 11, at="middle")
            return
        node = self.opened.nodes[l - 1]
        picture.box(x, y, BOX, HEIGHT, self.kinds[l], INK, data={"class": "node", "data-number": str(l)})
        picture.text(x + 3, y + 9, str(l), 8, GREY)
        further = [f"{node.groups} gr"] * (node.groups > 1)
        if self.opened.features[l][1:] != node.entering[1:]:
            further.append(f"/{-(-node.entering[1] // self.opened.features[l][1])}")
        picture.text(middle, item.y + (2 if further else 5), str(node.shape[0]), 12, at="middle", bold=True)
        if further:
            picture.text(middle, item.y + 14, " ".join(further), 9, GREY, "middle")


def rise(boxes: int) -> float:
    """How far an arc rises that passes over some boxes."""
    return HEIGHT / 2 + 13 * min(boxes, 6) + 6 * max(boxes - 6, 0) if boxes > 0 else 0


def sign(picture: Picture, x: float, y: float, operator: str) -> None:
    """An operator's sign: a coloured disc with a letter."""
    colour, letter = OPERATORS[operator]
    picture.shape("circle", cx=x, cy=y, r=SIGN, fill=colour)
    if letter == "+":
        picture.path(f"M{number(x - 4)},{number(y)}h8M{number(x)},{number(y - 4)}v8", "#ffffff", 1.6)
    else:
        picture.text(x, y + 3, letter, 10, "#ffffff", "middle", bold=True)


def chain_text(steps: list[Step], most: int) -> str:
    """Some steps on one short line."""
    text = " · ".join(step.text if isinstance(step, Layer) else "..." for step in steps) or "as it is"
    return short(text, most)
