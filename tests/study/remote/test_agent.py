"""Workers that join a search: they train its trials, leave, lose their leases, and go through a gRPC proxy."""

from __future__ import annotations

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
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

import nas_agg.study.plan as plan
import nas_agg.study.remote.agent as agent
from nas_agg.common.errors import NasAggError
from nas_agg.study.api import search
from nas_agg.study.definition.task import Task, WorkerConfig
from nas_agg.study.records.storages import open_storage
from nas_agg.study.remote.agent import PollSettings, WorkerAgent
from nas_agg.study.remote.connection import StudyHandle
from nas_agg.study.remote.join import locate_study
from nas_agg.study.workers.protocol import (
    TASK,
    LeaseSettings,
    versions,
    workers_study,
)

FAKE = Path(__file__).parents[1] / "chaos_worker.py"
TASK_ATTR = {"data": {}, "dataset_digest": "", "about": "a fake", "folder": "", "trial_timeout": None}


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
    record.storage.set_study_user_attr(record.study_id, TASK, {**TASK_ATTR, "versions": versions()})
    lines = []
    study = StudyHandle(record.storage, record.study_id, "a", TASK_ATTR)
    worker = WorkerAgent(study, [WorkerConfig(data={})], poll=PollSettings(idle=0.5), print_line=lines.append)
    with pytest.raises(NasAggError, match=r"no coordinator for 0\.5 s; exiting"):
        worker.run()
    workers = record.storage.get_study_id_from_name(workers_study("a"))
    (row,) = record.storage.get_all_trials(workers)
    assert row.state == TrialState.COMPLETE


def test_a_storage_that_is_gone_is_a_one_line_error(record):
    class Gone(InMemoryStorage):
        def get_study_user_attrs(self, study_id):
            raise ConnectionError("no route to host")

    joined = StudyHandle(Gone(), 0, "a", TASK_ATTR)
    worker = WorkerAgent(joined, [WorkerConfig(data={})], print_line=lambda line: None)
    worker._connection.lease_seconds = 0.2
    with pytest.raises(NasAggError, match=r"the storage cannot be reached for 0\.2 s: ConnectionError: no route to"):
        worker.run()


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
