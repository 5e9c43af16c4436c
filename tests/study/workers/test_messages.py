"""Messages between a pool, its worker processes and remote workers: they arrive as they were sent."""

from __future__ import annotations

import math
from multiprocessing import Pipe

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nas_agg.study.workers.connection import receive, send
from nas_agg.study.workers.messages import (
    Envelope,
    EventKind,
    FinalJob,
    FinalOutcome,
    Progress,
    TrialJob,
    TrialOutcome,
    WorkerMessage,
)
from nas_agg.study.workers.protocol import RemoteOutcome


def sent(message):
    """A message after its way through a pipe."""
    here, there = Pipe()
    send(here, message)
    return receive(there, type(message))


@given(st.floats(allow_nan=False))
def test_a_reported_value_arrives_to_the_last_bit(value):
    assert sent(WorkerMessage(kind=Progress.REPORT, step=3, value=value)).value == value


def test_a_value_that_is_not_a_number_arrives_as_such():
    assert math.isnan(sent(WorkerMessage(kind=Progress.REPORT, value=math.nan)).value)
    outcome = TrialOutcome(metrics={"loss": math.nan})
    assert math.isnan(
        RemoteOutcome(kind="completed", seconds=1, outcome=outcome).model_dump()["outcome"]["metrics"]["loss"]
    )


@pytest.mark.parametrize("kind", [TrialJob, FinalJob])
def test_a_job_arrives_as_its_own_kind(kind):
    more = {"epochs": 3} if kind is TrialJob else {"best": "best"}
    job = kind(genotype={"net": [{"conv": 3, "out": 2**70}]}, seed=2**62 + 1, recipe="search", out="out", **more)
    assert sent(Envelope(job=job)).job == job


@pytest.mark.parametrize("outcome", [TrialOutcome(metrics={"accuracy": 0.1}), FinalOutcome(), None])
def test_an_outcome_arrives_as_its_own_kind(outcome):
    assert sent(WorkerMessage(kind=Progress.FINISHED, outcome=outcome)).outcome == outcome


def test_a_field_that_a_message_does_not_have_is_refused():
    with pytest.raises(ValidationError, match="paused"):
        TrialOutcome(paused=3)


@pytest.mark.parametrize(
    ("fields", "stopped", "kind"),
    [
        ({}, False, EventKind.COMPLETED),
        ({}, True, EventKind.PRUNED),
        ({"paused_at": 3}, False, EventKind.PAUSED),
        ({"paused_at": 3}, True, EventKind.PRUNED),
        ({"infeasible": "too slow"}, True, EventKind.INFEASIBLE),
    ],
)
def test_what_an_outcome_means(fields, stopped, kind):
    assert TrialOutcome(**fields).event_kind(stopped) == kind


def test_what_is_recorded_beside_the_values():
    outcome = TrialOutcome(metrics={"value": 1.0, "own": 2.0, "latency_ms": 3.0, "accuracy": 0.5}, batch_size=48)
    assert outcome.measured() == {"accuracy": 0.5, "latency_ms": 3.0, "batch_size": 48}
