"""The registry of metrics: one spelling each, which costs, trials and outcomes share."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import Cost
from nas_agg.study.definition.metrics import FURTHER, METRICS, SCORE, VALUE, Metric
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.trial import MEASURED, TrialRecord
from nas_agg.study.scheduling.constraints import constraint_violations


def test_each_metric_has_one_spelling():
    assert all(METRICS[name].name == name for name in METRICS)
    assert len({metric.attribute for metric in METRICS.values()}) == len(METRICS)
    trial = {field.name for field in fields(TrialRecord)}
    assert {metric.attribute for metric in METRICS.values()} <= trial | set(FURTHER)
    assert all(hasattr(Cost, metric.attribute) for metric in METRICS.values() if metric.known_a_priori)
    assert set(MEASURED) == {m.attribute for m in METRICS.values() if not m.known_a_priori} | {"batch_size"}


def test_settings_limit_every_metric():
    own = {
        f"{'min' if m.direction == 'maximize' else 'max'}_{m.name}"
        for m in METRICS.values()
        if m.attribute not in FURTHER
    }
    limits = {name for name in Settings.model_fields if name.startswith(("max_", "min_")) and name != "min_epochs"}
    assert limits == own | {"min_metric", "max_metric"}
    settings = Settings.parse(space="tiny", min_metric=["macro-f1=0.8"], max_metric="mae=3")
    violations = constraint_violations(settings, {"macro_f1": 0.7, "mae": 2.0})
    assert violations == {"min macro-f1": pytest.approx(0.1), "max mae": -1.0}
    for value in ("nan", "inf", "-1e999", ""):
        with pytest.raises(InputError, match=f"min_metric: invalid limit 'macro-f1={value}'"):
            Settings.parse(space="tiny", min_metric=[f"macro-f1={value}"])
    with pytest.raises(InputError, match="min_metric: invalid metric 'macro'"):
        Settings.parse(space="tiny", min_metric=["macro=0.8"])


def test_metrics_of_some_searches_are_read_like_the_others():
    record = TrialRecord(0, "complete", (0.5,), (0.5,), {}, 1, 1, "", 1.0, 0, further={"macro_f1": 0.5})
    assert (record.macro_f1, record.rmse) == (0.5, None)
    with pytest.raises(AttributeError):
        _ = record.other


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
