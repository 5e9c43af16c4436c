"""Searches whose workers are killed all the time, on each kind of storage, with workers here and elsewhere."""

from __future__ import annotations

import csv
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.pruners import NopPruner
from postgres import postgres

import nas_agg.study.plan as plan
from nas_agg.study.api import search
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.task import Task, WorkerConfig
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.workers.process import Trainer
from nas_agg.study.workers.protocol import LeaseSettings

WORKER = Path(__file__).with_name("chaos_worker.py")
WORKERS = 4
value_of, prepare = map(runpy.run_path(str(WORKER)).get, ("value_of", "prepare"))


def train(job, ways, report):
    """What a process of the chaos worker does, in one of a cluster."""
    return prepare(WorkerConfig(data=ways))(job, report)


TIMEOUT = 20  # seconds: a training of one second may take many on a busy machine
TRAINER = Trainer(lambda threads: None, lambda config: config.data, lambda job, ways, report: train(job, ways, report))
WAYS = {"sleep": 1.0, "raises": [7], "exhausts": [13], "hangs": [21]}


SLOW_STORAGES = [pytest.param(name, marks=pytest.mark.slow) for name in ("sqlite", "postgresql")]


@pytest.fixture
def budget(request):
    """The number of networks of a search: more in slow tests."""
    return 60 if request.node.get_closest_marker("slow") else 30


@pytest.fixture(params=["journal", *SLOW_STORAGES])
def storage(request, tmp_path):
    """The storage of a search; None is the journal in its folder."""
    if request.param == "postgresql":
        with postgres() as url:
            yield url
    else:
        yield None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


class Killer(threading.Thread):
    """Kills one of the processes it is given, again and again.

    It waits until some trainings have begun since, as a busy machine may need longer to start a process than the time
    between two kills.
    """

    def __init__(self, victims, every, notes):
        super().__init__(daemon=True)
        self.victims, self.every, self.kills, self.over = victims, every, 0, threading.Event()
        self.trained, self.draw = notes / "trained.txt", random.Random(0)

    def run(self):
        seen = 0
        while not self.over.wait(self.every):
            begun = len(self.trained.read_text().splitlines()) if self.trained.exists() else 0
            if begun - seen >= 2 and (living := [pid for pid in self.victims() if _alive(pid)]):
                os.kill(self.draw.choice(living), signal.SIGKILL)
                self.kills, seen = self.kills + 1, begun

    def end(self):
        self.over.set()
        self.join()
        return self.kills


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


@pytest.fixture
def chaos(monkeypatch, tmp_path, wide, storage, budget):
    """Searches in the wide space; gives the function that does so with some workers here."""
    (tmp_path / "notes").mkdir()
    task = Task("a fake", {**WAYS, "notes": str(tmp_path / "notes")}, (1, 8, 8), 10, ("cpu",) * WORKERS, "no device")
    command, lease = (sys.executable, str(WORKER)), LeaseSettings(seconds=3.0)
    setup = plan.TrainingSetup(lambda settings, space: task, command, lease, TRAINER)
    monkeypatch.setattr(plan, "DEFAULT_SETUP", setup)

    def go(workers, **more):
        return search(
            wide,
            searcher="random",
            budget=budget,
            epochs=3,
            workers=workers,
            storage=storage,
            out=tmp_path / "run",
            **{"retries": 20, "trial_timeout": TIMEOUT, "max_params": 0, "max_macs": 0, **more},
        )

    return go


def check(result, out: Path, storage: str | None, budget: int) -> None:
    """A budget of networks has one result each, and every record says the same."""
    states = Counter(trial.state for trial in result.trials)
    assert states["complete"] + states["pruned"] == budget
    assert states["running"] == states["interrupted"] == 0
    own = [trial for trial in result.trials if trial.state != "duplicate"]
    assert len({trial.hash for trial in own}) == len(own) == budget + 3
    spoilt = {
        trial.number: (trial.state, trial.reason.partition(" (")[0]) for trial in own if not trial.consumes_budget
    }
    assert spoilt == {
        7: ("failed", "ValueError: it is odd"),
        13: ("infeasible", "out of memory: at batch size 96 and 48"),
        21: ("failed", f"exceeded {TIMEOUT} s"),  # and perhaps " (attempt 2)"
    }
    for trial in own:
        if trial.consumes_budget:
            read = {name: json.loads(trial.labels[name]) for name in ("deep", "kernel", "end")}
            came = 1 if trial.state == "complete" else max(trial.rungs) / 3 if trial.rungs else None
            if came is not None:
                assert trial.value == pytest.approx(came * value_of({**trial.labels, **read}))
    said = json.loads((out / "run.json").read_text())
    assert said["status"] == "finished"
    with (out / "trials.csv").open() as file:
        rows = [(int(row["number"]), row["state"], row["hash"]) for row in csv.DictReader(file)]
    assert rows == [(trial.number, trial.state, trial.hash) for trial in result.trials]
    kept = StudyRecord(
        NopPruner(), open_storage(storage, out), said["study"], must_exist=True, objectives=result.objectives
    )
    assert [vars(trial) for trial in kept.trials] == [vars(trial) for trial in result.trials]


def test_workers_here_are_killed(chaos, storage, budget, tmp_path):
    killer = Killer(lambda: pids(tmp_path / "notes"), 2.0, tmp_path / "notes")
    killer.start()
    result = chaos(workers=WORKERS)
    assert killer.end() >= 3
    check(result, tmp_path / "run", storage, budget)


@pytest.mark.parametrize("storage", ["journal"], indirect=True)
def test_workers_here_are_killed_while_trainings_pause(chaos, storage, budget, tmp_path):
    killer = Killer(lambda: pids(tmp_path / "notes"), 1.0, tmp_path / "notes")
    killer.start()
    result = chaos(workers=WORKERS, pruner="halving", objective="accuracy,macs")
    assert killer.end() >= 3
    check(result, tmp_path / "run", storage, budget)
    assert_halved(result)


def assert_halved(result):
    """One in three went on, each from where it paused; the last may still have waited for its turn."""
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert all(set(trial.rungs) == {1} for trial in counted)
    whole = [trial for trial in counted if trial.state == "complete"]
    assert len(counted) // 3 - 1 <= len(whole) <= (len(counted) + 3) // 3
    assert all(trial.values[0] == pytest.approx(3 * trial.rungs[1][0]) for trial in whole)


@pytest.mark.parametrize(
    ("storage", "pruner"),
    [
        ("journal", None),
        pytest.param("sqlite", None, marks=pytest.mark.slow),
        ("postgresql", None),
        pytest.param("journal", "halving", marks=pytest.mark.slow),
    ],
    indirect=["storage"],
)
def test_workers_elsewhere_are_killed(chaos, storage, budget, tmp_path, pruner):
    notes, machines = tmp_path / "notes", []
    output = (tmp_path / "machines.txt").open("ab")

    def hire():
        ways = json.dumps({**WAYS, "sleep": 0.6})  # what is said through a storage takes its time too
        command = [str(WORKER), "join", storage or "-", str(tmp_path / "run"), str(notes), ways]
        machines.append(subprocess.Popen([sys.executable, *command], stdout=output, stderr=output))

    def victims():
        """Every second time a whole machine, which another replaces; else the process that trains on one."""
        if killer.kills % 2:
            return pids(notes)
        hire()
        return [machine.pid for machine in machines[:-1]]

    for _ in range(WORKERS):
        hire()
    killer = Killer(victims, budget / 20, notes)
    killer.start()
    try:
        more = {"pruner": pruner, "objective": "accuracy,macs"} if pruner else {}
        result = chaos(workers=0, **more)
        assert killer.end() >= (2 if pruner else 3)
        check(result, tmp_path / "run", storage, budget)
        if pruner:
            assert_halved(result)
        deadline = time.monotonic() + 20
        while any(machine.poll() is None for machine in machines) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [machine.poll() for machine in machines]
        assert set(left) <= {0, -9}, "whoever is alive leaves when the search is over"
        assert left.count(0) >= WORKERS - 1
    finally:
        killer.end()
        for machine in machines:
            machine.kill()
            machine.wait()


class Nodes(Callback):
    """A Ray cluster of three nodes beside its head: one is killed, and later one joins."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster, self.ended = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}), 0
        self.nodes = [self.cluster.add_node(num_cpus=2) for _ in range(3)]

    def on_trial(self, trial):
        self.ended += 1
        if self.ended == 15:
            self.cluster.remove_node(self.nodes[0], allow_graceful=False)
        if self.ended == 30:
            self.cluster.add_node(num_cpus=2)


@pytest.fixture
def nodes():
    ray = pytest.importorskip("ray", reason="the extra nas-agg[ray] is not installed")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal"], indirect=True)
@pytest.mark.parametrize("pruner", [None, "halving"])
def test_nodes_and_workers_of_a_ray_cluster_are_killed(chaos, storage, budget, tmp_path, nodes, pruner):
    killer = Killer(lambda: pids(tmp_path / "notes"), 9.0, tmp_path / "notes")
    killer.start()
    more = {"pruner": pruner, "objective": "accuracy,macs"} if pruner else {}
    more |= {"backend": "ray", "ray_address": nodes.cluster.address, "callbacks": [nodes]}
    result = chaos(None, **more)
    assert killer.end() >= 2
    check(result, tmp_path / "run", storage, budget)
    if pruner:
        assert_halved(result)
    log = (tmp_path / "run/log.txt").read_text()
    assert "restarting" in log
    print(log)
