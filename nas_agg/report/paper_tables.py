"""The papers' tables as text, Markdown and JSON: counts, alternative readings, and results beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from nas_agg.report.paper_counts import (
    FLOPS,
    CountedReading,
    CountedRow,
    as_dict,
    as_printed,
    count,
    count_readings,
    summary,
)
from nas_agg.report.papers import DATA_SETS, METRICS, Paper, Result, Row

if TYPE_CHECKING:
    from nas_agg.report.paper_runs import RunMatch


class Grid(NamedTuple):
    """A table of texts.

    Attributes:
        header: Names of the columns.
        rows: The cells.
        right: Right-aligned columns, those with numbers.
    """

    header: tuple[str, ...]
    rows: list[list[str]]
    right: tuple[int, ...] = ()


def counts_grid(counted: Sequence[CountedRow]) -> Grid:
    """Printed sizes of networks beside our counts."""
    header = ("network", "point", "params", "ours", "FLOPs", "ours", "verdict")
    return Grid(header, [_counts(one) for one in counted], (2, 3, 4, 5))


def _counts(counted: CountedRow) -> list[str]:
    row = counted.row
    params = "-" if counted.params is None else f"{counted.params:,}"
    flops = "-" if counted.flops is None else as_printed(counted.flops, row.flops or "0.000G", "flops" in row.cut)
    return [row.network, row.point or "-", row.params or "-", params, row.flops or "-", flops, counted.verdict]


def readings_grid(paper: Paper) -> Grid:
    """Counts of alternative readings of the paper."""
    rows = [_reading(one) for row in paper.rows for one in count_readings(row, paper)]
    return Grid(("network", "alternative reading", "params", "ours", "verdict"), rows, (2, 3))


def _reading(counted: CountedReading) -> list[str]:
    printed = counted.reading.params or counted.row.params or "-"
    ours = " to ".join(f"{params:,}" for params in counted.params)
    return [counted.row.network, counted.about, printed, ours, counted.verdict]


def results_grid(paper: Paper, matches: Sequence[RunMatch] | None = None) -> Grid:
    """Printed results of each network on each data set.

    Args:
        paper: The paper.
        matches: Runs with networks of its rows; None omits the columns for ours.
    """
    header = ("network", "data set", "printed") + (() if matches is None else ("our error", "training"))
    rows = []
    for row in paper.rows:
        for data, results in _by_data(paper.results(row)):
            cells = [row.network, _label(data), printed_text(results)]
            runs = [one for one in matches or () if one.row is row and one.run.data == data.rstrip("+")]
            if matches is None:
                rows.append(cells)
            elif not runs:
                rows.append([*cells, "-", "-"])
            for one in runs:
                reading = f"; {one.reading}" * bool(one.reading)
                rows.append([*cells, f"{one.run.error:.2f}", one.run.about + reading])
    return Grid(header, rows, () if matches is None else (3,))


def rows_of(paper: Paper, name: str, matches: Sequence[RunMatch]) -> Paper:
    """A paper with only those rows that runs match.

    Args:
        paper: The paper.
        name: Its name.
        matches: The matches.
    """
    rows = [row for row in paper.rows if any(one.paper == name and one.row is row for one in matches)]
    return paper.model_copy(update={"rows": tuple(rows)})


def _by_data(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """The results by data set, in order of first occurrence."""
    by_data: dict[str, list[Result]] = {}
    for result in results:
        by_data.setdefault(result.data, []).append(result)
    return list(by_data.items())


def _label(data: str) -> str:
    name = data.rstrip("+")
    return DATA_SETS[name].label + data[len(name) :]


def printed_text(results: Sequence[Result]) -> str:
    """Results on one data set as text: ``25.00 (Table 2); 25.01 (Table 3)``.

    Tables with equal results are combined.

    Args:
        results: The results, in the order of their tables.
    """
    tables: dict[str, list[str]] = {}
    for table, cells in groupby(results, key=lambda result: result.table):
        values = [f"{METRICS[cell.metric][0]}{cell.value}{METRICS[cell.metric][1]}" for cell in cells]
        tables.setdefault(", ".join(values), []).append(table)
    return "; ".join(f"{values} ({_places(names)})" for values, names in tables.items())


def _places(names: Sequence[str]) -> str:
    numbers = [name.removeprefix("Table ") for name in names]
    if len(names) == 1 or numbers == list(names):
        return ", ".join(names)
    return f"Tables {', '.join(numbers)}"


def markdown(paper: Paper, matches: Sequence[RunMatch] | None = None) -> str:
    """All tables of a paper in Markdown."""
    counted = [count(row, paper) for row in paper.rows]
    results, readings = results_grid(paper, matches), readings_grid(paper)
    text = (
        f"## {paper.about}\n\nFLOPs are {FLOPS[paper.flops]}; {summary(counted)}.\n\n{_markdown(counts_grid(counted))}"
    )
    if readings.rows:
        text += f"\nAlternative readings:\n\n{_markdown(readings)}"
    if results.rows:
        text += f"\n{legend(paper)}\n\n{_markdown(results)}"
    return text


def legend(paper: Paper) -> str:
    """A line that explains the results of a paper."""
    tables = "; ".join(f"{name}: {table.about}" for name, table in paper.tables.items())
    return f"Results, errors in percent. {tables}."


def _markdown(grid: Grid) -> str:
    rule = ["---:" if i in grid.right else "---" for i in range(len(grid.header))]
    rows = [list(grid.header), rule, *grid.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def row_dict(name: str, paper: Paper, row: Row, matches: Sequence[RunMatch]) -> dict[str, Any]:
    """A row with counts, results, readings and runs as JSON values."""
    readings = [
        {
            "about": one.about,
            "printed_params": one.reading.params or row.params,
            "params": list(one.params),
            "agrees": one.agrees,
            "printed_by": one.reading.by or None,
        }
        for one in count_readings(row, paper)
    ]
    runs = [one.run.as_dict() | {"reading": one.reading} for one in matches if one.row is row]
    results = [result._asdict() for result in paper.results(row)]
    return {"paper": name} | as_dict(count(row, paper)) | {"results": results, "readings": readings, "runs": runs}
