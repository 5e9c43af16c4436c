"""Workers elsewhere: what goes between them and the coordinator, who is alive, who has a trial, who may join."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

import nas_agg.study.engine.active_search as active_search
import nas_agg.study.plan as plan
import nas_agg.study.remote.agent as agent
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import search
from nas_agg.study.definition.task import Task, WorkerConfig
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.remote.agent import PollSettings, WorkerAgent
from nas_agg.study.remote.connection import NotRegistered, StudyHandle, WorkerConnection
from nas_agg.study.remote.executor import RemoteExecutor, announce_finished
from nas_agg.study.remote.join import check_versions, locate_study, worker_configs
from nas_agg.study.workers.backend import Assignment, Event, Resources
from nas_agg.study.workers.in_process import InProcessBackend
from nas_agg.study.workers.messages import EventKind, TrialJob, TrialOutcome
from nas_agg.study.workers.protocol import (
    COORDINATOR,
    LEASE,
    OUTCOME,
    PIECE_LENGTH,
    REPORT,
    TASK,
    LeaseSettings,
    RemoteOutcome,
    TrialStatus,
    WorkerStatus,
    job_attrs,
    read_job,
    read_reports,
    report_attrs,
    versions,
    workers_study,
)

FAKE = Path(__file__).parents[1] / "chaos_worker.py"
NEEDS = Resources()
TASK_SAID = {"data": {}, "dataset_digest": "", "about": "a fake", "folder": "", "trial_timeout": None}


# ---- what is said


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


# ---- the coordinator's side, the workers played by hand


@pytest.fixture
def record(tiny):
    return begun(tiny, InMemoryStorage(), 3)


def begun(space, storage, trials) -> StudyRecord:
    record = StudyRecord(NopPruner(), storage, "a")
    while record.next_number < trials:
        number = record.next_number
        labels = next(record.draws(RandomSampler(seed=number), space.distributions))
        record.create_trial(labels, space.distributions, {"hash": str(number), "params": 1, "macs": 1, "seed": 0})
    return record


class Hand:
    """A worker of one process, played by a test."""

    def __init__(self, record, id="w1"):
        self.record, self.storage, self.beats, self.trials = record, record.storage, 0, {}
        about = {"host": f"host of {id}", "pid": 1, "slots": 1}
        self.connection = WorkerConnection(StudyHandle(self.storage, record.study_id, "a", TASK_SAID), about, print)
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

    def told(self):
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
    return RemoteExecutor(record, TASK_SAID, LeaseSettings(**lease), Time(meanwhile))


def assignment(number):
    return Assignment(number, job=TrialJob(genotype={}, seed=number, recipe="search", epochs=1, out=""))


def test_a_trial_is_leased_to_a_free_worker_and_its_reports_and_outcome_come_back(record):
    there = executor(record)
    assert there.capacity() == 0
    hand = Hand(record)
    assert there.poll(0.5) == [] and there.capacity() == 1
    there.submit(assignment(0), 1, NEEDS)
    assert hand.lease(0) == {"worker": hand.id, "attempt": 1, "pieces": 1}
    assert read_job(hand.attrs(0)) == assignment(0).job
    hand.report(0, 1, (1, 0.25))
    assert there.poll(1) == [Event(0, 1, EventKind.REPORT, 1, 0.25)]
    there.proceed(0)
    assert hand.told() == [(0, 1, False)]
    there.stop(0)
    assert hand.told() == [(0, 1, True)]
    hand.report(0, 1, (1, 0.25), (2, 0.5))
    hand.end(0, 1, accuracy=0.5)
    assert there.poll(1) == [
        Event(0, 1, EventKind.REPORT, 2, 0.5),
        Event(0, 1, EventKind.COMPLETED, seconds=1.5, outcome=TrialOutcome(metrics={"accuracy": 0.5})),
    ]
    there.stop(0)  # too late to matter


def test_a_worker_that_was_there_before_counts_once_its_heartbeat_changes(record):
    hand = Hand(record)
    there = executor(record)
    assert there.capacity() == 0 and there.poll(0.3) == [] and there.capacity() == 0
    hand.beat()
    there.poll(0.5)
    assert there.capacity() == 1


def test_a_trial_of_an_unresponsive_worker_goes_to_another_and_late_results_are_ignored(record):
    there = executor(record, seconds=0.5)
    first = Hand(record)
    there.poll(0.3)
    there.submit(assignment(0), 1, NEEDS)
    (lost,) = there.poll(5)
    assert (lost.kind, lost.reason) == ("worker_died", "worker host of w1 unresponsive for 0.5 s")
    with pytest.raises(NotRegistered):
        first.beat()
    there.submit(assignment(0), 2, NEEDS)  # nobody is free: it waits
    assert there.capacity() == 0 and first.lease(0)["attempt"] == 1
    second = Hand(record, "w2")
    assert there.poll(0.3) == []
    assert second.lease(0) == {"worker": second.id, "attempt": 2, "pieces": 1}
    first.end(0, 1, accuracy=0.9)
    second.beat()
    assert there.poll(0.3) == []
    second.end(0, 2, accuracy=0.1)
    assert [event.outcome.metrics for event in there.poll(1)] == [{"accuracy": 0.1}]


def test_many_workers_share_trials_evenly(record):
    there = executor(record)
    hands = [Hand(record, f"w{i}") for i in range(3)]
    there.poll(0.3)
    assert there.capacity() == 3
    for number in range(3):
        there.submit(assignment(number), 1, NEEDS)
    assert {hands[0].lease(number)["worker"] for number in range(3)} == {hand.id for hand in hands}


def test_a_worker_that_signs_off_releases_its_trial(record):
    there = executor(record)
    hand = Hand(record)
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
    hand = Hand(record)
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
def database(tiny, tmp_path):
    """Five trials in a database, and the storage through which a worker opens it."""
    url = f"sqlite:///{tmp_path}/study.db"
    record = begun(tiny, open_storage(url, tmp_path), 5)
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
        hands.append(Hand(record))
        hands[0].connection._storage = storage
        there.poll(0.5)
        there.submit(assignment(number), 1, NEEDS)
        hands[-1].report(number, 1, (1, 0.5))
        there.poll(0.5)
        with queries(storage.engine) as statements:
            assert hands[0].told() == [(0, 1, False)]
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
    Hand(record).connection.sign_off(3)
    Hand(record)
    there.poll(2)
    hand = Hand(record)
    there.poll(0.1)
    assert [row.state for row in rows(record)] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert [id for id, _ in there._workers.items()] == [hand.id]


def test_many_workers_read_less_often_and_have_more_time(record):
    there = executor(record, full_pace=2, full_beat=4, seconds=60)
    hands = []
    for workers, pace, seconds in ((1, 1, 60), (3, 2, 60), (8, 4, 120)):
        hands += [Hand(record, f"w{len(hands) + i}") for i in range(workers - len(hands))]
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
    there, hand = executor(record), Hand(record)
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
    other = Hand(record, "w2")
    there.poll(0.3)
    there.submit(assignment(1), 2, NEEDS)
    assert other.lease(1) == {"worker": other.id, "attempt": 2, "pieces": 1}


def test_the_lease_of_a_trial_that_is_trained_locally_is_revoked(record):
    hand = leased(record)
    there = executor(again(record), adoption_seconds=0.0)
    there.adopt()
    there.revoke(1, 2)
    assert hand.lease(1)["worker"] is None and hand.told() == []
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


# ---- the worker's side


@pytest.fixture
def arranged(monkeypatch, tmp_path):
    """Lets searches be of fakes that are trained elsewhere; gives how to search and how to be a machine."""

    class Arranged:
        out, notes = tmp_path / "run", tmp_path / "notes"
        lines: list[str]

        def search(self, space, **settings):
            default = {"searcher": "random", "budget": 6, "epochs": 3, "workers": 0, "max_params": 0, "max_macs": 0}
            return search(space, out=self.out, **default | settings)

        def machine(self, **ways):
            """A machine in a thread; it says its lines here."""
            config = WorkerConfig(data={**self.ways, "notes": str(self.notes), **ways})

            def work():
                WorkerAgent(
                    locate_study(run=self.out, wait=20),
                    [config],
                    poll=self.poll,
                    print_line=self.lines.append,
                    command=(sys.executable, str(FAKE)),
                ).run()

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            return thread

        def process(self, **ways):
            """A machine in a process of its own."""
            words = ["join", "-", str(self.out), str(self.notes), json.dumps(self.ways | ways)]
            return subprocess.Popen([sys.executable, str(FAKE), *words], stdout=subprocess.PIPE, text=True)

    arranged = Arranged()
    arranged.lines, arranged.ways, arranged.poll = [], {"sleep": 0.05}, PollSettings()
    arranged.notes.mkdir()
    task = Task("a fake", {"sleep": 0.05, "notes": str(arranged.notes)}, (1, 8, 8), 10, ("cpu",), "no device")
    setup = plan.TrainingSetup(lambda settings, space: task, (sys.executable, str(FAKE)))
    monkeypatch.setattr(plan, "DEFAULT_SETUP", setup)
    return arranged


def trained(arranged) -> list[list[str]]:
    return [line.split() for line in (arranged.notes / "trained.txt").read_text().splitlines()]


def test_a_search_without_workers_waits_for_one_until_its_timeout(tiny, arranged):
    with pytest.raises(NasAggError, match="no network has a result: timeout reached"):
        arranged.search(tiny, timeout=1)


def test_a_remote_worker_that_joins_late_trains_the_same_trials_as_local_ones(tiny, arranged, tmp_path):
    threading.Timer(1.0, arranged.machine).start()
    elsewhere = arranged.search(tiny, budget=14, epochs=6)
    arranged.out = tmp_path / "here"
    here = arranged.search(tiny, budget=14, epochs=6, workers=1)
    for one, other in zip(elsewhere.trials, here.trials, strict=True):
        assert (one.number, one.labels, one.hash, one.seed) == (other.number, other.labels, other.hash, other.seed)
        assert one.values == other.values or "pruned" in (one.state, other.state)
    assert arranged.lines[-1] == "the search has finished; exiting"


def test_remote_trials_are_pruned_too(tiny, arranged):
    arranged.poll = PollSettings(while_training=0.1)
    arranged.ways = {"sleep": 0.7}
    arranged.machine(), arranged.machine(), arranged.machine()
    result = arranged.search(tiny, budget=16, epochs=6)
    assert "pruned" in {trial.state for trial in result.trials}


def test_local_and_remote_workers_share_the_trials(tiny, arranged, monkeypatch):
    arranged.ways = {"sleep": 0.3}
    slow = Task("a fake", {"sleep": 0.5, "notes": str(arranged.notes)}, (1, 8, 8), 10, ("cpu",), "no device")
    setup = replace(plan.DEFAULT_SETUP, open_task=lambda settings, space: slow)
    monkeypatch.setattr(plan, "DEFAULT_SETUP", setup)  # else it is done before another has joined
    arranged.machine()
    result = arranged.search(tiny, budget=20, epochs=2, workers=1, backend="storage", trial_timeout=30)
    assert sum(trial.consumes_budget for trial in result.trials) == 20
    assert len({pid for _, pid, _ in trained(arranged)}) == 2
    numbers = [number for number, *_ in trained(arranged)]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("shared", [True, False])
def test_trials_are_trained_in_the_run_folder_if_it_is_accessible(tiny, arranged, monkeypatch, shared):
    if not shared:
        monkeypatch.setattr(agent, "_accessible_trial_folders", lambda study: None)
    machine = arranged.machine()
    arranged.search(tiny, budget=3, epochs=1)
    machine.join(20)
    places = [Path(out) for *_, out in trained(arranged)]
    assert all((place.parent == arranged.out.resolve() / "trials") is shared for place in places)
    assert shared or not any(place.exists() for place in places)


def test_a_remote_failure_is_recorded_like_a_local_one(tiny, arranged):
    arranged.ways = {"sleep": 0.0, "raises": [1], "exhausts": [2], "hangs": [3]}
    arranged.machine()
    result = arranged.search(tiny, budget=4, trial_timeout=1)
    assert [
        (t.number, t.state, t.reason) for t in result.trials if not t.consumes_budget and t.state != "duplicate"
    ] == [
        (1, "failed", "ValueError: it is odd"),
        (2, "infeasible", "out of memory: at batch size 96 and 48"),
        (3, "failed", "exceeded 1 s"),
    ]


def test_sigterm_releases_the_trial_at_once(tiny, arranged):
    first = arranged.process(hangs=[2])

    def leave():
        while not any(number == "2" for number, *_ in _notes(arranged)):
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        arranged.machine()

    threading.Thread(target=leave, daemon=True).start()
    begun = time.monotonic()
    result = arranged.search(tiny, budget=4, retries=0)
    assert time.monotonic() - begun < 45, "nobody waited for the lease to end"
    assert sum(trial.consumes_budget for trial in result.trials) == 4
    first.communicate(timeout=10)
    assert first.returncode != 0
    assert "was stopped; restarting" in (arranged.out / "log.txt").read_text()


def _notes(arranged):
    return trained(arranged) if (arranged.notes / "trained.txt").exists() else []


def test_a_suspended_machine_cancels_trials_that_were_leased_to_others(tiny, arranged, monkeypatch):
    lease = LeaseSettings(seconds=2.0)
    monkeypatch.setattr(plan, "DEFAULT_SETUP", replace(plan.DEFAULT_SETUP, lease=lease))
    first = arranged.process(hangs=[1])

    def sleep():
        while not any(number == "1" for number, *_ in _notes(arranged)):
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)
        arranged.machine(sleep=0.6)
        while sum(number == "1" for number, *_ in _notes(arranged)) < 2:
            time.sleep(0.05)
        first.send_signal(signal.SIGCONT)

    threading.Thread(target=sleep, daemon=True).start()
    result = arranged.search(tiny, budget=8)
    assert "unresponsive for 2 s" in (arranged.out / "log.txt").read_text()
    assert sum(trial.consumes_budget for trial in result.trials) == 8
    said, _ = first.communicate(timeout=20)
    assert "trial 1: lease revoked" in said.splitlines()
    assert first.returncode == 0 and said.splitlines()[-1] == "the search has finished; exiting"


def test_a_worker_without_a_coordinator_exits_after_the_idle_time(record, monkeypatch):
    record.storage.set_study_user_attr(record.study_id, TASK, {**TASK_SAID, "versions": versions()})
    lines = []
    study = StudyHandle(record.storage, record.study_id, "a", TASK_SAID)
    worker = WorkerAgent(study, [WorkerConfig(data={})], poll=PollSettings(idle=0.5), print_line=lines.append)
    with pytest.raises(NasAggError, match=r"no coordinator for 0\.5 s; exiting"):
        worker.run()
    (row,) = rows(record)
    assert row.state == TrialState.COMPLETE


def test_a_storage_that_is_gone_is_a_one_line_error(record):
    class Gone(InMemoryStorage):
        def get_study_user_attrs(self, study_id):
            raise ConnectionError("no route to host")

    joined = StudyHandle(Gone(), 0, "a", TASK_SAID)
    worker = WorkerAgent(joined, [WorkerConfig(data={})], print_line=lambda line: None)
    worker._connection.lease_seconds = 0.2
    with pytest.raises(NasAggError, match=r"the storage cannot be reached for 0\.2 s: ConnectionError: no route to"):
        worker.run()


# ---- who may join


@pytest.fixture
def studies(tmp_path):
    """A storage with studies of these names and states; gives its URL."""

    def make(**states):
        url = f"sqlite:///{tmp_path}/studies.db"
        storage = open_storage(url, tmp_path)
        for name, state in states.items():
            id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name.replace("_", "-"))
            if state != "none":
                storage.set_study_user_attr(id, TASK, {"about": name})
                storage.set_study_user_attr(id, COORDINATOR, {"state": state})
        return url

    return make


def test_a_study_is_found_by_name_by_the_name_of_its_run_or_alone(studies):
    url = studies(a_0123ab="finished", a_4567cd="here", mine="none")
    assert locate_study(url, "a-0123ab").name == "a-0123ab"
    assert locate_study(url, "a").name == "a-4567cd"
    assert locate_study(url).name == "a-4567cd"
    assert locate_study(url).task == {"about": "a_4567cd"}


@pytest.mark.parametrize(
    ("states", "study", "line"),
    [
        ({}, None, "no search uses it yet"),
        ({"a": "here", "b": "away"}, None, "several studies; choose one with --study: a, b"),
        ({"abc": "here"}, "abd", "no study 'abd'; did you mean 'abc'?"),
        ({"theirs": "none"}, "theirs", "study theirs: not used by a search that trains networks yet"),
    ],
)
def test_a_study_that_is_not_there_is_one_line(studies, states, study, line):
    with pytest.raises(InputError) as error:
        locate_study(studies(**states), study)
    assert str(error.value).endswith(line)


def test_a_storage_or_run_that_is_not_there_is_one_line(tmp_path):
    for storage, line in (
        (f"sqlite:///{tmp_path}/none.db", "none.db: no such file"),
        ("nosuch://me:secret@host/x", r"nosuch://me:\*\*\*@host/x cannot be opened"),
        ("grpc://host", "grpc://host: use the form grpc://HOST:PORT"),
    ):
        with pytest.raises(InputError, match=line) as error:
            locate_study(storage)
        assert "secret" not in str(error.value)
    assert not list(tmp_path.iterdir()), "a worker makes no database"
    with pytest.raises(InputError, match="not a run folder"):
        locate_study(run=tmp_path)
    for both in ({}, {"storage": "sqlite://", "run": tmp_path}):
        with pytest.raises(InputError, match="specify either a storage"):
            locate_study(**both)


def test_a_worker_waits_for_a_study_if_requested(studies):
    url = studies()
    threading.Timer(1.0, lambda: studies(late="here")).start()
    with pytest.raises(InputError):
        locate_study(url, "late")
    assert locate_study(url, "late", wait=20).name == "late"


def test_other_versions_and_other_images_are_refused():
    check_versions({"versions": versions()})
    for name in ("nas_agg", "torch"):
        with pytest.raises(InputError, match=rf"the search uses {name} 0\.0, this machine has "):
            check_versions({"versions": {**versions(), name: "0.0"}})
    from nas_agg.training.data import load_data

    task = {
        "data": {"spec": "digits", "seed": 3},
        "about": "digits (1,797)",
        "dataset_digest": load_data("digits", seed=3).digest,
    }
    assert [config.data for config in worker_configs(task, None, "cpu", 3)] == [task["data"]] * 3
    with pytest.raises(InputError, match=r"digits: its images differ from those of the search \(digits \(1,797\)\)"):
        worker_configs({**task, "dataset_digest": load_data("digits", seed=4).digest}, "digits", "cpu", 1)


def test_a_password_is_not_shown(tiny, score, tmp_path, monkeypatch):
    url = "nosuch+driver://me:se/cr@et@host/x?password=secret"
    monkeypatch.setattr("sys.argv", ["nas_agg", "search", "--storage", url])
    with pytest.raises(InputError) as error:
        search(tiny, score, storage=url, out=tmp_path / "run")
    assert "et@" not in str(error.value) and "secret" not in str(error.value)
    search(tiny, score, searcher="random", budget=1, out=tmp_path / "run")
    said = json.loads((tmp_path / "run/run.json").read_text())["command"]
    assert said == "nas_agg search --storage nosuch+driver://me:***@host/x?password=***"


def test_a_variable_of_the_environment_may_stand_in_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE_OF_STUDIES", str(tmp_path / "studies.db"))
    open_storage("sqlite:///$PLACE_OF_STUDIES", tmp_path)
    assert (tmp_path / "studies.db").exists()


# ---- the journal file, written by several processes

WRITER = """
import sys
from pathlib import Path
from nas_agg.study.records.storages import open_storage
storage = open_storage(None, Path(sys.argv[1]))
study = storage.get_all_studies()[0]._study_id
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    storage.set_study_user_attr(study, f"{sys.argv[3]}-{i}", "x" * 5000)
"""


def test_several_processes_write_one_journal(tmp_path):
    storage = open_storage(None, tmp_path)
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "40", str(i)]) for i in range(3)]
    for i in range(40):
        storage.set_study_user_attr(study, f"mine-{i}", i)
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(storage.get_study_user_attrs(study)) == 160


def test_a_writer_that_is_killed_holds_nobody_up_and_spoils_nothing(tmp_path):
    storage = open_storage(None, tmp_path)
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")
    for kills in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), "100000", str(kills)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(0.2)
        writer.kill()
        writer.wait()
        begun = time.monotonic()
        storage.set_study_user_attr(study, f"mine-{kills}", 1)
        assert time.monotonic() - begun < 5
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":2,"worker_id":"torn')  # what a kill in the middle of a write leaves
    storage.set_study_user_attr(study, "last", 1)
    assert open_storage(None, tmp_path).get_study_user_attrs(study)["last"] == 1
    assert all(line.endswith(b"}") for line in (tmp_path / JOURNAL).read_bytes().splitlines())


# ---- Optuna's gRPC proxy


def test_a_proxy_is_a_storage_like_others(tiny, arranged, tmp_path):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    from optuna.storages._grpc.server import make_server

    with _free_port() as port:
        pass
    server = make_server(open_storage(f"sqlite:///{tmp_path}/behind.db", tmp_path), "localhost", port)
    server.start()
    try:
        arranged.machine()
        result = arranged.search(tiny, budget=3, storage=f"grpc://localhost:{port}")
        assert sum(trial.consumes_budget for trial in result.trials) == 3
        name = json.loads((arranged.out / "run.json").read_text())["study"]
        study = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/behind.db")
        assert [trial.state.name for trial in study.trials].count("COMPLETE") >= 3
    finally:
        server.stop(None)


class _free_port:
    def __enter__(self) -> int:
        import socket

        self.socket = socket.socket()
        self.socket.bind(("localhost", 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *error):
        self.socket.close()


def test_without_grpcio_a_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(InputError, match=r"grpcio and protobuf are not installed: pip install 'nas-agg\[grpc\]'"):
        open_storage("grpc://localhost:1", tmp_path)


def test_the_process_of_a_killed_machine_dies_too(tiny, arranged, monkeypatch):
    lease = LeaseSettings(seconds=1.5)
    monkeypatch.setattr(plan, "DEFAULT_SETUP", replace(plan.DEFAULT_SETUP, lease=lease))
    machine = arranged.process(hangs=[0])

    def kill():
        while not _notes(arranged):
            time.sleep(0.05)
        machine.kill()
        arranged.machine()

    threading.Thread(target=kill, daemon=True).start()
    assert sum(trial.consumes_budget for trial in arranged.search(tiny, budget=1).trials) == 1
    machine.communicate()
    process = Path(f"/proc/{trained(arranged)[0][1]}/stat")
    deadline = time.monotonic() + 5
    while process.exists() and process.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
