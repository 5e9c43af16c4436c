"""A study with running trials."""

from __future__ import annotations

import pytest
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage

from nas_agg.study.records.study_record import StudyRecord


@pytest.fixture
def record(tiny, study_with_trials):
    """A study of three trials in memory."""
    return study_with_trials(tiny, InMemoryStorage(), 3)


@pytest.fixture
def study_with_trials():
    """Makes a study with a number of running trials in a storage."""

    def make(space, storage, trials) -> StudyRecord:
        record = StudyRecord(NopPruner(), storage, "a")
        while record.next_number < trials:
            number = record.next_number
            labels = next(record.draws(RandomSampler(seed=number), space.distributions))
            record.create_trial(labels, space.distributions, {"hash": str(number), "params": 1, "macs": 1, "seed": 0})
        return record

    return make
