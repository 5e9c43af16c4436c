"""The coordinator's side of workers that join: messages, leases, and a coordinator that replaces a killed one."""

from __future__ import annotations

import contextlib
import json

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import NopPruner
from optuna.trial import TrialState

import nas_agg.study.engine.active_search as active_search
from nas_agg.study.api import search
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.remote.connection import NotRegistered, StudyHandle, WorkerConnection
from nas_agg.study.remote.executor import RemoteExecutor, announce_finished
from nas_agg.study.workers.backend import Assignment, Event, Resources
from nas_agg.study.workers.in_process import InProcessBackend
from nas_agg.study.workers.messages import EventKind, TrialJob, TrialOutcome
from nas_agg.study.workers.protocol import (
    COORDINATOR,
    LEASE,
    OUTCOME,
    PIECE_LENGTH,
    REPORT,
    LeaseSettings,
    RemoteOutcome,
    TrialStatus,
    WorkerStatus,
    job_attrs,
    read_job,
    read_reports,
    report_attrs,
    workers_study,
)

NEEDS = Resources()
TASK_ATTR = {"data": {}, "dataset_digest": "", "about": "a fake", "folder": "", "trial_timeout": None}


def test_a_job_comes_through_in_pieces_that_every_database_takes():
    job = TrialJob(genotype={"text": 'é"\\' * PIECE_LENGTH}, seed=7, recipe="search", epochs=1, out="")
    said = job_attrs(job)
    assert len(said) > 3 and all(len(json.dumps(piece)) < 65_535 for piece in said.values())
    assert read_job({**said, LEASE: {"pieces": len(said)}}) == job


@given(st.lists(st.integers(1, 45), max_size=8))
def test_reports_come_once_and_in_order_however_they_are_sent_and_read(sizes):
    attrs, reports, read = {}, [], []
    for size in sizes:
        sent = len(reports)
        reports += [(sent + i, (sent + i) / 7) for i in range(size)]
        attrs |= json.loads(json.dumps(report_attrs(3, reports, sent)))
        if size % 2:
            read += read_reports(attrs, 3, len(read))
    read += read_reports(attrs, 3, len(read))
    assert read == reports
    assert not read_reports(attrs, 2, 0), "another attempt's are no business of this one"
    assert all(len(block) <= 20 for block in attrs.values())


class FakeWorker:
    """A worker of one process, played by a test."""

    def __init__(self, record, id="w1"):
        self.record, self.storage, self.beats, self.trials = record, record.storage, 0, {}
        about = {"host": f"host of {id}", "pid": 1, "slots": 1}
        self.connection = WorkerConnection(StudyHandle(self.storage, record.study_id, "a", TASK_ATTR), about, print)
        self.connection.register()
        self.id = self.connection.id
        self.beat()

    def beat(self):
        self.beats += 1
        self.connection.write_status(WorkerStatus(beat=self.beats, trials=tuple(self.trials.values())))
        self.connection.flush()

    @property
    def instructions(self):
        return self.connection.read_instructions()

    def assigned(self):
        """Numbers and attempts of its trials, and whether they are to stop."""
        return [(trial.number, trial.attempt, trial.stop) for trial in self.instructions.trials]

    def attrs(self, number):
        return self.record.storage.get_trial(self.record.storage_trial_id(number)).user_attrs

    def lease(self, number):
        return self.attrs(number)[LEASE]

    def write(self, number, key, value):
        self.storage.set_trial_user_attr(self.record.storage_trial_id(number), key, value)

    def report(self, number, attempt, *reports):
        self.write(number, f"{REPORT}{attempt}:0", [list(report) for report in reports])
        self.trials[number] = TrialStatus(number=number, attempt=attempt, reports=len(reports))
        self.beat()

    def end(self, number, attempt, kind="completed", **metrics):
        outcome = TrialOutcome(metrics=metrics) if kind == "completed" else None
        ended = RemoteOutcome(kind=kind, seconds=1.5, reason="" if outcome else "why", outcome=outcome)
        self.write(number, f"{OUTCOME}{attempt}", ended.model_dump(mode="json"))
        self.trials[number] = TrialStatus(number=number, attempt=attempt, ended=True)
        with contextlib.suppress(NotRegistered):
            self.beat()


def rows(record):
    study = record.storage.get_study_id_from_name(workers_study("a"))
    return record.storage.get_all_trials(study)


class Time:
    """A clock that stands still unless somebody sleeps; something may happen meanwhile."""

    def __init__(self, meanwhile=lambda: None):
        self.now, self.meanwhile = 100.0, meanwhile

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 0.001)
        self.meanwhile()


def executor(record, meanwhile=lambda: None, **lease):
    return RemoteExecutor(record, TASK_ATTR, LeaseSettings(**lease), Time(meanwhile))


def assignment(number):
    return Assignment(number, job=TrialJob(genotype={}, seed=number, recipe="search", epochs=1, out=""))


def test_a_trial_is_leased_to_a_free_worker_and_its_reports_and_outcome_come_back(record):
    there = executor(record)
    assert there.capacity() == 0
    hand = FakeWorker(record)
    assert there.poll(0.5) == [] and there.capacity() == 1
    there.submit(assignment(0), 1, NEEDS)
    assert hand.lease(0) == {"worker": hand.id, "attempt": 1, "pieces": 1}
    assert read_job(hand.attrs(0)) == assignment(0).job
    hand.report(0, 1, (1, 0.25))
    assert there.poll(1) == [Event(0, 1, EventKind.REPORT, 1, 0.25)]
    there.proceed(0)
    assert hand.assigned() == [(0, 1, False)]
    there.stop(0)
    assert hand.assigned() == [(0, 1, True)]
    hand.report(0, 1, (1, 0.25), (2, 0.5))
    hand.end(0, 1, accuracy=0.5)
    assert there.poll(1) == [
        Event(0, 1, EventKind.REPORT, 2, 0.5),
        Event(0, 1, EventKind.COMPLETED, seconds=1.5, outcome=TrialOutcome(metrics={"accuracy": 0.5})),
    ]
    there.stop(0)  # too late to matter


def test_a_worker_that_was_there_before_counts_once_its_heartbeat_changes(record):
    hand = FakeWorker(record)
    there = executor(record)
    assert there.capacity() == 0 and there.poll(0.3) == [] and there.capacity() == 0
    hand.beat()
    there.poll(0.5)
    assert there.capacity() == 1


def test_a_trial_of_an_unresponsive_worker_goes_to_another_and_late_results_are_ignored(record):
    there = executor(record, seconds=0.5)
    first = FakeWorker(record)
    there.poll(0.3)
    there.submit(assignment(0), 1, NEEDS)
    (lost,) = there.poll(5)
    assert (lost.kind, lost.reason) == ("worker_died", "worker host of w1 unresponsive for 0.5 s")
    with pytest.raises(NotRegistered):
        first.beat()
    there.submit(assignment(0), 2, NEEDS)  # nobody is free: it waits
    assert there.capacity() == 0 and first.lease(0)["attempt"] == 1
    second = FakeWorker(record, "w2")
    assert there.poll(0.3) == []
    assert second.lease(0) == {"worker": second.id, "attempt": 2, "pieces": 1}
    first.end(0, 1, accuracy=0.9)
    second.beat()
    assert there.poll(0.3) == []
    second.end(0, 2, accuracy=0.1)
    assert [event.outcome.metrics for event in there.poll(1)] == [{"accuracy": 0.1}]


def test_many_workers_share_trials_evenly(record):
    there = executor(record)
    hands = [FakeWorker(record, f"w{i}") for i in range(3)]
    there.poll(0.3)
    assert there.capacity() == 3
    for number in range(3):
        there.submit(assignment(number), 1, NEEDS)
    assert {hands[0].lease(number)["worker"] for number in range(3)} == {hand.id for hand in hands}


def test_a_worker_that_signs_off_releases_its_trial(record):
    there = executor(record)
    hand = FakeWorker(record)
    there.poll(0.3)
    there.submit(assignment(0), 1, NEEDS)
    hand.end(0, 1, "released")
    hand.connection.sign_off(0)
    (event,) = there.poll(1)
    assert event.kind == "released" and there.capacity() == 0


def test_the_coordinator_sends_heartbeats_only_while_a_worker_is_alive(record):
    def state():
        return record.storage.get_study_user_attrs(record.study_id)[COORDINATOR]["state"]

    there = executor(record, seconds=0.6)
    hand = FakeWorker(record)
    there.poll(0.1)
    beats = [hand.instructions.beat]
    there.poll(0.4)
    beats.append(hand.instructions.beat)
    there.poll(2)
    beats.append(hand.instructions.beat)
    there.poll(2)
    assert beats[0] < beats[1] < beats[2] == hand.instructions.beat, "it counted as dead before the last of them"
    assert state() == "here"
    there.close()
    assert state() == "away"
    announce_finished(record, "budget exhausted")
    assert state() == "finished"


@pytest.fixture
def database(tiny, study_with_trials, tmp_path):
    """Five trials in a database, and the storage through which a worker opens it."""
    url = f"sqlite:///{tmp_path}/study.db"
    record = study_with_trials(tiny, open_storage(url, tmp_path), 5)
    return record, open_storage(url, tmp_path, must_exist=True, for_worker=True)


@contextlib.contextmanager
def queries(engine):
    """The statements that a database receives meanwhile."""
    statements = []

    def note(connection, cursor, statement, *rest):
        statements.append(statement)

    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    yield statements
    sqlalchemy.event.remove(engine, "before_cursor_execute", note)


def test_a_worker_reads_its_own_row_whatever_the_number_of_workers(database):
    record, storage = database
    there, hands, counts = executor(record), [], []
    for number in range(3):
        hands.append(FakeWorker(record))
        hands[0].connection._storage = storage
        there.poll(0.5)
        there.submit(assignment(number), 1, NEEDS)
        hands[-1].report(number, 1, (1, 0.5))
        there.poll(0.5)
        with queries(storage.engine) as statements:
            assert hands[0].assigned() == [(0, 1, False)]
        counts.append(len(statements))
    assert counts == [2, 2, 2]
    with queries(record.storage._backend.engine) as statements:
        assert there.poll(0.5) == []
    assert not any("INSERT" in statement for statement in statements)
    texts = [text for text in statements if "FROM trial_user_attributes" in text]
    looks = [text for text in statements if "FROM studies" in text]
    assert len(texts) == len(looks), "each look reads the rows alone, not the trials, which say nothing new"


def test_rows_of_workers_that_left_or_died_are_not_read_any_more(record):
    there = executor(record, seconds=0.5)
    FakeWorker(record).connection.sign_off(3)
    FakeWorker(record)
    there.poll(2)
    hand = FakeWorker(record)
    there.poll(0.1)
    assert [row.state for row in rows(record)] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert [id for id, _ in there._workers.items()] == [hand.id]


def test_many_workers_read_less_often_and_have_more_time(record):
    there = executor(record, full_pace=2, full_beat=4, seconds=60)
    hands = []
    for workers, pace, seconds in ((1, 1, 60), (3, 2, 60), (8, 4, 120)):
        hands += [FakeWorker(record, f"w{len(hands) + i}") for i in range(workers - len(hands))]
        there.poll(0.1)
        for hand in hands:
            assert (hand.instructions.pace, hand.instructions.lease_seconds) == (pace, seconds)
    for hand in hands[1:]:
        hand.connection.sign_off(0)
    there.poll(0.2)
    assert (hands[0].instructions.pace, hands[0].instructions.lease_seconds) == (1, 60)


# ---- a coordinator that was killed, and its successor


def again(record) -> StudyRecord:
    return StudyRecord(NopPruner(), record.storage, "a")


def leased(record):
    there, hand = executor(record), FakeWorker(record)
    there.poll(0.3)
    there.submit(assignment(1), 1, NEEDS)
    return hand


def test_the_outcome_of_a_trial_that_ended_meanwhile_is_collected(record):
    hand = leased(record)
    hand.report(1, 1, (1, 0.5))
    hand.end(1, 1, accuracy=0.5)
    there = executor(again(record))
    assert there.adopt() == {1: 1} and there.capacity() == 0, "for this one trial there need be no worker"
    assert [event.kind for event in there.poll(1)] == ["report", "completed"]
    assert hand.lease(1)["attempt"] == 1


def test_a_trial_that_is_still_being_trained_is_reattached(record):
    hand = leased(record)
    there = executor(again(record), hand.beat)
    assert there.adopt() == {1: 1} and there.capacity() == 1
    there.submit(assignment(0), 2, NEEDS)  # another that ran: its worker is busy, so it waits
    assert hand.lease(1)["attempt"] == 1 and LEASE not in hand.attrs(0)
    hand.end(1, 1, accuracy=0.5)
    assert [(event.number, event.kind) for event in there.poll(1)] == [(1, "completed")]
    assert there.poll(0.5) == [] and hand.lease(0)["worker"] == hand.id


@pytest.mark.parametrize("end", [None, "worker_died", "released"])
def test_a_trial_whose_worker_is_gone_is_restarted(record, end):
    hand = leased(record)
    if end:
        hand.end(1, 1, end)
    there = executor(again(record), adoption_seconds=0.5)
    assert there.adopt() == {}
    other = FakeWorker(record, "w2")
    there.poll(0.3)
    there.submit(assignment(1), 2, NEEDS)
    assert other.lease(1) == {"worker": other.id, "attempt": 2, "pieces": 1}


def test_the_lease_of_a_trial_that_is_trained_locally_is_revoked(record):
    hand = leased(record)
    there = executor(again(record), adoption_seconds=0.0)
    there.adopt()
    there.revoke(1, 2)
    assert hand.lease(1)["worker"] is None and hand.assigned() == []
    there.revoke(0, 1)
    assert LEASE not in hand.attrs(0)


def test_messages_to_workers_are_not_attributes_of_a_trial(record, tiny):
    leased(record)
    attrs = again(record).study.trials[1].user_attrs
    assert attrs["nas_agg:hash"] == "1" and not any("remote" in key for key in attrs)


def test_a_released_trial_costs_no_retry(tiny, score, monkeypatch):
    class Leaves(InProcessBackend):
        left = 0

        def poll(self, timeout):
            if self._assignment is None or Leaves.left == 7:
                return super().poll(timeout)
            (number, self._assignment), Leaves.left = (self._assignment.number, None), Leaves.left + 1
            return [Event(number, self._attempt, EventKind.RELEASED, reason="worker a left")]

    monkeypatch.setattr(active_search, "InProcessBackend", Leaves)
    result = search(tiny, score, searcher="random", budget=2, retries=0)
    assert Leaves.left == 7 and [trial.state for trial in result.trials] == ["complete", "complete"]
