"""The section on zero-cost proxies: scores of untrained networks against their results."""

from __future__ import annotations

import math

from nas_agg.common.files import canonical_json
from nas_agg.report.html.parts import SERIES, Grid, Part, Plot, Section, Table, label, metric_axis
from nas_agg.report.runs.importance import comparable_trials
from nas_agg.report.runs.summary import network_of
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.trial import TrialRecord
from nas_agg.study.proxy_ranking import MIN_NETWORKS, SCORES_FILE, Correlation, correlations
from nas_agg.study.records.proxy_score_cache import ScoreCache
from nas_agg.study.records.run_folder import dataset_arguments
from nas_agg.study.records.saved_run import SavedRun
from nas_agg.study.samplers.proxy_scorer import BATCH, genotype_digest


def proxies_section(run: SavedRun) -> Section | None:
    """Parameters, MACs and the scores that ``nas_agg proxies --rank`` saved, against the first trained objective."""
    trained = [i for i, metric in enumerate(run.objectives) if metric.depends_on_training]
    trials = comparable_trials(run)
    if not trained or len(trials) < MIN_NETWORKS or not all(trial.macs for trial in trials):
        return None
    metric = run.objectives[trained[0]]
    results = [trial.scores[trained[0]] for trial in trials if trial.scores]
    values = [trial.values[trained[0]] for trial in trials if trial.values]
    scores = {"params": [float(t.params) for t in trials], "macs": [float(t.macs) for t in trials]}
    scores |= saved_scores(run, trials)
    measured = correlations(scores, results)
    plots = []
    for correlation in measured:
        x = [score if math.isfinite(score) else None for score in scores[correlation.proxy]]
        points = {
            "type": "scatter",
            "mode": "markers",
            "x": x,
            "y": values,
            "text": [f"trial {trial.number}" for trial in trials],
            "hovertemplate": "%{text}: %{x}, %{y}<extra></extra>",
            "marker": {"color": SERIES[0], "size": 5, "opacity": 0.6},
        }
        axis = metric_axis(METRICS[correlation.proxy]) if correlation.proxy in METRICS else {}
        layout = {"xaxis": {**axis, "title": None}, "yaxis": {**metric_axis(metric, values), "title": None}}
        plots.append(Plot(f"proxy-{correlation.proxy}", _title(correlation), [points], layout, height=230))
    title = f"Scores of untrained networks against {label(metric.name)}"
    parts: list[Part] = [Grid(plots, title), _table(measured)]
    return Section("proxies", "Zero-cost proxies", parts)


def saved_scores(run: SavedRun, trials: list[TrialRecord]) -> dict[str, list[float]]:
    """The proxy scores of trials that are saved with a run; NaN where one is missing."""
    if not (run.path / SCORES_FILE).is_file() or "data" not in run.run:
        return {}
    arguments = dataset_arguments(dict(run.run), run.path)
    cache = ScoreCache(run.path / SCORES_FILE, canonical_json({"data": arguments, "seed": 0, "batch": BATCH}))
    by_trial = []
    for trial in trials:
        genotype = network_of(run, trial.number)
        by_trial.append(cache.scores.get(genotype_digest(genotype), {}) if genotype is not None else {})
    names = dict.fromkeys(name for scores in by_trial for name in scores if name not in METRICS)
    table = {name: [scores[name][0] if scores.get(name) else math.nan for scores in by_trial] for name in names}
    return {name: values for name, values in table.items() if sum(map(math.isfinite, values)) >= MIN_NETWORKS}


def _title(correlation: Correlation) -> str:
    tau = "" if correlation.kendall is None else f": Kendall's tau {correlation.kendall:.2f}"
    return f"{label(correlation.proxy)}{tau}"


def _table(measured: list[Correlation]) -> Table:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    def interval(value: tuple[float, float] | None) -> str:
        return "" if value is None else f"{value[0]:.2f} to {value[1]:.2f}"

    rows = [
        [
            c.proxy,
            str(c.networks),
            number(c.kendall),
            interval(c.kendall_interval),
            number(c.spearman),
            interval(c.spearman_interval),
        ]
        for c in measured
    ]
    header = ["proxy", "networks", "Kendall", "95 % interval", "Spearman", "95 % interval"]
    return Table(header, rows, right=range(1, 6), title="Rank correlations")
