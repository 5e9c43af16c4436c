"""SVG pictures: elements, text and the area that they cover."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from nas_agg.graph.primitives import Shape

INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
Attributes = Mapping[str, str] | None
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # would reorder what follows


_COLOUR = re.compile(r'(fill|stroke)="(#[0-9a-f]{6})"')


def dark_colour(colour: str) -> str:
    """The colour that stands for one of a white page on a dark page: light areas become dark, lines and text light."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    if lightness > 0.7:
        lightness, saturation = 0.11 + 0.8 * (1 - lightness), 0.6 * saturation
    else:
        lightness = 0.9 - 0.35 * lightness if saturation < 0.1 else max(0.66, lightness)
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def dark_rules(svg: str, prefix: str = "") -> list[str]:
    """CSS rules that show an SVG text on a dark page.

    Args:
        svg: One or several documents.
        prefix: Beginning of each selector, such as ``.dark ``.
    """
    used = sorted(set(_COLOUR.findall(svg)))
    return [f'{prefix}[{kind}="{colour}"]{{{kind}:{dark_colour(colour)}}}' for kind, colour in used]


def text_width(text: str, size: float = 11) -> float:
    """Approximate width of a text, in the wider of the common fonts."""
    return size * sum(0.34 if sign in " ,.:;()|'!/ijlI" else 0.86 if sign in "×→…mwMW+–" else 0.64 for sign in text)


def shorten(text: str, max_length: int) -> str:
    """A text, truncated with an ellipsis if it is too long."""
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def shape_text(shape: Shape) -> str:
    """A shape: ``64×8×8``."""
    return "×".join(map(str, shape))


def replace_invalid(text: str) -> str:
    """A text whose characters that XML does not allow, or that change the direction of text, are replaced."""
    return _BIDIRECTIONAL.sub("\ufffd", _NOT_XML.sub("\ufffd", text))


def format_number(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def format_point(x: float, y: float) -> str:
    """A point: ``12.5,40``."""
    return f"{format_number(x)},{format_number(y)}"


class Picture:
    """SVG elements, and the width and height that they cover from the origin."""

    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.width = self.height = 0.0

    def extend_to(self, x: float, y: float) -> None:
        """Extend the covered area to a point."""
        self.width, self.height = max(self.width, x), max(self.height, y)

    def add(self, tag: str, **attributes: str | float | None) -> Element:
        """Add an element; an underscore in an attribute's name is a hyphen, and None omits the attribute."""
        element = Element(tag)
        for name, value in attributes.items():
            if value is not None:
                text = replace_invalid(value) if isinstance(value, str) else format_number(value)
                element.set(name.replace("_", "-"), text)
        self.elements.append(element)
        return element

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        stroke: str = GREY,
        stroke_width: float = 1,
        radius: float = 3,
        dash: str | None = None,
        attributes: Attributes = None,
    ) -> None:
        """Add a rectangle with rounded corners."""
        self.add(
            "rect", x=x, y=y, width=width, height=height, rx=radius, fill=fill, stroke=stroke,
            stroke_width=stroke_width, stroke_dasharray=dash, **(attributes or {}),
        )  # fmt: skip
        self.extend_to(x + width, y + height)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 11,
        fill: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Add a line of text with its baseline at y; ``anchor`` is the part of it at x: start, middle or end."""
        element = self.add(
            "text", x=x, y=y, font_size=size, fill=fill, text_anchor=None if anchor == "start" else anchor,
            font_weight="bold" if bold else None,
        )  # fmt: skip
        element.text = replace_invalid(text)
        width = text_width(text, size)
        self.extend_to(x + {"start": width, "middle": width / 2}.get(anchor, 0), y + 3)

    def path(
        self,
        d: str,
        colour: str,
        stroke_width: float = 1.2,
        dash: str | None = None,
        faded: bool = False,
        attributes: Attributes = None,
    ) -> None:
        """Add a line; ``d`` is SVG's path description."""
        self.add(
            "path", d=d, fill="none", stroke=colour, stroke_width=stroke_width, stroke_dasharray=dash,
            stroke_opacity="0.35" if faded else None, **(attributes or {}),
        )  # fmt: skip

    def arrow(self, x1: float, x2: float, y: float, colour: str = GREY, attributes: Attributes = None) -> None:
        """Add a horizontal arrow to the right."""
        self.path(f"M{format_point(x1, y)}H{format_number(x2 - 4)}", colour, attributes=attributes)
        self.arrow_head(x2, y, colour)

    def arrow_head(self, x: float, y: float, colour: str) -> None:
        """Add the head of an arrow to the right."""
        corners = ((x, y), (x - 6, y - 3), (x - 6, y + 3))
        self.add("polygon", points=" ".join(format_point(*corner) for corner in corners), fill=colour)

    def insert(self, x: float, y: float, other: Picture, attributes: Attributes = None) -> None:
        """Insert another picture."""
        group = self.add("g", transform=f"translate({format_point(x, y)})", **(attributes or {}))
        group.extend(other.elements)
        self.extend_to(x + other.width, y + other.height)

    def document(self, title: str, margin: float = 20, adapts: bool = True) -> str:
        """The text of an SVG file.

        Args:
            title: Its title.
            margin: Width of the empty border.
            adapts: Whether it has a dark form, for viewers that prefer one.
        """
        left, width, height = (format_number(v) for v in (-margin, self.width + 2 * margin, self.height + 2 * margin))
        root = Element("svg", xmlns="http://www.w3.org/2000/svg", width=width, height=height)
        root.set("viewBox", f"{left} {left} {width} {height}")
        root.set("font-family", "Helvetica, Arial, sans-serif")
        SubElement(root, "title").text = replace_invalid(title)
        SubElement(root, "rect", x=left, y=left, width=width, height=height, fill="#ffffff")
        root.extend(self.elements)
        if adapts:
            style = Element("style")
            style.text = "@media (prefers-color-scheme: dark){" + "".join(dark_rules(tostring(root, "unicode"))) + "}"
            root.insert(1, style)
        indent(root, "")
        return tostring(root, encoding="unicode") + "\n"
