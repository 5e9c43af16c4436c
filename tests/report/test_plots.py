"""Plots: the plotted numbers and readable labels."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.report.plots import Explanation, cam_overlays, heat_maps, learning_curves, save, shorten_middle
from nas_agg.report.source_weights import SourceWeights

NAN = float("nan")


def table(nodes: int, kind: Any = "filters") -> SourceWeights:
    """A dense block, whose cells are all different."""
    values = np.where(np.triu(np.ones((nodes, nodes))), np.arange(1.0, nodes**2 + 1).reshape(nodes, nodes), NAN)
    sources = ("in", *map(str, range(1, nodes)))
    return SourceWeights("a.unit.block", kind, sources, tuple(map(str, range(1, nodes + 1))), values)


def drawn(axes: Any) -> np.ndarray:
    (image,) = axes.get_images()
    return image.get_array().filled(NAN)


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def overlaps(figure: Any, axis: Any) -> bool:
    """Whether two neighbouring labels of an axis cover each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
    return any(a.overlaps(b) for a, b in pairwise(boxes))


def test_a_heat_map_is_relative_to_each_readers_largest() -> None:
    figure = heat_maps([table(3)], "title")
    axes, bar = figure.axes
    expected = np.array([[1, 2 / 5, 3 / 9], [NAN, 1, 6 / 9], [NAN, NAN, 1]])
    np.testing.assert_allclose(drawn(axes), expected)
    assert ticks(axes.xaxis) == ["1", "2", "3"] and ticks(axes.yaxis) == ["in", "1", "2"]
    assert axes.get_title() == "a.block"
    assert bar.get_ylabel() == "mean |w| / maximum of the reader\n(grey: not read)"


def test_an_absolute_heat_map_has_one_scale_for_all() -> None:
    figure = heat_maps([table(3, "scales"), table(5, "scales")], absolute=True)
    small, large, bar = figure.axes
    np.testing.assert_array_equal(drawn(small), table(3).values)
    assert {axes.get_images()[0].get_clim() for axes in (small, large)} == {(0.0, 25.0)}
    assert bar.get_ylabel() == "mean |w|\n(grey: no weight)"


@pytest.mark.filterwarnings("error")
def test_a_reader_of_zeros_reads_nonetheless() -> None:
    """As the layers that end a branch do, which may start at zero."""
    values = np.array([[1.0, 0.0], [NAN, 0.0]])
    figure = heat_maps([SourceWeights("block", "filters", ("in", "1"), ("1", "2"), values)])
    np.testing.assert_array_equal(drawn(figure.axes[0]), values)


@pytest.mark.parametrize(("nodes", "panels"), [(5, 1), (14, 4), (60, 1), (130, 2)])
def test_labels_do_not_overlap(nodes: int, panels: int) -> None:
    figure = heat_maps([table(nodes)] * panels)
    axes = figure.axes[0]
    for axis, first, last in ((axes.xaxis, "1", str(nodes)), (axes.yaxis, "in", str(nodes - 1))):
        assert ticks(axis)[0] == first and ticks(axis)[-1] == last
        assert not overlaps(figure, axis)


def test_a_title_is_wrapped_to_the_figures_width() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = heat_maps(
        [table(5)], "a network of a long name: weights of filters that read a concat, 12 of 30 aggregates"
    )
    FigureCanvasAgg(figure).draw()
    box = figure.texts[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def history(*accuracies: float, validated: bool = True) -> list[dict[str, float]]:
    return [
        {"epoch": k, "train_accuracy": a - 0.1, "train_loss": 2 - a}
        | ({"validation_accuracy": a, "validation_loss": 1 - a} if validated else {})
        for k, a in enumerate(accuracies, start=1)
    ]


def test_curves_are_of_the_metrics() -> None:
    histories = {"one": history(0.2, 0.5, 0.7), "two": history(0.6, 0.8, validated=False)}
    figure = learning_curves(histories, {"two": {"test_accuracy": 0.75, "test_loss": 0.9}})
    error, loss = figure.axes
    lines = [(line.get_xdata(), line.get_ydata(), line.get_linestyle()) for line in error.get_lines()]
    expected = [([1, 2, 3], [90, 60, 40], "--"), ([1, 2, 3], [80, 50, 30], "-"), ([1, 2], [50, 30], "--"),
                ([2], [25], "None")]  # fmt: skip
    for (x, y, style), (x_wanted, y_wanted, style_wanted) in zip(lines, expected, strict=True):
        np.testing.assert_allclose(x, x_wanted)
        np.testing.assert_allclose(y, y_wanted)
        assert style == style_wanted
    np.testing.assert_allclose(loss.get_lines()[1].get_ydata(), [0.8, 0.5, 0.3])
    assert (error.get_ylabel(), loss.get_ylabel()) == ("error (%)", "cross entropy (nats)")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "train", "validation", "test"]


def test_overlays_show_the_prediction() -> None:
    images = np.full((2, 8, 8, 1), 128, np.uint8)
    maps = np.array([[[0, 2], [1, 4.0]], [[0, 0], [0, 0]]])
    rows = [Explanation("net", maps, np.array([[0.9, 0.1], [0.3, 0.7]]))]
    figure = cam_overlays(images, [0, 0], ["cat", "dog"], rows)
    _, _, first, second, _ = figure.axes
    np.testing.assert_allclose(first.get_images()[1].get_array(), maps[0] / 4)
    np.testing.assert_allclose(second.get_images()[1].get_array(), 0)
    assert (first.get_xlabel(), second.get_xlabel()) == ("90%", "30%, not dog")
    assert first.get_ylabel() == "net\nmap 2x2"
    grey, heat = first.get_images()
    assert tuple(heat.get_extent()) == tuple(grey.get_extent())  # a map covers the whole image


def test_files_are_png_and_svg_with_text_and_equal_each_time(tmp_path: Path) -> None:
    once = save(heat_maps([table(3)], "some words"), tmp_path / "a.b")
    again = save(heat_maps([table(3)], "some words"), tmp_path / "c")
    assert [path.name for path in once] == ["a.b.png", "a.b.svg"]
    assert once[0].read_bytes().startswith(b"\x89PNG")
    assert "some words" in once[1].read_text()
    assert once[1].read_bytes() == again[1].read_bytes()


def test_without_matplotlib_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"plots need matplotlib: pip install 'nas-agg\[inspect\]'"):
        heat_maps([table(3)])


def test_long_names_keep_their_ends() -> None:
    assert shorten_middle("abc", 3) == "abc"
    assert shorten_middle("stage.1.first.0.bottleneck.apart", 20) == "stage....eneck.apart"
