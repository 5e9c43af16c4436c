"""Plots of trained networks with matplotlib (``pip install 'nas-agg[inspect]'``).

Heat maps of `nas_agg.report.source_weights`, Grad-CAM overlays and learning curves. Colours are suitable for readers
with colour blindness: viridis and inferno for values, the palette of Okabe and Ito for lines.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.report.source_weights import SourceWeights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NO_VALUE_GREY = "0.92"  # of sources that are not read
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.titlesize": 10,
    "figure.labelsize": 9,
    "legend.fontsize": 9,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text is kept as text
    "svg.hashsalt": "nas_agg",  # equal figures give equal files
}
_LABEL = 0.16  # height of a label in inches
_GREY_BLACK = -150  # value of black under a map; images appear pale, so that the map's colours match the colour bar
_PARTS: dict[str, dict[str, Any]] = {
    "train": {"linestyle": "--"},
    "validation": {"linestyle": "-"},
    "test": {"linestyle": "none", "marker": "*", "markersize": 11, "clip_on": False},
}


def check_matplotlib() -> None:
    """Raise an `InputError` that says what to install if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'nas-agg[inspect]'") from None


def save(figure: Figure, path: str | os.PathLike[str]) -> list[Path]:
    """Save a figure as PNG and SVG; returns the files.

    Args:
        figure: The figure.
        path: Path of the files without extension.
    """
    files = [Path(f"{os.fspath(path)}.{ending}") for ending in ("png", "svg")]
    with _style():
        for file in files:
            figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)  # type: ignore[arg-type]


def _with_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function so that it draws in this module's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        check_matplotlib()
        with _style():
            return draw(*args, **kwargs)

    return drawn


# ---------------------------------------------------------------------- weights by source


@_with_style
def heat_maps(tables: Sequence[SourceWeights], title: str = "", *, absolute: bool = False) -> Figure:
    """Heat maps of weights by source and reading layer, on a common colour scale.

    Args:
        tables: One or more tables.
        title: A title.
        absolute: Whether to show mean absolute weights. By default the weights of each reader are divided by its
            largest, since readers of many channels have smaller weights and the use of sources is to be compared.
    """
    from matplotlib import colormaps

    columns = len(tables) if len(tables) < 4 else math.ceil(math.sqrt(len(tables)))
    rows = math.ceil(len(tables) / columns)
    longest = max(max(table.values.shape) for table in tables)
    side = min(max(2.2, _LABEL * longest + 0.7), 9.0 if len(tables) == 1 else 4.0)
    figure = _figure(side * columns + 1.3, side * rows + 0.9)
    scaled = [table.values if absolute else _relative(table.values) for table in tables]
    top = max(float(np.nanmax(values)) for values in scaled) or 1.0
    colours = colormaps["viridis"].with_extremes(bad=NO_VALUE_GREY)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, table, values in zip(grid.flat, tables, scaled, strict=False):
        image = axes.imshow(values, cmap=colours, vmin=0, vmax=top, interpolation="nearest", aspect="auto")
        axes.set_title(shorten_middle(table.aggregate.replace(".unit.", "."), int(10 * side)))
        capacity = int((side - 0.7) / _LABEL)
        _set_labels(axes.xaxis, table.readers, capacity)
        _set_labels(axes.yaxis, table.sources, capacity)
        if len(table.readers) > 12 or max(map(len, table.readers)) > 4:
            axes.tick_params(axis="x", labelrotation=90)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    figure.suptitle(_wrapped(title, figure))
    figure.supxlabel("reading layer")
    figure.supylabel("source")
    unit = "mean |w|" if absolute else "mean |w| / maximum of the reader"
    none = "no weight" if all(table.kind == "scales" for table in tables) else "not read"
    figure.colorbar(image, ax=grid, label=f"{unit}\n(grey: {none})", shrink=0.9, aspect=25)
    return figure


def _relative(values: np.ndarray) -> np.ndarray:
    """Divide each column by its maximum; columns of zeros remain zero."""
    largest = np.nanmax(values, 0)
    return values / np.where(largest > 0, largest, 1)


def _set_labels(axis: Any, labels: Sequence[str], capacity: int) -> None:
    """Label an axis with all labels, or as many as fit, including the first and the last."""
    every = math.ceil(len(labels) / max(2, capacity))
    last = len(labels) - 1
    places = [*(k for k in range(0, last, every) if last - k >= every), last]
    axis.set_ticks(places, [labels[k] for k in places], fontsize=7)
    axis.set_tick_params(length=2)


# ---------------------------------------------------------------------- Grad-CAM


class Explanation(NamedTuple):
    """Grad-CAM maps of a network for some images.

    Attributes:
        name: Name of the network.
        maps: Non-negative maps for each image's class at the resolution of the feature map: ``(N, h, w)``.
        probabilities: Class probabilities, ``(N, classes)``.
    """

    name: str
    maps: np.ndarray
    probabilities: np.ndarray


@_with_style
def cam_overlays(
    images: np.ndarray, labels: Sequence[int], class_names: Sequence[str], rows: Sequence[Explanation], title: str = ""
) -> Figure:
    """Images, and below them one row of Grad-CAM maps per network, each divided by its maximum.

    Args:
        images: uint8, ``(N, H, W, C)``.
        labels: Classes of the images.
        class_names: Names of all classes.
        rows: Maps of each network.
        title: A title.
    """
    from matplotlib.cm import ScalarMappable

    side = 1.3
    figure = _figure(side * len(images) + 1.9, (side + 0.3) * (len(rows) + 1) + 0.6)
    grid = figure.subplots(len(rows) + 1, len(images), squeeze=False)
    height, width = images.shape[1:3]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for axes, image, label in zip(grid[0], images, labels, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(shorten_middle(class_names[label], 18))
    grid[0, 0].set_ylabel("image")
    for row, line in zip(rows, grid[1:], strict=True):
        for k, axes in enumerate(line):
            axes.imshow(images[k].mean(2), cmap="gray", vmin=_GREY_BLACK, vmax=255)
            heat = row.maps[k] / max(row.maps[k].max(), 1e-12)
            axes.imshow(heat, cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=extent, interpolation="bilinear")
            guess, right = int(row.probabilities[k].argmax()), f"{row.probabilities[k][labels[k]]:.0%}"
            wrong = "" if guess == labels[k] else f", not {shorten_middle(class_names[guess], 12)}"
            axes.set_xlabel(right + wrong, fontsize=8)
        line[0].set_ylabel(f"{shorten_middle(row.name, 20)}\nmap {row.maps.shape[1]}x{row.maps.shape[2]}")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    figure.suptitle(_wrapped(title, figure))
    figure.colorbar(ScalarMappable(cmap="inferno"), ax=grid, label="Grad-CAM / maximum of the map", shrink=0.9)
    return figure


# ---------------------------------------------------------------------- learning curves


@_with_style
def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], tests: Mapping[str, Mapping[str, Any]] | None = None
) -> Figure:
    """Error and loss over epochs, one colour per network.

    Dashed lines show augmented training images with the recipe's loss (including label smoothing), solid lines
    validation images if there were any, and a star the final network on the test images.

    Args:
        histories: Non-empty lists of metrics per epoch (lines of ``metrics.jsonl``) by network.
        tests: ``test_accuracy`` and ``test_loss`` of tested networks.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.0, 3.8 + 0.2 * math.ceil(len(histories) / 3))
    panels = figure.subplots(1, 2)
    parts = set()
    for (name, history), colour in zip(histories.items(), PALETTE * len(histories), strict=False):
        epochs = [metrics["epoch"] for metrics in history]
        points = {"train": (epochs, history), "validation": (epochs, history)}
        points["test"] = (epochs[-1:], [(tests or {}).get(name, {})])
        for part, (x, metrics) in points.items():
            for axes, quantity in zip(panels, ("accuracy", "loss"), strict=True):
                y = np.array([values[f"{part}_{quantity}"] for values in metrics if f"{part}_{quantity}" in values])
                if len(y) == len(x):
                    parts.add(part)
                    marker = {"marker": "o", "markersize": 3} if len(x) == 1 else {}
                    axes.plot(x, 100 * (1 - y) if quantity == "accuracy" else y, color=colour, **marker | _PARTS[part])
    for axes, label in zip(panels, ("error (%)", "cross entropy (nats)"), strict=True):
        axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=shorten_middle(name, 30))
        for name, colour in zip(histories, PALETTE * len(histories), strict=False)
    ]
    handles += [Line2D([], [], color="0.4", label=part, **look) for part, look in _PARTS.items() if part in parts]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def shorten_middle(text: str, capacity: int) -> str:
    """A text of at most ``capacity`` characters; the middle of a longer text is omitted."""
    if len(text) <= capacity:
        return text
    tail = (capacity - 3) * 2 // 3
    return f"{text[: capacity - 3 - tail]}...{text[len(text) - tail :]}"


def _wrapped(title: str, figure: Figure) -> str:
    """Wrap a title to the figure's width."""
    return textwrap.fill(title, int(10 * figure.get_figwidth()))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
