"""The section on the final network's test: confusion matrix, metrics per class, most confident mistakes."""

from __future__ import annotations

import base64
from dataclasses import replace

from nas_agg.report.html.parts import Part, Picture, Pictures, Plot, Section, Table, label, visible
from nas_agg.report.runs.predictions import Predictions, class_metrics, predict_test_split, recorded_predictions
from nas_agg.study.records.saved_run import SavedRun

MAX_CLASSES = 100  # of a confusion matrix
MAX_COUNTS = 20  # of a confusion matrix whose counts are written out


def predictions_section(run: SavedRun) -> Section | None:
    """What the final network predicts for the test images: as recorded, and its mistakes if the data set is there."""
    recorded, predictions = recorded_predictions(run), predict_test_split(run)
    if recorded is not None:
        predictions = replace(recorded, mistakes=predictions.mistakes if predictions is not None else ())
    if predictions is None:
        return None
    parts: list[Part] = [_class_table(predictions)]
    if len(predictions.class_names) <= MAX_CLASSES:
        parts.insert(0, _confusion(predictions))
    if predictions.mistakes:
        parts.append(_pictures(predictions))
    return Section("test", "Test", parts)


def _confusion(predictions: Predictions) -> Plot:
    names = [label(name, 16) for name in predictions.class_names]
    counts, n = predictions.confusion.tolist(), len(names)
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    shown = [f"{k}" for k in range(n)]
    trace = {
        "type": "heatmap",
        "x": shown,
        "y": shown,
        "z": shares,
        "customdata": [[[names[i], names[j], counts[i][j]] for j in range(n)] for i in range(n)],
        "hovertemplate": "%{customdata[2]} images of %{customdata[0]}<br>classified as %{customdata[1]}<extra></extra>",
        "colorscale": [[0, "@heat0"], [1, "@heat1"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    if n <= MAX_COUNTS:
        trace |= {"text": [[str(count) if count else "" for count in row] for row in counts], "texttemplate": "%{text}"}
    axis = {"type": "category", "tickmode": "array", "tickvals": shown, "ticktext": names}
    layout = {
        "xaxis": {**axis, "title": {"text": "predicted"}, "tickangle": -45},
        "yaxis": {**axis, "title": {"text": "class"}, "autorange": "reversed"},
    }
    note = "Rows are the images of a class; the colour is their share."
    title = f"Confusion matrix of {int(predictions.confusion.sum()):,} test images"
    return Plot(
        "confusion", title, [trace], layout, height=min(760, 170 + 26 * n), min_width=min(1100, 120 + 22 * n), note=note
    )


def _class_table(predictions: Predictions) -> Table:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    rows = [
        [visible(m.name), f"{m.images:,}", percent(m.precision), percent(m.recall), percent(m.f1)]
        for m in class_metrics(predictions)
    ]
    return Table(["class", "images", "precision", "recall", "F1"], rows, right=range(1, 5), title="Metrics per class")


def _pictures(predictions: Predictions) -> Pictures:
    names = predictions.class_names
    pictures = [
        Picture(
            "data:image/png;base64," + base64.b64encode(mistake.png).decode(),
            [
                f"{visible(names[mistake.label])}, not {visible(names[mistake.predicted])}",
                f"{100 * mistake.confidence:.1f} % sure, image {mistake.index}",
            ],
        )
        for mistake in predictions.mistakes
    ]
    return Pictures(pictures, "Most confident mistakes")
