"""The backend `ray`: trials as tasks of a Ray cluster (``pip install 'nas-agg[ray]'``).

A training is a task that Ray does not retry. The data set goes to each node once, through the object store. The files
of its folder travel with its job and come back with its checkpoints and its outcome, so the nodes share no disk, and a
training whose node is gone continues on another. Reports pass through an actor beside the coordinator.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas_agg.common.durable import rename_durably
from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.study.clusters.ray_job import Mailbox, Order, TaskMessage, run_trial
from nas_agg.study.clusters.shared_data import pack_data
from nas_agg.study.clusters.trial_files import Files, read_files, replace_files, write_files
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import MACS_PER_THREAD, WorkerConfig
from nas_agg.study.workers.backend import Assignment, Backend, BackendContext, Event, Resources
from nas_agg.study.workers.messages import Envelope, EventKind, FinalJob, Progress, TrialJob, WorkerMessage
from nas_agg.study.workers.pool import MAX_FAILED_STARTS
from nas_agg.study.workers.protocol import versions

NODES_SECONDS = 1.0  # between two looks at the nodes
LOOK_SECONDS = 5.0  # to wait for a look
HEAD_SECONDS = 20.0  # without an answer of the head node, after which it is gone
TAKE_SECONDS = 30.0  # that the mailbox waits for a message
#: Deaths of nodes that are announced, as Ray's gcs.proto numbers them.
_LEFT = {1: "left", 3: "was preempted", 4: "was removed as idle"}


@dataclass
class _Job:
    number: int
    attempt: int
    out: Path
    best: Path | None  # what the folder of a final training becomes
    reference: ray.ObjectRef
    node: str = ""
    started: float | None = None  # when it began; before, it waits for a node
    waits: bool = False  # for an answer to a report
    is_stopped: bool = False

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def event(self, kind: EventKind, reason: str = "", **more: Any) -> Event:
        """An event of this job."""
        return Event(self.number, self.attempt, kind, seconds=self.seconds, reason=reason, **more)


class _Nodes(threading.Thread):
    """Looks at the nodes of the cluster in a thread, since a look waits while the head node is gone.

    Attributes:
        last: The nodes at the last look.
        seen: When that was.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._is_over, self._is_asked, self._looks = threading.Event(), threading.Event(), 0
        self._look()
        self.start()

    def _look(self) -> None:
        self.last: list[dict[str, Any]] = ray.nodes()
        self.seen, self._looks = time.monotonic(), self._looks + 1

    def run(self) -> None:
        """Look again and again, and whenever it is asked for."""
        while not self._is_over.is_set():
            self._is_asked.wait(NODES_SECONDS)
            self._is_asked.clear()
            try:
                self._look()
            except Exception:  # whatever Ray raises once the head node, or the connection, is gone
                return

    def look_now(self) -> list[dict[str, Any]]:
        """The nodes now; those of the last look if the head node does not answer soon."""
        wanted = self._looks + 2  # a look that is under way may have begun before
        for _ in range(int(LOOK_SECONDS / 0.05)):
            if self._looks >= wanted:
                break
            self._is_asked.set()
            time.sleep(0.05)
        return self.last

    @property
    def is_head_gone(self) -> bool:
        """Whether the head node has not answered for some time."""
        return time.monotonic() - self.seen > HEAD_SECONDS

    def end(self) -> None:
        """Look no more."""
        self._is_over.set()
        self._is_asked.set()


class RayBackend(Backend):
    """Trains as tasks of a Ray cluster.

    Args:
        context: The search.
    """

    trains_final_networks = True

    def __init__(self, context: BackendContext):
        settings = context.settings
        self._limit, self._trainer, self._workers = settings.trial_timeout, context.trainer, settings.workers or None
        self._resources, self._has_cpus = Resources.of(settings), settings.cpus_per_trial is not None
        self._connected = _connect(settings)
        if self._resources.gpus is None:
            has_gpus = settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
            self._resources = replace(self._resources, gpus=float(has_gpus))
        self._jobs: dict[int, _Job] = {}
        self._nodes, self._failed_starts = _Nodes(), 0
        if not self.capacity():
            self.close()
            raise InputError(f"no node of the Ray cluster has {_describe(self._resources)} for a trial")
        config = WorkerConfig(data=context.task.data)
        self._data = ray.put(pack_data(context.trainer.load(config)))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._take: Any = None
        self._run = ray.remote(run_trial)

    @classmethod
    def open(cls, context: BackendContext) -> Self:
        return cls(context)

    def capacity(self) -> int:
        """As many as fit on the nodes that are alive, or the number of workers that was specified."""
        if self._workers is not None:
            return self._workers
        return sum(_slots(node["Resources"], self._resources) for node in self._nodes.last if node["Alive"])

    def submit(self, assignment: Assignment, attempt: int, resources: Resources) -> None:
        job, number = assignment.job, assignment.number
        needs = resources if resources.gpus is not None else replace(resources, gpus=self._resources.gpus)
        assert isinstance(job, TrialJob | FinalJob)
        best = Path(job.best) if isinstance(job, FinalJob) else None
        if isinstance(job, FinalJob):
            needs = self._needs_of_final(job, needs)
        envelope = Envelope(job=job.model_copy(update={"device": "cuda" if needs.gpus else "cpu"}))
        out, threads = Path(job.out), max(1, int(needs.cpus))
        order = Order(number, attempt, envelope.model_dump_json(), read_files(out), self._trainer, threads, versions())
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory, "max_retries": 0}
        task = self._run.options(name=f"trial-{number}" if best is None else f"final-{number}", **options)
        self._jobs[number] = _Job(number, attempt, out, best, task.remote(order, [self._data], self._mailbox))

    def _needs_of_final(self, job: FinalJob, needs: Resources) -> Resources:
        """What a final training needs: whole GPUs, or as many cores as its network's size justifies and a node has."""
        if needs.gpus:
            return replace(needs, gpus=float(math.ceil(needs.gpus)))
        cores = max([node["Resources"].get("CPU", 0.0) for node in self._nodes.last if node["Alive"]], default=0.0)
        wanted = max(needs.cpus, min(cores, int(job.cost.get("macs", 0)) // MACS_PER_THREAD))
        return needs if self._has_cpus else replace(needs, cpus=wanted)

    # ---- events

    def poll(self, timeout: float) -> list[Event]:
        if self._nodes.is_head_gone:
            raise NasAggError("the head node of the Ray cluster is gone; resume the search once there is a cluster")
        if not self._jobs:
            time.sleep(timeout)
            return []
        if self._take is None:
            self._take = self._mailbox.take.remote(TAKE_SECONDS)
        waited = [self._take, *(job.reference for job in self._jobs.values())]
        ray.wait(waited, num_returns=1, timeout=self._until_limit(timeout))
        ready, _ = ray.wait(waited, num_returns=len(waited), timeout=0)
        events = []
        if self._take in ready:
            for message in self._messages():
                events += self._handle(message)
        for job in list(self._jobs.values()):
            if job.reference in ready:
                del self._jobs[job.number]
                events.append(self._end(job))
            elif self._limit is not None and job.seconds >= self._limit:
                self.cancel(job.number)
                events.append(job.event(EventKind.FAILED, f"exceeded {self._limit:g} s"))
        return events

    def _until_limit(self, timeout: float) -> float:
        """A timeout that ends when the first job reaches the time limit."""
        if self._limit is None:
            return timeout
        left = [self._limit - job.seconds for job in self._jobs.values() if job.started is not None]
        return min([timeout, *(max(0.0, seconds) for seconds in left)])

    def _messages(self) -> list[TaskMessage]:
        assert self._take is not None
        reference, self._take = self._take, None
        try:
            messages: list[TaskMessage] = ray.get(reference)
        except RayError as error:
            raise NasAggError(f"Ray lost the node of the coordinator: {one_line(str(error))}") from error
        return messages

    def _handle(self, message: TaskMessage) -> list[Event]:
        job = self._jobs.get(message.number)
        if job is None or job.attempt != message.attempt:
            return []
        if message.node:
            job.node, job.started, self._failed_starts = message.node, time.monotonic(), 0
            return []
        write_files(job.out, message.files)
        job.waits = True
        if job.is_stopped:
            self._answer(job)
        return [job.event(EventKind.REPORT, step=message.step, value=message.value)]

    def _end(self, job: _Job) -> Event:
        """The last event of a job whose task has ended."""
        try:
            result: tuple[str, Files] = ray.get(job.reference)
        except RayTaskError as error:  # not the training: that is reported as an outcome
            raise NasAggError(f"Ray cannot run trials: {one_line(str(error.cause))}") from error
        except RayError as error:
            return self._lost(job, error)
        message = WorkerMessage.model_validate_json(result[0])
        if message.kind == Progress.UNUSABLE:
            raise NasAggError(f"a node of the Ray cluster cannot run trials: {message.reason}")
        replace_files(job.out, result[1])
        if job.best is not None and message.outcome is not None:
            rename_durably(job.out, job.best)
        return job.event(message.event_kind, message.reason, outcome=message.outcome)

    def _lost(self, job: _Job, error: RayError) -> Event:
        """The end of a job whose process or node is gone."""
        if job.started is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise NasAggError(f"Ray cannot start trials: {one_line(str(error))}") from error
        node = next((node for node in self._nodes.look_now() if node["NodeID"] == job.node), None)
        if node is not None and not node["Alive"] and node["DeathReason"] in _LEFT:
            return job.event(EventKind.RELEASED, f"node {node['NodeName']} {_LEFT[node['DeathReason']]}")
        if isinstance(error, NodeDiedError) or (node is not None and not node["Alive"]):
            return job.event(EventKind.WORKER_DIED, f"node {node['NodeName']} died" if node else "its node died")
        if isinstance(error, OutOfMemoryError):
            return job.event(EventKind.WORKER_DIED, "killed by Ray, as its node was out of memory")
        how = "died" if isinstance(error, WorkerCrashedError) else f"is lost: {type(error).__name__}"
        return job.event(EventKind.WORKER_DIED, f"worker process {how}")

    # ---- answers

    def stop(self, number: int) -> None:
        if (job := self._jobs.get(number)) is not None:
            job.is_stopped = True
            self._answer(job)

    def proceed(self, number: int) -> None:
        if (job := self._jobs.get(number)) is not None:
            self._answer(job)

    def _answer(self, job: _Job) -> None:
        """Answer the report that a job waits with, if it does."""
        if job.waits:
            job.waits = False
            self._mailbox.answer.remote(job.number, job.attempt, job.is_stopped)

    def cancel(self, number: int) -> None:
        if (job := self._jobs.pop(number, None)) is not None:
            ray.cancel(job.reference, force=True)

    def close(self, leave_running: bool = False) -> None:
        """End all jobs: Ray ends those of a coordinator that is gone, so the next one restarts them."""
        is_gone = self._nodes.is_head_gone
        self._nodes.end()
        try:
            for number in list(self._jobs) if not is_gone else ():
                self.cancel(number)
        except (RayError, OSError):
            pass  # the cluster is gone
        finally:
            if self._connected:
                self._connected = False
                end = threading.Thread(target=ray.shutdown, daemon=True)
                end.start()
                end.join(5.0 if is_gone else None)


def _slots(node: dict[str, float], needs: Resources) -> int:
    """Number of trials that fit on a node."""
    wanted = {"CPU": needs.cpus, "GPU": needs.gpus or 0.0, "memory": float(needs.memory or 0)}
    return min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in wanted.items() if amount)


def _describe(needs: Resources) -> str:
    parts = [f"{needs.cpus:g} CPUs", f"{needs.gpus:g} GPUs" if needs.gpus else ""]
    parts.append(f"{needs.memory:,} bytes of memory" if needs.memory else "")
    return " and ".join(part for part in parts if part)


def _connect(settings: Settings) -> bool:
    """Connect to the cluster, unless this process is; returns whether it was not.

    Raises:
        InputError: There is no cluster.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
        if settings.workers:
            options["num_cpus"] = max(1, int(settings.workers * Resources.of(settings).cpus))
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **options)
    except Exception as error:  # of many kinds, depending on the address
        raise InputError(f"ray_address: cannot connect to '{address}': {one_line(str(error))}") from None
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the search without its last lines
    return True
