"""How networks, costs and searches show themselves in notebooks: HTML and SVG, with every text escaped.

`nas_agg.common.display` finds the functions in `RENDERERS`.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import GenotypeError, one_line, truncate
from nas_agg.expansion.costs import Cost, cost_rows
from nas_agg.language.genotype import Genotype, format_value
from nas_agg.report.drawing import draw

if TYPE_CHECKING:
    from nas_agg.study.definition.objectives import Objectives
    from nas_agg.study.definition.result import SearchResult
    from nas_agg.study.definition.trial import TrialRecord
    from nas_agg.study.records.saved_run import SavedRun

MAX_ROWS = 10  # of trials


def genotype_svg(genotype: Genotype) -> str | None:
    """The drawing of a network; None of a genotype that describes none.

    It has no dark form: a page that contains the text would take the rules of that form for its own drawings as well.
    """
    try:
        return None if genotype.open else draw(genotype, adapts=False)
    except GenotypeError:
        return None


def genotype_html(genotype: Genotype) -> str:
    """The drawing of a network; of a genotype with search variables, a table of these."""
    if genotype.open:
        rows = [[name, format_value(domain)] for name, domain in genotype.open.items()]
        return _table(["search variable", "values"], rows, f"{len(rows)} search variables")
    try:
        return _image(draw(genotype), "drawing of the network")
    except GenotypeError as error:
        return _paragraph(str(error))


def cost_html(cost: Cost) -> str:
    """A table of a network's metrics."""
    return _table(["metric", "value", "meaning"], cost_rows(cost), right=(1,))


def search_result_html(result: SearchResult) -> str:
    """The result of a search: why it ended, the best trials or the front, the test, and the best network."""
    evaluated = sum(trial.consumes_budget for trial in result.trials)
    lines = [f"{evaluated} networks evaluated; {result.reason}"]
    return _search(lines, result.top, result.trials, result.objectives, result.test, result.best)


def saved_run_html(run: SavedRun) -> str:
    """A run: its state, the best trials or the front, the test, and the best network."""
    from nas_agg.report.runs.summary import network_of, state_of, top_trials

    evaluated = sum(trial.consumes_budget for trial in run.trials)
    lines = [f"{run.path}: {state_of(run)}" + (f", {evaluated} networks evaluated" if run.settings else "")]
    return _search(lines, top_trials(run), run.trials, run.objectives, run.metrics, network_of(run))


def _search(
    lines: list[str],
    top: Sequence[TrialRecord],
    trials: Sequence[TrialRecord],
    objectives: Objectives,
    test: Any,
    best: object,
) -> str:
    """The parts of a search."""
    from nas_agg.report.runs.summary import format_test_metrics

    parts = [*map(_paragraph, lines)]
    if top:
        parts.append(_trials(top[:MAX_ROWS], trials, objectives))
    if len(top) > MAX_ROWS:
        parts.append(_paragraph(f"and {len(top) - MAX_ROWS} more"))
    if text := format_test_metrics(test or {}):
        parts.append(_paragraph(f"test of the final network: {text}"))
    if isinstance(best, Genotype):
        parts.append(genotype_html(best))
    return "".join(parts)


def _trials(shown: Sequence[TrialRecord], trials: Sequence[TrialRecord], objectives: Objectives) -> str:
    """A table of trials with their metrics and search variables."""
    from nas_agg.study.definition.trial_rows import choice_text, known_metrics, metric_value

    metrics = known_metrics(trials, objectives)
    names = list(dict.fromkeys(name for trial in trials for name in trial.labels))
    rows = []
    for trial in shown:
        values = [(metric, metric_value(trial, metric, objectives)) for metric in metrics]
        texts = [
            "" if value is None else metric.format(value).removeprefix(f"{metric.name} ") for metric, value in values
        ]
        texts = [text.removesuffix(" params").removesuffix(" MACs") for text in texts]
        rows.append([str(trial.number), *texts, *(choice_text(trial.labels.get(name, "")) for name in names)])
    title = "Pareto front" if objectives.is_multi_objective else "best networks"
    header = ["trial", *("MACs" if metric.name == "macs" else metric.name for metric in metrics), *names]
    return _table(header, rows, title, right=range(1 + len(metrics)))


# ---------------------------------------------------------------------- elements


def _escape(text: str) -> str:
    """A text of one line without markup; control and bidirectional characters are shown as escapes."""
    return html.escape(one_line(text))


def _paragraph(text: str) -> str:
    return f"<p>{_escape(text)}</p>"


def _image(svg: str, alt: str) -> str:
    """A drawing as an image, which keeps its styles to itself."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{_escape(alt)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: Sequence[int] | range = ()
) -> str:
    """A table, of the class that notebooks have a style for."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        styles = [
            f' style="text-align:{"right" if i in right else "left"};padding:2px 10px"' for i in range(len(texts))
        ]
        shown = [_escape(truncate(text) if tag == "td" and len(text) > 200 else text) for text in texts]
        return "<tr>" + "".join(f"<{tag}{s}>{t}</{tag}>" for s, t in zip(styles, shown, strict=True)) + "</tr>"

    caption = f"<caption>{_escape(title)}</caption>" if title else ""
    body = "".join(cells("td", row) for row in rows)
    return f'<table class="dataframe">{caption}<thead>{cells("th", header)}</thead><tbody>{body}</tbody></table>'


RENDERERS = {
    ("Genotype", "svg"): genotype_svg,
    ("Genotype", "html"): genotype_html,
    ("Cost", "html"): cost_html,
    ("SearchResult", "html"): search_result_html,
    ("SavedRun", "html"): saved_run_html,
}
