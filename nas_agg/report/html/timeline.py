"""The section on time: when each trial ran, what took how long, and which trials failed for which reason."""

from __future__ import annotations

from nas_agg.report.html.parts import BAD, MUTED, SERIES, Part, Plot, Section, Table, visible, with_legend
from nas_agg.report.runs.summary import Span, format_seconds, spans
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.saved_run import SavedRun

_COLOURS = {
    RecordState.COMPLETE: SERIES[0],
    RecordState.PRUNED: MUTED,
    RecordState.INFEASIBLE: SERIES[3],
    RecordState.FAILED: BAD,
}


def time_section(run: SavedRun) -> Section | None:
    """The timeline of the workers, the time of each kind of trial, and failures with their reasons."""
    measured = spans(run)  # none of a table's trials, which were looked up
    parts: list[Part] = []
    if measured:
        parts.append(_timeline(measured))
        parts.append(_totals(run, measured))
    if failures := _failures(run):
        parts.append(failures)
    return Section("time", "Where time went", parts) if parts else None


def _timeline(measured: list[Span]) -> Plot:
    lanes = max(span.lane for span in measured) + 1
    traces = []
    for state, colour in _COLOURS.items():
        group = [span for span in measured if span.trial.state == state]
        if group:
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": str(state),
                    "base": [span.start.isoformat(timespec="milliseconds")[:-6] for span in group],
                    "x": [1000 * (span.end - span.start).total_seconds() for span in group],
                    "y": [span.lane + 1 for span in group],
                    "customdata": [
                        [span.trial.number, round((span.end - span.start).total_seconds(), 1)] for span in group
                    ],
                    "hovertemplate": "trial %{customdata[0]}: %{customdata[1]} s<extra></extra>",
                    "marker": {"color": colour, "line": {"color": "@background", "width": 1}},
                }
            )
    paused = any(span.trial.rungs for span in measured)  # their pauses overlap other trials
    title = "trials in parallel" if paused else "worker"
    axis = {"title": {"text": title}, "dtick": 1, "range": [lanes + 0.6, 0.4]}
    layout = with_legend(xaxis={"type": "date", "title": {"text": "UTC"}}, yaxis=axis, barmode="overlay", bargap=0.15)
    note = "A trial that paused at a rung is one bar of its total training time." if paused else ""
    return Plot("timeline", "Timeline", traces, layout, height=min(600, 170 + 34 * lanes), note=note)


def _totals(run: SavedRun, measured: list[Span]) -> Table:
    """Time of the trials by state, of the search and of the final training."""
    rows = []
    for state in _COLOURS:
        seconds = [(span.end - span.start).total_seconds() for span in measured if span.trial.state == state]
        if seconds:
            mean = format_seconds(sum(seconds) / len(seconds))
            rows.append([f"trials: {state}", str(len(seconds)), format_seconds(sum(seconds)), mean])
    wall = float(run.run.get("seconds", 0))
    if wall:
        rows.append(["search in total (wall time)", "", format_seconds(wall), ""])
    if run.metrics is not None and run.metrics.get("seconds"):
        rows.append(["final training", "", format_seconds(float(run.metrics["seconds"])), ""])
    return Table(["", "trials", "time", "each"], rows, right=(1, 2, 3), title="Time")


def _failures(run: SavedRun) -> Table | None:
    """The reasons of trials without a result, most frequent first."""
    by_reason: dict[tuple[str, str], list[int]] = {}
    for trial in run.trials:
        if trial.state in (RecordState.FAILED, RecordState.INFEASIBLE, RecordState.INTERRUPTED):
            by_reason.setdefault((str(trial.state), trial.reason), []).append(trial.number)
    if not by_reason:
        return None
    rows = []
    for (state, reason), numbers in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(map(str, numbers[:12])) + (", …" if len(numbers) > 12 else "")
        rows.append([state, str(len(numbers)), visible(reason), shown])
    return Table(["state", "trials", "reason", "numbers"], rows, right=(1,), title="Trials without a result")
