"""Trials as notes in Markdown: results, search variables and the network's tree. Texts from outside are no markup."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from nas_agg.common.errors import NasAggError, one_line
from nas_agg.expansion.costs import cost, cost_rows
from nas_agg.language.genotype import Genotype
from nas_agg.report.runs.summary import network_of, original_number
from nas_agg.report.tree import network_tree, tree_lines
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.definition.trial_rows import choice_text, known_metrics, metric_value
from nas_agg.study.records.saved_run import SavedRun

TREE_DEPTH = 2
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|$~:@/])")


def plain(text: str) -> str:
    """A text in one line that Markdown and HTML show as it is."""
    return _MARKUP.sub(r"\\\1", html.escape(one_line(text), quote=False).replace("&", "\0")).replace("\0", "&")


def trial_note(run: SavedRun, trial: TrialRecord) -> str:
    """The note of a trial.

    Args:
        run: The run.
        trial: One of its trials.
    """
    parts = [_heading(trial)]
    metrics = [(m, metric_value(trial, m, run.objectives)) for m in known_metrics(run.trials, run.objectives)]
    rows = [[m.name, m.format(value).removeprefix(f"{m.name} ")] for m, value in metrics if value is not None]
    parts.append(_table(["metric", "value"], rows))
    labels = [[name, choice_text(choice)] for name, choice in trial.labels.items()]
    parts.append(_table(["search variable", "value"], labels))
    if (genotype := trial_network(run, trial)) is not None:
        parts += _network(genotype)
    return "\n\n".join(part for part in parts if part)


def trial_network(run: SavedRun, trial: TrialRecord) -> Genotype | None:
    """The network of a trial, for a duplicate that of the earlier trial; None if it has none."""
    return network_of(run, original_number(trial))


def _heading(trial: TrialRecord) -> str:
    text = f"**trial {trial.number}: {trial.state}**"
    if trial.duplicate_of is not None:
        text += f" (the network of trial {trial.duplicate_of})"
    return text + (f": {plain(trial.reason)}" if trial.reason else "")


def _network(genotype: Genotype) -> list[str]:
    """The cost and the tree of a network."""
    try:
        costs = _table(["network", "value"], [row[:2] for row in cost_rows(cost(genotype))])
        lines = "\n".join(tree_lines(network_tree(genotype), TREE_DEPTH))
    except NasAggError as error:
        return [plain(str(error))]
    return [costs, "```text\n" + lines.replace("`", "'") + "\n```"]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *[[plain(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
