"""Load that polling workers put on a PostgreSQL server, as JSON.

    python benchmarks/polling.py [--workers 100] [--seconds 30] [--epoch 10]

A server of its own is started, a coordinator leases one trial to each worker, and each worker is `nas_agg worker` with
a connection of its own, but for the training: its epochs pass without any work, with a report after each. Workers are
threads of a few processes. During the given seconds these are counted:

- CPU time of all processes of the server, from /proc, as a share of one core;
- reads of the storage by workers (looks), their queries, and the queries of a look;
- statements that the server received, those that begin and end transactions included (pg_stat_statements);
- looks of the coordinator, and CPU time of clients.

On a machine that cannot do the work in time, fewer looks are made than planned: compare `server_ms_per_look`, of which
the coordinator's share is a part.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import psycopg
import sqlalchemy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from postgres import postgres

import nas_agg.study.remote.agent as agent_module
from nas_agg.search_space.space import open_space
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.records.storages import open_storage
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.remote.agent import WorkerAgent
from nas_agg.study.remote.connection import StudyHandle
from nas_agg.study.remote.executor import RemoteExecutor
from nas_agg.study.remote.join import locate_study
from nas_agg.study.workers.backend import Assignment, Event, Resources
from nas_agg.study.workers.messages import EventKind, TrialJob

STUDY = "polling"
THREADS = 25  # workers of a process
TICKS = os.sysconf("SC_CLK_TCK")


# ---- workers


class IdlePool:
    """Stands for the processes of a worker: its trial reports after each epoch and never ends."""

    epoch = 10.0

    def __init__(self, *settings: Any):
        self.trial_timeout: float | None = None
        self._job: tuple[int, int] | None = None
        self._step, self._next = 0, 0.0

    def free_slots(self) -> int:
        return int(self._job is None)

    def submit(self, assignment: Assignment, attempt: int) -> None:
        self._job, self._step = (assignment.number, attempt), 0
        self._next = time.monotonic() + self.epoch * (1 + assignment.number % 10 / 10)

    def poll(self, timeout: float) -> list[Event]:
        until = min(time.monotonic() + timeout, self._next)
        time.sleep(max(0.0, until - time.monotonic()))
        if self._job is None or time.monotonic() < self._next:
            return []
        self._step, self._next = self._step + 1, self._next + self.epoch
        number, attempt = self._job
        return [Event(number, attempt, EventKind.REPORT, self._step, 0.5)]

    def proceed(self, number: int) -> None:
        pass

    def stop(self, number: int) -> None:
        pass

    def cancel(self, number: int) -> None:
        self._job = None

    def close(self) -> None:
        self._job = None


def work(handle: StudyHandle, counts: dict[str, int]) -> None:
    """One worker; counts its looks and their queries."""
    worker = WorkerAgent(handle, [WorkerConfig(data={})], print_line=lambda line: None)
    look = worker._look
    is_looking = False

    def count_query(*context: Any) -> None:
        counts["queries"] += 1
        counts["look_queries"] += is_looking

    def counted_look() -> str:
        nonlocal is_looking
        counts["looks"] += 1
        is_looking = True
        try:
            return look()
        finally:
            is_looking = False

    sqlalchemy.event.listen(handle.storage.engine, "before_cursor_execute", count_query)  # type: ignore[attr-defined]
    with mock.patch.object(worker, "_look", counted_look):
        worker.run()


def serve(url: str, workers: int, epoch: float) -> None:
    """Run workers in threads; prints what was counted so far for each line of the standard input."""
    IdlePool.epoch = epoch
    agent_module.WorkerPool = IdlePool  # type: ignore[assignment,misc]
    counted = [{"looks": 0, "queries": 0, "look_queries": 0} for _ in range(workers)]
    for counts in counted:
        threading.Thread(target=work, args=(locate_study(url, STUDY), counts), daemon=True).start()
    for _ in sys.stdin:
        totals = {name: sum(counts[name] for counts in counted) for name in counted[0]}
        print(json.dumps({**totals, "client_cpu": time.process_time()}), flush=True)
    os._exit(0)


# ---- the coordinator and the server


def begin_study(url: str, trials: int) -> StudyRecord:
    """A study with trials of a real search space."""
    space = open_space("microdense")
    record = StudyRecord(optuna.pruners.NopPruner(), open_storage(url, Path()), STUDY)
    sampler = optuna.samplers.RandomSampler(seed=0)
    while record.next_number < trials:
        labels = next(record.draws(sampler, space.distributions))
        attrs = {"hash": str(record.next_number), "params": 1, "macs": 1, "seed": 0}
        record.create_trial(labels, space.distributions, attrs)
    return record


def assignment(record: StudyRecord, number: int) -> Assignment:
    """The job of a trial, with the text of a real network."""
    space = open_space("microdense")
    genotype = space.genotype(space.values(record.trials[number].labels))
    return Assignment(
        number,
        job=TrialJob(genotype=genotype.model_dump(mode="json"), seed=number, recipe="search", epochs=200, out=""),
    )


def server_cpu(connection: psycopg.Connection) -> float:
    """CPU seconds of all processes of the server, ended ones included."""
    (data,) = connection.execute("SHOW data_directory").fetchone()  # type: ignore[misc]
    server = int((Path(data) / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == server:
            ticks += int(fields[11]) + int(fields[12])
        elif int(stat.parent.name) == server:
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def statements(connection: psycopg.Connection) -> int:
    """Statements that the server has received."""
    (calls,) = connection.execute("SELECT COALESCE(SUM(calls), 0) FROM pg_stat_statements").fetchone()  # type: ignore[misc]
    return int(calls)


def measure(url: str, workers: int, seconds: float, epoch: float) -> dict[str, Any]:
    """What is counted with so many workers."""
    record = begin_study(url, workers)
    executor = RemoteExecutor(record, {"data": {}, "dataset_digest": "", "about": "idle", "folder": ""})
    executor.adopt()
    command = [sys.executable, __file__, "--serve", url, "--epoch", str(epoch), "--workers"]
    sizes = [min(THREADS, workers - start) for start in range(0, workers, THREADS)]
    clients = [
        subprocess.Popen([*command, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for size in sizes
    ]
    looks = 0

    def poll_until(end: float) -> None:
        nonlocal looks
        while time.monotonic() < end:
            executor.poll(0.2)

    def snapshot() -> dict[str, float]:
        for client in clients:
            client.stdin.write("\n")  # type: ignore[union-attr]
            client.stdin.flush()  # type: ignore[union-attr]
        answers = [json.loads(client.stdout.readline()) for client in clients]  # type: ignore[union-attr]
        own = {"coordinator_looks": looks, "coordinator_cpu": time.process_time(), "time": time.monotonic()}
        server = {"server_cpu": server_cpu(connection), "statements": statements(connection)}
        return {name: sum(answer[name] for answer in answers) for name in answers[0]} | own | server

    read = executor._read_storage

    def counted_read() -> None:
        nonlocal looks
        looks += 1
        read()

    try:
        with (
            psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection,
            mock.patch.object(executor, "_read_storage", counted_read),
        ):
            connection.execute("CREATE EXTENSION pg_stat_statements")
            for number in range(workers):
                while executor.capacity() <= number:
                    executor.poll(0.2)
                executor.submit(assignment(record, number), 1, Resources())
            poll_until(time.monotonic() + 2 * epoch)  # all of them train, and have reported
            before = snapshot()
            poll_until(time.monotonic() + seconds)
            after = snapshot()
            clients_query = "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            (connections,) = connection.execute(clients_query).fetchone()  # type: ignore[misc]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    return {name: after[name] - before[name] for name in after} | {"connections": connections}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--epoch", type=float, default=10.0, help="seconds between two reports of a worker")
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.workers, options.epoch)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = f"-c max_connections={options.workers + 20} -c shared_preload_libraries=pg_stat_statements"
    with postgres(settings) as url:
        counted = measure(url, options.workers, options.seconds, options.epoch)
    seconds, looks = counted["time"], counted["looks"]
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "workers": options.workers,
        "seconds": round(seconds, 1),
        "server_cores": round(counted["server_cpu"] / seconds, 4),
        "server_ms_per_look": round(1000 * counted["server_cpu"] / looks, 3),
        "looks_per_second": round(looks / seconds, 1),
        "queries_per_look": round(counted["look_queries"] / looks, 2),
        "connections": counted["connections"],
        "statements_per_second": round(counted["statements"] / seconds, 1),
        "worker_client_ms_per_look": round(1000 * counted["client_cpu"] / looks, 3),
        "coordinator_looks_per_second": round(counted["coordinator_looks"] / seconds, 1),
        "coordinator_client_cores": round(counted["coordinator_cpu"] / seconds, 4),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
