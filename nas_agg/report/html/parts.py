"""What a page is made of: sections with texts, plots, tables, drawings and pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas_agg.common.errors import one_line
from nas_agg.study.definition.metrics import Metric

#: A colour of the page's theme, which the page replaces: series, text and states.
SERIES = ("@1", "@2", "@3", "@4", "@5", "@6", "@7", "@8")
INK, MUTED, FAINT, BAD, BEST = "@ink", "@muted", "@faint", "@bad", "@best"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Plot:
    """A figure of Plotly.

    Attributes:
        name: Its name in the page.
        title: Its title.
        data: Traces.
        layout: What differs from the page's own layout.
        height: Height in pixels.
        min_width: On narrower screens the plot scrolls sideways.
        note: A sentence below it.
        choices: Metrics among which its axes are chosen: see `MetricChoice`.
    """

    name: str
    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 360
    min_width: int = 0
    note: str = ""
    choices: MetricChoice | None = None
    kind: str = "plot"


@dataclass(frozen=True)
class MetricChoice:
    """A scatter plot whose axes are any two of several metrics.

    Attributes:
        axes: For each metric, its axis.
        values: For each metric, the value of each point.
        fronts: For each pair of metrics ``"x y"``, the points of the Pareto front, from left to right.
        x, y: The metrics at first.
    """

    axes: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Sequence[float | None]]
    fronts: Mapping[str, Sequence[int]]
    x: str
    y: str


@dataclass(frozen=True)
class Table:
    """A table; ``right`` are the columns of numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    title: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Tables:
    """Tables side by side, where there is room."""

    tables: Sequence[Table]
    kind: str = "tables"


@dataclass(frozen=True)
class Drawing:
    """A network's drawing as SVG text; ``title`` describes it."""

    svg: str
    title: str
    kind: str = "drawing"


@dataclass(frozen=True)
class Picture:
    """A picture: a data URL with a caption of several lines."""

    url: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    pictures: Sequence[Picture]
    title: str = ""
    kind: str = "pictures"


@dataclass(frozen=True)
class Commands:
    """Commands to type; each with what it does."""

    lines: Sequence[tuple[str, str]]
    title: str = ""
    kind: str = "commands"


@dataclass(frozen=True)
class Grid:
    """Small plots side by side."""

    plots: Sequence[Plot]
    title: str = ""
    kind: str = "grid"


Part = Text | Plot | Grid | Table | Tables | Drawing | Pictures | Commands


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: Its anchor.
        title: Its heading.
        parts: Its contents.
    """

    name: str
    title: str
    parts: Sequence[Part]


# ---------------------------------------------------------------------- texts


def visible(text: str) -> str:
    """A text from outside in one line, whose control and bidirectional characters are shown as escapes."""
    return one_line(text)


def label(text: str, length: int = 40) -> str:
    """A text as a label of Plotly, which understands some HTML: escaped, and not too long."""
    text = visible(text)
    return html.escape(text if len(text) <= length else text[: length - 1] + "…", quote=False)


# ---------------------------------------------------------------------- axes


def metric_title(metric: Metric) -> str:
    """The title of a metric's axis: its name, with its unit unless the numbers show it."""
    name = {"macs": "MACs", "params": "parameters", "activations": "activation bytes"}.get(metric.name, metric.name)
    return label(name) + (" (ms)" if metric.unit == "ms" else "")


def metric_axis(metric: Metric, values: Sequence[float] = ()) -> dict[str, Any]:
    """The axis of a metric; logarithmic where positive values span more than a factor of 50.

    Args:
        metric: The metric.
        values: Its values in the plot.
    """
    axis: dict[str, Any] = {"title": {"text": metric_title(metric)}}
    match metric.unit:
        case "fraction":
            axis |= {"tickformat": ".1%", "hoverformat": ".2%"}
        case "params" | "MACs" | "bytes":
            axis |= {"tickformat": "~s", "hoverformat": ",d"}
        case _:
            axis |= {"hoverformat": ".5~g"}
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) > 50 * min(positive):
        axis |= {"type": "log", "dtick": 1}
    return axis


def padded(values: Sequence[float]) -> list[float]:
    """The range of an axis: that of values, and a margin."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + margin]


def distinct(texts: Sequence[str]) -> list[str]:
    """Texts with a number after those that occurred before, since equal categories of an axis would be one."""
    result: list[str] = []
    for text in texts:
        result.append(text if text not in result else f"{text} ({result.count(text) + len(result)})")
    return result


def with_legend(**layout: Any) -> dict[str, Any]:
    """A layout with a legend above the plot, for plots with several traces."""
    return {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, **layout}
