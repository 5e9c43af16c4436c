"""Figures of trained networks, drawn by matplotlib (``pip install 'nas-agg[inspect]'``).

Heat maps of `nas_agg.report.source_weights`, Grad-CAM over images, learning curves. Colours stay apart for the
colour-blind: viridis and inferno for values, the palette of Okabe and Ito for lines.
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
UNREAD = "0.92"  # grey of a source that is not read
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.titlesize": 10,
    "figure.labelsize": 9,
    "legend.fontsize": 9,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "nas_agg",  # and equal figures are equal files
}
_LABEL = 0.16  # inches of a label's line
_PALE = -150  # what is black under a map, so that colours are those of the colour bar nearly everywhere
_PARTS: dict[str, dict[str, Any]] = {
    "train": {"linestyle": "--"},
    "validation": {"linestyle": "-"},
    "test": {"linestyle": "none", "marker": "*", "markersize": 11, "clip_on": False},
}


def check_matplotlib() -> None:
    """Raises an `InputError` that says what to install where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'nas-agg[inspect]'") from None


def save(figure: Figure, path: str | os.PathLike[str]) -> list[Path]:
    """Saves a figure as PNG and as SVG, and returns the files.

    Args:
        figure: What to save.
        path: The files without their endings.
    """
    files = [Path(f"{os.fspath(path)}.{ending}") for ending in ("png", "svg")]
    with _style():
        for file in files:
            figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)  # type: ignore[arg-type]


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws, in this module's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        check_matplotlib()
        with _style():
            return draw(*args, **kwargs)

    return drawn


# ---------------------------------------------------------------------- weights by source


@_styled
def heat_maps(tables: Sequence[SourceWeights], title: str = "", *, absolute: bool = False) -> Figure:
    """Heat maps side by side, source against reading layer, on one colour scale.

    Args:
        tables: At least one.
        title: Above them.
        absolute: Whether to show mean absolute weights. By default each reader's are divided by its largest: readers of
            many channels have smaller weights, and what is compared is the use of sources.
    """
    from matplotlib import colormaps

    columns = len(tables) if len(tables) < 4 else math.ceil(math.sqrt(len(tables)))
    rows = math.ceil(len(tables) / columns)
    longest = max(max(table.values.shape) for table in tables)
    side = min(max(2.2, _LABEL * longest + 0.7), 9.0 if len(tables) == 1 else 4.0)
    figure = _figure(side * columns + 1.3, side * rows + 0.9)
    scaled = [table.values if absolute else _relative(table.values) for table in tables]
    top = max(float(np.nanmax(values)) for values in scaled) or 1.0
    colours = colormaps["viridis"].with_extremes(bad=UNREAD)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, table, values in zip(grid.flat, tables, scaled, strict=False):
        image = axes.imshow(values, cmap=colours, vmin=0, vmax=top, interpolation="nearest", aspect="auto")
        axes.set_title(shortened(table.aggregate.replace(".unit.", "."), int(10 * side)))
        room = int((side - 0.7) / _LABEL)
        _label(axes.xaxis, table.readers, room)
        _label(axes.yaxis, table.sources, room)
        if len(table.readers) > 12 or max(map(len, table.readers)) > 4:
            axes.tick_params(axis="x", labelrotation=90)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    figure.suptitle(_wrapped(title, figure))
    figure.supxlabel("reading layer")
    figure.supylabel("source")
    unit = "mean |w|" if absolute else "mean |w| / the reader's largest"
    none = "no weight" if all(table.kind == "scales" for table in tables) else "not read"
    figure.colorbar(image, ax=grid, label=f"{unit}\n(grey: {none})", shrink=0.9, aspect=25)
    return figure


def _relative(values: np.ndarray) -> np.ndarray:
    """Each column divided by its largest value; zeros stay zeros."""
    largest = np.nanmax(values, 0)
    return values / np.where(largest > 0, largest, 1)


def _label(axis: Any, labels: Sequence[str], room: int) -> None:
    """Labels places of an axis: all of them, or as many as there is room for, the first and the last among them."""
    every = math.ceil(len(labels) / max(2, room))
    last = len(labels) - 1
    places = [*(k for k in range(0, last, every) if last - k >= every), last]
    axis.set_ticks(places, [labels[k] for k in places], fontsize=7)
    axis.set_tick_params(length=2)


# ---------------------------------------------------------------------- Grad-CAM


class Explained(NamedTuple):
    """What a network looks at in some images.

    Attributes:
        name: Of the network.
        maps: Grad-CAM for each image's class, at the resolution of the feature map: ``(N, h, w)``, not negative.
        probabilities: Of all classes, ``(N, classes)``.
    """

    name: str
    maps: np.ndarray
    probabilities: np.ndarray


@_styled
def cam_overlays(
    images: np.ndarray, labels: Sequence[int], class_names: Sequence[str], rows: Sequence[Explained], title: str = ""
) -> Figure:
    """The images, and below them a row of maps per network, each relative to its own largest value.

    Args:
        images: uint8, ``(N, H, W, C)``.
        labels: Their classes.
        class_names: Names of all classes.
        rows: The networks.
        title: Above them.
    """
    from matplotlib.cm import ScalarMappable

    side = 1.3
    figure = _figure(side * len(images) + 1.9, (side + 0.3) * (len(rows) + 1) + 0.6)
    grid = figure.subplots(len(rows) + 1, len(images), squeeze=False)
    height, width = images.shape[1:3]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for axes, image, label in zip(grid[0], images, labels, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(shortened(class_names[label], 18))
    grid[0, 0].set_ylabel("image")
    for row, line in zip(rows, grid[1:], strict=True):
        for k, axes in enumerate(line):
            axes.imshow(images[k].mean(2), cmap="gray", vmin=_PALE, vmax=255)
            heat = row.maps[k] / max(row.maps[k].max(), 1e-12)
            axes.imshow(heat, cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=extent, interpolation="bilinear")
            guess, right = int(row.probabilities[k].argmax()), f"{row.probabilities[k][labels[k]]:.0%}"
            wrong = "" if guess == labels[k] else f", not {shortened(class_names[guess], 12)}"
            axes.set_xlabel(right + wrong, fontsize=8)
        line[0].set_ylabel(f"{shortened(row.name, 20)}\nmap {row.maps.shape[1]}x{row.maps.shape[2]}")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    figure.suptitle(_wrapped(title, figure))
    figure.colorbar(ScalarMappable(cmap="inferno"), ax=grid, label="Grad-CAM / the map's largest", shrink=0.9)
    return figure


# ---------------------------------------------------------------------- learning curves


@_styled
def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], tests: Mapping[str, Mapping[str, Any]] | None = None
) -> Figure:
    """Error and loss over epochs, a colour per network.

    Dashed lines are of the training images as the epoch saw them, augmented, with the recipe's loss (label smoothing
    included); solid lines of validation images, where the training had some; a star is the final network on the test
    images.

    Args:
        histories: The metrics of each epoch (a line of ``metrics.jsonl`` each) of networks by name; none empty.
        tests: ``test_accuracy`` and ``test_loss`` of those that were tested.
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
        Line2D([], [], color=colour, linewidth=3, label=shortened(name, 30))
        for name, colour in zip(histories, PALETTE * len(histories), strict=False)
    ]
    handles += [Line2D([], [], color="0.4", label=part, **look) for part, look in _PARTS.items() if part in parts]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def shortened(text: str, room: int) -> str:
    """A text of at most so many characters, its middle left out where it is longer."""
    if len(text) <= room:
        return text
    behind = (room - 3) * 2 // 3
    return f"{text[: room - 3 - behind]}...{text[len(text) - behind :]}"


def _wrapped(title: str, figure: Figure) -> str:
    """A title in lines that fit the figure's width."""
    return textwrap.fill(title, int(10 * figure.get_figwidth()))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
