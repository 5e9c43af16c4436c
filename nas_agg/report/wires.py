"""The connections of an aggregate: nodes as boxes, and the features they read as arcs."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas_agg.report.outline import AggregateOutline, Layer, Step
from nas_agg.report.svg import GREY, INK, Picture, format_number, format_point, shorten

#: Colour and sign of each operator. The colours are distinguishable for people with colour blindness.
OPERATORS = {
    "sum": ("#0072b2", "+"),
    "concat": ("#d55e00", "c"),
    "weighted": ("#009e73", "w"),
    "mean": ("#aa4499", "m"),
    "gated": ("#b8860b", "g"),
    "product": ("#56b4e9", "×"),
    "mixed": ("#882255", "x"),
}
KIND_COLOURS = ("#ffffff", "#dbe9f6", "#fdebd3", "#e3f1dc")  # of nodes with different operations

MAX_IN_ROW = 16  # nodes of a chain that are all shown; of longer chains some are omitted
SHOWN_WHEN_MANY = 14
MAX_BESIDE = 9  # likewise where nodes are parallel
BOX_WIDTH, BOX_HEIGHT, SIGN_RADIUS, GAP = 46, 36, 7, 26  # the gap is that between boxes


@dataclass
class Item:
    """A node, or several omitted nodes; item 0 is the input.

    Attributes:
        numbers: The numbers of its features.
        hidden: Whether its nodes are omitted.
        reads: The items it reads.
        shortcut: The items that its shortcut reads.
    """

    numbers: list[int]
    hidden: bool = False
    reads: list[int] = field(default_factory=list)
    shortcut: list[int] = field(default_factory=list)
    column: int = 0
    row: int = 0
    x: float = 0  # left edge of its box
    y: float = 0  # vertical centre
    entry: float = 0  # x at which wires enter
    join: float = 0  # x at which the shortcut joins
    tap: float = 0  # x from which wires to its readers start


class Wires:
    """The layout of an aggregate's nodes.

    Args:
        aggregate: The aggregate.
    """

    def __init__(self, aggregate: AggregateOutline):
        self.aggregate = aggregate
        self.items = self.choose_items(MAX_IN_ROW)
        self.row = self.assign_columns()
        if not self.row and len(aggregate.nodes) > MAX_BESIDE:
            self.items = self.choose_items(MAX_BESIDE)
            self.assign_columns()
        self.reads_several = any(len(node.reads.sources) > 1 for node in aggregate.nodes)
        self.has_matches = any(node.shortcut and node.shortcut.matches for node in aggregate.nodes)
        self.has_joins = any(node.shortcut or node.join for node in aggregate.nodes)
        self.kinds = {
            node.number: KIND_COLOURS[k % len(KIND_COLOURS)]
            for k, (_, nodes) in enumerate(aggregate.kinds.items())
            for node in nodes
        }

    # ------------------------------------------------------------------ layout

    def choose_items(self, max_nodes: int) -> list[Item]:
        """The items: all nodes, or the first ones, those at which the map's size changes, and the last ones."""
        nodes, features = self.aggregate.nodes, self.aggregate.features
        shown = range(1, len(nodes) + 1)
        if len(nodes) > max_nodes:
            changes = [n for n in range(1, len(nodes)) if features[n + 1][1:] != features[n][1:]][:3]
            near = [m for n in changes for m in (n, n + 1)]
            first = min(SHOWN_WHEN_MANY, max_nodes) - 3 - 3 * len(near) // 2
            shown = sorted({*range(1, first), *near, len(nodes) - 1, len(nodes)})  # type: ignore[assignment]
        items = [Item([0])]
        for n in range(1, len(nodes) + 1):
            if n in shown:
                items.append(Item([n]))
            elif items[-1].hidden:
                items[-1].numbers.append(n)
            else:
                items.append(Item([n], hidden=True))
        self.item_of = place = {n: k for k, item in enumerate(items) for n in item.numbers}
        for k, item in enumerate(items[1:], 1):
            for n in item.numbers:
                node = nodes[n - 1]
                for items_read, gathered in ((item.reads, node.reads), (item.shortcut, node.shortcut)):
                    sources = {place[source] for source in (gathered.sources if gathered else ())} - {k}
                    items_read.extend(sorted(sources - set(items_read)))
        return items

    def assign_columns(self) -> bool:
        """Assign each item a column after all those it reads, and a row; returns whether a single row suffices."""
        items = self.items
        last = [0] * len(items)  # the column up to which an item occupies its row
        for item in items[1:]:
            item.column = 1 + max((items[k].column for k in item.reads), default=0)
        self.last_column = 1 + max(item.column for item in items)
        for item in items[1:]:
            for k in item.reads:
                last[k] = max(last[k], item.column - 1)
        for source in self.aggregate.output.sources:
            last[self.item_of[source]] = self.last_column - 1
        if len({item.column for item in items}) == len(items):
            return True
        occupied: list[tuple[int, int, int]] = []
        for k, item in enumerate(items):
            preferred = [items[source].row for source in item.reads] or [0]
            first, end = item.column, max(item.column, last[k])
            rows = [r for r in range(len(items)) if not any(r == t and a <= end and first <= b for t, a, b in occupied)]
            item.row = min(rows, key=lambda r: (abs(r - min(preferred)), r))
            occupied.append((item.row, first, end))
        return False

    # ------------------------------------------------------------------ drawing

    def picture(self) -> Picture:
        """Draw the boxes and the arcs."""
        picture = Picture()
        self.assign_coordinates()
        for item in self.items:
            self.box(picture, item)
        for k, item in enumerate(self.items[1:], 1):
            self.wires_to(picture, k, item)
        self.output(picture)
        return picture

    def assign_coordinates(self) -> None:
        pitch = (
            BOX_WIDTH + GAP + (2 * SIGN_RADIUS + 4) * (self.reads_several + self.has_joins) + (0 if self.row else 14)
        )
        middle = BOX_HEIGHT / 2
        if self.row:
            spans = [k - i for k, item in enumerate(self.items) for i in item.reads]
            spans += [len(self.items) - self.item_of[source] for source in self.aggregate.output.sources]
            middle = max(middle, 4 + arc_height(max(spans) - 1))
            below = max([k - i for k, item in enumerate(self.items) for i in item.shortcut], default=0)
            self.bottom = middle + max(BOX_HEIGHT / 2, arc_height(below) + (14 if self.has_matches else 0))
        at_column = 0 if not self.row else None
        for k, item in enumerate(self.items):
            column = k if at_column is None else item.column
            item.x = column * pitch + (2 * SIGN_RADIUS + 4 if self.reads_several and k else 0)
            item.y = middle + (0 if self.row else item.row * (BOX_HEIGHT + 14))
            item.entry = item.x - (2 * SIGN_RADIUS + 4 if self.reads_several and len(item.reads) > 1 else 0)
            item.join = item.x + BOX_WIDTH + 4 + SIGN_RADIUS
            item.tap = item.x + BOX_WIDTH + (2 * SIGN_RADIUS + 4 if self.has_joins and k else 0) + 6
        self.end = (len(self.items) if self.row else self.last_column) * pitch
        rows = [self.items[self.item_of[source]].y for source in self.aggregate.output.sources]
        self.end_y = sum(rows) / len(rows) if rows else middle
        if not self.row:
            self.bottom = max(item.y for item in self.items) + BOX_HEIGHT / 2 + 4

    def arc(self, picture: Picture, kind: str, ends: tuple[int, int], x: float, y: float, colour: str) -> None:
        """Draw a curve from an item's feature to a point: above the row, for a shortcut below it, or between rows.

        Args:
            picture: The picture.
            kind: ``read``, ``shortcut`` or ``out``.
            ends: The source item and the reading item; the number of items stands for the output.
            x: x of the point.
            y: y of the point.
            colour: Colour of the operator.
        """
        source = self.items[ends[0]]
        faded = source.hidden or (ends[1] < len(self.items) and self.items[ends[1]].hidden)
        x1, y1 = source.tap, source.y
        start, end = f"M{format_point(x1, y1)}", format_point(x, y)
        if self.row:
            h = 4 / 3 * (-arc_height(ends[1] - ends[0]) if kind == "shortcut" else arc_height(ends[1] - ends[0] - 1))
            d = f"{start}C{format_point(x1, y1 - h)} {format_point(x, y - h)} {end}"
        else:
            bend = max(x1, x - 44)
            half = (bend + x) / 2
            d = f"{start}H{format_number(bend)}C{format_point(half, y1)} {format_point(half, y)} {end}"
        picture.path(
            d,
            colour,
            dash="4,3" if kind == "shortcut" else None,
            faded=faded,
            attributes=self.wire_attributes(kind, ends),
        )
        picture.add("circle", cx=x1, cy=y1, r=1.8, fill=INK)

    def wire_attributes(self, kind: str, ends: tuple[int, int]) -> dict[str, str]:
        """Attributes of a wire: its kind and the features it connects (of omitted nodes the last one)."""
        first, last = ends
        to = self.items[last].numbers[0] if last < len(self.items) else len(self.aggregate.nodes) + 1
        return {"class": kind, "data-from": str(self.items[first].numbers[-1]), "data-to": str(to)}

    def wires_to(self, picture: Picture, k: int, item: Item) -> None:
        node = self.aggregate.nodes[item.numbers[0] - 1]
        reads_several = len(item.reads) > 1
        colour, _ = OPERATORS[node.reads.operator] if reads_several else (GREY, "")
        for i in item.reads:
            self.wire(picture, "read", (i, k), item.entry, item.y, colour)
        if reads_several and not item.hidden:
            operator_sign(picture, item.entry + SIGN_RADIUS, item.y, node.reads.operator)
            picture.path(f"M{format_point(item.entry + 2 * SIGN_RADIUS, item.y)}H{format_number(item.x)}", GREY)
        operator = node.shortcut.operator if node.shortcut else node.join.operator if node.join else ""
        if not operator or item.hidden:
            return
        for i in item.shortcut:
            self.arc(picture, "shortcut", (i, k), item.join, item.y, OPERATORS[operator][0])
        if not node.shortcut:  # a part of the outer aggregate's shortcut
            d = f"M{format_point(item.join, item.y + BOX_HEIGHT / 2 + 10)}V{format_number(item.y)}"
            picture.path(d, OPERATORS[operator][0], dash="4,3")
        operator_sign(picture, item.join, item.y, operator)
        if node.shortcut and node.shortcut.matches and self.row:  # the steps of the match, below its arc
            words = chain_text(next(iter(node.shortcut.matches.values())), 28)
            picture.text((self.items[k - 1].tap + item.join) / 2, self.bottom - 4, words, 9, GREY, "middle")

    def wire(self, picture: Picture, kind: str, ends: tuple[int, int], x: float, y: float, colour: str) -> None:
        """Draw a wire to a node or the output: an arrow from the preceding item, else a curve."""
        source = self.items[ends[0]]
        straight = ends[0] == ends[1] - 1 if self.row else source.y == y
        if straight:
            picture.arrow(source.tap, x, y, colour, attributes=self.wire_attributes(kind, ends))
        else:
            self.arc(picture, kind, ends, x - (3 if self.row else 6), y, colour)
            if not self.row:
                picture.arrow_head(x, y, colour)

    def output(self, picture: Picture) -> None:
        gathered, end, y = self.aggregate.output, self.end, self.end_y
        sources = sorted({self.item_of[source] for source in gathered.sources})
        reads_several = len(sources) > 1
        colour = OPERATORS[gathered.operator][0] if reads_several else GREY
        for i in sources:
            self.wire(picture, "out", (i, len(self.items)), end, y, colour)
        if reads_several:
            operator_sign(picture, end + SIGN_RADIUS, y, gathered.operator)
            end += 2 * SIGN_RADIUS
            picture.arrow(end, end + 18, y)
            end += 18
        elif self.row and sources and sources[0] < len(self.items) - 1:
            picture.arrow(end - 3, end + 16, y)
            end += 16
        picture.text(end + 5, y + 4, f"{self.aggregate.output_shape[0]} ch", 11)
        picture.extend_to(end, self.bottom)

    def box(self, picture: Picture, item: Item) -> None:
        x, y, middle = item.x, item.y - BOX_HEIGHT / 2, item.x + BOX_WIDTH / 2
        if item.tap:
            picture.path(f"M{format_point(x + BOX_WIDTH, item.y)}H{format_number(item.tap)}", GREY)
        if item.hidden:
            picture.box(x, y + 6, BOX_WIDTH, BOX_HEIGHT - 12, "#ffffff", "#ffffff")
            picture.text(middle, item.y + 2, "· · ·", 16, GREY, "middle")
            picture.text(middle, item.y + 14, f"{len(item.numbers)} more", 8, GREY, "middle")
            return
        n = item.numbers[0]
        if not n:
            picture.box(x, y + 6, BOX_WIDTH, BOX_HEIGHT - 12, "#f4f4f4", dash="2,2", attributes={"class": "input"})
            picture.text(middle, item.y + 4, str(self.aggregate.features[0][0]), 11, anchor="middle")
            return
        node = self.aggregate.nodes[n - 1]
        picture.box(
            x, y, BOX_WIDTH, BOX_HEIGHT, self.kinds[n], INK, attributes={"class": "node", "data-number": str(n)}
        )
        picture.text(x + 3, y + 9, str(n), 8, GREY)
        details = [f"{node.groups} gr"] * (node.groups > 1)
        if self.aggregate.features[n][1:] != node.entering[1:]:
            details.append(f"/{-(-node.entering[1] // self.aggregate.features[n][1])}")
        picture.text(middle, item.y + (2 if details else 5), str(node.shape[0]), 12, anchor="middle", bold=True)
        if details:
            picture.text(middle, item.y + 14, " ".join(details), 9, GREY, "middle")


def arc_height(boxes: int) -> float:
    """Height of an arc over a number of boxes."""
    return BOX_HEIGHT / 2 + 13 * min(boxes, 6) + 6 * max(boxes - 6, 0) if boxes > 0 else 0


def operator_sign(picture: Picture, x: float, y: float, operator: str) -> None:
    """Draw an operator's sign, a coloured disc with a letter."""
    colour, letter = OPERATORS[operator]
    picture.add("circle", cx=x, cy=y, r=SIGN_RADIUS, fill=colour)
    if letter == "+":
        picture.path(f"M{format_point(x - 4, y)}h8M{format_point(x, y - 4)}v8", "#ffffff", 1.6)
    else:
        picture.text(x, y + 3, letter, 10, "#ffffff", "middle", bold=True)


def chain_text(steps: list[Step], max_length: int) -> str:
    """A short line of steps."""
    text = " · ".join(step.text if isinstance(step, Layer) else "..." for step in steps) or "unchanged"
    return shorten(text, max_length)
