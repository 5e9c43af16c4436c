"""The registry of metrics: one spelling each, which costs, trials and outcomes share."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nas_agg.expansion.costs import Cost
from nas_agg.study.definition.metrics import METRICS, SCORE, VALUE, Metric
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.trial import MEASURED, TrialRecord


def test_each_metric_has_one_spelling():
    assert all(METRICS[name].name == name for name in METRICS)
    assert len({metric.attribute for metric in METRICS.values()}) == len(METRICS)
    trial = {field.name for field in fields(TrialRecord)}
    assert {metric.attribute for metric in METRICS.values()} <= trial
    assert all(hasattr(Cost, metric.attribute) for metric in METRICS.values() if metric.known_a_priori)
    assert set(MEASURED) == {m.attribute for m in METRICS.values() if not m.known_a_priori} | {"batch_size"}


def test_settings_limit_every_metric():
    limits = {name for name in Settings.model_fields if name.startswith(("max_", "min_")) and name != "min_epochs"}
    assert limits == {f"{'min' if m.direction == 'maximize' else 'max'}_{m.name}" for m in METRICS.values()}


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (METRICS["accuracy"], 0.12345, "12.35 %"),
        (METRICS["loss"], 0.25, "loss 0.25"),
        (METRICS["latency"], 1.23456, "1.235 ms"),
        (METRICS["params"], 1234, "1,234 params"),
        (METRICS["macs"], 1e6, "1,000,000 MACs"),
        (VALUE, 0.5, "0.5"),
        (SCORE, 0.5, "score 0.5000"),
        (Metric("error", "error"), 0.5, "error 0.5"),
    ],
)
def test_values_have_their_unit(metric, value, text):
    assert metric.format(value) == text
