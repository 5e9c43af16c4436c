"""Every backend passes the conformance check."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.remote.agent import WorkerAgent
from nas_agg.study.remote.connection import StudyHandle
from nas_agg.study.remote.storage_backend import StorageBackend
from nas_agg.study.workers.local import LocalBackend
from nas_agg.study.workers.protocol import TASK
from nas_agg.testing import check_backend
from nas_agg.testing.backends import WORKER_COMMAND


@contextlib.contextmanager
def agent(context):
    """A worker that joins."""
    record = context.record
    task = record.storage.get_study_user_attrs(record.study_id)[TASK]
    handle = StudyHandle(record.storage, record.study_id, "check", task, context.folder)
    worker = WorkerAgent(
        handle, [WorkerConfig(data=context.task.data)], print_line=lambda line: None, command=WORKER_COMMAND
    )
    is_over = threading.Event()
    look = worker._look
    worker._look = lambda: "it is over" if is_over.is_set() else look()
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    yield
    is_over.set()
    thread.join()


def test_local_processes():
    check_backend(LocalBackend, workers=None)


def test_workers_that_join():
    check_backend(StorageBackend, workers=agent, storage=None)


@pytest.fixture
def interruptible():
    """SIGINT, by which submitit cancels its processes; a shell ignores it for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ray_cluster():
    """Ends whatever a test has started."""
    ray = pytest.importorskip("ray", reason="the extra nas-agg[ray] is not installed")
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray(ray_cluster):
    from nas_agg.study.clusters.ray_backend import RayBackend

    check_backend(RayBackend, ray_address="local")


def test_slurm_by_processes_in_place_of_jobs(interruptible):
    pytest.importorskip("submitit", reason="the extra nas-agg[slurm] is not installed")
    from nas_agg.study.clusters.slurm_backend import SlurmBackend

    check_backend(SlurmBackend, slurm={"cluster": "local"})
