"""Shapes and text of an SVG picture, and how much room they take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

from nas_agg.graph.primitives import Shape

INK, GREY, FAINT = "#222222", "#777777", "#dddddd"
Data = Mapping[str, str] | None  # further attributes
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text_width(text: str, size: float = 11) -> float:
    """About how wide a text is, in the wider of the usual fonts."""
    return size * sum(0.34 if sign in " ,.:;()|'!/ijlI" else 0.86 if sign in "×→…mwMW+–" else 0.64 for sign in text)


def short(text: str, most: int) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def shape_text(shape: Shape) -> str:
    """A shape: ``64×8×8``."""
    return "×".join(map(str, shape))


def clean(text: str) -> str:
    """Without the characters that XML does not have."""
    return _NOT_XML.sub("\ufffd", text)


def number(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


class Picture:
    """A list of shapes, and the room from 0 that they take to the right and down."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.width = self.height = 0.0

    def reach(self, x: float, y: float) -> None:
        """Takes the room up to a point."""
        self.width, self.height = max(self.width, x), max(self.height, y)

    def shape(self, name: str, **values: str | float | None) -> None:
        """Any shape; an underscore in a name is a hyphen."""
        said = "".join(
            f" {key.replace('_', '-')}={quoteattr(clean(value) if isinstance(value, str) else number(value))}"
            for key, value in values.items()
            if value is not None
        )
        self.parts.append(f"<{name}{said}/>")

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        stroke: str = GREY,
        thick: float = 1,
        round: float = 3,
        dash: str | None = None,
        data: Data = None,
    ) -> None:
        """A rectangle."""
        self.shape(
            "rect", x=x, y=y, width=width, height=height, rx=round, fill=fill, stroke=stroke, stroke_width=thick,
            stroke_dasharray=dash, **(data or {}),
        )  # fmt: skip
        self.reach(x + width, y + height)

    def text(
        self, x: float, y: float, text: str, size: float = 11, fill: str = INK, at: str = "start", bold: bool = False
    ) -> None:
        """A line of text whose foot is at y; ``at`` says which part of it is at x: start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        anchor = "" if at == "start" else f' text-anchor="{at}"'
        place = f'x="{number(x)}" y="{number(y)}" font-size="{number(size)}" fill="{fill}"'
        self.parts.append(f"<text {place}{anchor}{weight}>{escape(clean(text))}</text>")
        width = text_width(text, size)
        self.reach(x + {"start": width, "middle": width / 2}.get(at, 0), y + 3)

    def path(
        self, d: str, colour: str, thick: float = 1.2, dash: str | None = None, faded: bool = False,
        data: Data = None,
    ) -> None:  # fmt: skip
        """A line."""
        opacity = "0.35" if faded else None
        self.shape("path", d=d, fill="none", stroke=colour, stroke_width=thick, stroke_dasharray=dash,
                   stroke_opacity=opacity, **(data or {}))  # fmt: skip

    def arrow(self, x1: float, x2: float, y: float, colour: str = GREY, data: Data = None) -> None:
        """A level arrow to the right."""
        self.path(f"M{number(x1)},{number(y)}H{number(x2 - 4)}", colour, data=data)
        self.head(x2, y, colour)

    def head(self, x: float, y: float, colour: str) -> None:
        """The head of an arrow to the right."""
        points = " ".join(f"{number(a)},{number(b)}" for a, b in ((x, y), (x - 6, y - 3), (x - 6, y + 3)))
        self.shape("polygon", points=points, fill=colour)

    def put(self, x: float, y: float, other: Picture, data: Data = None) -> None:
        """Another picture in this one."""
        said = "".join(f" {key}={quoteattr(clean(value))}" for key, value in (data or {}).items())
        self.parts.append(f'<g transform="translate({number(x)},{number(y)})"{said}>')
        self.parts.extend(other.parts)
        self.parts.append("</g>")
        self.reach(x + other.width, y + other.height)

    def document(self, title: str, margin: float = 20) -> str:
        """The picture as the text of an SVG file."""
        width, height = number(self.width + 2 * margin), number(self.height + 2 * margin)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="{number(-margin)} {number(-margin)} {width} {height}" '
                'font-family="Helvetica, Arial, sans-serif">',
                f"<title>{escape(clean(title))}</title>",
                f'<rect x="{number(-margin)}" y="{number(-margin)}" width="{width}" height="{height}" fill="#ffffff"/>',
                *self.parts,
                "</svg>\n",
            ]
        )
