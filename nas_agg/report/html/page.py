"""The page of a report: its sections rendered as one HTML file, with everything that it needs inside."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from nas_agg.common.errors import InputError
from nas_agg.report.html.curves import curves_section
from nas_agg.report.html.overview import four_lines, hover_drawings, network_section, reproduction_section
from nas_agg.report.html.parts import Drawing, Grid, Plot, Section, visible
from nas_agg.report.html.predictions import predictions_section
from nas_agg.report.html.proxies import proxies_section
from nas_agg.report.html.results import best_section, history_section, pareto_section
from nas_agg.report.html.timeline import time_section
from nas_agg.report.html.variables import importance_section, parallel_section
from nas_agg.report.svg import dark_rules
from nas_agg.study.records.saved_run import SavedRun

#: The sections of a run in their order; each returns None if the run has nothing to show in it.
SECTIONS: tuple[Callable[[SavedRun], Section | None], ...] = (
    *(network_section, best_section, history_section, pareto_section, curves_section, importance_section),
    *(parallel_section, proxies_section, predictions_section, time_section, reproduction_section),
)


def run_page(run: SavedRun, refresh: int | None = None) -> str:
    """The report of a run as an HTML page.

    Args:
        run: The run.
        refresh: Seconds after which a browser loads the page again; None for a run that does not change.

    Raises:
        InputError: Plotly or Jinja is not installed, or a file of the run is damaged.
    """
    check_installed()
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    return render(
        f"Search {run.name}" if run.settings else f"Training {run.name}",
        four_lines(run),
        sections,
        hover_drawings(run),
        refresh,
    )


def check_installed() -> None:
    """Check that the packages of reports are installed.

    Raises:
        InputError: One is missing.
    """
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'nas-agg[report]'") from None


def render(
    title: str,
    lines: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    drawings: Mapping[int, str],
    refresh: int | None = None,
) -> str:
    """Render sections as a page.

    Args:
        title: Its title.
        lines: The lines at the top, each with its heading.
        sections: The sections.
        drawings: SVG texts that plots show where points with these numbers as custom data are pointed at.
        refresh: Seconds after which a browser loads the page again.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["markupsafe"] = Markup  # labels of plots are escaped already
    drawn = "".join([*drawings.values(), *(p.svg for s in sections for p in s.parts if isinstance(p, Drawing))])
    plotly, script = get_plotlyjs(), _template("report.js")
    return environment.from_string(_template("page.html")).render(
        title=visible(title),
        lines=lines,
        sections=sections,
        drawings=drawings,
        style=_style(drawn),
        data=embedded_json({"plots": {plot.name: _plot_json(plot) for plot in plots_of(sections)}}),
        plotly=plotly,
        script=script,
        script_hashes=" ".join(map(_content_hash, (plotly, script))),
        refresh=refresh,
        version=_version(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def plots_of(sections: Sequence[Section]) -> list[Plot]:
    """All plots, those in grids included."""
    plots: list[Plot] = []
    for section in sections:
        for part in section.parts:
            if isinstance(part, Grid):
                plots.extend(part.plots)
            elif isinstance(part, Plot):
                plots.append(part)
    return plots


def _plot_json(plot: Plot) -> dict[str, Any]:
    value: dict[str, Any] = {"data": plot.data, "layout": plot.layout, "height": plot.height}
    if plot.choices is not None:
        points = plot.data[0]
        value["choices"] = dataclasses.asdict(plot.choices) | {"texts": points["text"], "numbers": points["customdata"]}
    return value


def embedded_json(value: Any) -> str:
    """A value as JSON inside a script element; numbers that are not finite are null."""
    return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _style(drawn: str) -> str:
    """The style sheet, with the dark colours of the drawings."""
    style = _template("style.css")
    light, dark = (style.split(":root", 3)[place].partition("{")[2].partition("}")[0].strip() for place in (1, 2))
    chosen = dark_rules(drawn, ':root[data-theme="dark"] .drawing ')
    preferred = dark_rules(drawn, ':root:not([data-theme="light"]) .drawing ')
    rules = f"@media screen{{{''.join(chosen)}}}@media screen and (prefers-color-scheme:dark){{{''.join(preferred)}}}"
    return style.replace("{{DARK}}", dark).replace("{{LIGHT}}", light) + rules


def _template(name: str) -> str:
    return files("nas_agg.report.html").joinpath("templates", name).read_text(encoding="utf-8")


def _content_hash(script: str) -> str:
    """The source of a content security policy that allows a script of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _version() -> str:
    try:
        return version("nas-agg")
    except PackageNotFoundError:
        return "0+unknown"
